/* Whole networks: score, conditionals, sampling in one pass.
 *
 * Included by level.h for each REAL. Everything here is made of the layers of affine.h and the sums of update.h; what this
 * file adds is the order of things. Not here: training (train.h, shared.h).
 */

/* Units of layer l. */
static int64_t NAME(n_units)(const net_t *net, int64_t l) { return net->layers[l * LAYER_COLUMNS + N_OUT]; }
#define n_units NAME(n_units)

/* Row of the direct connections that add to layer l, or 0. */
static int64_t NAME(direct)(const net_t *net, int64_t l) { return net->layers[l * LAYER_COLUMNS + DIRECT]; }

/* Whether row l reads the inputs. */
static int NAME(reads_inputs)(const net_t *net, int64_t l) { return l == 0 || l >= net->n_layers; }

/* Scratch of `rows` rows: the inputs as numbers (if not read by their ones), and the output of every layer. */
typedef struct {
    int64_t rows;
    REAL *x;
    REAL *h[2 * MAX_LAYERS];
    int32_t *count, *index; /* (rows,), (rows, D): the ones of each row */
} NAME(buffers_t);
#define buffers_t NAME(buffers_t)

/* Cut buffers for `rows` rows from the start of reals and ints, as layout.score_workspace says; returns what is left of reals. */
static REAL *NAME(cut_buffers)(buffers_t *s, const net_t *net, int64_t rows, REAL *reals, int32_t *ints)
{
    s->rows = rows;
    s->count = ints;
    s->index = ints + rows;
    s->x = reals;
    reals += rows * PADDED(net->layers[N_IN]);
    for (int64_t l = 0; l < net->n_rows; reals += rows * PADDED(n_units(net, l)), l++) s->h[l] = reals;
    return reals;
}

/* What the first layer reads: the ones of m rows of bits, or the bits as numbers, as rows i0 .. of the buffers. */
static void NAME(read_bits)(const net_t *net, const uint64_t *bits, int64_t words, int sparse, const buffers_t *s, int64_t i0,
                            int64_t m)
{
    const int64_t D = net->layers[N_IN];
    if (sparse) {
        made_fast_list_ones(bits, words, m, D, s->count + i0, s->index + i0 * D);
        return;
    }
    for (int64_t p = 0; p < PADDED(D) / PANEL; p++)
        for (int64_t i = 0; i < m; i++)
            for (int j = 0; j < PANEL; j += LANES)
                store(s->x + (p * s->rows + i0 + i) * PANEL + j, (vec)(spread(bits[i * words + p] >> j) & (ivec)splat(1)));
}

/* Panel p of a layer that reads the inputs, on rows i0 .. i0 + m - 1 of the buffers. */
static void NAME(forward_inputs)(const net_t *net, int64_t l, int64_t p, int sparse, const buffers_t *s, int64_t i0, int64_t m)
{
    const int64_t D = net->layers[N_IN], at = i0 * PANEL;
    if (sparse)
        NAME(forward_panel_sparse)(net, l, p, s->count + i0, s->index + i0 * D, D, s->rows, m, s->h[l] + at);
    else
        NAME(forward_panel)(net, l, p, s->x + at, 0, s->rows, m, s->h[l] + at);
}

/* h = h * scale where the unit is kept, else 0, for m rows of 64 units; keep has a word for each row, `words` apart. */
static void NAME(drop)(REAL *h, const uint64_t *keep, int64_t words, double scale, int64_t m)
{
    for (int64_t i = 0; i < m; i++)
        for (int u = 0; u < PANEL; u += LANES) {
            REAL *at = h + i * PANEL + u;
            store(at, (vec)((ivec)(load(at) * splat((REAL)scale)) & spread(keep[i * words] >> u)));
        }
}

/* The first word in dropout's rows of layer l. */
static int64_t NAME(first_word)(const net_t *net, int64_t l)
{
    int64_t words = 0;
    for (int64_t q = 0; q < l; q++) words += net->layers[q * LAYER_COLUMNS + N_PANELS];
    return words;
}

/* What the loss of the outputs needs beside the logits. */
typedef struct {
    const uint64_t *bits;
    int64_t words, n_places; /* the first so many outputs count */
    double scale;
    const double *weights; /* or null; of row which[i] */
    const int64_t *which;
    double *nll;
    int64_t panel_step; /* panel p of row i adds to nll[p * panel_step + i] */
    REAL *dz;           /* gradient of the logits, or null */
} NAME(loss_t);
#define loss_t NAME(loss_t)

/* Panel p of layer l of the chain, on rows i0 .. i0 + m - 1 of the buffers. */
static void NAME(layer_panel)(const net_t *net, int64_t l, int64_t p, int sparse, const dropout_t *dropout, const loss_t *loss,
                              const buffers_t *s, int64_t i0, int64_t m)
{
    const int64_t direct = NAME(direct)(net, l), last = net->n_layers - 1, at = i0 * PANEL, block = (p * s->rows + i0) * PANEL;
    if (direct) NAME(forward_inputs)(net, direct, p, sparse, s, i0, m);
    if (l == 0)
        NAME(forward_inputs)(net, 0, p, sparse, s, i0, m);
    else
        NAME(forward_panel)(net, l, p, s->h[l - 1] + at, direct ? s->h[direct] + at : 0, s->rows, m, s->h[l] + at);
    if (l < last && dropout) {
        const uint64_t *keep = dropout->keep + i0 * dropout->words + NAME(first_word)(net, l) + p;
        NAME(drop)(s->h[l] + block, keep, dropout->words, dropout->scale, m);
    }
    if (l == last && loss)
        NAME(nll_panel)(s->h[l] + block, p, loss->bits + i0 * loss->words, loss->words, loss->n_places, m, loss->scale,
                        loss->weights, loss->which ? loss->which + i0 : 0, p > 0 && !loss->panel_step,
                        loss->nll + p * loss->panel_step + i0, loss->dz ? loss->dz + block : 0);
}

/* All layers of `m` rows, by one thread. Outputs behind the last one that the loss counts are left out. */
static void NAME(forward_all)(const net_t *net, const uint64_t *bits, int64_t words, int sparse, const loss_t *loss,
                              const buffers_t *s, int64_t m)
{
    NAME(read_bits)(net, bits, words, sparse, s, 0, m);
    for (int64_t l = 0; l < net->n_layers; l++) {
        int64_t panels = net->layers[l * LAYER_COLUMNS + N_PANELS];
        if (l == net->n_layers - 1 && loss) panels = PADDED(loss->n_places) / PANEL;
        for (int64_t p = 0; p < panels; p++) NAME(layer_panel)(net, l, p, sparse, 0, loss, s, 0, m);
    }
}

static void NAME(score)(const net_t *net, const uint64_t *bits, int64_t words, int64_t n, int64_t n_places, int sparse,
                        int64_t block, void *reals, int32_t *ints, double *log_p)
{
    buffers_t s;
    NAME(cut_buffers)(&s, net, block, reals, ints);
    for (int64_t i = 0; i < n; i += block) {
        const int64_t m = n - i < block ? n - i : block;
        const loss_t loss = {.bits = bits + i * words, .words = words, .n_places = n_places, .nll = log_p + i};
        if (n_places == 0) memset(log_p + i, 0, m * sizeof(double));
        NAME(forward_all)(net, bits + i * words, words, sparse, &loss, &s, m);
        for (int64_t r = i; r < i + m; r++) log_p[r] = -log_p[r];
    }
}

static void NAME(conditionals)(const net_t *net, const uint64_t *bits, int64_t words, int64_t n, int sparse, int64_t block,
                               void *reals, int32_t *ints, void *proba)
{
    const int64_t D = net->layers[N_IN];
    buffers_t s;
    NAME(cut_buffers)(&s, net, block, reals, ints);
    for (int64_t i = 0; i < n; i += block) {
        const int64_t m = n - i < block ? n - i : block;
        NAME(forward_all)(net, bits + i * words, words, sparse, 0, &s, m);
        for (int64_t p = 0; p < D; p += PANEL) {
            REAL *z = s.h[net->n_layers - 1] + p * block;
            for (int64_t j = 0; j < m * PANEL; j += LANES) store(z + j, NAME(vsigmoid)(load(z + j)));
            for (int64_t r = 0; r < m; r++)
                memcpy((REAL *)proba + (i + r) * D + p, z + r * PANEL, (D - p < PANEL ? D - p : PANEL) * sizeof(REAL));
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------------
 * Sampling
 *
 * A unit is final once the inputs it sees are drawn. One walk over the places draws an input, then finishes the units that
 * have become final. A layer's current panel holds the sums of what it has seen; it is entered with one product over all
 * that is final by then (most of the work), and is brought up to date by short products as it is read, unit by unit.
 * Every sum is taken in the order of the full pass, so the sample is the one that D full passes would draw, bit for bit.
 */

typedef struct {
    REAL *z;       /* (panels, m, 64): sums of the current panel, outputs of the units that are final */
    int64_t panel; /* current panel, -1 before the first */
    int64_t seen;  /* units of the layer below that the current panel's sums contain */
    int64_t done;  /* units that are final */
} NAME(walk_t);
#define walk_t NAME(walk_t)

/* Bring the sums of the panel that holds unit j of layer l up to unit j's live prefix, for m rows; returns where unit j's sums
 * begin. For a layer that reads the inputs, taken[i] counts the ones of row i that the current panel's sums contain. */
static REAL *NAME(reach)(const net_t *net, int64_t l, int64_t j, walk_t *walks, int64_t m, const int32_t *count,
                         const int32_t *index, int32_t *taken)
{
    const int64_t p = j / PANEL, D = net->layers[N_IN];
    const panel_t panel = NAME(panel)(net, l, p);
    const int inputs = NAME(reads_inputs)(net, l);
    walk_t *walk = walks + l;
    REAL *z = walk->z + p * m * PANEL;
    taken += l * m;
    if (p != walk->panel) {
        walk->panel = p;
        walk->seen = 0;
        for (int64_t i = 0; i < m; i++) memcpy(z + i * PANEL, panel.bias, PANEL * sizeof(REAL));
        if (inputs) memset(taken, 0, m * sizeof(int32_t));
    }
    const int64_t end = panel.live[j % PANEL];
    if (inputs && end > walk->seen) /* the ones drawn so far */
        for (int64_t i = 0; i < m; i++)
            if (count[i] > taken[i])
                taken[i] += (int32_t)NAME(add_ones)(&panel, index + i * D + taken[i], count[i] - taken[i], end, z + i * PANEL);
    if (!inputs)
        for (int64_t k = walk->seen; k < end;) {
            const int64_t k0 = k / PANEL * PANEL, to = k0 + PANEL < end ? k0 + PANEL : end;
            for (int u = j % PANEL / TILE_UNITS * TILE_UNITS; u < panel.units; u += TILE_UNITS)
                FOR_TILES(m, i,
                          NAME(tile_forward)(R, TILE_VECTORS, walk[-1].z + k0 * m + i * PANEL, k0, panel.w + u, panel.live + u, k, to, 0,
                                             z + i * PANEL + u););
            k = to;
        }
    walk->seen = end;
    return z + j % PANEL;
}

/* column = g(sum of unit j of layer l); returns where the unit's numbers stand. */
static ALWAYS_INLINE REAL *NAME(finish_unit)(const net_t *net, int64_t l, int64_t j, int activation, walk_t *walks, int64_t m,
                               const int32_t *count, const int32_t *index, int32_t *taken, REAL *column)
{
    const int64_t direct = NAME(direct)(net, l);
    REAL *z = NAME(reach)(net, l, j, walks, m, count, index, taken);
    for (int64_t i = 0; i < m; i++) column[i] = z[i * PANEL];
    if (direct) {
        const REAL *add = NAME(reach)(net, direct, j, walks, m, count, index, taken);
        for (int64_t i = 0; i < m; i++) column[i] += add[i * PANEL];
    }
    NAME(activate)(column, (m + LANES - 1) / LANES * LANES, activation);
    return z;
}

/* Finish the units of hidden layer l that see nothing but the first `final` units of the layer below and `drawn` inputs. */
static void NAME(finish)(const net_t *net, int64_t l, int64_t final, int64_t drawn, walk_t *walks, int64_t m,
                         const int32_t *count, const int32_t *index, int32_t *taken, REAL *column)
{
    const int64_t *layer = net->layers + l * LAYER_COLUMNS, direct = NAME(direct)(net, l);
    const int32_t *live = net->n_live + layer[UNITS];
    const int32_t *direct_live = direct ? net->n_live + net->layers[direct * LAYER_COLUMNS + UNITS] : 0;
    walk_t *walk = walks + l;
    while (walk->done < layer[N_OUT] && live[walk->done] <= final && (!direct || direct_live[walk->done] <= drawn)) {
        REAL *z = NAME(finish_unit)(net, l, walk->done++, (int)layer[ACTIVATION], walks, m, count, index, taken, column);
        for (int64_t i = 0; i < m; i++) z[i * PANEL] = column[i];
    }
}

/* x at place p is 1 where the row's uniform u is below its conditional: in x, and at the end of the row's list of ones. */
static void NAME(draw)(int64_t p, int64_t D, int64_t m, const double *u, const REAL *conditional, uint8_t *x, int32_t *count,
                       int32_t *index)
{
    for (int64_t i0 = 0; i0 < m; i0 += 64) {
        const int64_t end = m - i0 < 64 ? m - i0 : 64;
        uint64_t ones = 0;
        for (int64_t i = 0; i < end; i++) ones |= (uint64_t)(u[i0 + i] < (double)conditional[i0 + i]) << i;
        for (; ones; ones &= ones - 1) {
            const int64_t i = i0 + __builtin_ctzll(ones);
            x[i * D + p] = 1;
            index[i * D + count[i]++] = (int32_t)p;
        }
    }
}

static void NAME(sample)(const net_t *net, const double *uniforms, int64_t n, int64_t block, void *reals, int32_t *ints,
                         uint8_t *x)
{
    enum { AHEAD = 8 }; /* uniforms of a row that share a cache line */
    const int64_t D = net->layers[N_IN], last = net->n_layers - 1;
    int32_t *count = ints, *index = ints + block, *taken = index + block * D;
    walk_t walks[2 * MAX_LAYERS];
    for (int64_t start = 0; start < n; start += block) {
        const int64_t m = n - start < block ? n - start : block;
        REAL *column = reals, *z = column + (block + 15) / 16 * 16;
        for (int64_t l = 0; l < net->n_rows; z += m * PADDED(n_units(net, l)), l++) walks[l] = (walk_t){z, -1, 0, 0};
        double *const ahead = (double *)z; /* (AHEAD, m) */
        memset(count, 0, m * sizeof(int32_t));
        memset(x + start * D, 0, m * D);
        for (int64_t p = 0; p < D; p++) {
            if (p % AHEAD == 0)
                for (int64_t i = 0; i < m; i++)
                    for (int64_t q = 0; q < AHEAD && p + q < D; q++) ahead[q * m + i] = uniforms[(start + i) * D + p + q];
            NAME(finish_unit)(net, last, p, SIGMOID, walks, m, count, index, taken, column);
            NAME(draw)(p, D, m, ahead + p % AHEAD * m, column, x + start * D, count, index);
            int64_t final = p + 1;
            for (int64_t l = 0; l < last; l++) {
                NAME(finish)(net, l, final, p + 1, walks, m, count, index, taken, column);
                final = walks[l].done;
            }
        }
    }
}
