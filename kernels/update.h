/* The loss, and the backward to the weights with the optimiser's update fused in.
 *
 * Included by level.h for each REAL. A panel's weights, gradient and state meet once per step: the gradient of a tile is
 * summed in registers and used up there, it is never written to memory (except by the rule GRADIENT).
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

/* Bits of the inputs at columns j .. j + LANES - 1; words beyond the last are 0. */
static ALWAYS_INLINE ivec NAME(inputs)(const uint64_t *row, int64_t words, int64_t j)
{
    return j / 64 < words ? spread(row[j / 64] >> (j % 64)) : (ivec){0};
}

/* nll[i] = sum_{d < n} -log p(x_id | x_i<d) in nats, summed in double lane by lane; dlogits (if any) = scale weight
 * (sigmoid(a) - x), 0 from column n to the end. Row i has weights[which[i]]; which may be null for i, weights null for 1.
 * Logits and dlogits are buffers of `rows` rows and `columns` columns. */
static ALWAYS_INLINE void NAME(nll_rows)(const REAL *logits, int64_t columns, const uint64_t *bits, int64_t words, int64_t n,
                                         int64_t rows, int64_t m, double scale, const double *weights, const int64_t *which,
                                         double *nll, REAL *dlogits)
{
    for (int64_t i = 0; i < m; i++) {
        dvec total = {0};
        const REAL row_scale = (REAL)(weights ? scale * weights[which ? which[i] : i] : scale);
        for (int64_t j = 0; j < columns; j += LANES) {
            const int64_t at = (j / PANEL * rows + i) * PANEL + j % PANEL;
            vec loss, gradient;
            const ivec x = NAME(inputs)(bits + i * words, words, j);
            NAME(bernoulli)(load(logits + at), x, &loss, dlogits ? &gradient : 0);
            if (j + LANES > n) {
                const ivec real = spread(j < n ? (1ull << (n - j)) - 1 : 0);
                loss = (vec)((ivec)loss & real);
                if (dlogits) gradient = (vec)((ivec)gradient & real);
            }
            total += widen(loss);
            if (dlogits) store(dlogits + at, gradient * splat(row_scale));
        }
        double sum = 0;
        for (int v = 0; v < LANES; v++) sum += total[v];
        nll[i] = sum;
    }
}

static void NAME(nll)(const void *logits, int64_t columns, const uint64_t *bits, int64_t words, int64_t n, int64_t m, double scale,
                      const double *weights, double *nll, void *dlogits)
{
    NAME(nll_rows)(logits, columns, bits, words, n, m, m, scale, weights, 0, nll, dlogits);
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
static ALWAYS_INLINE void NAME(apply)(const step_t *s, REAL *theta, int64_t at, vec g)
{
    REAL *w = theta + at, *s0 = s->s0 + at, *s1 = s->s1 + at;
    const vec lr = splat(s->lr), eps = splat(s->eps), w0 = load(w) * splat(s->shrink);
    switch (s->optimizer) {
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

/* Gradient of the vector of units `live` belongs to, at input k; the dead entries of a panel's corner get 0 and so stay 0. */
static ALWAYS_INLINE vec NAME(live_only)(vec g, const int32_t *live, int64_t k)
{
    if (k < live[0]) return g;
    REAL lanes[LANES];
    store(lanes, g);
    for (int i = 0; i < LANES; i++)
        if (k >= live[i]) lanes[i] = 0;
    return load(lanes);
}

/* dW for `rows` inputs from k on and one tile of units, vectors `first` on; then the update. m rows of x and dz. */
static ALWAYS_INLINE void NAME(tile_weights)(int rows, int first, const REAL *x, const REAL *dz, int64_t m, const int32_t *live,
                                             int64_t k, const step_t *s, REAL *theta, int64_t at)
{
    vec acc[ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = splat(0);
    NAME(multiply)(rows, first, x, 1, PANEL, dz, PANEL, m, acc);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = 0; v < TILE_VECTORS; v++)
                if (v >= first)
                    NAME(apply)(s, theta, at + r * PANEL + v * LANES, NAME(live_only)(acc[r][v], live + v * LANES, k + r));
}

/* Forward was z = x (W * M) + b; so now dW = (x^T dz) * M, for inputs k0 <= k < k1 of panel p, with the update.
 * x and dz are buffers of `rows` rows. */
static void NAME(panel_weights)(const net_t *net, int64_t l, int64_t p, int64_t k0, int64_t k1, const REAL *x, const REAL *dz,
                                int64_t rows, int64_t m, const step_t *s)
{
    const panel_t panel = NAME(panel)(net, l, p);
    const int64_t start = panel.w - (REAL *)net->theta;
    dz += p * rows * PANEL;
    for (int u = 0; u < PANEL; u += TILE_UNITS) {
        const int32_t *live = panel.live + u;
        const int64_t end = live[TILE_UNITS - 1] < k1 ? live[TILE_UNITS - 1] : k1;
#define TILE(FIRST)                                                                                                           \
    NAME(tile_weights)(R, FIRST, x_k + i, dz + u, m, live, k + i, s, net->theta, start + (k + i) * PANEL + u)
        for (int64_t k = k0, next; k < end; k = next) { /* inputs of one panel of the layer below */
            next = (k / PANEL + 1) * PANEL < end ? (k / PANEL + 1) * PANEL : end;
            const REAL *x_k = x + k / PANEL * rows * PANEL + k % PANEL;
            FOR_TILES(next - k, i, {
                int first = 0;
                while (live[first * LANES + LANES - 1] <= k + i) first++;
                switch (first) {
                case 0: TILE(0); break;
                case 1: TILE(1); break;
                case 2: TILE(2); break;
                default: TILE(3);
                }
            });
        }
#undef TILE
    }
}

/* The same from lists: count[k] rows of the batch have input k on, index[k * ld ..] are they. */
static void NAME(panel_weights_sparse)(const net_t *net, int64_t l, int64_t p, int64_t k0, int64_t k1, const int32_t *count,
                                       const int32_t *index, int64_t ld, const REAL *dz, int64_t rows, const step_t *s)
{
    const panel_t panel = NAME(panel)(net, l, p);
    const int64_t start = panel.w - (REAL *)net->theta;
    dz += p * rows * PANEL;
    for (int u = 0; u < PANEL; u += TILE_UNITS) {
        const int32_t *live = panel.live + u;
        const int64_t end = live[TILE_UNITS - 1] < k1 ? live[TILE_UNITS - 1] : k1;
        for (int64_t k = k0; k < end; k++) {
            vec acc[TILE_VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < TILE_VECTORS; v++) acc[v] = splat(0);
            for (int64_t i = 0; i < count[k]; i++) {
                const REAL *row = dz + (int64_t)index[k * ld + i] * PANEL + u;
#pragma GCC unroll 4
                for (int v = 0; v < TILE_VECTORS; v++) acc[v] += load(row + v * LANES);
            }
#pragma GCC unroll 4
            for (int v = 0; v < TILE_VECTORS; v++)
                NAME(apply)(s, net->theta, start + k * PANEL + u + v * LANES, NAME(live_only)(acc[v], live + v * LANES, k));
        }
    }
}

/* db = sum_b dz_b for the units of panel p, with the update. */
static void NAME(panel_bias)(const net_t *net, int64_t l, int64_t p, const REAL *dz, int64_t rows, int64_t m, const step_t *s)
{
    if (l >= net->n_layers) return; /* direct connections have none */
    const step_t step = NAME(without_decay)(s);
    dz += p * rows * PANEL;
    for (int u = 0; u < PANEL; u += LANES) {
        vec sum = splat(0);
        for (int64_t i = 0; i < m; i++) sum += load(dz + i * PANEL + u);
        NAME(apply)(&step, net->theta, net->layers[l * LAYER_COLUMNS + BIAS] + p * PANEL + u, sum);
    }
}

static void NAME(backward_weights)(const net_t *net, int64_t l, const void *x, const void *dz, int64_t m, const rule_t *rule)
{
    const step_t s = NAME(prepare)(rule);
    for (int64_t p = 0; p < net->layers[l * LAYER_COLUMNS + N_PANELS]; p++) {
        NAME(panel_weights)(net, l, p, 0, NAME(panel)(net, l, p).depth, x, dz, m, m, &s);
        NAME(panel_bias)(net, l, p, dz, m, m, &s);
    }
}

static void NAME(backward_weights_sparse)(const net_t *net, int64_t l, const int32_t *count, const int32_t *index, int64_t ld,
                                          const void *dz, int64_t m, const rule_t *rule)
{
    const step_t s = NAME(prepare)(rule);
    for (int64_t p = 0; p < net->layers[l * LAYER_COLUMNS + N_PANELS]; p++) {
        NAME(panel_weights_sparse)(net, l, p, 0, NAME(panel)(net, l, p).depth, count, index, ld, dz, m, &s);
        NAME(panel_bias)(net, l, p, dz, m, m, &s);
    }
}
