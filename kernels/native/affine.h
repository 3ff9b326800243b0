/* Masked affine layers over panels: forward, backward to the input, and the sums of the backward to the weights.
 *
 * Not here: the loss and the optimisers (update.h), whole networks (net.h).
 *
 * All three dense products are one register tile: ROWS x TILE_UNITS sums, each a single chain of fused multiply-adds in
 * ascending order of the summed index. A sum's bits therefore depend on its own row and column alone: not on the rows
 * beside it, the batch, the thread, whether a binary input came as numbers or as bits (1 * w is w), or whether
 * numbers that are 0 were left out (adding 0 * w changes nothing).
 *
 * A buffer holds units in panels too, (panels, rows, 64): so every operand of the tile is a contiguous run of 64-number rows,
 * whichever way it is summed over. A kernel given row i of a buffer as its first works on rows i .. i + m - 1.
 */

#define ROWS 6 /* with TILE_VECTORS = 4: 24 sums + 4 weights + 1 broadcast of 32 AVX-512 registers; with 2: 12 + 2 + 1 of 16 */
#define TILE_VECTORS (VECTOR_BYTES == 64 ? 4 : 2)
#define TILE_UNITS (TILE_VECTORS * LANES)
#define ON_OF_8 5 /* of 8 numbers, so many that are not 0 take as long one by one as all in the dense product: measured */
#define PADDED(n) (((n) + PANEL - 1) / PANEL * PANEL) /* layout.width */

/* acc[r][v] += sum_k a[r * a_row + k * a_step] * w[k * PANEL + v * LANES], for r < rows, first <= v < stop. */
static ALWAYS_INLINE void multiply(int rows, int first, int stop, const REAL *a, int64_t a_row, int64_t a_step, const REAL *w,
                                   int64_t n, vec acc[ROWS][4])
{
    for (int64_t k = 0; k < n; k++) {
        vec b[4];
#pragma GCC unroll 4
        for (int v = first; v < stop; v++) b[v] = load(w + k * PANEL + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++)
            if (r < rows) {
                const vec x = splat(a[r * a_row + k * a_step]);
#pragma GCC unroll 4
                for (int v = first; v < stop; v++) acc[r][v] = FMADD(x, b[v], acc[r][v]);
            }
    }
}

/* For `rows` rows and every tile row count: run BODY with the constant count R, at offset I. */
#define FOR_TILES(m, I, BODY)                                                                                                 \
    do {                                                                                                                      \
        int64_t I = 0;                                                                                                        \
        for (; I + 6 <= (m); I += 6) { enum { R = 6 }; BODY }                                                                 \
        if (I + 4 <= (m)) { enum { R = 4 }; BODY I += 4; }                                                                    \
        if (I + 2 <= (m)) { enum { R = 2 }; BODY I += 2; }                                                                    \
        if (I + 1 <= (m)) { enum { R = 1 }; BODY I += 1; }                                                                    \
    } while (0)

/* For the true units of a panel, `units` of 64: run BODY with the constant number of vectors V, at unit U. The fill-up units
 * are left out, vector by vector. */
#define FOR_UNITS(units, U, BODY)                                                                                             \
    do {                                                                                                                      \
        int U = 0;                                                                                                            \
        for (; U + TILE_UNITS - LANES < (units); U += TILE_UNITS) { enum { V = TILE_VECTORS }; BODY }                         \
        for (; U < (units); U += LANES) { enum { V = 1 }; BODY }                                                              \
    } while (0)

/* z[i, u] += sum_{from <= k < to, n_live[u]} x[i, k] w[k, u] for `vectors` vectors of units, which start at w, live, z;
 * x holds the inputs from `from` on. With a bias, the sum starts from it and not from z.
 * Vector by vector the units leave the sum as their live prefix ends: no multiply-add beyond one vector's corner is dead. */
static ALWAYS_INLINE void tile_forward(int rows, int vectors, const REAL *x, const REAL *w, const int32_t *live, int64_t from,
                                       int64_t to, const REAL *bias, REAL *z)
{
    vec acc[ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[r][v] = load((bias ? bias : z + r * PANEL) + v * LANES);
    int64_t k = from;
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        const int64_t end = live[v * LANES + LANES - 1] < to ? live[v * LANES + LANES - 1] : to;
        if (end > k) {
            multiply(rows, v, vectors, x + (k - from), PANEL, 1, w + k * PANEL, end - k, acc);
            k = end;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) store(z + r * PANEL + v * LANES, acc[r][v]);
}

/* One panel of one layer: where its weights, live counts, bias and state stand. */
typedef struct {
    REAL *w;
    const int32_t *live;
    const REAL *bias;
    int64_t depth;
    int units; /* true ones, the rest is fill-up */
} panel_t;

static ALWAYS_INLINE panel_t panel_of(const net_t *net, int64_t l, int64_t p)
{
    const int64_t *layer = net->layers + l * LAYER_COLUMNS;
    const int32_t *live = net->n_live + layer[UNITS] + p * PANEL;
    const int64_t units = layer[N_OUT] - p * PANEL;
    REAL *theta = net->theta;
    return (panel_t){theta + net->panel_start[layer[PANELS] + p], live, theta + layer[BIAS] + p * PANEL, live[PANEL - 1],
                     units < PANEL ? (int)units : PANEL};
}

/* While a block of 64 rows of weights is at work, fetch the next: the part that falls to the tile of rows at i of m. */
static ALWAYS_INLINE void fetch(const REAL *w, int64_t i, int64_t m)
{
    const int64_t lines = PANEL * PANEL * sizeof(REAL) / 64, tiles = m / ROWS + 1, t = i / ROWS;
    for (int64_t q = lines * t / tiles; q < lines * (t + 1) / tiles; q++) __builtin_prefetch((const char *)w + 64 * q, 0, 2);
}

/* z (+)= sum_k x[k * step] w[k * PANEL ..], over the k whose bits are set in `words` words of `on`, for `vectors` vectors of
 * units. Without x, each is 1: rows of weights are added, and nothing is multiplied. */
static ALWAYS_INLINE void add_marked(int vectors, int fresh, const uint64_t *on, int64_t words, const REAL *x, int64_t step,
                                     const REAL *w, REAL *z)
{
    vec acc[8];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) acc[v] = fresh ? splat(0) : load(z + v * LANES);
    for (int64_t q = 0; q < words; q++)
        for (uint64_t left = on[q]; left; left &= left - 1) {
            const int64_t k = 64 * q + __builtin_ctzll(left);
            const vec a = splat(x ? x[k * step] : 1);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                const vec b = load(w + k * PANEL + v * LANES);
                if (x)
                    acc[v] = FMADD(a, b, acc[v]);
                else
                    acc[v] += b;
            }
        }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) store(z + v * LANES, acc[v]);
}

/* The same for all units of a panel. */
static ALWAYS_INLINE void add_panel(int fresh, const uint64_t *on, int64_t words, const REAL *x, int64_t step, const REAL *w,
                                    REAL *z)
{
    enum { VECTORS = PANEL / LANES, AT_ONCE = VECTORS < 8 ? VECTORS : 8 };
    for (int u = 0; u < PANEL; u += AT_ONCE * LANES) add_marked(AT_ONCE, fresh, on, words, x, step, w + u, z + u);
}

/* Bit j: whether x[j] is not 0, for 64 numbers. */
static ALWAYS_INLINE uint64_t marks_of(const REAL *x)
{
    uint64_t on = 0;
#pragma GCC unroll 32
    for (int j = 0; j < PANEL; j += LANES) on |= nonzero(load(x + j)) << j;
    return on;
}

enum { LOOKED_AT = 8 }; /* rows by which it is seen whether inputs are mostly 0: what is chosen then changes no bit */

/* Whether sums over inputs k .. k + n - 1 of `rows` rows, of which `on` numbers are not 0, take less time number by number than
 * as a dense product, which leaves out the vectors of units that do not see an input. */
static ALWAYS_INLINE int mostly_off(const panel_t *panel, int64_t k, int64_t n, int64_t rows, int64_t on)
{
    int64_t dense = 0;
    for (int v = LANES - 1; v < PANEL; v += LANES) {
        const int64_t seen = panel->live[v] - k;
        dense += seen < 0 ? 0 : seen < n ? seen : n;
    }
    return 8 * on * (PANEL / LANES) < ON_OF_8 * rows * dense;
}

/* The same of m rows of 64 numbers and units that all see them. */
static ALWAYS_INLINE int rows_mostly_off(const REAL *x, int64_t m)
{
    int64_t on = 0;
    for (int64_t i = 0; i < LOOKED_AT && i < m; i++) on += __builtin_popcountll(marks_of(x + i * PANEL));
    return m >= LOOKED_AT && 8 * on < ON_OF_8 * LOOKED_AT * PANEL;
}

/* z += x w over inputs from <= k < to of one panel of m rows x, and 1, if it pays to go from one that is not 0 to the next; else
 * 0, and nothing is done. With a bias, the sums start from it. Meanwhile `next`, or null, is fetched. */
static ALWAYS_INLINE int sum_marked(const panel_t *panel, int64_t from, int64_t to, const REAL *x, int64_t m, const REAL *bias,
                                    const REAL *next, REAL *z)
{
    const int64_t k0 = from / PANEL * PANEL, looked_at = m < LOOKED_AT ? m : LOOKED_AT;
    const uint64_t seen = (~0ull >> (PANEL - (to - k0))) & (~0ull << (from - k0));
    int64_t on = 0;
    if (panel->units <= PANEL - LANES) return 0;
    for (int64_t i = 0; i < looked_at; i++) on += __builtin_popcountll(marks_of(x + i * PANEL) & seen);
    if (!mostly_off(panel, from, to - from, looked_at, on)) return 0;
    for (int64_t i = 0; i < m; i++, x += PANEL, z += PANEL) {
        const uint64_t marks = marks_of(x) & seen;
        if (next && i % ROWS == 0) fetch(next, i, m);
        if (bias) memcpy(z, bias, PANEL * sizeof(REAL));
        add_panel(0, &marks, 1, x, 1, panel->w + k0 * PANEL, z);
    }
    return 1;
}

/* Panel p of layer l on m rows of x: out = g(x (W * M) + b + direct), all buffers of `rows` rows; direct may be null.
 *
 * After relu and dropout, a twelfth (of a wide net) to three quarters of the numbers are not 0. Where 64 inputs are mostly 0, a
 * row goes from one that is not to the next: with what the backward does, 16 % of an epoch of binarized MNIST by the plain
 * MADE(), whose units are on for 0.35 of the rows in the end, 12 % of ocr_letters, 7 % of dna. */
static void forward_panel(const net_t *net, int64_t l, int64_t p, const REAL *x, const REAL *direct, int64_t rows, int64_t m,
                          REAL *out)
{
    const panel_t panel = panel_of(net, l, p);
    out += p * rows * PANEL;
    if (panel.depth == 0)
        for (int64_t i = 0; i < m; i++) memcpy(out + i * PANEL, panel.bias, PANEL * sizeof(REAL));
    int looks = 1;
    for (int64_t k = 0; k < panel.depth; k += PANEL) { /* 64 rows of weights at a time: they stay in the L1 cache */
        const int64_t to = k + PANEL < panel.depth ? k + PANEL : panel.depth;
        const REAL *x_k = x + k * rows, *next = m > ROWS && to < panel.depth ? panel.w + to * PANEL : 0;
        if (looks && sum_marked(&panel, k, to, x_k, m, k ? 0 : panel.bias, next, out)) continue;
        looks = m >= LOOKED_AT; /* a lone row does not pay for another look */
        FOR_UNITS(panel.units, u, {
            const int32_t *live = panel.live + u;
            if (k && k >= live[V * LANES - 1]) continue;
            FOR_TILES(m, i, {
                if (next && u == 0) fetch(next, i, m);
                tile_forward(R, V, x_k + i * PANEL, panel.w + u, live, k, to, k ? 0 : panel.bias + u, out + i * PANEL + u);
            });
        });
    }
    for (int u = (panel.units + LANES - 1) / LANES * LANES; u < PANEL; u += LANES)
        for (int64_t i = 0; i < m; i++) store(out + i * PANEL + u, splat(0));
    if (direct)
        for (int64_t j = 0; j < m * PANEL; j += LANES)
            store(out + j, load(out + j) + load(direct + p * rows * PANEL + j));
    activate(out, m * PANEL, (int)net->layers[l * LAYER_COLUMNS + ACTIVATION]);
}

/* z = b + the rows of weights of a panel whose inputs are on, for m rows of bits; nothing is multiplied. 64 rows of weights at a
 * time stay in the L1 cache; a few rows of bits take what they need as it comes. `after`, or null, is fetched at the end. Up to
 * 0.85 of the bits on, this takes less time than the dense product of 0s and 1s. */
static void sum_bits(const panel_t *panel, const uint64_t *bits, int64_t words, int64_t m, const REAL *after, REAL *z)
{
    const int64_t n = (panel->depth + 63) / 64, at_once = m > ROWS ? 1 : n;
    const uint64_t seen = panel->depth % 64 ? (1ull << panel->depth % 64) - 1 : ~0ull; /* of the last word */
    for (int64_t i = 0; i < m; i++) memcpy(z + i * PANEL, panel->bias, PANEL * sizeof(REAL));
    for (int64_t q = 0; q < n; q += at_once) {
        const REAL *w = panel->w + q * PANEL * PANEL, *next = q + 1 < n ? w + PANEL * PANEL : after;
        const int64_t whole = q + at_once < n ? at_once : at_once - 1;
        for (int64_t i = 0; i < m; i++) {
            if (m > ROWS && i % ROWS == 0 && next) fetch(next, i, m);
            if (whole) add_panel(0, bits + i * words + q, whole, 0, 0, w, z + i * PANEL);
            if (whole == at_once) continue;
            const uint64_t on = bits[i * words + n - 1] & seen;
            add_panel(0, &on, 1, 0, 0, w + whole * PANEL * PANEL, z + i * PANEL);
        }
    }
}

/* `forward_panel` on binary input, given by the bits of each row. */
static void forward_panel_binary(const net_t *net, int64_t l, int64_t p, const uint64_t *bits, int64_t words, int64_t rows,
                                 int64_t m, REAL *out)
{
    const panel_t panel = panel_of(net, l, p);
    const REAL *after = p + 1 < net->layers[l * LAYER_COLUMNS + N_PANELS] ? panel_of(net, l, p + 1).w : 0;
    out += p * rows * PANEL;
    sum_bits(&panel, bits, words, m, after, out);
    activate(out, m * PANEL, (int)net->layers[l * LAYER_COLUMNS + ACTIVATION]);
}

static void affine_forward(const call_t *c)
{
    for (int64_t p = 0; p < c->net.layers[c->l * LAYER_COLUMNS + N_PANELS]; p++)
        if (c->marks)
            forward_panel_binary(&c->net, c->l, p, c->marks, c->mark_words, c->m, c->m, c->out);
        else
            forward_panel(&c->net, c->l, p, c->x, c->dz, c->m, c->m, c->out);
}

/* Transpose LANES x LANES numbers: log2(LANES) rounds, each a perfect shuffle of the rows. */
#if LANES == 16
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif LANES == 8
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#elif LANES == 4
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#else
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 2)
#define HIGH(a, b) __builtin_shufflevector(a, b, 1, 3)
#endif
static ALWAYS_INLINE void transpose(const REAL *from, int64_t ld_from, REAL *to, int64_t ld_to)
{
    vec a[LANES], b[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) a[i] = load(from + i * ld_from);
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES / 2; i++) {
            b[2 * i] = LOW(a[i], a[i + LANES / 2]);
            b[2 * i + 1] = HIGH(a[i], a[i + LANES / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) a[i] = b[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) store(to + i * ld_to, a[i]);
}
#undef LOW
#undef HIGH

/* dh[i, k] += sum_j dz[i, j] w[j, k] for `rows` rows and a tile of inputs, where vector v has inputs that units
 * starts[v] .. units - 1 see: vector by vector the inputs join the sum. */
static ALWAYS_INLINE void tile_backward(int rows, int fresh, const REAL *dz, const REAL *w, const int *starts, int units,
                                        REAL *dh)
{
    vec acc[ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = fresh ? splat(0) : load(dh + r * PANEL + v * LANES);
#pragma GCC unroll 4
    for (int v = 0; v < TILE_VECTORS; v++) {
        const int end = v + 1 < TILE_VECTORS ? starts[v + 1] : units;
        multiply(rows, 0, v + 1, dz + starts[v], PANEL, 1, w + starts[v] * PANEL, end - starts[v], acc);
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = 0; v < TILE_VECTORS; v++) store(dh + r * PANEL + v * LANES, acc[r][v]);
}

/* The 64 rows of weights that the backward to the inputs takes after rows k0 of panel p, or null. To fetch those of the next
 * inputs, too, is 1 % of a step of [2000, 2000]. */
static const REAL *block_after(const net_t *net, int64_t l, int64_t p, int64_t k0)
{
    const int64_t *layer = net->layers + l * LAYER_COLUMNS;
    if (p + 1 < layer[N_PANELS]) return panel_of(net, l, p + 1).w + k0 * PANEL;
    k0 += PANEL;
    for (int64_t q = 0; q <= p; q++) {
        const panel_t panel = panel_of(net, l, q);
        if (panel.depth > k0) return panel.w + k0 * PANEL;
    }
    return 0;
}

/* dh (+)= dz w^T for m rows by the numbers of dz that are not 0, where `block` is w^T. Meanwhile `next`, or null, is fetched. */
static __attribute__((noinline)) void backward_marked(int fresh, const REAL *dz, const REAL *block, int64_t m, const REAL *next,
                                                      REAL *dh)
{
    for (int64_t i = 0; i < m; i++, dz += PANEL, dh += PANEL) {
        const uint64_t marks = marks_of(dz);
        if (next && i % ROWS == 0) fetch(next, i, m);
        add_panel(fresh, &marks, 1, dz, 1, block, dh);
    }
}

/* Forward was z_l = h (W * M) + b with h = g(z_{l-1}); so now dh = dz (W * M)^T * g'(z_{l-1}), m rows of `rows`, for the panel
 * of inputs that begins at k0.
 *
 * The sum runs over units, along a panel's rows; so 64 x 64 blocks of the panels are transposed into a scratch that stays
 * in the L1 cache, and used for all rows. Where the units are hidden ones, dz is 0 wherever they are off. */
static void backward_input_panel(const net_t *net, int64_t l, int64_t k0, const REAL *dz, const REAL *h, int64_t rows,
                                 int64_t m, REAL *dh)
{
    const int64_t *layer = net->layers + l * LAYER_COLUMNS;
    REAL block[PANEL * PANEL] __attribute__((aligned(64)));
    int fresh = 1;
    dh += k0 * rows;
    for (int64_t p = 0; p < layer[N_PANELS]; p++) {
        const panel_t panel = panel_of(net, l, p);
        if (panel.depth <= k0) continue; /* no unit of this panel sees these inputs */
        const int n = panel.depth - k0 < PANEL ? (int)(panel.depth - k0) : PANEL;
        const REAL *next = block_after(net, l, p, k0);
        int starts[PANEL / LANES]; /* first unit that sees an input of each vector */
        for (int v = 0, j = 0; v < PANEL / LANES; starts[v++] = j)
            while (j < panel.units && panel.live[j] <= k0 + v * LANES) j++;
        for (int k = 0; k < n; k += LANES)
            for (int j = starts[k / LANES] / LANES * LANES; j < panel.units; j += LANES) {
                const REAL *w = panel.w + (k0 + k) * PANEL + j;
                if (k + LANES <= n)
                    transpose(w, PANEL, block + j * PANEL + k, PANEL);
                else
                    for (int a = 0; a < LANES; a++)
                        for (int b = 0; b < LANES; b++) block[(j + a) * PANEL + k + b] = k + b < n ? w[b * PANEL + a] : 0;
            }
        if (n == PANEL && starts[PANEL / LANES - 1] == 0 && rows_mostly_off(dz + p * rows * PANEL, m)) {
            backward_marked(fresh, dz + p * rows * PANEL, block, m, next, dh);
            fresh = 0;
            continue;
        }
        for (int u = 0; u < PANEL; u += TILE_UNITS)
            FOR_TILES(m, i, {
                if (u == 0 && m > ROWS && next) fetch(next, i, m);
                tile_backward(R, fresh, dz + p * rows * PANEL + i * PANEL, block + u, starts + u / LANES, panel.units,
                                          dh + i * PANEL + u);
            });
        fresh = 0;
    }
    if (fresh)
        memset(dh, 0, m * PANEL * sizeof(REAL));
    else
        derive(dh, h + k0 * rows, m * PANEL, (int)layer[ACTIVATION - LAYER_COLUMNS]);
    /* The fill-up units of the layer below get dh = 0 because no live count reaches them. */
}

static void affine_backward_input(const call_t *c)
{
    for (int64_t k0 = 0; k0 < c->net.layers[c->l * LAYER_COLUMNS + N_IN]; k0 += PANEL)
        backward_input_panel(&c->net, c->l, k0, c->dz, c->x, c->m, c->m, c->out);
}
