/* Whole networks: score, conditionals, sampling in one pass, and training steps shared by a crew of threads.
 *
 * Included by level.h for each REAL. Everything here is made of the layers of affine.h and the sums of update.h; what this
 * file adds is the order of things and who does what.
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

static void NAME(bits_to_numbers)(const uint64_t *bits, int64_t words, int64_t n, int64_t rows, int64_t m, REAL *x)
{
    for (int64_t j = 0; j < PADDED(n); j += LANES)
        for (int64_t i = 0; i < m; i++)
            store(x + (j / PANEL * rows + i) * PANEL + j % PANEL,
                  (vec)(NAME(inputs)(bits + i * words, words, j) & (ivec)splat(1)));
}

/* A layer that reads the inputs, on rows i0 .. i0 + m - 1 of the buffers. */
static void NAME(forward_inputs)(const net_t *net, int64_t l, int sparse, const buffers_t *s, int64_t i0, int64_t m)
{
    const int64_t D = net->layers[N_IN], at = i0 * PANEL;
    if (sparse)
        NAME(forward_sparse)(net, l, s->count + i0, s->index + i0 * D, D, s->rows, m, s->h[l] + at);
    else
        NAME(forward)(net, l, s->x + at, 0, s->rows, m, s->h[l] + at);
}

/* h = h * scale where the unit is kept, else 0; keep has the words of this layer's panels for each of m rows. */
static void NAME(drop)(REAL *h, int64_t panels, const uint64_t *keep, int64_t words, double scale, int64_t rows, int64_t m)
{
    for (int64_t p = 0; p < panels; p++)
        for (int64_t i = 0; i < m; i++)
            for (int64_t u = 0; u < PANEL; u += LANES) {
                REAL *at = h + (p * rows + i) * PANEL + u;
                store(at, (vec)((ivec)(load(at) * splat((REAL)scale)) & spread(keep[i * words + p] >> u)));
            }
}

/* All layers, for rows i0 .. i0 + m - 1 of the buffers; bits, and dropout's words if any, are those of row i0 on.
 * The logits end up in h[n_layers - 1]. */
static void NAME(forward_all)(const net_t *net, const uint64_t *bits, int64_t words, int sparse, const dropout_t *dropout,
                              const buffers_t *s, int64_t i0, int64_t m)
{
    const int64_t D = net->layers[N_IN], rows = s->rows, at = i0 * PANEL;
    const uint64_t *keep = dropout ? dropout->keep : 0;
    if (sparse)
        made_fast_list_ones(bits, words, m, D, s->count + i0, s->index + i0 * D);
    else
        NAME(bits_to_numbers)(bits, words, D, rows, m, s->x + at);
    for (int64_t l = 0; l < net->n_layers; l++) {
        const int64_t direct = NAME(direct)(net, l), panels = net->layers[l * LAYER_COLUMNS + N_PANELS];
        if (direct) NAME(forward_inputs)(net, direct, sparse, s, i0, m);
        if (l == 0)
            NAME(forward_inputs)(net, 0, sparse, s, i0, m);
        else
            NAME(forward)(net, l, s->h[l - 1] + at, direct ? s->h[direct] + at : 0, rows, m, s->h[l] + at);
        if (keep && l < net->n_layers - 1) {
            NAME(drop)(s->h[l] + at, panels, keep, dropout->words, dropout->scale, rows, m);
            keep += panels;
        }
    }
}

static void NAME(score)(const net_t *net, const uint64_t *bits, int64_t words, int64_t n, int64_t n_places, int sparse,
                        int64_t block, void *reals, int32_t *ints, double *log_p)
{
    buffers_t s;
    NAME(cut_buffers)(&s, net, block, reals, ints);
    for (int64_t i = 0; i < n; i += block) {
        const int64_t m = n - i < block ? n - i : block;
        NAME(forward_all)(net, bits + i * words, words, sparse, 0, &s, 0, m);
        NAME(nll_rows)(s.h[net->n_layers - 1], PADDED(n_places), bits + i * words, words, n_places, block, m, 0, 0, 0, log_p + i, 0);
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
        NAME(forward_all)(net, bits + i * words, words, sparse, 0, &s, 0, m);
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
            for (int u = j % PANEL / TILE_UNITS * TILE_UNITS; u < PANEL; u += TILE_UNITS)
                FOR_TILES(m, i,
                          NAME(tile_forward)(R, walk[-1].z + k0 * m + i * PANEL, k0, panel.w + u, panel.live + u, k, to, 0,
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

static void NAME(sample)(const net_t *net, const double *uniforms, int64_t n, int64_t block, void *reals, int32_t *ints,
                         uint8_t *x)
{
    const int64_t D = net->layers[N_IN], last = net->n_layers - 1;
    int32_t *count = ints, *index = ints + block, *taken = index + block * D;
    walk_t walks[2 * MAX_LAYERS];
    for (int64_t start = 0; start < n; start += block) {
        const int64_t m = n - start < block ? n - start : block;
        REAL *column = reals, *z = column + (block + 15) / 16 * 16;
        for (int64_t l = 0; l < net->n_rows; z += m * PADDED(n_units(net, l)), l++) walks[l] = (walk_t){z, -1, 0, 0};
        memset(count, 0, m * sizeof(int32_t));
        for (int64_t p = 0; p < D; p++) {
            NAME(finish_unit)(net, last, p, SIGMOID, walks, m, count, index, taken, column);
            for (int64_t i = 0; i < m; i++) {
                const int one = uniforms[(start + i) * D + p] < (double)column[i];
                x[(start + i) * D + p] = (uint8_t)one;
                index[i * D + count[i]] = (int32_t)p;
                count[i] += one;
            }
            int64_t final = p + 1;
            for (int64_t l = 0; l < last; l++) {
                NAME(finish)(net, l, final, p + 1, walks, m, count, index, taken, column);
                final = walks[l].done;
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------------
 * Training
 *
 * A step has two halves. First each thread owns rows: it takes its share of the batch through the whole network and back to
 * the gradients of every layer's sums, reading the weights. Then each owns weights: it sums the gradient of its share of the
 * panels over all rows and applies the update. Two barriers a step, whatever the depth.
 */

/* Wait for all ranks; returns 0 when they have come, 1 when the caller has called the step off because one never will. */
static int NAME(meet)(const crew_t *crew)
{
    if (crew->n_ranks == 1) return 0;
    int32_t *arrived = crew->sync, *round = crew->sync + 32, *off = crew->sync + 48; /* on cache lines of their own */
    const int32_t now = __atomic_load_n(round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL) == crew->n_ranks) {
        __atomic_store_n(arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(round, now + 1, __ATOMIC_RELEASE);
        return 0;
    }
    for (int spins = 0; __atomic_load_n(round, __ATOMIC_ACQUIRE) == now; spins++) {
        if (__atomic_load_n(off, __ATOMIC_RELAXED)) return 1;
#if defined(__x86_64__)
        _mm_pause();
#endif
        if (spins > 4000) sched_yield();
    }
    return 0;
}

/* Scratch of a step, cut as layout.train_workspace says. */
typedef struct {
    buffers_t forward;
    REAL *dz[MAX_LAYERS];               /* gradients of the sums of every layer of the chain */
    REAL *undropped;                    /* one more hidden output, with dropout only */
    uint64_t *bits;                     /* (B, words) */
    double *nll;                        /* (B,) */
    int32_t *place_count, *place_index; /* (D,), (D, B): the rows that have each place on */
} NAME(train_scratch_t);
#define train_scratch_t NAME(train_scratch_t)

static REAL *NAME(cut_train_scratch)(train_scratch_t *s, const net_t *net, int64_t B, int64_t words, REAL *reals, int32_t *ints)
{
    const int64_t D = net->layers[N_IN];
    s->bits = (uint64_t *)ints;
    s->nll = (double *)(s->bits + B * words);
    s->place_count = (int32_t *)(s->nll + B);
    s->place_index = s->place_count + D;
    reals = NAME(cut_buffers)(&s->forward, net, B, reals, s->place_index + D * B);
    for (int64_t l = 0; l < net->n_layers; reals += B * PADDED(n_units(net, l)), l++) s->dz[l] = reals;
    s->undropped = 0;
    return reals;
}

/* The weighted sum of the NLL of the batch's rows. */
static double NAME(total)(const train_scratch_t *s, int64_t m, const double *weights, const int64_t *which)
{
    double sum = 0;
    for (int64_t i = 0; i < m; i++) sum += weights ? weights[which[i]] * s->nll[i] : s->nll[i];
    return sum;
}

/* What rows own: rows i0 <= i < i1 of the batch, through the network and back to the gradients of all sums. The first n_places
 * outputs count; which[i] is the number of row i0 + i among all weights. */
static void NAME(train_rows)(const net_t *net, const train_scratch_t *s, int64_t words, int64_t i0, int64_t i1, int sparse,
                             const dropout_t *dropout, int64_t n_places, double scale, const double *weights,
                             const int64_t *which)
{
    const int64_t last = net->n_layers - 1, m = i1 - i0, rows = s->forward.rows, at = i0 * PANEL;
    const uint64_t *bits = s->bits + i0 * words;
    const dropout_t own = {dropout ? dropout->keep + i0 * dropout->words : 0, dropout ? dropout->words : 0,
                           dropout ? dropout->scale : 1};
    REAL *const *h = s->forward.h;
    if (m == 0) return;
    NAME(forward_all)(net, bits, words, sparse, dropout ? &own : 0, &s->forward, i0, m);
    NAME(nll_rows)(h[last] + at, PADDED(n_units(net, last)), bits, words, n_places, rows, m, scale, weights, which, s->nll + i0,
                   s->dz[last] + at);
    const uint64_t *keep = own.keep;
    if (keep)
        for (int64_t l = 0; l < last; l++) keep += net->layers[l * LAYER_COLUMNS + N_PANELS];
    for (int64_t l = last; l > 0; l--) {
        const int64_t panels = net->layers[(l - 1) * LAYER_COLUMNS + N_PANELS];
        if (!keep) {
            NAME(backward_input)(net, l, s->dz[l] + at, h[l - 1] + at, rows, m, s->dz[l - 1] + at);
            continue;
        }
        /* The derivative is a function of what the activation gave: h before it was scaled, which is in no buffer. */
        keep -= panels;
        REAL *const unscaled = s->undropped;
        for (int64_t p = 0; p < panels; p++)
            for (int64_t j = 0; j < m * PANEL; j += LANES) {
                const int64_t k = p * rows * PANEL + at + j;
                store(unscaled + k, load(h[l - 1] + k) / splat((REAL)own.scale));
            }
        NAME(backward_input)(net, l, s->dz[l] + at, unscaled + at, rows, m, s->dz[l - 1] + at);
        NAME(drop)(s->dz[l - 1] + at, panels, keep, own.words, own.scale, rows, m);
    }
}

/* Where share `t` of the cost begins in a panel whose rows cost `each` and whose first row begins at `start`. */
static ALWAYS_INLINE int64_t NAME(boundary)(int64_t t, int64_t start, int64_t each, int64_t depth)
{
    if (t <= start) return 0;
    const int64_t k = ((t - start) / each + 16) / 16 * 16; /* tiles of 6 + 6 + 4 */
    return k < depth ? k : depth;
}

/* The layer of the chain that row l adds to. */
static int64_t NAME(fed)(const net_t *net, int64_t l)
{
    if (l < net->n_layers) return l;
    int64_t fed = 0;
    while (NAME(direct)(net, fed) != l) fed++;
    return fed;
}

/* What weights own: gradient and update of this rank's share of all panels, cut into contiguous runs of equal cost. */
static void NAME(train_weights)(const net_t *net, const train_scratch_t *s, int64_t m, int sparse, const step_t *step,
                                const crew_t *crew)
{
    enum { UPDATE = 24 }; /* cost of updating a panel row, in rows of the batch */
    const int64_t D = net->layers[N_IN], B = s->forward.rows;
    int64_t ones = 0, total = 0;
    if (sparse)
        for (int64_t i = 0; i < m; i++) ones += s->forward.count[i];
    for (int pass = 0; pass < 2; pass++) { /* first the total cost, then the work */
        int64_t start = 0;
        const int64_t lo = total * crew->rank / crew->n_ranks, hi = total * (crew->rank + 1) / crew->n_ranks;
        for (int64_t l = 0; l < net->n_rows; l++) {
            const int inputs = NAME(reads_inputs)(net, l), listed = sparse && inputs;
            const int64_t each = UPDATE + (listed ? 2 * ones / D : m);
            const REAL *x = inputs ? s->forward.x : s->forward.h[l - 1], *dz = s->dz[NAME(fed)(net, l)];
            for (int64_t p = 0; p < net->layers[l * LAYER_COLUMNS + N_PANELS]; p++) {
                const int64_t depth = NAME(panel)(net, l, p).depth;
                if (pass == 1) {
                    const int64_t k0 = NAME(boundary)(lo, start, each, depth), k1 = NAME(boundary)(hi, start, each, depth);
                    if (crew->rank == 0) NAME(panel_bias)(net, l, p, dz, B, m, step);
                    if (k1 > k0 && listed)
                        NAME(panel_weights_sparse)(net, l, p, k0, k1, s->place_count, s->place_index, B, dz, B, step);
                    else if (k1 > k0)
                        NAME(panel_weights)(net, l, p, k0, k1, x, dz, B, m, step);
                }
                start += depth * each;
            }
        }
        total = start;
    }
}

static void NAME(train)(const net_t *net, const batches_t *data, const rule_t *rule, void *reals, int32_t *ints, double *nll,
                        const crew_t *crew)
{
    const int64_t rank = crew->rank, n_ranks = crew->n_ranks, words = data->words, D = net->layers[N_IN];
    rule_t now = *rule;
    train_scratch_t s;
    NAME(cut_train_scratch)(&s, net, data->batch_size, words, reals, ints);
    for (int64_t start = 0, batch = 0; start < data->n_rows; start += data->batch_size, batch++, now.step++) {
        const int64_t m = data->n_rows - start < data->batch_size ? data->n_rows - start : data->batch_size;
        const int64_t i0 = m * rank / n_ranks, i1 = m * (rank + 1) / n_ranks, *rows = data->rows + start;
        for (int64_t i = i0; i < i1; i++)
            memcpy(s.bits + i * words, data->bits + rows[i] * words, words * sizeof(uint64_t));
        if (data->sparse)
            made_fast_list_rows(data->bits, words, rows, m, D, words * rank / n_ranks, words * (rank + 1) / n_ranks,
                                data->batch_size, s.place_count, s.place_index);
        NAME(train_rows)(net, &s, words, i0, i1, data->sparse, 0, D, 1.0 / (double)m, data->weights, rows + i0);
        if (NAME(meet)(crew)) return; /* before this step has changed anything */
        if (rank == 0) nll[batch] = NAME(total)(&s, m, data->weights, rows);
        const step_t step = NAME(prepare)(&now);
        NAME(train_weights)(net, &s, m, data->sparse, &step, crew);
        if (NAME(meet)(crew)) return;
    }
}
