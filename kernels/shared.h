/* Parameters that several connectivities share: gathered into panels, trained, and their gradient brought back.
 *
 * Included by level.h for each REAL. `shared` holds dense rows of weights in original order (layout.SharedLayout); a step packs
 * them into the panels of its connectivity, and what train.h does with panels goes on as ever. Work on rows of weights is dealt
 * out to the ranks in strips: a row costs more the more units see it, and neighbours cost the same.
 */

#define DEALT_TO(rank, n_ranks, k) ((k) / STRIP % (n_ranks) == (rank))

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

/* to[j] = from[index[j]] for j < n, 0 from there to `end`. */
static void NAME(gather_row)(const REAL *from, const int32_t *index, int64_t n, int64_t end, REAL *to)
{
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) store(to + j, NAME(gather)(from, index + j));
    for (; j < n; j++) to[j] = from[index[j]];
    for (; j < end; j++) to[j] = 0;
}

/* Biases of the original units 64 run .. 64 run + 63: b + sum_{live k} U[k, :] in ascending order of k. Taken in runs of
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
    for (int32_t k = 0; k < deepest; k++) {
        const REAL *u = values + s->u + s->in[k] * s->stride + first;
        for (int64_t o = 0; o < n; o++) sum[o] += k < live[o] ? u[o] : 0;
    }
    for (int64_t j = 0; j < s->n_out; j++)
        if (s->unit[j] / PANEL == run) bias[j] = values[s->b + s->unit[j]] + sum[s->unit[j] % PANEL];
}

/* Sorted input k of a layer: its row of weights, which stands in shared, into the panels. */
static void NAME(pack_row)(const net_t *net, const shared_layer_t *s, int64_t k, const REAL *row)
{
    for (int64_t p = 0; p < s->n_panels; p++) {
        const panel_t panel = NAME(panel)(net, s->l, p);
        if (panel.depth <= k) continue; /* none of its units sees the input */
        REAL *to = panel.w + k * PANEL;
        NAME(gather_row)(row, s->unit + p * PANEL, panel.units, PANEL, to);
        for (int64_t u = 0; panel.live[u] <= k; u++) to[u] = 0;
    }
}

/* A rank's share of the rows of weights of one connectivity, and of its biases. */
static void NAME(pack_weights)(const net_t *net, const shared_t *shared, const crew_t *crew)
{
    const REAL *values = shared->values;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = NAME(shared_layer)(net, shared, l);
        for (int64_t k = 0; k < s.n_in && !NAME(called_off)(crew); k++) {
            if (!DEALT_TO(crew->rank, crew->n_ranks, k)) continue;
            const REAL *next = values + s.w + s.in[k + 1 < s.n_in ? k + 1 : k] * s.stride; /* rows are long leaps apart */
            for (int64_t j = 0; j < s.stride; j += 64 / sizeof(REAL)) __builtin_prefetch(next + j);
            NAME(pack_row)(net, &s, k, values + s.w + s.in[k] * s.stride);
        }
    }
}

static void NAME(pack_biases)(const net_t *net, const shared_t *shared, const crew_t *crew)
{
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = NAME(shared_layer)(net, shared, l);
        REAL *bias = (REAL *)net->theta + s.bias;
        const int64_t n = s.b >= 0 ? s.n_out : 0;
        for (int64_t run = crew->rank; s.u >= 0 && run < s.n_panels && !NAME(called_off)(crew); run += crew->n_ranks)
            NAME(pack_bias)(net, shared->values, &s, run);
        if (crew->rank == 0 && s.u < 0) NAME(gather_row)((REAL *)shared->values + s.b, s.unit, n, n, bias);
        if (crew->rank == 0) memset(bias + n, 0, (s.n_panels * PANEL - n) * sizeof(REAL));
    }
}

static void NAME(pack)(const net_t *net, const shared_t *shared)
{
    int32_t sync[SYNC] = {0};
    const crew_t alone = {0, 1, sync};
    NAME(pack_weights)(net, shared, &alone);
    NAME(pack_biases)(net, shared, &alone);
}

/* to[unit[j]] = g[j], or += g[j], for the first n units of a panel but `skip`. */
static ALWAYS_INLINE void NAME(scatter)(REAL *to, const int32_t *unit, const REAL *g, int64_t skip, int64_t n, int add)
{
    if (add)
        for (int64_t j = skip; j < n; j++) to[unit[j]] += g[j];
    else
        for (int64_t j = skip; j < n; j++) to[unit[j]] = g[j];
}

/* The gradient of the biases, which stands in net, in the order of shared: to[unit] for the sorted units from j0 on. */
static void NAME(unpack_biases)(const net_t *net, const shared_layer_t *s, int64_t j0, int add, REAL *to)
{
    if (!add) memset(to, 0, s->stride * sizeof(REAL));
    NAME(scatter)(to, s->unit, (REAL *)net->theta + s->bias, j0, s->n_out, add);
}

/* A gradient of shared, from that of one connectivity, which net->theta is here. */
static void NAME(unpack_gradient)(const net_t *net, const shared_t *shared, int add)
{
    REAL *gradient = shared->values;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = NAME(shared_layer)(net, shared, l);
        int64_t j0 = 0; /* first unit that sees input k */
        for (int64_t k = 0; k < s.n_in; k++) {
            while (j0 < s.n_out && s.live[j0] <= k) j0++;
            REAL *to = gradient + s.w + s.in[k] * s.stride;
            if (!add) memset(to, 0, s.stride * sizeof(REAL));
            for (int64_t p = j0 / PANEL; p < s.n_panels; p++) {
                const panel_t panel = NAME(panel)(net, l, p);
                const int64_t dead = j0 > p * PANEL ? j0 - p * PANEL : 0;
                NAME(scatter)(to, s.unit + p * PANEL, panel.w + k * PANEL, dead, panel.units, add);
            }
            if (s.u >= 0) NAME(unpack_biases)(net, &s, j0, add, gradient + s.u + s.in[k] * s.stride);
        }
        if (s.b >= 0) NAME(unpack_biases)(net, &s, 0, add, gradient + s.b);
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

/* What becomes of the rows of a gradient of shared. */
typedef struct {
    REAL *gradient; /* like shared: they are put there, or added; null: they update the parameters at once */
    int add;
    REAL *values; /* the parameters */
    step_t weights, biases;
    REAL *rows; /* scratch: STRIP + 1 of the longest rows */
    int64_t longest;
    const int32_t *place; /* where the original inputs and units stand among the sorted ones, like `order` */
    const net_t *next;    /* or null: the network that updated rows of weights are packed for, */
    const shared_t *next_shared;
    const int32_t *next_place; /* and the places in it */
} NAME(sink_t);
#define sink_t NAME(sink_t)

/* g is the gradient, by sorted unit, of the row of layer s that begins at `at` in shared. */
static void NAME(sink_row)(const sink_t *sink, const step_t *step, const shared_layer_t *s, const int32_t *place, int64_t at,
                           const REAL *g)
{
    REAL *row = sink->gradient && !sink->add ? sink->gradient + at : sink->rows + STRIP * sink->longest;
    NAME(gather_row)(g, place, s->n_out, s->stride, row);
    if (!sink->gradient)
        NAME(update)(step, sink->values, at, row, s->stride);
    else if (sink->add)
        for (int64_t j = 0; j < s->stride; j++) sink->gradient[at + j] += row[j];
}

/* A rank's share of the gradient of one connectivity, row by row of shared, and what becomes of it. `found` has the gradient of
 * the biases. A row is updated, and packed for the next step, while it is in the cache: no gradient is ever there as a whole.
 * Called off, it leaves some rows a step behind the others. */
static void NAME(shared_weights)(const net_t *net, const net_t *found, const shared_t *shared, const train_scratch_t *scratch,
                                 int64_t m, int sparse, const sink_t *sink, const crew_t *crew)
{
    const int64_t B = scratch->forward.rows;
    int skip[STRIP];
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = NAME(shared_layer)(net, shared, l);
        const source_t source = NAME(source)(net, scratch, l, sparse);
        const REAL *dz = scratch->dz[NAME(fed)(net, l)], *dbias = (REAL *)found->theta + s.bias;
        const int64_t *at = shared->layout + l * SHARED_COLUMNS;
        const int32_t *place = sink->place + at[OUT_ORDER];
        for (int64_t k = 0, j0 = 0; k < s.n_in && !NAME(called_off)(crew); k += STRIP) {
            if (!DEALT_TO(crew->rank, crew->n_ranks, k)) continue;
            const int n = s.n_in - k < STRIP ? (int)(s.n_in - k) : STRIP;
            for (int64_t p = 0; p < s.n_panels; p++) {
                const panel_t panel = NAME(panel)(net, l, p);
                if (panel.depth <= k) continue;
                const int seen = panel.depth - k < n ? (int)(panel.depth - k) : n;
                REAL *g = sink->rows + p * PANEL;
                NAME(strip_gradient)(&panel, k, seen, &source, dz + p * B * PANEL, B, m, g, sink->longest, skip);
            }
            for (int r = 0; r < n; r++) {
                const int64_t input = s.in[k + r];
                REAL *g = sink->rows + r * sink->longest;
                while (j0 < s.n_out && s.live[j0] <= k + r) j0++;
                memset(g, 0, j0 * sizeof(REAL));
                NAME(sink_row)(sink, &sink->weights, &s, place, s.w + input * s.stride, g);
                if (sink->next) {
                    const shared_layer_t next = NAME(shared_layer)(sink->next, sink->next_shared, l);
                    NAME(pack_row)(sink->next, &next, sink->next_place[at[IN_ORDER] + input], sink->values + s.w + input * s.stride);
                }
                if (s.u < 0) continue;
                memcpy(g + j0, dbias + j0, (s.n_out - j0) * sizeof(REAL));
                NAME(sink_row)(sink, &sink->weights, &s, place, s.u + input * s.stride, g);
            }
        }
        if (s.b >= 0 && crew->rank == 0) NAME(sink_row)(sink, &sink->biases, &s, place, s.b, dbias);
    }
}

/* A rank's share of an update by a gradient that is there as a whole, times scale; or, with `squares`, no update, but the sum
 * of squares of every row. */
static void NAME(update_share)(const net_t *net, const shared_t *shared, const sink_t *sink, REAL scale, double *squares,
                               const crew_t *crew)
{
    int64_t row = 0;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = NAME(shared_layer)(net, shared, l);
        const int64_t starts[3] = {s.w, s.u, s.b}, counts[3] = {s.n_in, s.n_in, 1};
        for (int part = 0; part < 3; part++) {
            if (starts[part] < 0) continue;
            for (int64_t k = 0; k < counts[part] && !NAME(called_off)(crew); k++, row++) {
                const int64_t at = starts[part] + k * s.stride;
                REAL *g = sink->gradient + at;
                if (!DEALT_TO(crew->rank, crew->n_ranks, k)) continue;
                if (squares) {
                    double sum = 0;
                    for (int64_t j = 0; j < s.stride; j++) sum += (double)g[j] * (double)g[j];
                    squares[row] = sum;
                    continue;
                }
                for (int64_t j = 0; j < s.stride && scale != 1; j++) g[j] *= scale;
                NAME(update)(part == 2 ? &sink->biases : &sink->weights, sink->values, at, g, s.stride);
            }
        }
    }
}

/* The tables of connectivity k. */
static void NAME(connect)(const masks_t *masks, int64_t k, net_t *net, shared_t *shared)
{
    net->layers = masks->layers + k * masks->n_rows * LAYER_COLUMNS;
    net->n_live = masks->n_live + k * masks->units;
    net->panel_start = masks->panel_start + k * masks->n_panels;
    shared->order = masks->orders + k * masks->n_order;
}

/* place[n]: where the input or unit with the original number n stands among those of its layer. */
static void NAME(find_places)(const masks_t *masks, const shared_t *shared, int32_t *place)
{
    int64_t start = 0;
    for (int64_t l = 0; l < masks->n_layers; l++) {
        const int64_t n = masks->layers[l * LAYER_COLUMNS + N_IN];
        for (int64_t p = 0; p < n; p++) place[start + shared->order[start + p]] = (int32_t)p;
        start += n;
    }
}

static void NAME(train_shared)(const shared_t *shared, const masks_t *masks, const batches_t *data, const int64_t *groups,
                               int64_t n_groups, const dropout_t *dropout, const rule_t *rule, void *gradient, void *theta,
                               void *dtheta, void *reals, int32_t *ints, double *nll, const crew_t *crew)
{
    const int64_t rank = crew->rank, n_ranks = crew->n_ranks, words = data->words, D = masks->layers[N_IN];
    net_t net = {theta, masks->layers, masks->n_live, masks->panel_start, masks->n_layers, masks->n_rows}, next = net;
    rule_t now = *rule, gather = {0, 0, rule->hyper, dtheta, 0};
    shared_t own = *shared, next_shared = *shared;
    train_scratch_t s;

    /* Scratch, as layout.shared_train_workspace says: that of train, one more hidden output, then a share for every rank. */
    REAL *free = NAME(cut_train_scratch)(&s, &net, data->batch_size, words, reals, ints);
    int64_t widest = 0;
    for (int64_t l = 0; l + 1 < net.n_layers; l++) widest = n_units(&net, l) > widest ? n_units(&net, l) : widest;
    s.undropped = free;
    free += data->batch_size * PADDED(widest);
    int32_t *free_ints = s.forward.index + data->batch_size * D;
    double *squares = (double *)(free_ints + (free_ints - ints) % 2);
    int32_t *place = (int32_t *)(squares + NAME(n_shared_rows)(&net, shared)) + 2 * rank * masks->n_order;
    int32_t *next_place = place + masks->n_order;

    sink_t sink = {.gradient = gradient, .values = shared->values, .longest = NAME(longest_row)(&net, shared),
                   .next_shared = &next_shared};
    sink.rows = free + rank * (STRIP + 1) * sink.longest;
    const step_t collect = NAME(prepare)(&gather);
    int packed = 0;
    for (const int64_t *group = groups; group < groups + n_groups * GROUP_COLUMNS; group += GROUP_COLUMNS) {
        const int64_t m = group[STOP] - group[FIRST], *rows = data->rows + group[FIRST];
        const int64_t i0 = m * rank / n_ranks, i1 = m * (rank + 1) / n_ranks;
        const int first = group == groups || group[STEP - GROUP_COLUMNS] != group[STEP];
        const int final = group == groups + (n_groups - 1) * GROUP_COLUMNS;
        const int last = final || group[STEP + GROUP_COLUMNS] != group[STEP];
        const dropout_t dropped = {dropout->keep ? dropout->keep + group[FIRST] * dropout->words : 0, dropout->words, dropout->scale};
        NAME(connect)(masks, group[MASK], &net, &own);
        if (!packed) {
            NAME(find_places)(masks, &own, place);
            NAME(pack_weights)(&net, &own, crew);
        }
        NAME(pack_biases)(&net, &own, crew);
        for (int64_t i = i0; i < i1; i++) made_fast_permute(data->bits + rows[i] * words, words, place, s.bits + i * words);
        NAME(read_bits)(&net, s.bits + i0 * words, words, data->sparse, &s.forward, i0, i1 - i0);
        if (NAME(meet)(crew)) return;

        if (data->sparse)
            made_fast_list_rows(s.bits, words, 0, m, D, words * rank / n_ranks, words * (rank + 1) / n_ranks, data->batch_size,
                                s.place_count, s.place_index);
        const loss_t loss = {s.bits, words, group[PLACES], 1.0 / (double)group[STEP_ROWS], data->weights, rows, s.nll,
                             data->batch_size, s.dz[net.n_layers - 1]};
        if (NAME(train_rows)(&net, &s, m, data->sparse, dropped.keep ? &dropped : 0, &loss, crew)) return;
        if (rank == n_ranks - 1) {
            const double total = NAME(total)(&s, &loss, m);
            nll[group[STEP]] = first ? total : nll[group[STEP]] + total;
        }
        net_t found = net;
        found.theta = dtheta;
        for (int64_t l = 0; l < net.n_layers; l++)
            for (int64_t p = rank; p < net.layers[l * LAYER_COLUMNS + N_PANELS]; p += n_ranks)
                NAME(panel_bias)(&found, l, p, s.dz[l], s.forward.rows, m, &collect);
        if (NAME(meet)(crew)) return;

        now.step = rule->step + group[STEP];
        sink.weights = NAME(prepare)(&now);
        sink.biases = NAME(without_decay)(&sink.weights);
        sink.add = gradient && !first;
        packed = !gradient && !final;
        sink.next = packed ? &next : 0;
        if (packed) {
            NAME(connect)(masks, group[MASK + GROUP_COLUMNS], &next, &next_shared);
            NAME(find_places)(masks, &next_shared, next_place);
        }
        sink.place = place;
        sink.next_place = next_place;
        NAME(shared_weights)(&net, &found, &own, &s, m, data->sparse, &sink, crew);
        if (NAME(meet)(crew)) return;
        if (packed) {
            int32_t *const now_free = place;
            place = next_place;
            next_place = now_free;
        }
        if (!gradient || !last) continue;

        REAL scale = 1;
        if (rule->hyper[5] > 0) {
            NAME(update_share)(&net, &own, &sink, 1, squares, crew);
            if (NAME(meet)(crew)) return;
            double sum = 0;
            for (int64_t i = 0; i < NAME(n_shared_rows)(&net, shared); i++) sum += squares[i];
            if (sqrt(sum) > rule->hyper[5]) scale = (REAL)(rule->hyper[5] / sqrt(sum));
        }
        NAME(update_share)(&net, &own, &sink, scale, 0, crew);
        if (NAME(meet)(crew)) return;
    }
}
