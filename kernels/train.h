/* Training steps shared by a crew of threads.
 *
 * Included by level.h for each REAL. A crew goes through a step phase by phase: the rows of the batch are read; each layer
 * forward; each layer back; the weights. A phase is cut into runs of equal cost, one for each rank, over panels first and rows
 * second. So a rank meets mostly the same weights in every phase of every step, and finds them in its cache; what travels
 * between ranks are activations. Not here: parameters that connectivities share (shared.h).
 */

/* The caller has called the step off, because of Ctrl-C, or because one of the ranks will never come. Who sees that in the
 * midst of a phase may leave the rest undone, and goes to meet the others. */
static ALWAYS_INLINE int NAME(called_off)(const crew_t *crew)
{
    return __atomic_load_n(crew->sync + 48, __ATOMIC_RELAXED);
}

/* Wait for all ranks. Returns 0 to all of them when they have come and done all of the phase; 1 to all if it is called off. */
static int NAME(meet)(const crew_t *crew)
{
    int32_t *arrived = crew->sync, *round = crew->sync + 32; /* on cache lines of their own, as what calls off is */
    if (crew->n_ranks == 1) return NAME(called_off)(crew);
    const int32_t now = __atomic_load_n(round, __ATOMIC_ACQUIRE); /* meetings so far; once meeting r is off, -1 - r */
    int32_t seen = now;
    if (now < 0) return 1;
    if (__atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL) == crew->n_ranks) {
        __atomic_store_n(arrived, 0, __ATOMIC_RELAXED);
        /* A rank that has left something undone saw the flag before it came; so who comes last sees it too. */
        const int32_t then = NAME(called_off)(crew) ? -1 - now : now + 1;
        __atomic_compare_exchange_n(round, &seen, then, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    for (int spins = 0; __atomic_load_n(round, __ATOMIC_ACQUIRE) == now; spins++) {
        if (NAME(called_off)(crew))
            __atomic_compare_exchange_n(round, &seen, -1 - now, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
#if defined(__x86_64__)
        _mm_pause();
#endif
        if (spins > 300) sched_yield();
    }
    return __atomic_load_n(round, __ATOMIC_ACQUIRE) == -1 - now;
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
    const int64_t last = net->n_layers - 1;
    const int64_t per_row = NAME(PER_ROW) + (l == last ? NAME(PER_LOSS) : 0) + (l == 0 && sparse ? NAME(PER_LIST) : 0);
    run_t run = {0};
    int64_t i0, i1;
    for (int pass = 0; pass < 2; pass++) { /* first the total cost, then the work */
        if (pass) run = NAME(run_of)(crew, run.at);
        for (int64_t p = 0; p < panels && !NAME(called_off)(crew); p++) {
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
        for (int64_t k = 0, j = 0; k < n_in && !NAME(called_off)(crew); k += PANEL) {
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

/* Gradient and update of this rank's share of every layer's weights and biases. The bias counts as so many rows of weights.
 * A wide layer takes long: called off, it leaves some panels a step behind the others, each of them whole. */
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
            for (int64_t p = 0; p < net->layers[l * LAYER_COLUMNS + N_PANELS] && !NAME(called_off)(crew); p++) {
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
        if (NAME(train_rows)(net, &s, m, data->sparse, 0, &loss, crew)) return;
        if (rank == n_ranks - 1) nll[batch] = NAME(total)(&s, &loss, m); /* rank 0 has more to do in what follows */
        const step_t step = NAME(prepare)(&now);
        NAME(train_weights)(net, &s, m, data->sparse, &step, crew);
        if (NAME(meet)(crew)) return;
    }
}
