/* Parameters that several connectivities share: gathered into panels, trained, and their gradient brought back.
 *
 * Included by level.h for each REAL. `shared` holds dense rows of weights in original order (layout.SharedLayout); a step packs
 * them into the panels of its connectivity, and what net.h does to panels goes on as ever. Work on rows of weights is dealt
 * out to the ranks in runs of 16: a row costs more the more units see it, and neighbours cost the same.
 */

#define DEALT_TO(rank, n_ranks, k) ((k) / 16 % (n_ranks) == (rank))

/* One row of net.layers and what it has in shared. */
typedef struct {
    int64_t l, n_in, n_out, n_panels, stride;
    int64_t w, b, u;          /* starts in shared; b and u may be -1 */
    const int32_t *in, *unit; /* original numbers of the sorted inputs and units */
    const int32_t *live;      /* of the sorted units */
    int64_t bias;             /* start in theta */
} NAME(shared_layer_t);
#define shared_layer_t NAME(shared_layer_t)

static shared_layer_t NAME(shared_layer)(const net_t *net, const shared_t *shared, int64_t l)
{
    const int64_t *layer = net->layers + l * LAYER_COLUMNS, *row = shared->layout + l * SHARED_COLUMNS;
    return (shared_layer_t){l, layer[N_IN], layer[N_OUT], layer[N_PANELS], row[ROW],
                            row[SHARED_WEIGHTS], row[SHARED_BIAS], row[SHARED_U],
                            shared->order + row[IN_ORDER], shared->order + row[OUT_ORDER], net->n_live + layer[UNITS], layer[BIAS]};
}

/* Biases of the original units 64 run .. 64 run + 63: b, or b + sum_{live k} U[k, :] in ascending order of k. Taken in runs of
 * original units, U is read in whole cache lines. */
static void NAME(pack_bias)(const net_t *net, const REAL *values, const shared_layer_t *s, int64_t run)
{
    REAL *bias = (REAL *)net->theta + s->bias, sum[PANEL] = {0};
    int32_t live[PANEL] = {0}, deepest = 0;
    const int64_t first = run * PANEL, n = s->stride - first < PANEL ? s->stride - first : PANEL;
    for (int64_t j = 0; j < s->n_out; j++)
        if (s->unit[j] / PANEL == run) {
            live[s->unit[j] % PANEL] = s->live[j];
            deepest = s->live[j]; /* they never decrease */
        }
    if (s->u >= 0)
        for (int32_t k = 0; k < deepest; k++) {
            const REAL *u = values + s->u + s->in[k] * s->stride + first;
            for (int64_t o = 0; o < n; o++) sum[o] += k < live[o] ? u[o] : 0;
        }
    for (int64_t j = 0; j < s->n_out; j++)
        if (s->unit[j] / PANEL == run) bias[j] = values[s->b + s->unit[j]] + sum[s->unit[j] % PANEL];
}

/* A rank's share of the panels and biases of one connectivity. */
static void NAME(pack_share)(const net_t *net, const shared_t *shared, int64_t rank, int64_t n_ranks)
{
    const REAL *values = shared->values;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = NAME(shared_layer)(net, shared, l);
        int64_t p0 = 0; /* first panel that sees input k */
        for (int64_t k = 0; k < s.n_in; k++) {
            const REAL *row = values + s.w + s.in[k] * s.stride;
            const REAL *next = values + s.w + s.in[k + 1 < s.n_in ? k + 1 : k] * s.stride; /* rows are long leaps apart */
            while (p0 < s.n_panels && s.live[p0 * PANEL + PANEL - 1] <= k) p0++;
            if (!DEALT_TO(rank, n_ranks, k)) continue;
            for (int64_t p = p0; p < s.n_panels; p++) {
                const panel_t panel = NAME(panel)(net, l, p);
                const int64_t n = s.n_out - p * PANEL < PANEL ? s.n_out - p * PANEL : PANEL;
                const int32_t *unit = s.unit + p * PANEL;
                REAL *restrict to = panel.w + k * PANEL;
                for (int64_t u = 0; u < n; u += 64 / sizeof(REAL)) __builtin_prefetch(next + p * PANEL + u);
                if (n == PANEL)
                    for (int64_t u = 0; u < PANEL; u++) to[u] = row[unit[u]];
                else {
                    for (int64_t u = 0; u < n; u++) to[u] = row[unit[u]];
                    for (int64_t u = n; u < PANEL; u++) to[u] = 0;
                }
                for (int64_t u = 0; u < n && panel.live[u] <= k; u++) to[u] = 0;
            }
        }
        if (s.b >= 0)
            for (int64_t run = rank; run < s.n_panels; run += n_ranks) NAME(pack_bias)(net, values, &s, run);
        const int64_t n = s.b >= 0 ? s.n_out : 0;
        if (rank == 0) memset((REAL *)net->theta + s.bias + n, 0, (s.n_panels * PANEL - n) * sizeof(REAL));
    }
}

static void NAME(pack)(const net_t *net, const shared_t *shared) { NAME(pack_share)(net, shared, 0, 1); }

/* What becomes of the rows of a gradient of shared. */
typedef struct {
    REAL *gradient; /* like shared: they are put there, or added; null: they update the parameters at once */
    int add;
    REAL *values; /* the parameters */
    step_t weights, biases;
    REAL *row; /* scratch, as long as the longest row */
} NAME(sink_t);
#define sink_t NAME(sink_t)

/* g, of n numbers, is the gradient of the parameters from `at` on. */
static void NAME(update_row)(const step_t *step, REAL *values, int64_t at, const REAL *g, REAL scale, int64_t n)
{
    for (int64_t j = 0; j < n; j += LANES) NAME(apply)(step, values, at + j, load(g + j) * splat(scale));
}

/* The row of the gradient that begins at `at`, from the sorted units j0 on; `from` says where panel p has its 64 numbers. */
static ALWAYS_INLINE void NAME(sink_row)(const sink_t *sink, const step_t *step, const shared_layer_t *s, int64_t at, int64_t j0,
                                         const REAL *(*from)(const net_t *, const shared_layer_t *, int64_t p, int64_t k),
                                         const net_t *net, int64_t k)
{
    REAL *to = sink->gradient ? sink->gradient + at : sink->row;
    if (!sink->add) memset(to, 0, s->stride * sizeof(REAL));
    for (int64_t j = j0; j < s->n_out;) {
        const int64_t p = j / PANEL, end = (p + 1) * PANEL < s->n_out ? (p + 1) * PANEL : s->n_out;
        const REAL *g = from(net, s, p, k) - p * PANEL;
        if (sink->add)
            for (; j < end; j++) to[s->unit[j]] += g[j];
        else
            for (; j < end; j++) to[s->unit[j]] = g[j];
    }
    if (!sink->gradient) NAME(update_row)(step, sink->values, at, to, 1, s->stride);
}

static ALWAYS_INLINE const REAL *NAME(panel_row)(const net_t *net, const shared_layer_t *s, int64_t p, int64_t k)
{
    return NAME(panel)(net, s->l, p).w + k * PANEL;
}

static ALWAYS_INLINE const REAL *NAME(panel_biases)(const net_t *net, const shared_layer_t *s, int64_t p, int64_t k)
{
    (void)k;
    return NAME(panel)(net, s->l, p).bias;
}

/* A rank's share of a gradient of shared, from that of one connectivity, which net->theta is here. */
static void NAME(unpack_share)(const net_t *net, const shared_t *shared, const sink_t *sink, int64_t rank, int64_t n_ranks)
{
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = NAME(shared_layer)(net, shared, l);
        int64_t j0 = 0; /* first unit that sees input k */
        for (int64_t k = 0; k < s.n_in; k++) {
            while (j0 < s.n_out && s.live[j0] <= k) j0++;
            if (!DEALT_TO(rank, n_ranks, k)) continue;
            NAME(sink_row)(sink, &sink->weights, &s, s.w + s.in[k] * s.stride, j0, NAME(panel_row), net, k);
            if (s.u >= 0)
                NAME(sink_row)(sink, &sink->weights, &s, s.u + s.in[k] * s.stride, j0, NAME(panel_biases), net, k);
        }
        if (s.b >= 0 && rank == 0) NAME(sink_row)(sink, &sink->biases, &s, s.b, 0, NAME(panel_biases), net, 0);
    }
}

static int64_t NAME(longest_row)(const net_t *net, const shared_t *shared)
{
    int64_t longest = 0;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const int64_t stride = shared->layout[l * SHARED_COLUMNS + ROW];
        longest = stride > longest ? stride : longest;
    }
    return longest;
}

static int64_t NAME(n_shared_rows)(const net_t *net, const shared_t *shared)
{
    int64_t n = 0;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = NAME(shared_layer)(net, shared, l);
        n += s.n_in * (s.u < 0 ? 1 : 2) + (s.b >= 0);
    }
    return n;
}

static void NAME(unpack_gradient)(const net_t *net, const shared_t *shared, int add)
{
    const sink_t sink = {.gradient = shared->values, .add = add};
    NAME(unpack_share)(net, shared, &sink, 0, 1);
}

/* A rank's share of an update by a gradient that is there as a whole, times scale; or, with `squares`, no update, but the sum
 * of squares of every row. */
static void NAME(update_share)(const net_t *net, const shared_t *shared, const sink_t *sink, REAL scale, double *squares,
                                  int64_t rank, int64_t n_ranks)
{
    int64_t row = 0;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = NAME(shared_layer)(net, shared, l);
        const int64_t starts[3] = {s.w, s.u, s.b}, counts[3] = {s.n_in, s.n_in, 1};
        for (int part = 0; part < 3; part++) {
            if (starts[part] < 0) continue;
            for (int64_t k = 0; k < counts[part]; k++, row++) {
                const int64_t at = starts[part] + k * s.stride;
                const REAL *g = sink->gradient + at;
                if (!DEALT_TO(rank, n_ranks, k)) continue;
                if (!squares) {
                    NAME(update_row)(part == 2 ? &sink->biases : &sink->weights, sink->values, at, g, scale, s.stride);
                    continue;
                }
                double sum = 0;
                for (int64_t j = 0; j < s.stride; j++) sum += (double)g[j] * (double)g[j];
                squares[row] = sum;
            }
        }
    }
}

/* Bits of one row in order of place, from bits in order of feature; place[d] is that of feature d, from 0. */
static void NAME(permute_bits)(const uint64_t *from, int64_t words, const int32_t *place, uint64_t *to)
{
    memset(to, 0, words * sizeof(uint64_t));
    for (int64_t w = 0; w < words; w++)
        for (uint64_t word = from[w]; word; word &= word - 1) {
            const int32_t p = place[64 * w + __builtin_ctzll(word)];
            to[p / 64] |= 1ull << (p % 64);
        }
}

static void NAME(train_shared)(const shared_t *shared, const masks_t *masks, const batches_t *data, const int64_t *groups,
                               int64_t n_groups, const dropout_t *dropout, const rule_t *rule, void *gradient, void *theta,
                               void *dtheta, void *reals, int32_t *ints, double *nll, const crew_t *crew)
{
    const int64_t rank = crew->rank, n_ranks = crew->n_ranks, words = data->words, D = masks->layers[N_IN];
    net_t net = {theta, masks->layers, masks->n_live, masks->panel_start, masks->n_layers, masks->n_rows};
    const int64_t longest = NAME(longest_row)(&net, shared);
    rule_t now = *rule, gather = {0, 0, rule->hyper, dtheta, 0};
    shared_t own = *shared;
    train_scratch_t s;

    /* Scratch, as layout.shared_train_workspace says: that of train, one more hidden output, then a share for every rank. */
    REAL *free = NAME(cut_train_scratch)(&s, &net, data->batch_size, words, reals, ints);
    int64_t widest = 0;
    for (int64_t l = 0; l + 1 < net.n_layers; l++) widest = n_units(&net, l) > widest ? n_units(&net, l) : widest;
    s.undropped = free;
    free += data->batch_size * PADDED(widest);
    int32_t *free_ints = s.forward.index + data->batch_size * D;
    double *squares = (double *)(free_ints + (free_ints - ints) % 2);
    int32_t *place = (int32_t *)(squares + NAME(n_shared_rows)(&net, shared)) + rank * D;

    sink_t sink = {.gradient = gradient, .values = shared->values, .row = free + rank * longest};
    const step_t collect = NAME(prepare)(&gather);
    for (const int64_t *group = groups; group < groups + n_groups * GROUP_COLUMNS; group += GROUP_COLUMNS) {
        const int64_t k = group[MASK], m = group[STOP] - group[FIRST], *rows = data->rows + group[FIRST];
        const int64_t i0 = m * rank / n_ranks, i1 = m * (rank + 1) / n_ranks;
        const int first = group == groups || group[STEP - GROUP_COLUMNS] != group[STEP];
        const int last = group == groups + (n_groups - 1) * GROUP_COLUMNS || group[STEP + GROUP_COLUMNS] != group[STEP];
        const dropout_t dropped = {dropout->keep ? dropout->keep + group[FIRST] * dropout->words : 0, dropout->words, dropout->scale};
        net.layers = masks->layers + k * masks->n_rows * LAYER_COLUMNS;
        net.n_live = masks->n_live + k * masks->units;
        net.panel_start = masks->panel_start + k * masks->n_panels;
        own.order = masks->orders + k * masks->n_order;

        for (int64_t p = 0; p < D; p++) place[own.order[p]] = (int32_t)p;
        for (int64_t i = i0; i < i1; i++) NAME(permute_bits)(data->bits + rows[i] * words, words, place, s.bits + i * words);
        NAME(pack_share)(&net, &own, rank, n_ranks);
        if (NAME(meet)(crew)) return; /* before this step has changed anything */

        if (data->sparse)
            made_fast_list_rows(s.bits, words, 0, m, D, words * rank / n_ranks, words * (rank + 1) / n_ranks, data->batch_size,
                                s.place_count, s.place_index);
        NAME(train_rows)(&net, &s, words, i0, i1, data->sparse, dropped.keep ? &dropped : 0, group[PLACES],
                         1.0 / (double)group[STEP_ROWS], data->weights, rows + i0);
        if (NAME(meet)(crew)) return;

        if (rank == 0) {
            const double total = NAME(total)(&s, m, data->weights, rows);
            nll[group[STEP]] = first ? total : nll[group[STEP]] + total;
        }
        net_t found = net;
        found.theta = dtheta;
        NAME(train_weights)(&net, &s, m, data->sparse, &collect, crew);
        if (NAME(meet)(crew)) return;

        now.step = rule->step + group[STEP];
        sink.weights = NAME(prepare)(&now);
        sink.biases = NAME(without_decay)(&sink.weights);
        sink.add = gradient && !first;
        NAME(unpack_share)(&found, &own, &sink, rank, n_ranks);
        if (NAME(meet)(crew)) return;
        if (!gradient || !last) continue;

        REAL scale = 1;
        if (rule->hyper[5] > 0) {
            NAME(update_share)(&net, &own, &sink, 1, squares, rank, n_ranks);
            if (NAME(meet)(crew)) return;
            double sum = 0;
            for (int64_t i = 0; i < NAME(n_shared_rows)(&net, shared); i++) sum += squares[i];
            if (sqrt(sum) > rule->hyper[5]) scale = (REAL)(rule->hyper[5] / sqrt(sum));
        }
        NAME(update_share)(&net, &own, &sink, scale, 0, rank, n_ranks);
        if (NAME(meet)(crew)) return;
    }
}
