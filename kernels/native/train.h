/* Training steps shared by a crew of threads.
 *
 * A crew goes through a step phase by phase: the rows of the batch are read; each layer forward; each layer back; the weights.
 * A phase is cut into runs of equal cost, one for each rank, over panels first and rows second. So a rank meets mostly the
 * same weights in every phase of every step, and finds them in its cache; what travels between ranks are activations.
 * Not here: parameters that connectivities share (shared.h).
 */

/* The caller has called the step off, because of Ctrl-C, or because one of the ranks will never come. A rank that sees it in
 * the midst of a phase may leave the rest undone, and goes to meet the others. */
static ALWAYS_INLINE int called_off(const crew_t *crew)
{
    return __atomic_load_n(crew->sync + CALL_OFF, __ATOMIC_RELAXED);
}

enum { WAIT_PRIVATE = 128, WAKE_PRIVATE = 129 }; /* of linux/futex.h, a header of the kernel that not every system has */
enum { SPINS = 10000 }; /* some 0.1 to 0.5 ms, more than ranks of an idle machine wait for each other */

/* Sleep until the number at `word` is no longer `now`, for some milliseconds at the most: nobody wakes those whom a call is
 * off for. A rank that only yielded would stay runnable, and get a CPU that others want once in a slice of theirs: a step of a
 * tenth of a millisecond took twenty beside two busy processes on two CPUs. One that sleeps is back when it is woken. */
static void sleep_on(int32_t *word, int32_t now)
{
#ifdef SYS_futex
    const struct timespec most = {0, 5000000};
    syscall(SYS_futex, word, WAIT_PRIVATE, now, &most, NULL, 0);
#else
    (void)word, (void)now;
    sched_yield();
#endif
}

static void wake(int32_t *word)
{
#ifdef SYS_futex
    syscall(SYS_futex, word, WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#else
    (void)word;
#endif
}

/* Wait for all ranks. Returns 0 to all of them when they have come and done all of the phase; 1 to all if it is called off. */
static int meet(const crew_t *crew)
{
    int32_t *arrived = crew->sync + ARRIVED, *asleep = crew->sync + ASLEEP;
    int32_t *round = crew->sync + ROUND; /* on a cache line of its own, as ARRIVED and CALL_OFF are */
    if (crew->n_ranks == 1) return called_off(crew);
    const int32_t now = __atomic_load_n(round, __ATOMIC_ACQUIRE); /* meetings so far; once meeting r is off, -1 - r */
    int32_t seen = now;
    if (now < 0) return 1;
    if (__atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL) == crew->n_ranks) {
        __atomic_store_n(arrived, 0, __ATOMIC_RELAXED);
        /* A rank that has left something undone saw the flag before it came; so the last one to come sees it too. */
        const int32_t then = called_off(crew) ? -1 - now : now + 1;
        __atomic_compare_exchange_n(round, &seen, then, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
        if (__atomic_load_n(asleep, __ATOMIC_SEQ_CST)) wake(round);
    }
    for (int spins = 0; __atomic_load_n(round, __ATOMIC_ACQUIRE) == now; spins++) {
        if (called_off(crew))
            __atomic_compare_exchange_n(round, &seen, -1 - now, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
#if defined(__x86_64__)
        _mm_pause();
#endif
        if (spins < SPINS) continue;
        __atomic_add_fetch(asleep, 1, __ATOMIC_SEQ_CST); /* who ends the meeting after this sees it, and who did so before is seen */
        sleep_on(round, now);
        __atomic_sub_fetch(asleep, 1, __ATOMIC_SEQ_CST);
    }
    return __atomic_load_n(round, __ATOMIC_ACQUIRE) == -1 - now;
}

/* A rank's run of a phase's total cost; `at` is the cost of the items that have been passed. */
typedef struct {
    int64_t from, to, at;
} run_t;

static run_t run_of(const crew_t *crew, int64_t total)
{
    return (run_t){total * crew->rank / crew->n_ranks, total * (crew->rank + 1) / crew->n_ranks, 0};
}

/* Where cost t cuts an item of n parts of cost `each`; only multiples of `grain` will do. */
static ALWAYS_INLINE int64_t cut(const run_t *run, int64_t t, int64_t n, int64_t each, int64_t grain)
{
    if (t <= run->at) return 0;
    const int64_t k = ((t - run->at) / each + grain) / grain * grain;
    return k < n ? k : n;
}

/* Pass an item of n parts; says whether any of them, [*first, *stop), are in the run. */
static int take(run_t *run, int64_t n, int64_t each, int64_t grain, int64_t *first, int64_t *stop)
{
    *first = cut(run, run->from, n, each, grain);
    *stop = cut(run, run->to, n, each, grain);
    run->at += n * each;
    return *stop > *first;
}

/* A mini-batch on its way through the network and back, with the scratch of a step. */
typedef struct {
    block_t block;
    const crew_t *crew;
    int64_t m;
    uint64_t *bits;       /* (B, words) */
    uint64_t *marks[MAX_LAYERS]; /* of what layer l reads: the rows in which each input is not 0, a bit a row, (n_in, mark_words) */
    int64_t mark_words;
    REAL *dz[MAX_LAYERS]; /* gradients of the sums of every layer of the chain */
    REAL *undropped;      /* one more hidden output, for dropout */
    REAL *free_reals;     /* what is left of the scratch */
    double *free_doubles;
} batch_t;

/* Cut the scratch as layout.train_workspace says. */
static void cut_batch(batch_t *s, const net_t *net, const call_t *c)
{
    const batches_t *data = &c->batches;
    const int64_t B = data->batch_size, words = data->words, last = net->n_layers - 1;
    int64_t widest = 0;
    *s = (batch_t){.block = {.net = net, .dropout = c->dropout}, .crew = &c->crew};
    s->bits = (uint64_t *)c->scratch.ints;
    uint64_t *marks = s->bits + B * words;
    s->mark_words = (B + 63) / 64;
    for (int64_t l = 0; l <= last; marks += PADDED(net->layers[l * LAYER_COLUMNS + N_IN]) * s->mark_words, l++)
        s->marks[l] = marks;
    double *nll = (double *)marks;
    REAL *reals = cut_buffers(&s->block, B, c->scratch.reals);
    reals += (c->crew.n_ranks - 1) * loss_room(net);
    s->block.room += c->crew.rank * loss_room(net);
    for (int64_t l = 0; l <= last; reals += B * PADDED(n_units(net, l)), l++) {
        s->dz[l] = reals;
        if (l < last && n_units(net, l) > widest) widest = n_units(net, l);
    }
    s->undropped = reals;
    s->free_reals = reals + B * PADDED(widest);
    s->free_doubles = nll + B * words;
    const int64_t n_places = net->variables ? net->n_variables : net->layers[N_IN];
    s->block.loss = (loss_t){.bits = s->bits, .words = words, .n_places = n_places, .weights = data->weights, .nll = nll,
                             .panel_step = B, .dz = s->dz[last]};
}

/* The weighted sum of the NLL of the batch's rows. */
static double total(const batch_t *s)
{
    const loss_t *loss = &s->block.loss;
    double total = 0;
    for (int64_t i = 0; i < s->m; i++) {
        double sum = 0;
        for (int64_t p = 0; p < (s->block.net->variables ? 1 : loss->words); p++) sum += loss->nll[p * loss->panel_step + i];
        total += loss->weights ? loss->weights[loss->which[i]] * sum : sum;
    }
    return total;
}

/* Cost of a row in a panel beside its sums, in multiply-adds of 64: measured. What reads bits has shorter sums. */
enum { ROW_GRAIN = 2 * ROWS, PER_ROW = 64, PER_LOSS = 160, PER_BITS = 200 };

static void forward_share(const batch_t *s, int64_t l)
{
    const net_t *net = s->block.net;
    const int64_t panels = net->layers[l * LAYER_COLUMNS + N_PANELS], direct = direct_of(net, l);
    const int64_t per_row = PER_ROW + (l == net->n_layers - 1 ? PER_LOSS : 0) + (l == 0 ? PER_BITS : 0);
    run_t run = {0};
    int64_t i0, i1;
    for (int pass = 0; pass < 2; pass++) { /* first the total cost, then the work */
        if (pass) run = run_of(s->crew, run.at);
        for (int64_t p = 0; p < panels && !called_off(s->crew); p++) {
            const int64_t each = per_row + panel_of(net, l, p).depth + (direct ? panel_of(net, direct, p).depth : 0);
            if (take(&run, s->m, each, ROW_GRAIN, &i0, &i1) && pass) layer_panel(&s->block, l, p, i0, i1 - i0);
        }
    }
}

/* The marks of m rows of a panel of hidden units; all of it is marked where it is mostly on. */
static void mark_panel(const REAL *h, int64_t m, int64_t words, uint64_t *marks)
{
    if (!rows_mostly_off(h, m)) {
        memset(marks, -1, PANEL * words * sizeof(uint64_t));
        return;
    }
    for (int64_t q = 0; q < words; q++) {
        uint64_t block[64];
        for (int64_t i = 64 * q; i < 64 * q + 64; i++) block[i % 64] = i < m ? marks_of(h + i * PANEL) : 0;
        transpose_bits(block);
        for (int j = 0; j < PANEL; j++) marks[j * words + q] = block[j];
    }
}

/* A rank's share of the marks of what layers read that do not read the inputs: m rows of buffers h of `rows` rows. */
static void mark_share(const crew_t *crew, const net_t *net, REAL *const *h, int64_t rows, int64_t m, int64_t words,
                       uint64_t *const *marks)
{
    for (int64_t l = 1, turn = 0; l < net->n_layers; l++)
        for (int64_t p = 0; p < net->layers[(l - 1) * LAYER_COLUMNS + N_PANELS]; p++, turn++)
            if (turn % crew->n_ranks == crew->rank)
                mark_panel(h[l - 1] + p * rows * PANEL, m, words, marks[l] + p * PANEL * words);
}

/* From the gradient of the sums of layer l to that of the layer below. */
static void backward_share(const batch_t *s, int64_t l)
{
    const net_t *net = s->block.net;
    const int64_t rows = s->block.rows, n_in = net->layers[l * LAYER_COLUMNS + N_IN], n_out = n_units(net, l);
    const int32_t *live = net->n_live + net->layers[l * LAYER_COLUMNS + UNITS];
    REAL *dh = s->dz[l - 1];
    run_t run = {0};
    int64_t i0, i1;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) run = run_of(s->crew, run.at);
        for (int64_t k = 0, j = 0; k < n_in && !called_off(s->crew); k += PANEL) {
            while (j < n_out && live[j] <= k) j++; /* units j .. see these inputs */
            if (!take(&run, s->m, 1 + n_out - j, ROW_GRAIN, &i0, &i1) || !pass) continue;
            const int64_t at = i0 * PANEL, m = i1 - i0;
            const REAL *h = s->block.h[l - 1];
            if (s->block.dropout.keep) { /* the derivative is a function of what the activation gave: h before it was scaled */
                const vec scale = splat(s->block.dropout.scale);
                for (int64_t q = k * rows + at; q < k * rows + at + m * PANEL; q += LANES)
                    store(s->undropped + q, load(h + q) / scale);
                h = s->undropped;
            }
            backward_input_panel(net, l, k, s->dz[l] + at, h + at, rows, m, dh + at);
            if (s->block.dropout.keep) drop(&s->block, l - 1, k / PANEL, i0, m, dh);
        }
    }
}

/* Take m rows, the first of which is row number `first` in the order of use, through the network and back to the gradients of
 * all sums. `place`, or null, is where the network has each column of their bits. Returns 1 if called off. */
static int run_batch(batch_t *s, const call_t *c, int64_t first, int64_t m, const int32_t *place)
{
    const batches_t *data = &c->batches;
    const net_t *net = s->block.net;
    const int64_t rank = s->crew->rank, n_ranks = s->crew->n_ranks, words = data->words, last = net->n_layers - 1;
    const int64_t i0 = m * rank / n_ranks, i1 = m * (rank + 1) / n_ranks, *rows = data->rows + first;
    s->m = m;
    s->block.loss.which = rows;
    if (c->dropout.keep) s->block.dropout.keep = c->dropout.keep + first * c->dropout.words;
    for (int64_t i = i0; i < i1; i++)
        if (place)
            made_fast_permute(data->bits + rows[i] * words, words, place, s->bits + i * words);
        else
            memcpy(s->bits + i * words, data->bits + rows[i] * words, words * sizeof(uint64_t));
    if (meet(s->crew)) return 1;
    mark_columns(s->bits, words, m, words * rank / n_ranks, words * (rank + 1) / n_ranks, s->mark_words, s->marks[0]);
    for (int64_t l = 0; l <= last; l++) {
        forward_share(s, l);
        if (meet(s->crew)) return 1;
    }
    if (net->variables) {
        levels_loss(net, &s->block.loss, s->block.h[last], s->block.rows, i0, i1 - i0, s->block.room);
        if (meet(s->crew)) return 1;
    }
    mark_share(s->crew, net, s->block.h, s->block.rows, m, s->mark_words, s->marks);
    for (int64_t l = last; l > 0; l--) {
        backward_share(s, l);
        if (meet(s->crew)) return 1;
    }
    return 0;
}

/* What row l of the network read, and the gradient of the sums that it adds to. */
static source_t source_of(const batch_t *s, int64_t l)
{
    const net_t *net = s->block.net;
    source_t source = {.marks = s->marks[0], .rows = s->block.rows, .m = s->m, .mark_words = s->mark_words};
    if (!reads_inputs(net, l)) {
        source.x = s->block.h[l - 1];
        source.marks = s->marks[l];
    }
    int64_t fed = l < net->n_layers ? l : 0;
    while (l >= net->n_layers && direct_of(net, fed) != l) fed++;
    source.dz = s->dz[fed];
    return source;
}

/* Gradient and update of this rank's share of every layer's weights and, if asked for, biases, from the source of each. The
 * bias counts as so many rows of weights. A wide layer takes long: called off, it leaves some panels a step behind the others,
 * each of them whole. */
static void train_weights(const net_t *net, const crew_t *crew, const source_t *sources, const step_t *step, int biases)
{
    const int64_t per_bias = biases ? 2 * STRIP : 0;
    for (int64_t l = 0; l < net->n_rows; l++) {
        run_t run = {0};
        int64_t k0, k1;
        for (int pass = 0; pass < 2; pass++) {
            if (pass) run = run_of(crew, run.at);
            for (int64_t p = 0; p < net->layers[l * LAYER_COLUMNS + N_PANELS] && !called_off(crew); p++) {
                if (!take(&run, per_bias + panel_of(net, l, p).depth, 1, STRIP, &k0, &k1) || !pass) continue;
                if (k0 == 0 && biases) panel_bias(net, l, p, sources + l, step);
                panel_weights(net, l, p, k0 > per_bias ? k0 - per_bias : 0, k1 - per_bias, sources + l, step);
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------------
 * Updates by a gradient that is there as a whole
 */

#define DEALT_TO(crew, k) ((k) / STRIP % (crew)->n_ranks == (crew)->rank)

typedef struct { /* n rows of parameters that follow each other, all weights or all biases */
    int64_t start, n, stride;
    int is_bias;
} segment_t;

typedef struct {
    REAL *values, *gradient;
    const segment_t *segments;
    int64_t n_segments;
    double *squares; /* scratch: one for each row */
} whole_t;

/* A rank's share of an update by the gradient times scale; or, with no step, the sum of squares of every row. Returns the
 * number of rows. */
static int64_t update_share(const whole_t *w, const step_t *step, REAL scale, const crew_t *crew)
{
    const step_t plain = step ? without_decay(step) : (step_t){0};
    int64_t row = 0;
    for (const segment_t *s = w->segments; s < w->segments + w->n_segments; s++) {
        for (int64_t k = 0; k < s->n && !called_off(crew); k++, row++) {
            const int64_t at = s->start + k * s->stride;
            REAL *g = w->gradient + at;
            if (!DEALT_TO(crew, k)) continue;
            if (!step) {
                double sum = 0;
                for (int64_t j = 0; j < s->stride; j++) sum += (double)g[j] * (double)g[j];
                w->squares[row] = sum;
                continue;
            }
            for (int64_t j = 0; j < s->stride && scale != 1; j++) g[j] *= scale;
            update(s->is_bias ? &plain : step, w->values, at, g, s->stride);
        }
    }
    return row;
}

/* Update the parameters, by a gradient that is scaled down if its norm is above clip. Returns 1 if called off. */
static int update_whole(const whole_t *w, const step_t *step, double clip, const crew_t *crew)
{
    double scale = 1;
    if (clip > 0) {
        const int64_t n = update_share(w, 0, 1, crew);
        if (meet(crew)) return 1;
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += w->squares[i];
        if (sqrt(sum) > clip) scale = clip / sqrt(sum);
    }
    update_share(w, step, (REAL)scale, crew);
    return meet(crew);
}

/* Make the gradient 0: what stands for dead weights is not written again. */
static void clear(const whole_t *w)
{
    for (const segment_t *s = w->segments; s < w->segments + w->n_segments; s++)
        memset(w->gradient + s->start, 0, s->n * s->stride * sizeof(REAL));
}

/* The rows of theta. */
static int64_t segments_of(const net_t *net, segment_t *segments)
{
    int64_t n = 0;
    for (int64_t l = 0; l < net->n_rows; l++) {
        const int64_t *layer = net->layers + l * LAYER_COLUMNS;
        segments[n++] = (segment_t){layer[WEIGHTS], (layer[BIAS] - layer[WEIGHTS]) / PANEL, PANEL, 0};
        if (l < net->n_layers) segments[n++] = (segment_t){layer[BIAS], layer[N_PANELS], PANEL, 1};
    }
    return n;
}

static void train(const call_t *c)
{
    const net_t *net = &c->net;
    const crew_t *crew = &c->crew;
    const batches_t *data = &c->batches;
    const double clip = c->update.constants[CLIP];
    segment_t segments[4 * MAX_LAYERS];
    source_t sources[2 * MAX_LAYERS];
    batch_t s;
    cut_batch(&s, net, c);
    const whole_t whole = {net->theta, c->scratch.gradient, segments, segments_of(net, segments), s.free_doubles};
    const step_t collect = collect_to(whole.gradient);
    if (clip > 0 && crew->rank == 0) clear(&whole);
    for (int64_t first = 0, i = 0; first < data->n_rows; first += data->batch_size, i++) {
        const int64_t m = data->n_rows - first < data->batch_size ? data->n_rows - first : data->batch_size;
        s.block.loss.scale = 1.0 / (double)m;
        if (run_batch(&s, c, first, m, 0)) return;
        if (crew->rank == crew->n_ranks - 1) ((double *)c->out)[i] = total(&s); /* rank 0 has more to do in what follows */
        const step_t step = step_of(&c->update, c->update.step + i);
        for (int64_t l = 0; l < net->n_rows; l++) sources[l] = source_of(&s, l);
        train_weights(net, crew, sources, clip > 0 ? &collect : &step, 1);
        if (meet(crew)) return;
        if (clip > 0 && update_whole(&whole, &step, clip, crew)) return;
    }
}
