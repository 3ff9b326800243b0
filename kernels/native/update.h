/* The loss, and the backward to the weights with the optimiser's update fused in.
 *
 * A panel's weights, gradient and state meet once per step: the gradient of a strip of inputs is summed in registers, and used
 * up while it is in the L1 cache (except by GRADIENT, which keeps it).
 */

/* t = -a where the input is 1, a where it is 0: then -log p(x_d) = log(1 + e^t) and d/da of it = -+ sigmoid(t). */
static ALWAYS_INLINE void bernoulli(vec a, ivec x, vec *nll, vec *gradient)
{
    const ivec minus = x & (ivec)splat(-0.0);
    const vec t = (vec)((ivec)a ^ minus), e = vexp(-absolute(a));
    *nll = MAX(splat(0), t) + vlog1p(e);
    if (gradient) {
        const vec r = splat(1) / (splat(1) + e);
        *gradient = (vec)((ivec)choose(t < 0, e * r, r) ^ minus);
    }
}

/* What the loss of the outputs needs beside the logits. */
typedef struct {
    const uint64_t *bits;
    int64_t words, n_places; /* the first so many outputs count */
    double scale;
    const double *weights; /* or null for 1; that of row i is weights[which[i]], or weights[i] if which is null */
    const int64_t *which;
    double *nll;        /* of a row: the sum over its outputs. Null: no loss is wanted */
    int64_t panel_step; /* panel p of row i adds to nll[p * panel_step + i] */
    REAL *dz;           /* gradient of the logits, scale * weight * (sigmoid(a) - x), or null */
} loss_t;

/* The loss of the outputs of panel p, for rows i0 .. i0 + m - 1 of buffers of `rows` rows: -log p(x_d | x_<d) in nats, added
 * up in double, lane by lane. The gradient is 0 from column n_places on. */
static ALWAYS_INLINE void nll_panel(const loss_t *loss, const REAL *logits, int64_t p, int64_t rows, int64_t i0, int64_t m)
{
    const int64_t columns = loss->n_places - p * PANEL;
    const double *weights = loss->weights;
    REAL *dz = loss->dz;
    for (int64_t i = i0; i < i0 + m; i++) {
        dvec total = {0};
        const REAL scale = (REAL)(weights ? loss->scale * weights[loss->which ? loss->which[i] : i] : loss->scale);
        const uint64_t word = p < loss->words ? loss->bits[i * loss->words + p] : 0;
        for (int j = 0; j < PANEL; j += LANES) {
            const int64_t at = (p * rows + i) * PANEL + j;
            if (columns <= j) {
                if (dz) store(dz + at, splat(0));
                continue;
            }
            vec nll, gradient;
            bernoulli(load(logits + at), spread(word >> j), &nll, dz ? &gradient : 0);
            if (columns < j + LANES) {
                const ivec real = spread((1ull << (columns - j)) - 1);
                nll = (vec)((ivec)nll & real);
                if (dz) gradient = (vec)((ivec)gradient & real);
            }
            total += widen(nll);
            if (dz) store(dz + at, gradient * splat(scale));
        }
        double *sum = loss->nll + p * loss->panel_step + i, added = p > 0 && !loss->panel_step ? *sum : 0;
        for (int v = 0; v < LANES; v++) added += total[v];
        *sum = added;
    }
}

static void bernoulli_nll(const call_t *c)
{
    const batches_t *data = &c->batches;
    const loss_t loss = {.bits = data->bits, .words = data->words, .n_places = c->n_places, .scale = c->scale,
                         .weights = data->weights, .nll = c->nll, .dz = c->out};
    for (int64_t p = 0; p < c->l; p++) nll_panel(&loss, c->x, p, c->m, 0, c->m);
}

/* What one step of an optimiser needs, computed once per step in double. */
typedef struct {
    int optimizer;
    REAL lr, a, b, eps, one_a, one_b, correct_a, correct_b, shrink; /* shrink: what weight decay leaves of a weight */
    REAL *s0, *s1; /* state vectors, parallel to the parameters */
    int n_fetched; /* arrays to fetch ahead of an update: 0, or parameters and state */
} step_t;

enum { NEAR = 4 << 20 }; /* bytes of parameters and state that a core's caches keep from one step to the next: measured */

static step_t step_of(const update_t *update, int64_t before)
{
    const double *constants = update->constants, a = constants[COEF_A], b = constants[COEF_B], t = (double)before + 1;
    const double lr = update->optimizer <= MOMENTUM ? constants[LR] / (1 + a * (double)before) : constants[LR];
    step_t step = {.optimizer = update->optimizer, .lr = (REAL)lr, .a = (REAL)a, .b = (REAL)b, .eps = (REAL)constants[EPS],
                   .one_a = (REAL)(1 - a), .one_b = (REAL)(1 - b), .shrink = (REAL)(1 - lr * constants[DECAY])};
    step.s0 = update->state;
    step.s1 = step.s0 + update->n;
    if (update->optimizer == ADAM) {
        step.correct_a = (REAL)(constants[LR] / (1 - pow(a, t)));
        step.correct_b = (REAL)(1 / (1 - pow(b, t)));
    }
    const int n_state[] = {[GRADIENT] = 1, [SGD] = 0, [MOMENTUM] = 1, [ADAGRAD] = 1, [ADADELTA] = 2, [RMSPROP] = 1, [ADAM] = 2};
    const int n_arrays = 1 + n_state[update->optimizer];
    if (update->n * n_arrays * (int64_t)sizeof(REAL) > NEAR) step.n_fetched = n_arrays;
    return step;
}

static step_t without_decay(const step_t *step)
{
    step_t plain = *step;
    plain.shrink = 1;
    return plain;
}

/* A step that writes the gradient to `to`, where parameters would be. */
static step_t collect_to(REAL *to) { return (step_t){.optimizer = GRADIENT, .s0 = to, .s1 = to}; }

/* Update one vector of parameters, those at `at` in w, as written in optimizers.py. */
static ALWAYS_INLINE void apply(const step_t *step, int optimizer, REAL *w, int64_t at, vec g)
{
    REAL *s0 = step->s0 + at, *s1 = step->s1 + at;
    w += at;
    const vec lr = splat(step->lr), eps = splat(step->eps), a = splat(step->a), b = splat(step->b);
    const vec w0 = load(w) * splat(step->shrink);
    switch (optimizer) {
    case GRADIENT: store(s0, g); break;
    case SGD: store(w, FMADD(-lr, g, w0)); break;
    case MOMENTUM: {
        const vec v = FMADD(b, load(s0), -lr * g);
        store(s0, v);
        store(w, w0 + v);
        break;
    }
    case ADAGRAD: {
        const vec v = FMADD(g, g, load(s0));
        store(s0, v);
        store(w, w0 - lr * g / SQRT(v + eps));
        break;
    }
    case ADADELTA: {
        const vec one_a = splat(step->one_a), v = FMADD(a, load(s0), one_a * g * g), r = load(s1);
        const vec d = SQRT(r + eps) / SQRT(v + eps) * g;
        store(s0, v);
        store(s1, FMADD(a, r, one_a * d * d));
        store(w, FMADD(-lr, d, w0));
        break;
    }
    case RMSPROP: {
        const vec v = FMADD(a, load(s0), splat(step->one_a) * g * g);
        store(s0, v);
        store(w, w0 - lr * g / (SQRT(v) + eps));
        break;
    }
    case ADAM: {
        const vec m = FMADD(a, load(s0), splat(step->one_a) * g), v = FMADD(b, load(s1), splat(step->one_b) * g * g);
        store(s0, m);
        store(s1, v);
        store(w, w0 - splat(step->correct_a) * m / (SQRT(v * splat(step->correct_b)) + eps));
        break;
    }
    }
}

/* Update the parameters w[at .. at + n - 1] by their gradient g; n may be rounded up to whole vectors. */
static void update(const step_t *step, REAL *w, int64_t at, const REAL *g, int64_t n)
{
#define UPDATE(CODE)                                                                                                          \
    case CODE:                                                                                                                \
        for (int64_t j = 0; j < n; j += LANES) apply(step, CODE, w, at + j, load(g + j));                                     \
        break;
    switch (step->optimizer) {
        UPDATE(GRADIENT) UPDATE(SGD) UPDATE(MOMENTUM) UPDATE(ADAGRAD) UPDATE(ADADELTA) UPDATE(RMSPROP) UPDATE(ADAM)
    }
}

/* Fetch n parameters from `at` on, and their state, into the L2 cache while their gradient is summed. Each strip of them begins
 * a page of memory, where the hardware prefetcher stops. 7 % of a step of [8000], 4 % of [2000, 2000], 6 % of [500] under fresh
 * masks. */
static ALWAYS_INLINE void fetch_parameters(const step_t *step, const REAL *w, int64_t at, int64_t n)
{
    for (int64_t j = at; j < at + n && step->n_fetched; j += 64 / sizeof(REAL)) {
        if (step->optimizer != GRADIENT) __builtin_prefetch(w + j, 1, 2);
        if (step->n_fetched > 1) __builtin_prefetch(step->s0 + j, 1, 2);
        if (step->n_fetched > 2) __builtin_prefetch(step->s1 + j, 1, 2);
    }
}

/* A step by a gradient that is there as a whole. */
static void apply_gradient(const call_t *c)
{
    const step_t step = step_of(&c->update, c->update.step), plain = without_decay(&step);
    const REAL *gradient = c->x;
    for (const int64_t *run = c->runs; run < c->runs + c->n_runs * RUN_COLUMNS; run += RUN_COLUMNS) {
        const int64_t at = run[RUN_START];
        update(run[RUN_DECAYS] ? &step : &plain, c->out, at, gradient + at, run[RUN_STOP] - at);
    }
}

/* What the backward to the weights reads: what the layer read, and the gradient of its sums. Both of m rows, in buffers of
 * `rows` rows. Marks say in which rows an input is not 0, a bit a row, mark_words words an input. */
typedef struct {
    const REAL *x;         /* or null: what is marked is 1 */
    const uint64_t *marks; /* or null, where there is x: all of it is multiplied */
    int64_t mark_words;
    const REAL *dz;
    int64_t rows, m;
} source_t;

/* g (+)= x^T dz for `rows` inputs and `vectors` vectors of units, those from `first` on. m rows of x and dz. */
static ALWAYS_INLINE void tile_weights(int rows, int vectors, int first, int fresh, const REAL *x, const REAL *dz, int64_t m,
                                       REAL *g, int64_t ld)
{
    vec acc[ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = first; v < vectors; v++) acc[r][v] = fresh || r >= rows ? splat(0) : load(g + r * ld + v * LANES);
    multiply(rows, first, vectors, x, 1, PANEL, dz, m, acc);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = first; v < vectors; v++) store(g + r * ld + v * LANES, acc[r][v]);
}

/* Forward was z = x (W * M) + b; so now g = (x^T dz) * M, n rows `ld` apart, for inputs k .. k + n - 1 of panel p: at most
 * STRIP, all in one panel of x. In row r, the first skip[r] numbers of g (whole vectors) are dead and mean nothing; vectors of
 * fill-up are not touched. `step`, or null, will update parameters `w` by g. */
static __attribute__((noinline)) void strip_gradient(const panel_t *panel, int64_t p, int64_t k, int n, const source_t *source,
                                                     REAL *g, int64_t ld, int *skip, const step_t *step, const REAL *w)
{
    const int64_t at = panel->w - w;
    const REAL *dz = source->dz + p * source->rows * PANEL;
    const int full = panel->units > PANEL - LANES;
    enum { BLOCK = 128 }; /* rows whose dz stays in the L1 cache */
    for (int64_t i0 = 0; i0 < source->m; i0 += BLOCK) {
        const int64_t m = source->m - i0 < BLOCK ? source->m - i0 : BLOCK, words = (m + 63) / 64;
        const REAL *x = source->x ? source->x + (k / PANEL * source->rows + i0) * PANEL + k % PANEL : 0, *dz_i = dz + i0 * PANEL;
        const uint64_t *marks = source->marks ? source->marks + k * source->mark_words + i0 / 64 : 0;
        int64_t on = 0;
        for (int i = 0; i < n && x && marks; i++) on += __builtin_popcountll(marks[i * source->mark_words]);
        if (!x || (marks && full && mostly_off(panel, k, n, m < 64 ? m : 64, on))) {
            for (int i = 0; i < n; i++, marks += source->mark_words) {
                if (step && i0 == 0) fetch_parameters(step, w, at + (k + i) * PANEL, PANEL);
                if (x)
                    add_panel(i0 == 0, marks, words, x + i, PANEL, dz_i, g + i * ld);
                else if (full)
                    add_panel(i0 == 0, marks, words, 0, 0, dz_i, g + i * ld);
                else
                    FOR_UNITS(panel->units, u, { add_marked(V, i0 == 0, marks, words, 0, 0, dz_i + u, g + i * ld + u); });
            }
            continue;
        }
#define TILE(FIRST_VECTOR)                                                                                                    \
    case FIRST_VECTOR:                                                                                                        \
        if (FIRST_VECTOR < V) tile_weights(R, V, FIRST_VECTOR, i0 == 0, x + i, dz_i + u, m, g + i * ld + u, ld);              \
        break;
        FOR_UNITS(panel->units, u, {
            FOR_TILES(n, i, {
                if (step && u == 0 && i0 == 0) fetch_parameters(step, w, at + (k + i) * PANEL, R * PANEL);
                int first = 0; /* vectors before are dead to all inputs of the tile */
                while (first < V && panel->live[u + first * LANES + LANES - 1] <= k + i) first++;
                switch (first) { TILE(0) TILE(1) TILE(2) TILE(3) }
            });
        });
    }
    for (int r = 0, dead = 0; r < n; r++) {
        while (dead < panel->units && panel->live[dead] <= k + r) dead++;
        skip[r] = dead / LANES * LANES;
        for (int j = skip[r]; j < dead; j++) g[r * ld + j] = 0;
    }
}

/* Gradient and update of the weights of inputs k0 <= k < k1 of panel p; k0 is a multiple of STRIP. The dead entries of a
 * panel's corner get a gradient of 0 and so stay 0. */
static void panel_weights(const net_t *net, int64_t l, int64_t p, int64_t k0, int64_t k1, const source_t *source,
                          const step_t *step)
{
    const panel_t panel = panel_of(net, l, p);
    REAL g[STRIP * PANEL] __attribute__((aligned(64)));
    int skip[STRIP];
    for (int64_t k = k0; k < k1; k += STRIP) {
        const int n = k1 - k < STRIP ? (int)(k1 - k) : STRIP;
        strip_gradient(&panel, p, k, n, source, g, PANEL, skip, step, net->theta);
        const int64_t at = panel.w - (REAL *)net->theta + k * PANEL;
        if (skip[n - 1] == 0 && panel.units == PANEL) /* as most strips are: one run */
            update(step, net->theta, at, g, n * PANEL);
        else
            for (int r = 0; r < n; r++)
                update(step, net->theta, at + r * PANEL + skip[r], g + r * PANEL + skip[r], panel.units - skip[r]);
    }
}

/* db = sum_b dz_b for the units of panel p, with the update; direct connections have no bias. */
static void panel_bias(const net_t *net, int64_t l, int64_t p, const source_t *source, const step_t *step)
{
    if (l >= net->n_layers) return;
    const step_t plain = without_decay(step);
    const REAL *dz = source->dz + p * source->rows * PANEL;
    REAL sum[PANEL] __attribute__((aligned(64)));
    enum { AT_ONCE = 4 }; /* so that one addition need not wait for another */
    for (int u = 0; u < PANEL; u += AT_ONCE * LANES) {
        vec acc[AT_ONCE] = {{0}};
        for (int64_t i = 0; i < source->m; i++)
#pragma GCC unroll 4
            for (int v = 0; v < AT_ONCE; v++) acc[v] += load(dz + i * PANEL + u + v * LANES);
#pragma GCC unroll 4
        for (int v = 0; v < AT_ONCE; v++) store(sum + u + v * LANES, acc[v]);
    }
    update(&plain, net->theta, net->layers[l * LAYER_COLUMNS + BIAS] + p * PANEL, sum, PANEL);
}

static void affine_backward_weights(const call_t *c)
{
    const step_t step = step_of(&c->update, c->update.step);
    const source_t source = {c->x, c->marks, c->mark_words, c->dz, c->m, c->m};
    for (int64_t p = 0; p < c->net.layers[c->l * LAYER_COLUMNS + N_PANELS]; p++) {
        panel_weights(&c->net, c->l, p, 0, panel_of(&c->net, c->l, p).depth, &source, &step);
        panel_bias(&c->net, c->l, p, &source, &step);
    }
}
