/* Parameters that several connectivities share: gathered into panels, trained, and their gradient brought back.
 *
 * `shared` holds dense rows of weights in original order (layout.SharedLayout); a step packs them into the panels of its
 * connectivity, and train.h does the rest on panels. Work on rows of weights is dealt out to the ranks in strips: a row costs
 * more the more units see it, and neighbours cost the same.
 */

/* One row of net.layers and what it has in shared. */
typedef struct {
    int64_t l, n_in, n_out, n_panels, stride;
    int64_t w, b, u;          /* starts in shared; b and u may be -1 */
    const int32_t *in, *unit; /* original numbers of the sorted inputs and units */
    const int32_t *live;      /* of the sorted units */
    int64_t bias;             /* start in theta */
} shared_layer_t;

static shared_layer_t shared_layer_of(const net_t *net, const shared_t *shared, int64_t l)
{
    const int64_t *layer = net->layers + l * LAYER_COLUMNS, *row = shared->layout + l * SHARED_COLUMNS;
    return (shared_layer_t){.l = l, .n_in = layer[N_IN], .n_out = layer[N_OUT], .n_panels = layer[N_PANELS],
                            .stride = row[ROW], .w = row[SHARED_WEIGHTS], .b = row[SHARED_BIAS], .u = row[SHARED_U],
                            .in = shared->order + row[IN_ORDER], .unit = shared->order + row[OUT_ORDER],
                            .live = net->n_live + layer[UNITS], .bias = layer[BIAS]};
}

/* to[j] = from[index[j]] for j < n, 0 from there to `end`. One by one: gathers of whole vectors take longer on AMD, and on Intel
 * CPUs whose microcode has to guard them. */
static void gather_row(const REAL *from, const int32_t *index, int64_t n, int64_t end, REAL *to)
{
    int64_t j = 0;
#if defined(__SSE4_1__) && BITS == 32
    for (; j + 4 <= n; j += 4) {
        const int32_t *at = index + j;
        __m128 four = _mm_load_ss(from + at[0]);
        four = _mm_insert_ps(four, _mm_load_ss(from + at[1]), 0x10);
        four = _mm_insert_ps(four, _mm_load_ss(from + at[2]), 0x20);
        _mm_storeu_ps(to + j, _mm_insert_ps(four, _mm_load_ss(from + at[3]), 0x30));
    }
#endif
    for (; j < n; j++) to[j] = from[index[j]];
    for (; j < end; j++) to[j] = 0;
}

/* Biases of the original units 64 run .. 64 run + 63: b + sum_{live k} U[k, :] in ascending order of k. Taken in runs of
 * original units, U is read in whole cache lines. */
static void pack_bias(const net_t *net, const REAL *values, const shared_layer_t *s, int64_t run)
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
static void pack_row(const net_t *net, const shared_layer_t *s, int64_t k, const REAL *row)
{
    for (int64_t p = 0; p < s->n_panels; p++) {
        const panel_t panel = panel_of(net, s->l, p);
        if (panel.depth <= k) continue; /* none of its units sees the input */
        REAL *to = panel.w + k * PANEL;
        gather_row(row, s->unit + p * PANEL, panel.units, PANEL, to);
        for (int64_t u = 0; panel.live[u] <= k; u++) to[u] = 0;
    }
}

/* A rank's share of the rows of weights of one connectivity. */
static void pack_weights(const net_t *net, const shared_t *shared, const crew_t *crew)
{
    const REAL *values = shared->values;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = shared_layer_of(net, shared, l);
        for (int64_t k = 0; k < s.n_in && !called_off(crew); k++) {
            if (!DEALT_TO(crew, k)) continue;
            const REAL *next = values + s.w + s.in[k + 1 < s.n_in ? k + 1 : k] * s.stride; /* rows are long leaps apart */
            for (int64_t j = 0; j < s.stride; j += 64 / sizeof(REAL)) __builtin_prefetch(next + j);
            pack_row(net, &s, k, values + s.w + s.in[k] * s.stride);
        }
    }
}

/* A rank's share of its biases. */
static void pack_biases(const net_t *net, const shared_t *shared, const crew_t *crew)
{
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = shared_layer_of(net, shared, l);
        REAL *bias = (REAL *)net->theta + s.bias;
        const int64_t n = s.b >= 0 ? s.n_out : 0;
        for (int64_t run = crew->rank; s.u >= 0 && run < s.n_panels && !called_off(crew); run += crew->n_ranks)
            pack_bias(net, shared->values, &s, run);
        if (crew->rank == 0 && s.u < 0) gather_row((REAL *)shared->values + s.b, s.unit, n, n, bias);
        if (crew->rank == 0) memset(bias + n, 0, (s.n_panels * PANEL - n) * sizeof(REAL));
    }
}

static void pack(const call_t *c)
{
    int32_t sync[SYNC] = {0};
    const crew_t alone = {0, 1, sync};
    pack_weights(&c->net, &c->shared, &alone);
    pack_biases(&c->net, &c->shared, &alone);
}

/* The rows of shared. */
static int64_t shared_segments(const net_t *net, const shared_t *shared, segment_t *segments)
{
    int64_t n = 0;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = shared_layer_of(net, shared, l);
        segments[n++] = (segment_t){s.w, s.n_in, s.stride, 0};
        if (s.u >= 0) segments[n++] = (segment_t){s.u, s.n_in, s.stride, 0};
        if (s.b >= 0) segments[n++] = (segment_t){s.b, 1, s.stride, 1};
    }
    return n;
}

/* A connectivity at work: its tables, and where the original inputs and units stand among the sorted ones, like `order`. */
typedef struct {
    net_t net;
    shared_t shared;
    int32_t *place;
} view_t;

static void connect(const masks_t *masks, int64_t k, view_t *view)
{
    view->net.layers = masks->layers + k * masks->n_rows * LAYER_COLUMNS;
    view->net.n_live = masks->n_live + k * masks->units;
    view->net.panel_start = masks->panel_start + k * masks->n_panels;
    view->net.variables = masks->variables ? masks->variables + k * (masks->n_variables + 1) * VARIABLE_COLUMNS : 0;
    view->shared.order = masks->orders + k * masks->n_order;
    int64_t start = 0;
    for (int64_t l = 0; start < masks->n_order; l++) { /* l = n_layers: the outputs, where they are not the inputs */
        const int64_t n = l < masks->n_layers ? masks->layers[l * LAYER_COLUMNS + N_IN]
                                              : masks->layers[(l - 1) * LAYER_COLUMNS + N_OUT];
        for (int64_t p = 0; p < n; p++) view->place[start + view->shared.order[start + p]] = (int32_t)p;
        start += n;
    }
}

/* What becomes of the rows of a gradient of shared. */
typedef struct {
    REAL *gradient; /* like shared: they are put there, or added; null: they update the parameters at once */
    int add;
    REAL *values; /* the parameters */
    step_t weights, biases;
    REAL *rows; /* scratch: STRIP + 1 of the longest rows */
    int64_t longest;
    const view_t *next; /* or null: what updated rows of weights are packed for */
} sink_t;

/* g is the gradient, by sorted unit, of the row of layer s that begins at `at` in shared. */
static void sink_row(const sink_t *sink, const step_t *step, const shared_layer_t *s, const int32_t *place, int64_t at,
                     const REAL *g)
{
    REAL *row = sink->gradient && !sink->add ? sink->gradient + at : sink->rows + STRIP * sink->longest;
    gather_row(g, place, s->n_out, s->stride, row);
    if (!sink->gradient)
        update(step, sink->values, at, row, s->stride);
    else if (sink->add)
        for (int64_t j = 0; j < s->stride; j++) sink->gradient[at + j] += row[j];
}

/* Fetch where the next connectivity has row `input` of the weights of layer l: short runs, far from each other. 5 % of a step
 * of [2000, 2000]. (A function that only fetches has to be inlined: GCC takes it for one that does nothing.) */
static ALWAYS_INLINE void fetch_packed(const view_t *next, int64_t l, const int32_t *place, int64_t input)
{
    const int64_t k = place[input];
    for (int64_t p = next->net.layers[l * LAYER_COLUMNS + N_PANELS] - 1; p >= 0; p--) {
        const panel_t panel = panel_of(&next->net, l, p);
        if (panel.depth <= k) return;
        for (int u = 0; u < PANEL; u += 64 / sizeof(REAL)) __builtin_prefetch(panel.w + k * PANEL + u, 1, 2);
    }
}

/* A rank's share of the gradient of one connectivity, row by row of shared, and what becomes of it. `dbiases`, like theta, has
 * the gradient of the biases. A row is updated, and packed for the next step, while it is in the cache; without
 * sink->gradient, the gradient never exists as a whole. Called off, it leaves some rows a step behind the others. */
static void shared_weights(const batch_t *batch, const view_t *view, const REAL *dbiases, const sink_t *sink)
{
    const net_t *net = &view->net;
    int skip[STRIP];
    for (int64_t l = 0; l < net->n_rows; l++) {
        const shared_layer_t s = shared_layer_of(net, &view->shared, l);
        const source_t source = source_of(batch, l);
        const REAL *dbias = dbiases + s.bias;
        const int64_t *at = view->shared.layout + l * SHARED_COLUMNS;
        const int32_t *place = view->place + at[OUT_ORDER];
        for (int64_t k = 0, j0 = 0; k < s.n_in && !called_off(batch->crew); k += STRIP) {
            if (!DEALT_TO(batch->crew, k)) continue;
            const int n = s.n_in - k < STRIP ? (int)(s.n_in - k) : STRIP;
            for (int64_t p = 0; p < s.n_panels; p++) {
                const panel_t panel = panel_of(net, l, p);
                const int64_t first = p * PANEL, width = s.stride - first < PANEL ? s.stride - first : PANEL;
                for (int64_t r = k; r < k + n && !sink->gradient; r++)
                    fetch_parameters(&sink->weights, sink->values, s.w + s.in[r] * s.stride + first, width);
                if (panel.depth <= k) continue;
                const int seen = panel.depth - k < n ? (int)(panel.depth - k) : n;
                strip_gradient(&panel, p, k, seen, &source, sink->rows + p * PANEL, sink->longest, skip, 0, panel.w);
            }
            for (int r = 0; r < n; r++) {
                const int64_t input = s.in[k + r], row = s.w + input * s.stride;
                REAL *g = sink->rows + r * sink->longest;
                if (sink->next && sink->weights.n_fetched && r + 1 < n)
                    fetch_packed(sink->next, l, sink->next->place + at[IN_ORDER], s.in[k + r + 1]);
                while (j0 < s.n_out && s.live[j0] <= k + r) j0++;
                memset(g, 0, j0 * sizeof(REAL));
                sink_row(sink, &sink->weights, &s, place, row, g);
                if (sink->next) {
                    const shared_layer_t next = shared_layer_of(&sink->next->net, &sink->next->shared, l);
                    pack_row(&sink->next->net, &next, sink->next->place[at[IN_ORDER] + input], sink->values + row);
                }
                if (s.u < 0) continue;
                memcpy(g + j0, dbias + j0, (s.n_out - j0) * sizeof(REAL));
                sink_row(sink, &sink->weights, &s, place, s.u + input * s.stride, g);
            }
        }
        if (s.b >= 0 && batch->crew->rank == 0) sink_row(sink, &sink->biases, &s, place, s.b, dbias);
    }
}

static void train_shared(const call_t *c)
{
    const masks_t *masks = &c->masks;
    const crew_t *crew = &c->crew;
    REAL *const gradient = c->scratch.gradient, *const dbiases = c->scratch.dtheta;
    view_t views[2], *now = views, *next = views + 1;
    now->net = (net_t){c->scratch.theta, masks->layers, masks->n_live, masks->panel_start, masks->n_layers, masks->n_rows,
                       masks->variables, masks->n_variables};
    now->shared = c->shared;
    *next = *now;

    /* Scratch, as layout.shared_train_workspace says: that of train, then a share for every rank. */
    batch_t s;
    cut_batch(&s, &now->net, c);
    segment_t segments[6 * MAX_LAYERS];
    const int64_t n_segments = shared_segments(&now->net, &c->shared, segments);
    const whole_t whole = {c->shared.values, gradient, segments, n_segments, s.free_doubles};
    sink_t sink = {.gradient = gradient, .values = c->shared.values};
    int64_t n_rows = 0;
    for (const segment_t *q = segments; q < segments + n_segments; n_rows += q->n, q++)
        if (q->stride > sink.longest) sink.longest = q->stride;
    sink.rows = s.free_reals + crew->rank * (STRIP + 1) * sink.longest;
    now->place = (int32_t *)(s.free_doubles + n_rows) + 2 * crew->rank * masks->n_order;
    next->place = now->place + masks->n_order;

    const step_t collect = collect_to(dbiases);
    int packed = 0;
    for (const int64_t *group = c->groups; group < c->groups + c->n_groups * GROUP_COLUMNS; group += GROUP_COLUMNS) {
        const int first = group == c->groups || group[STEP - GROUP_COLUMNS] != group[STEP];
        const int final = group == c->groups + (c->n_groups - 1) * GROUP_COLUMNS;
        const int last = final || group[STEP + GROUP_COLUMNS] != group[STEP];
        if (!packed) {
            connect(masks, group[MASK], now);
            pack_weights(&now->net, &now->shared, crew);
        }
        pack_biases(&now->net, &now->shared, crew);
        s.block.net = &now->net;
        s.block.loss.n_places = group[PLACES];
        s.block.loss.scale = 1.0 / (double)group[STEP_ROWS];
        if (run_batch(&s, c, group[FIRST], group[STOP] - group[FIRST], now->place)) return;
        if (crew->rank == crew->n_ranks - 1) {
            double *nll = (double *)c->out + group[STEP];
            *nll = first ? total(&s) : *nll + total(&s);
        }
        for (int64_t l = 0; l < now->net.n_layers; l++) {
            const source_t source = source_of(&s, l);
            for (int64_t p = crew->rank; p < now->net.layers[l * LAYER_COLUMNS + N_PANELS]; p += crew->n_ranks)
                panel_bias(&now->net, l, p, &source, &collect);
        }
        if (meet(crew)) return;

        sink.weights = step_of(&c->update, c->update.step + group[STEP]);
        sink.biases = without_decay(&sink.weights);
        sink.add = gradient && !first;
        packed = !gradient && !final;
        sink.next = packed ? next : 0;
        if (packed) connect(masks, group[MASK + GROUP_COLUMNS], next);
        shared_weights(&s, now, dbiases, &sink);
        if (meet(crew)) return;
        if (packed) {
            view_t *const free = now;
            now = next;
            next = free;
        }
        if (gradient && last && update_whole(&whole, &sink.weights, c->update.constants[CLIP], crew)) return;
    }
}
