/* The loss, and the backward to the weights with the optimiser's update fused in.
 *
 * Included by level.h for each REAL. A panel's weights, gradient and state meet once per step: the gradient of a strip of inputs
 * is summed in registers, and used up while it is in the L1 cache (except by the rule GRADIENT, which keeps it).
 */

/* t = -a where the input is 1, a where it is 0: then -log p(x_d) = log(1 + e^t) and d/da of it = -+ sigmoid(t). */
static ALWAYS_INLINE void NAME(bernoulli)(vec a, ivec x, vec *loss, vec *gradient)
{
    const ivec minus = x & (ivec)splat((REAL)-0.0);
    const vec t = (vec)((ivec)a ^ minus), e = NAME(vexp)(-absolute(a));
    *loss = MAX(splat(0), t) + NAME(vlog1p)(e);
    if (gradient) {
        const vec r = splat(1) / (splat(1) + e);
        *gradient = (vec)((ivec)choose(t < 0, e * r, r) ^ minus);
    }
}

/* -log p(x_d | x_i<d) in nats of the outputs of panel p, added up over d < n in double, lane by lane, for m rows: to nll[i],
 * which starts from 0 unless `add`. dlogits (if any) = scale weight (sigmoid(a) - x), 0 from column n on; row i has
 * weights[which[i]]; which may be null for i, weights null for 1. Logits and dlogits are that panel's part of a buffer. */
static ALWAYS_INLINE void NAME(nll_panel)(const REAL *logits, int64_t p, const uint64_t *bits, int64_t words, int64_t n, int64_t m,
                                          double scale, const double *weights, const int64_t *which, int add, double *nll,
                                          REAL *dlogits)
{
    const int64_t columns = n - p * PANEL;
    for (int64_t i = 0; i < m; i++) {
        dvec total = {0};
        const REAL row_scale = (REAL)(weights ? scale * weights[which ? which[i] : i] : scale);
        const uint64_t word = p < words ? bits[i * words + p] : 0;
        for (int j = 0; j < PANEL; j += LANES) {
            const int64_t at = i * PANEL + j;
            if (columns <= j) {
                if (dlogits) store(dlogits + at, splat(0));
                continue;
            }
            vec loss, gradient;
            NAME(bernoulli)(load(logits + at), spread(word >> j), &loss, dlogits ? &gradient : 0);
            if (columns < j + LANES) {
                const ivec real = spread((1ull << (columns - j)) - 1);
                loss = (vec)((ivec)loss & real);
                if (dlogits) gradient = (vec)((ivec)gradient & real);
            }
            total += widen(loss);
            if (dlogits) store(dlogits + at, gradient * splat(row_scale));
        }
        double sum = add ? nll[i] : 0;
        for (int v = 0; v < LANES; v++) sum += total[v];
        nll[i] = sum;
    }
}

static void NAME(nll)(const void *logits, int64_t columns, const uint64_t *bits, int64_t words, int64_t n, int64_t m, double scale,
                      const double *weights, double *nll, void *dlogits)
{
    for (int64_t p = 0; p < columns / PANEL; p++)
        NAME(nll_panel)((const REAL *)logits + p * m * PANEL, p, bits, words, n, m, scale, weights, 0, p > 0, nll,
                        (REAL *)dlogits + p * m * PANEL);
}

/* What one step of a rule needs, worked out once per step in double. */
typedef struct {
    int optimizer;
    REAL lr, a, b, eps, one_a, one_b, correct_a, correct_b, shrink; /* shrink: what weight decay leaves of a weight */
    REAL *s0, *s1; /* state vectors, parallel to theta */
} NAME(step_t);
#define step_t NAME(step_t)

static step_t NAME(prepare)(const rule_t *rule)
{
    const double a = rule->hyper[1], b = rule->hyper[2], t = (double)rule->step + 1;
    const double lr = rule->optimizer <= 2 ? rule->hyper[0] / (1 + a * (double)rule->step) : rule->hyper[0];
    step_t s = {rule->optimizer, (REAL)lr, (REAL)a, (REAL)b, (REAL)rule->hyper[3], (REAL)(1 - a), (REAL)(1 - b),
                1, 1, (REAL)(1 - lr * rule->hyper[4]), rule->state, 0};
    s.s1 = s.s0 + rule->n_theta;
    if (rule->optimizer == 6) {
        s.correct_a = (REAL)(rule->hyper[0] / (1 - pow(a, t)));
        s.correct_b = (REAL)(1 / (1 - pow(b, t)));
    }
    return s;
}

static step_t NAME(without_decay)(const step_t *s)
{
    step_t plain = *s;
    plain.shrink = 1;
    return plain;
}

/* Update one vector of weights at w; at is its position in theta. The rules are written out in optimizers.py. */
static ALWAYS_INLINE void NAME(apply)(const step_t *s, int optimizer, REAL *theta, int64_t at, vec g)
{
    REAL *w = theta + at, *s0 = s->s0 + at, *s1 = s->s1 + at;
    const vec lr = splat(s->lr), eps = splat(s->eps), w0 = load(w) * splat(s->shrink);
    switch (optimizer) {
    case 0: store(s0, g); break;
    case 1: store(w, FMADD(-lr, g, w0)); break;
    case 2: {
        const vec v = FMADD(splat(s->b), load(s0), -lr * g);
        store(s0, v);
        store(w, w0 + v);
        break;
    }
    case 3: {
        const vec v = FMADD(g, g, load(s0));
        store(s0, v);
        store(w, w0 - lr * g / SQRT(v + eps));
        break;
    }
    case 4: {
        const vec v = FMADD(splat(s->a), load(s0), splat(s->one_a) * g * g), r = load(s1);
        const vec d = SQRT(r + eps) / SQRT(v + eps) * g;
        store(s0, v);
        store(s1, FMADD(splat(s->a), r, splat(s->one_a) * d * d));
        store(w, FMADD(-lr, d, w0));
        break;
    }
    case 5: {
        const vec v = FMADD(splat(s->a), load(s0), splat(s->one_a) * g * g);
        store(s0, v);
        store(w, w0 - lr * g / (SQRT(v) + eps));
        break;
    }
    case 6: {
        const vec m = FMADD(splat(s->a), load(s0), splat(s->one_a) * g);
        const vec v = FMADD(splat(s->b), load(s1), splat(s->one_b) * g * g);
        store(s0, m);
        store(s1, v);
        store(w, w0 - splat(s->correct_a) * m / (SQRT(v * splat(s->correct_b)) + eps));
        break;
    }
    }
}

/* Update the parameters theta[at .. at + n - 1] by their gradient g; n may be rounded up to whole vectors. */
static void NAME(update)(const step_t *s, REAL *theta, int64_t at, const REAL *g, int64_t n)
{
#define EACH(CODE)                                                                                                            \
    case CODE:                                                                                                                \
        for (int64_t j = 0; j < n; j += LANES) NAME(apply)(s, CODE, theta, at + j, load(g + j));                              \
        break;
    switch (s->optimizer) { EACH(0) EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6) }
#undef EACH
}

/* What a layer read: numbers, a buffer; or, if there are counts, for every input the rows of the batch that have it on:
 * count[k] of them, index[k * ld ..]. */
typedef struct {
    const REAL *x;
    const int32_t *count, *index;
    int64_t ld;
} NAME(source_t);
#define source_t NAME(source_t)

/* g (+)= x^T dz for `rows` inputs and `vectors` vectors of units, those from `first` on. m rows of x and dz. */
static ALWAYS_INLINE void NAME(tile_weights)(int rows, int vectors, int first, int fresh, const REAL *x, const REAL *dz, int64_t m,
                                             REAL *g, int64_t ld)
{
    vec acc[ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = first; v < vectors; v++) acc[r][v] = fresh || r >= rows ? splat(0) : load(g + r * ld + v * LANES);
    NAME(multiply)(rows, first, vectors, x, 1, PANEL, dz, PANEL, m, acc);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = first; v < vectors; v++) store(g + r * ld + v * LANES, acc[r][v]);
}

/* g = the sum of the n rows of dz that are listed, `vectors` vectors of units. */
static ALWAYS_INLINE void NAME(sum_listed)(int vectors, const int32_t *index, int64_t n, const REAL *dz, REAL *g)
{
    vec acc[4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) acc[v] = splat(0);
    for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[v] += load(dz + (int64_t)index[i] * PANEL + v * LANES);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) store(g + v * LANES, acc[v]);
}

/* Forward was z = x (W * M) + b; so now g = (x^T dz) * M, n rows `ld` apart, for inputs k .. k + n - 1 of one panel: at most STRIP,
 * all in one panel of x. dz is that panel's part of a buffer, x a buffer, both of `rows` rows. In row r, the first skip[r] numbers
 * of g (whole vectors) are dead and mean nothing; vectors of fill-up are not touched. */
static __attribute__((noinline)) void NAME(strip_gradient)(const panel_t *panel, int64_t k, int n, const source_t *source,
                                                           const REAL *dz, int64_t rows, int64_t m, REAL *g, int64_t ld,
                                                           int *skip)
{
    if (source->count)
        FOR_UNITS(panel->units, u, {
            for (int r = 0; r < n; r++)
                NAME(sum_listed)(V, source->index + (k + r) * source->ld, source->count[k + r], dz + u, g + r * ld + u);
        });
    else
        for (int64_t i0 = 0; i0 < m; i0 += TRAIN_BLOCK) { /* rows whose dz stays in the L1 cache */
            const int64_t mi = m - i0 < TRAIN_BLOCK ? m - i0 : TRAIN_BLOCK;
            const REAL *x = source->x + (k / PANEL * rows + i0) * PANEL + k % PANEL;
            const REAL *dz_i = dz + i0 * PANEL;
#define TILE(FIRST)                                                                                                           \
    case FIRST:                                                                                                               \
        if (FIRST < V) NAME(tile_weights)(R, V, FIRST, i0 == 0, x + i, dz_i + u, mi, g + i * ld + u, ld);                     \
        break;
            FOR_UNITS(panel->units, u, {
                FOR_TILES(n, i, {
                    int first = 0; /* vectors before are dead to all inputs of the tile */
                    while (first < V && panel->live[u + first * LANES + LANES - 1] <= k + i) first++;
                    switch (first) { TILE(0) TILE(1) TILE(2) TILE(3) }
                });
            });
#undef TILE
    }
    for (int r = 0, dead = 0; r < n; r++) {
        while (dead < panel->units && panel->live[dead] <= k + r) dead++;
        skip[r] = dead / LANES * LANES;
        for (int j = skip[r]; j < dead; j++) g[r * ld + j] = 0;
    }
}

/* Gradient and update of the weights of inputs k0 <= k < k1 of panel p; k0 is a multiple of STRIP. The dead entries of a panel's
 * corner get a gradient of 0 and so stay 0. */
static void NAME(panel_weights)(const net_t *net, int64_t l, int64_t p, int64_t k0, int64_t k1, const source_t *source,
                                const REAL *dz, int64_t rows, int64_t m, const step_t *s)
{
    const panel_t panel = NAME(panel)(net, l, p);
    REAL g[STRIP * PANEL] __attribute__((aligned(64)));
    int skip[STRIP];
    for (int64_t k = k0; k < k1; k += STRIP) {
        const int n = k1 - k < STRIP ? (int)(k1 - k) : STRIP;
        NAME(strip_gradient)(&panel, k, n, source, dz + p * rows * PANEL, rows, m, g, PANEL, skip);
        const int64_t at = panel.w - (REAL *)net->theta + k * PANEL;
        if (skip[n - 1] == 0 && panel.units == PANEL) /* as most strips are: one run */
            NAME(update)(s, net->theta, at, g, n * PANEL);
        else
            for (int r = 0; r < n; r++)
                NAME(update)(s, net->theta, at + r * PANEL + skip[r], g + r * PANEL + skip[r], panel.units - skip[r]);
    }
}

/* db = sum_b dz_b for the units of panel p, with the update. */
static void NAME(panel_bias)(const net_t *net, int64_t l, int64_t p, const REAL *dz, int64_t rows, int64_t m, const step_t *s)
{
    if (l >= net->n_layers) return; /* direct connections have none */
    const step_t step = NAME(without_decay)(s);
    REAL sum[PANEL] __attribute__((aligned(64)));
    dz += p * rows * PANEL;
    for (int u = 0; u < PANEL; u += LANES) {
        vec acc = splat(0);
        for (int64_t i = 0; i < m; i++) acc += load(dz + i * PANEL + u);
        store(sum + u, acc);
    }
    NAME(update)(&step, net->theta, net->layers[l * LAYER_COLUMNS + BIAS] + p * PANEL, sum, PANEL);
}

static void NAME(all_weights)(const net_t *net, int64_t l, const source_t *source, const REAL *dz, int64_t m, const rule_t *rule)
{
    const step_t s = NAME(prepare)(rule);
    for (int64_t p = 0; p < net->layers[l * LAYER_COLUMNS + N_PANELS]; p++) {
        NAME(panel_weights)(net, l, p, 0, NAME(panel)(net, l, p).depth, source, dz, m, m, &s);
        NAME(panel_bias)(net, l, p, dz, m, m, &s);
    }
}

static void NAME(backward_weights)(const net_t *net, int64_t l, const void *x, const void *dz, int64_t m, const rule_t *rule)
{
    const source_t source = {.x = x};
    NAME(all_weights)(net, l, &source, dz, m, rule);
}

static void NAME(backward_weights_sparse)(const net_t *net, int64_t l, const int32_t *count, const int32_t *index, int64_t ld,
                                          const void *dz, int64_t m, const rule_t *rule)
{
    const source_t source = {.count = count, .index = index, .ld = ld};
    NAME(all_weights)(net, l, &source, dz, m, rule);
}
