/* Training steps of a latent mixture: one network whose biases have K values, one for each point, and are mixed over them.
 *
 * p(x) = 1/K sum_k p(x | point k). Point k has a table of biases for all layers of the chain; the tables follow theta, and are
 * tables[k] = b + sum_r features[k, r] E[r], where b are the biases in theta and E (R, n_biases) follows the tables. Only b,
 * E and the weights are trained. What reads the inputs is summed once for a row, and serves all points; from there on a row
 * counts K times: row i at point k is row k * m + i of the buffers. Ranks share phases as in train.h.
 */

typedef struct {
    net_t net;             /* its first layer gives plain sums */
    const int64_t *points; /* (K, n_rows, LAYER_COLUMNS): the layers with the biases of each point */
    const REAL *features;  /* (K, R) */
    int64_t K, R, n_biases, m, activation;
    block_t once;          /* each row once: the bits, and the sums of what reads them */
    block_t each;          /* a row at each point: (panels, K * B, 64) */
    REAL *dz[MAX_LAYERS];  /* like each.h */
    REAL *sum[MAX_LAYERS]; /* dz summed over the points, (panels, B, 64), of layers that something adds to that reads inputs */
    REAL *undropped;
    uint64_t *marks[MAX_LAYERS]; /* as in train.h; of layers that do not read the inputs, a row at each point */
    int64_t mark_words[2];       /* of the inputs, of hidden units */
    double *nll;    /* (K, words, B) */
    double *share;  /* (K, B): weight of the row times p(point | row) */
    double *of_row; /* (B,): weight of the row times its NLL */
    double *squares;
    const crew_t *crew;
} latent_t;

static int has_inputs(const latent_t *s, int64_t l) { return l == 0 || direct_of(&s->net, l); }

/* The network at point k. */
static net_t at_point(const latent_t *s, int64_t k)
{
    net_t net = s->net;
    net.layers = s->points + k * net.n_rows * LAYER_COLUMNS;
    return net;
}

/* Cut the scratch as layout.latent_train_workspace says. `layers` is room for a copy of the network's. */
static void cut_latent(latent_t *s, const call_t *c, int64_t *layers)
{
    const batches_t *data = &c->batches;
    const net_t *net = &c->net;
    const int64_t B = data->batch_size, words = data->words, K = c->n_points, last = net->n_layers - 1;
    *s = (latent_t){.net = *net, .points = c->points, .features = c->features, .K = K, .R = c->n_features, .crew = &c->crew,
                    .activation = net->layers[ACTIVATION]};
    memcpy(layers, net->layers, net->n_rows * LAYER_COLUMNS * sizeof(int64_t));
    layers[ACTIVATION] = IDENTITY;
    s->net.layers = layers;
    for (int64_t l = 0; l <= last; l++) s->n_biases += PADDED(n_units(net, l));
    s->once = (block_t){.net = &s->net, .loss = {.words = data->words}};
    s->each = (block_t){.net = &s->net, .dropout = c->dropout, .rows = K * B};
    uint64_t *bits = (uint64_t *)c->scratch.ints;
    s->once.loss.bits = bits;
    s->nll = (double *)(bits + B * words);
    s->share = s->nll + K * words * B;
    s->of_row = s->share + K * B;
    s->squares = s->of_row + B;
    uint64_t *marks = (uint64_t *)(s->squares + (c->update.n + PANEL - 1) / PANEL);
    s->mark_words[0] = (B + 63) / 64;
    s->mark_words[1] = (K * B + 63) / 64;
    for (int64_t l = 0; l <= last; marks += PADDED(layers[l * LAYER_COLUMNS + N_IN]) * s->mark_words[l > 0], l++)
        s->marks[l] = marks;
    REAL *reals = cut_buffers(&s->once, B, c->scratch.reals);
    int64_t widest = 0;
    for (int64_t l = 0; l <= last; l++) {
        const int64_t width = PADDED(n_units(net, l));
        s->each.h[l] = reals;
        s->dz[l] = reals + K * B * width;
        s->sum[l] = reals + 2 * K * B * width;
        reals += (2 * K + 1) * B * width;
        if (l < last && width > widest) widest = width;
    }
    s->undropped = reals;
}

/* The sums of panel p of row l of the network, which reads the inputs; of all rows of the batch. */
static void sums_share(const latent_t *s)
{
    const net_t *net = &s->net;
    run_t run = {0};
    int64_t i0, i1;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) run = run_of(s->crew, run.at);
        for (int64_t l = 0; l < net->n_rows; l++) {
            if (!reads_inputs(net, l)) continue;
            for (int64_t p = 0; p < net->layers[l * LAYER_COLUMNS + N_PANELS] && !called_off(s->crew); p++)
                if (take(&run, s->m, PER_ROW + panel_of(net, l, p).depth, ROW_GRAIN, &i0, &i1) && pass)
                    inputs_panel(&s->once, l, p, i0, i1 - i0);
        }
    }
}

/* The loss of the outputs at point k, and its gradient if `backward`. */
static loss_t loss_at(const latent_t *s, int64_t k, int backward)
{
    loss_t loss = s->once.loss;
    loss.n_places = s->net.layers[N_IN];
    loss.panel_step = s->once.rows;
    loss.nll = s->nll + k * loss.words * loss.panel_step;
    loss.scale = 1.0 / (double)s->m;
    if (backward) {
        loss.weights = s->share + k * s->once.rows;
        loss.dz = s->dz[s->net.n_layers - 1] + k * s->m * PANEL;
    }
    return loss;
}

/* Panel p of layer l at point k: its output, and the loss if it is the last layer. */
static void point_panel(const latent_t *s, int64_t l, int64_t p, int64_t k)
{
    const net_t net = at_point(s, k);
    const int64_t m = s->m, rows = s->each.rows, at = k * m * PANEL, direct = direct_of(&net, l), last = net.n_layers - 1;
    REAL *out = s->each.h[l] + at, *panel = out + p * rows * PANEL;
    if (l == 0) {
        const REAL *sums = s->once.h[0] + p * s->once.rows * PANEL, *b = panel_of(&s->net, 0, p).bias;
        const REAL *table = panel_of(&net, 0, p).bias;
        for (int u = 0; u < PANEL; u += LANES) {
            const vec more = load(table + u) - load(b + u);
            for (int64_t i = 0; i < m; i++) store(panel + i * PANEL + u, load(sums + i * PANEL + u) + more);
        }
        activate(panel, m * PANEL, (int)s->activation);
    } else { /* what direct connections add has a buffer of fewer rows */
        const REAL *add = direct ? s->once.h[direct] + p * (s->once.rows - rows) * PANEL : 0;
        forward_panel(&net, l, p, s->each.h[l - 1] + at, add, rows, m, out);
    }
    if (l < last && s->each.dropout.keep) drop(&s->each, l, p, 0, m, out);
    if (l == last) {
        const loss_t loss = loss_at(s, k, 0);
        nll_panel(&loss, out, p, rows, 0, m);
    }
}

/* From the gradient of the sums of layer l at point k to that of the layer below, panel `q` of it. */
static void point_backward(const latent_t *s, int64_t l, int64_t q, int64_t k)
{
    const int64_t m = s->m, rows = s->each.rows, at = k * m * PANEL;
    const REAL *h = s->each.h[l - 1] + at;
    REAL *dh = s->dz[l - 1] + at;
    const net_t net = at_point(s, k); /* whose first layer has its activation */
    if (s->each.dropout.keep) {
        const vec scale = splat(s->each.dropout.scale);
        REAL *to = s->undropped + at;
        for (int64_t j = q * PANEL * rows; j < q * PANEL * rows + m * PANEL; j += LANES) store(to + j, load(h + j) / scale);
        h = to;
    }
    backward_input_panel(&net, l, q * PANEL, s->dz[l] + at, h, rows, m, dh);
    if (s->each.dropout.keep) drop(&s->each, l - 1, q, 0, m, dh);
}

enum { FORWARD, BACKWARD, LOSS };

/* A rank's share of the panels of layer l, each at every point. */
static void points_share(const latent_t *s, int what, int64_t l)
{
    const net_t *net = &s->net;
    const int64_t panels = what == BACKWARD ? PADDED(net->layers[l * LAYER_COLUMNS + N_IN]) / PANEL
                                            : net->layers[l * LAYER_COLUMNS + N_PANELS];
    run_t run = {0};
    int64_t k0, k1;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) run = run_of(s->crew, run.at);
        for (int64_t p = 0; p < panels && !called_off(s->crew); p++) {
            int64_t cost = PER_ROW;
            if (what == FORWARD && l > 0) cost += panel_of(net, l, p).depth;
            if (what == BACKWARD) { /* units that see these inputs */
                const int32_t *live = net->n_live + net->layers[l * LAYER_COLUMNS + UNITS];
                int64_t j = 0;
                while (j < n_units(net, l) && live[j] <= p * PANEL) j++;
                cost = 1 + n_units(net, l) - j;
            }
            if (!take(&run, s->K, cost, 1, &k0, &k1) || !pass) continue;
            for (int64_t k = k0; k < k1; k++) {
                if (what == FORWARD) point_panel(s, l, p, k);
                if (what == BACKWARD) point_backward(s, l, p, k);
                if (what == LOSS) {
                    const loss_t loss = loss_at(s, k, 1);
                    nll_panel(&loss, s->each.h[l] + k * s->m * PANEL, p, s->each.rows, 0, s->m);
                }
            }
        }
    }
}

/* From the NLL at each point to that of the mixture, and to p(point | row), for rows i0 .. i1 - 1. */
static void mix(const latent_t *s, const batches_t *data, const int64_t *rows, int64_t i0, int64_t i1)
{
    const int64_t B = s->once.rows, words = data->words;
    for (int64_t i = i0; i < i1; i++) {
        double most = -INFINITY, total = 0;
        for (int64_t k = 0; k < s->K; k++) {
            double nll = 0;
            for (int64_t p = 0; p < words; p++) nll += s->nll[(k * words + p) * B + i];
            s->share[k * B + i] = -nll;
            if (!(-nll <= most)) most = -nll; /* a NaN stays one */
        }
        for (int64_t k = 0; k < s->K; k++) total += s->share[k * B + i] = exp(s->share[k * B + i] - most);
        const double weight = data->weights ? data->weights[rows[i]] : 1;
        for (int64_t k = 0; k < s->K; k++) s->share[k * B + i] *= weight / total;
        s->of_row[i] = weight * (log((double)s->K) - most - log(total));
    }
}

/* The gradient of what reads the inputs: that of the sums it adds to, summed over the points. */
static void add_points(const latent_t *s)
{
    const int64_t m = s->m, rows = s->each.rows, B = s->once.rows;
    for (int64_t l = 0, n = 0; l < s->net.n_layers; l++) {
        if (!has_inputs(s, l)) continue;
        for (int64_t p = 0; p < s->net.layers[l * LAYER_COLUMNS + N_PANELS]; p++, n++) {
            if (n % s->crew->n_ranks != s->crew->rank) continue;
            const REAL *dz = s->dz[l] + p * rows * PANEL;
            REAL *sum = s->sum[l] + p * B * PANEL;
            for (int64_t j = 0; j < m * PANEL; j += LANES) {
                vec acc = load(dz + j);
                for (int64_t k = 1; k < s->K; k++) acc += load(dz + k * m * PANEL + j);
                store(sum + j, acc);
            }
        }
    }
}

static source_t latent_source(const latent_t *s, int64_t l)
{
    const net_t *net = &s->net;
    if (!reads_inputs(net, l))
        return (source_t){s->each.h[l - 1], s->marks[l], s->mark_words[1], s->dz[l], s->each.rows, s->K * s->m};
    int64_t fed = l < net->n_layers ? l : 0;
    while (l >= net->n_layers && direct_of(net, fed) != l) fed++;
    return (source_t){0, s->marks[0], s->mark_words[0], s->sum[fed], s->once.rows, s->m};
}

/* Where 64 biases stand in theta, in the table of point 0, and in the first row of E. */
typedef struct {
    int64_t bias, table, row;
} biases_t;

static biases_t biases_of(const latent_t *s, int64_t l, int64_t p)
{
    const int64_t at = p * PANEL, table = s->points[l * LAYER_COLUMNS + BIAS] + at;
    return (biases_t){s->net.layers[l * LAYER_COLUMNS + BIAS] + at, table, table + s->K * s->n_biases};
}

/* tables[k] = b + sum_r features[k, r] E[r], for the units of a panel. */
static void spread_biases(const latent_t *s, biases_t at)
{
    REAL *theta = s->net.theta;
    for (int u = 0; u < PANEL; u += LANES)
        for (int64_t k = 0; k < s->K; k++) {
            vec acc = load(theta + at.bias + u);
            for (int64_t r = 0; r < s->R; r++)
                acc = FMADD(splat(s->features[k * s->R + r]), load(theta + at.row + r * s->n_biases + u), acc);
            store(theta + at.table + k * s->n_biases + u, acc);
        }
}

/* Gradient and update of b and E, for the units of panel p of layer l. */
static void train_biases(const latent_t *s, int64_t l, int64_t p, const step_t *step)
{
    const int64_t m = s->m;
    const biases_t at = biases_of(s, l, p);
    const step_t plain = without_decay(step);
    const REAL *dz = s->dz[l] + p * s->each.rows * PANEL;
    REAL db[PANEL] __attribute__((aligned(64))) = {0}, dE[MAX_FEATURES * PANEL] __attribute__((aligned(64)));
    memset(dE, 0, s->R * PANEL * sizeof(REAL));
    for (int64_t k = 0; k < s->K; k++)
        for (int u = 0; u < PANEL; u += LANES) {
            vec acc = splat(0);
            for (int64_t i = 0; i < m; i++) acc += load(dz + (k * m + i) * PANEL + u);
            store(db + u, load(db + u) + acc);
            for (int64_t r = 0; r < s->R; r++)
                store(dE + r * PANEL + u, FMADD(splat(s->features[k * s->R + r]), acc, load(dE + r * PANEL + u)));
        }
    update(&plain, s->net.theta, at.bias, db, PANEL);
    for (int64_t r = 0; r < s->R; r++) update(&plain, s->net.theta, at.row + r * s->n_biases, dE + r * PANEL, PANEL);
}

/* A rank's share of the biases: their gradient and update, or, with no step, the tables. A panel has one owner for both. */
static void biases_share(const latent_t *s, const step_t *step)
{
    for (int64_t l = 0, n = 0; l < s->net.n_layers; l++)
        for (int64_t p = 0; p < s->net.layers[l * LAYER_COLUMNS + N_PANELS] && !called_off(s->crew); p++, n++) {
            if (n % s->crew->n_ranks != s->crew->rank) continue;
            if (step)
                train_biases(s, l, p, step);
            else
                spread_biases(s, biases_of(s, l, p));
        }
}

/* Take m rows through the network at all points and back. Returns 1 if called off. */
static int run_latent(latent_t *s, const call_t *c, int64_t first, int64_t m)
{
    const batches_t *data = &c->batches;
    const int64_t rank = s->crew->rank, n_ranks = s->crew->n_ranks, words = data->words, last = s->net.n_layers - 1;
    const int64_t i0 = m * rank / n_ranks, i1 = m * (rank + 1) / n_ranks, *rows = data->rows + first;
    uint64_t *bits = (uint64_t *)c->scratch.ints;
    s->m = m;
    if (c->dropout.keep) s->each.dropout.keep = c->dropout.keep + first * c->dropout.words;
    for (int64_t i = i0; i < i1; i++) memcpy(bits + i * words, data->bits + rows[i] * words, words * sizeof(uint64_t));
    if (meet(s->crew)) return 1;
    mark_columns(bits, words, m, words * rank / n_ranks, words * (rank + 1) / n_ranks, s->mark_words[0], s->marks[0]);
    sums_share(s);
    if (meet(s->crew)) return 1;
    for (int64_t l = 0; l <= last; l++) {
        points_share(s, FORWARD, l);
        if (meet(s->crew)) return 1;
    }
    mix(s, data, rows, i0, i1);
    mark_share(s->crew, &s->net, s->each.h, s->each.rows, s->K * m, s->mark_words[1], s->marks);
    if (meet(s->crew)) return 1;
    points_share(s, LOSS, last);
    if (meet(s->crew)) return 1;
    for (int64_t l = last; l > 0; l--) {
        points_share(s, BACKWARD, l);
        if (meet(s->crew)) return 1;
    }
    add_points(s);
    return meet(s->crew);
}

static void train_latent(const call_t *c)
{
    const crew_t *crew = &c->crew;
    const batches_t *data = &c->batches;
    const double clip = c->update.constants[CLIP];
    int64_t layers[2 * MAX_LAYERS * LAYER_COLUMNS];
    segment_t segments[4 * MAX_LAYERS + 1];
    source_t sources[2 * MAX_LAYERS];
    latent_t s;
    cut_latent(&s, c, layers);
    const net_t *net = &s.net;
    int64_t n_segments = segments_of(net, segments);
    segments[n_segments++] = (segment_t){biases_of(&s, 0, 0).row, s.R * s.n_biases / PANEL, PANEL, 1};
    const whole_t whole = {net->theta, c->scratch.gradient, segments, n_segments, s.squares};
    const step_t collect = collect_to(whole.gradient);
    if (clip > 0 && crew->rank == 0) clear(&whole);
    for (int64_t first = 0, i = 0; first < data->n_rows; first += data->batch_size, i++) {
        const int64_t m = data->n_rows - first < data->batch_size ? data->n_rows - first : data->batch_size;
        if (run_latent(&s, c, first, m)) return;
        double total = 0;
        for (int64_t r = 0; r < m; r++) total += s.of_row[r];
        if (crew->rank == crew->n_ranks - 1) ((double *)c->out)[i] = total;
        const step_t step = step_of(&c->update, c->update.step + i), *now = clip > 0 ? &collect : &step;
        for (int64_t l = 0; l < net->n_rows; l++) sources[l] = latent_source(&s, l);
        train_weights(net, crew, sources, now, 0);
        biases_share(&s, now);
        if (clip > 0) {
            if (meet(crew) || update_whole(&whole, &step, clip, crew)) return;
        }
        biases_share(&s, 0);
        if (meet(crew)) return;
    }
}
