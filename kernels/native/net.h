/* Whole networks: score and conditionals. Not here: draws (walk.h), training (train.h, shared.h).
 *
 * Everything here is made of the layers of affine.h and the loss of update.h; what this file adds is the order of things.
 */

/* Row of the direct connections that add to layer l, or 0. */
static int64_t direct_of(const net_t *net, int64_t l) { return net->layers[l * LAYER_COLUMNS + DIRECT]; }

/* Whether row l reads the inputs. */
static int reads_inputs(const net_t *net, int64_t l) { return l == 0 || l >= net->n_layers; }

/* A block of rows on its way through a network, and room for the output of every layer. */
typedef struct {
    const net_t *net;
    loss_t loss;       /* whose bits are the block's */
    dropout_t dropout; /* whose keep begins with the block */
    int64_t rows;      /* of the buffers */
    REAL *h[2 * MAX_LAYERS];
    REAL *room; /* for the loss of variables of several levels: LOSS_ROWS rows of logits for every rank */
} block_t;

/* How many numbers a rank needs for the loss of variables of several levels. */
static int64_t loss_room(const net_t *net)
{
    return net->variables ? LOSS_ROWS * PADDED(n_units(net, net->n_layers - 1)) : 0;
}

/* Cut the buffers from the start of reals, as layout.score_workspace says; returns what is left of them. */
static REAL *cut_buffers(block_t *b, int64_t rows, REAL *reals)
{
    b->rows = rows;
    for (int64_t l = 0; l < b->net->n_rows; reals += rows * PADDED(n_units(b->net, l)), l++) b->h[l] = reals;
    b->room = reals;
    return reals + loss_room(b->net);
}

/* h = h * scale where the unit is kept, else 0: panel p of hidden layer l, rows i0 .. i0 + m - 1. */
static void drop(const block_t *b, int64_t l, int64_t p, int64_t i0, int64_t m, REAL *h)
{
    int64_t word = p;
    for (int64_t q = 0; q < l; q++) word += b->net->layers[q * LAYER_COLUMNS + N_PANELS];
    const vec scale = splat(b->dropout.scale);
    for (int64_t i = i0; i < i0 + m; i++)
        for (int u = 0; u < PANEL; u += LANES) {
            REAL *at = h + (p * b->rows + i) * PANEL + u;
            store(at, (vec)((ivec)(load(at) * scale) & spread(b->dropout.keep[i * b->dropout.words + word] >> u)));
        }
}

/* Panel p of a layer that reads the inputs, for rows i0 .. i0 + m - 1. */
static void inputs_panel(const block_t *b, int64_t l, int64_t p, int64_t i0, int64_t m)
{
    forward_panel_binary(b->net, l, p, b->loss.bits + i0 * b->loss.words, b->loss.words, b->rows, m, b->h[l] + i0 * PANEL);
}

/* Panel p of layer l of the chain, for rows i0 .. i0 + m - 1. */
static void layer_panel(const block_t *b, int64_t l, int64_t p, int64_t i0, int64_t m)
{
    const int64_t direct = direct_of(b->net, l), last = b->net->n_layers - 1, at = i0 * PANEL;
    if (direct) inputs_panel(b, direct, p, i0, m);
    if (l == 0)
        inputs_panel(b, 0, p, i0, m);
    else
        forward_panel(b->net, l, p, b->h[l - 1] + at, direct ? b->h[direct] + at : 0, b->rows, m, b->h[l] + at);
    if (l < last && b->dropout.keep) drop(b, l, p, i0, m, b->h[l]);
    if (l == last && b->loss.nll && !b->net->variables) nll_panel(&b->loss, b->h[l], p, b->rows, i0, m);
}

/* All layers of m rows, by one thread. Outputs behind the last one that the loss counts are left out. */
static void forward_all(const block_t *b, int64_t m)
{
    const net_t *net = b->net;
    const int64_t last = net->n_layers - 1, places = b->loss.n_places;
    const int levels = net->variables != 0;
    for (int64_t l = 0; l <= last; l++) {
        int64_t panels = net->layers[l * LAYER_COLUMNS + N_PANELS];
        if (l == last && b->loss.nll)
            panels = PADDED(levels ? start_of(net, places) - start_of(net, 0) : places) / PANEL;
        for (int64_t p = 0; p < panels; p++) layer_panel(b, l, p, 0, m);
    }
    if (levels && b->loss.nll) levels_loss(net, &b->loss, b->h[last], b->rows, 0, m, b->room);
}

static void score(const call_t *c)
{
    const batches_t *data = &c->batches;
    block_t b = {.net = &c->net, .loss = {.words = data->words, .n_places = c->n_places}};
    cut_buffers(&b, c->block, c->scratch.reals);
    for (int64_t i = 0; i < data->n_rows; i += c->block) {
        const int64_t m = data->n_rows - i < c->block ? data->n_rows - i : c->block;
        double *log_p = b.loss.nll = (double *)c->out + i;
        b.loss.bits = data->bits + i * data->words;
        if (c->n_places == 0) memset(log_p, 0, m * sizeof(double));
        forward_all(&b, m);
        for (int64_t r = 0; r < m; r++) log_p[r] = -log_p[r];
    }
}

static void conditionals(const call_t *c)
{
    const batches_t *data = &c->batches;
    const int64_t D = n_units(&c->net, c->net.n_layers - 1);
    block_t b = {.net = &c->net, .loss = {.words = data->words}};
    cut_buffers(&b, c->block, c->scratch.reals);
    for (int64_t i = 0; i < data->n_rows; i += c->block) {
        const int64_t m = data->n_rows - i < c->block ? data->n_rows - i : c->block;
        b.loss.bits = data->bits + i * data->words;
        forward_all(&b, m);
        if (c->net.variables) levels_proba(&c->net, b.h[c->net.n_layers - 1], c->block, m, b.room);
        for (int64_t p = 0; p < D; p += PANEL) {
            REAL *z = b.h[c->net.n_layers - 1] + p * c->block, *proba = (REAL *)c->out + i * D + p;
            for (int64_t j = 0; j < m * PANEL && !c->net.variables; j += LANES) store(z + j, vsigmoid(load(z + j)));
            for (int64_t r = 0; r < m; r++)
                memcpy(proba + r * D, z + r * PANEL, (D - p < PANEL ? D - p : PANEL) * sizeof(REAL));
        }
    }
}
