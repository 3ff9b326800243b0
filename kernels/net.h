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

/* ---------------------------------------------------------------------------------------------------------------------------
 * Training
 *
 * A crew goes through a step phase by phase: the rows of the batch are read; each layer forward; each layer back; the weights.
 * A phase is cut into runs of equal cost, one for each rank, over panels first and rows second. So a rank meets mostly the
 * same weights in every phase of every step, and finds them in its cache; what travels between ranks are activations.
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
        if (spins > 300) sched_yield();
    }
    return 0;
}

/* A rank's run of a phase's total cost; `at` is the cost of the items that have been passed. */
typedef struct {
    int64_t from, to, at;
} NAME(run_t);
#define run_t NAME(run_t)

static run_t NAME(run_of)(const crew_t *crew, int64_t total)
{
    return (run_t){total * crew->rank / crew->n_ranks, total * (crew->rank + 1) / crew->n_ranks, 0};
}

/* Where cost t cuts an item of n parts of cost `each`; only multiples of `grain` will do. */
static ALWAYS_INLINE int64_t NAME(cut)(const run_t *run, int64_t t, int64_t n, int64_t each, int64_t grain)
{
    if (t <= run->at) return 0;
    const int64_t k = ((t - run->at) / each + grain) / grain * grain;
    return k < n ? k : n;
}

/* Pass an item of n parts; says whether any of them, [*first, *stop), are in the run. */
static int NAME(take)(run_t *run, int64_t n, int64_t each, int64_t grain, int64_t *first, int64_t *stop)
{
    *first = NAME(cut)(run, run->from, n, each, grain);
    *stop = NAME(cut)(run, run->to, n, each, grain);
    run->at += n * each;
    return *stop > *first;
}

/* Scratch of a step, cut as layout.train_workspace says. */
typedef struct {
    buffers_t forward;
    REAL *dz[MAX_LAYERS];               /* gradients of the sums of every layer of the chain */
    REAL *undropped;                    /* one more hidden output, with dropout only */
    uint64_t *bits;                     /* (B, words) */
    double *nll;                        /* (panels, B) */
    int32_t *place_count, *place_index; /* (D,), (D, B): the rows that have each place on */
} NAME(train_scratch_t);
#define train_scratch_t NAME(train_scratch_t)

static REAL *NAME(cut_train_scratch)(train_scratch_t *s, const net_t *net, int64_t B, int64_t words, REAL *reals, int32_t *ints)
{
    const int64_t D = net->layers[N_IN];
    s->bits = (uint64_t *)ints;
    s->nll = (double *)(s->bits + B * words);
    s->place_count = (int32_t *)(s->nll + B * words);
    s->place_index = s->place_count + D;
    reals = NAME(cut_buffers)(&s->forward, net, B, reals, s->place_index + D * B);
    for (int64_t l = 0; l < net->n_layers; reals += B * PADDED(n_units(net, l)), l++) s->dz[l] = reals;
    s->undropped = 0;
    return reals;
}

/* The weighted sum of the NLL of the batch's rows. */
static double NAME(total)(const train_scratch_t *s, const loss_t *loss, int64_t m)
{
    double total = 0;
    for (int64_t i = 0; i < m; i++) {
        double sum = 0;
        for (int64_t p = 0; p < loss->words; p++) sum += s->nll[p * loss->panel_step + i];
        total += loss->weights ? loss->weights[loss->which[i]] * sum : sum;
    }
    return total;
}

/* Cost of a row in a panel beside its sums, in multiply-adds of 64: measured. What reads lists of ones has shorter sums. */
enum { NAME(ROW_GRAIN) = 2 * ROWS, NAME(PER_ROW) = 64, NAME(PER_LOSS) = 160, NAME(PER_LIST) = 200 };

static void NAME(forward_share)(const net_t *net, int64_t l, int64_t m, int sparse, const dropout_t *dropout, const loss_t *loss,
                                const buffers_t *s, const crew_t *crew)
{
    const int64_t panels = net->layers[l * LAYER_COLUMNS + N_PANELS], direct = NAME(direct)(net, l);
    const int64_t per_row = NAME(PER_ROW) + (l == net->n_layers - 1 ? NAME(PER_LOSS) : 0) + (l == 0 && sparse ? NAME(PER_LIST) : 0);
    run_t run = {0};
    int64_t i0, i1;
    for (int pass = 0; pass < 2; pass++) { /* first the total cost, then the work */
        if (pass) run = NAME(run_of)(crew, run.at);
        for (int64_t p = 0; p < panels; p++) {
            const int64_t each = per_row + NAME(panel)(net, l, p).depth + (direct ? NAME(panel)(net, direct, p).depth : 0);
            if (NAME(take)(&run, m, each, NAME(ROW_GRAIN), &i0, &i1) && pass)
                NAME(layer_panel)(net, l, p, sparse, dropout, loss, s, i0, i1 - i0);
        }
    }
}

/* From the gradient of the sums of layer l to that of the layer below. */
static void NAME(backward_share)(const net_t *net, int64_t l, int64_t m, const dropout_t *dropout, const train_scratch_t *s,
                                 const crew_t *crew)
{
    const int64_t rows = s->forward.rows, below = l - 1, n_in = net->layers[l * LAYER_COLUMNS + N_IN], n_out = n_units(net, l);
    const int32_t *live = net->n_live + net->layers[l * LAYER_COLUMNS + UNITS];
    run_t run = {0};
    int64_t i0, i1;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) run = NAME(run_of)(crew, run.at);
        for (int64_t k = 0, j = 0; k < n_in; k += PANEL) {
            while (j < n_out && live[j] <= k) j++; /* units j .. see these inputs */
            if (!NAME(take)(&run, m, 1 + n_out - j, NAME(ROW_GRAIN), &i0, &i1) || !pass) continue;
            const int64_t at = i0 * PANEL, block = k * rows + at, n = (i1 - i0) * PANEL;
            const REAL *h = s->forward.h[below];
            if (dropout) { /* the derivative is a function of what the activation gave: h before it was scaled */
                for (int64_t q = 0; q < n; q += LANES)
                    store(s->undropped + block + q, load(h + block + q) / splat((REAL)dropout->scale));
                h = s->undropped;
            }
            NAME(backward_input_panel)(net, l, k, s->dz[l] + at, h + at, rows, i1 - i0, s->dz[below] + at);
            if (dropout) {
                const uint64_t *keep = dropout->keep + i0 * dropout->words + NAME(first_word)(net, below) + k / PANEL;
                NAME(drop)(s->dz[below] + block, keep, dropout->words, dropout->scale, i1 - i0);
            }
        }
    }
}

/* The batch, whose bits have been read, through the network and back to the gradients of all sums. Returns 1 if called off. */
static int NAME(train_rows)(const net_t *net, const train_scratch_t *s, int64_t m, int sparse, const dropout_t *dropout,
                            const loss_t *loss, const crew_t *crew)
{
    const int64_t last = net->n_layers - 1;
    for (int64_t l = 0; l <= last; l++) {
        NAME(forward_share)(net, l, m, sparse, dropout, loss, &s->forward, crew);
        if (NAME(meet)(crew)) return 1;
    }
    for (int64_t l = last; l > 0; l--) {
        NAME(backward_share)(net, l, m, dropout, s, crew);
        if (NAME(meet)(crew)) return 1;
    }
    return 0;
}

/* The layer of the chain that row l adds to. */
static int64_t NAME(fed)(const net_t *net, int64_t l)
{
    if (l < net->n_layers) return l;
    int64_t fed = 0;
    while (NAME(direct)(net, fed) != l) fed++;
    return fed;
}

/* What row l of the network read. */
static source_t NAME(source)(const net_t *net, const train_scratch_t *s, int64_t l, int sparse)
{
    if (!NAME(reads_inputs)(net, l)) return (source_t){.x = s->forward.h[l - 1]};
    if (!sparse) return (source_t){.x = s->forward.x};
    return (source_t){.count = s->place_count, .index = s->place_index, .ld = s->forward.rows};
}

/* Gradient and update of this rank's share of every layer's weights and biases. The bias counts as so many rows of weights. */
static void NAME(train_weights)(const net_t *net, const train_scratch_t *s, int64_t m, int sparse, const step_t *step,
                                const crew_t *crew)
{
    enum { PER_BIAS = 2 * STRIP };
    const int64_t B = s->forward.rows;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const source_t source = NAME(source)(net, s, l, sparse);
        const REAL *dz = s->dz[NAME(fed)(net, l)];
        run_t run = {0};
        int64_t k0, k1;
        for (int pass = 0; pass < 2; pass++) {
            if (pass) run = NAME(run_of)(crew, run.at);
            for (int64_t p = 0; p < net->layers[l * LAYER_COLUMNS + N_PANELS]; p++) {
                if (!NAME(take)(&run, PER_BIAS + NAME(panel)(net, l, p).depth, 1, STRIP, &k0, &k1) || !pass) continue;
                if (k0 == 0) NAME(panel_bias)(net, l, p, dz, B, m, step);
                NAME(panel_weights)(net, l, p, k0 > PER_BIAS ? k0 - PER_BIAS : 0, k1 - PER_BIAS, &source, dz, B, m, step);
            }
        }
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
        NAME(read_bits)(net, s.bits + i0 * words, words, data->sparse, &s.forward, i0, i1 - i0);
        if (data->sparse)
            made_fast_list_rows(data->bits, words, rows, m, D, words * rank / n_ranks, words * (rank + 1) / n_ranks,
                                data->batch_size, s.place_count, s.place_index);
        if (NAME(meet)(crew)) return;
        const loss_t loss = {s.bits, words, D, 1.0 / (double)m, data->weights, rows, s.nll, data->batch_size,
                             s.dz[net->n_layers - 1]};
        if (NAME(train_rows)(net, &s, m, data->sparse, 0, &loss, crew)) return; /* before this step has changed anything */
        if (rank == n_ranks - 1) nll[batch] = NAME(total)(&s, &loss, m); /* rank 0 has more to do in what follows */
        const step_t step = NAME(prepare)(&now);
        NAME(train_weights)(net, &s, m, data->sparse, &step, crew);
        if (NAME(meet)(crew)) return;
    }
}
