/* One walk along the ordering: samples, and draws and log masses with evidence. Not here: one pass over given rows (net.h).
 *
 * A unit is final once the inputs it sees are drawn. One walk over the places draws an input, then finishes the units that
 * have become final. A layer's current panel holds the sums of what it has seen; it is entered with one product over all
 * that is final by then (most of the work). What has become final since, an output adds to its own sums alone when it is read,
 * until that is so much that a further product brings the whole panel up to date: 6 % of the time of a draw.
 * Every sum is taken in the order of the full pass, so the sample is the one that D full passes would draw, bit for bit.
 */

typedef struct {
    REAL *z;       /* (panels, m, 64): sums of the current panel, outputs of the units that are final */
    panel_t now;   /* the current panel; of a layer that reads the inputs, its sums contain all that is drawn */
    int64_t panel; /* its number, -1 before the first */
    int64_t seen;  /* units of the layer below that its sums contain */
    int64_t done;  /* units that are final */
} layer_walk_t;

typedef struct {
    const net_t *net;
    int64_t m;
    layer_walk_t layers[2 * MAX_LAYERS];
    int64_t ld;   /* m, rounded up to whole vectors */
    int64_t words;
    uint64_t *bits; /* (m, words): each row, as far as it is drawn */
    REAL *column; /* one unit of all rows */
    REAL *recent; /* (RECENT, ld): units of the last hidden layer that are final, the last of them, unit j in row j % RECENT */
} walk_t;

/* Begin a walk of m rows. Cuts the scratch as layout.sample_workspace says; returns what is left of its reals. */
static REAL *begin_walk(walk_t *w, int64_t m, int64_t block, const scratch_t *scratch)
{
    const int64_t D = w->net->layers[N_IN];
    w->m = m;
    w->ld = (block + 15) / 16 * 16;
    w->words = (D + 63) / 64;
    w->bits = (uint64_t *)scratch->ints;
    w->column = scratch->reals;
    w->recent = w->column + w->ld;
    REAL *z = w->recent + RECENT * w->ld;
    for (int64_t l = 0; l < w->net->n_rows; z += m * PADDED(n_units(w->net, l)), l++)
        w->layers[l] = (layer_walk_t){.z = z, .panel = -1};
    memset(w->bits, 0, m * w->words * sizeof(uint64_t));
    return z;
}

/* The one at place p joins the bits of row i, and the sums of the current panels: 9 % of the time of a draw less than to look
 * in every row for new ones whenever sums are read. */
static void put_one(walk_t *w, int64_t i, int64_t p)
{
    w->bits[i * w->words + p / 64] |= 1ull << p % 64;
    for (int64_t l = 0; l < w->net->n_rows; l = l ? l + 1 : w->net->n_layers) { /* that read the inputs */
        const layer_walk_t *layer = w->layers + l;
        if (layer->panel < 0 || p >= layer->now.depth) continue;
        REAL *z = layer->z + (layer->panel * w->m + i) * PANEL;
        for (int u = 0; u < PANEL; u += LANES) store(z + u, load(z + u) + load(layer->now.w + p * PANEL + u));
    }
}

/* How many units of the layer below the sums of layer l may lack. None where they are to be outputs of a hidden layer, which are
 * not added to any more; and few rows do not fill the vectors of add_recent. */
static int64_t most_lacking(const walk_t *w, int64_t l)
{
    return l == w->net->n_layers - 1 && w->m >= 4 * LANES ? RECENT : 0;
}

/* Where the sums of unit j of layer l begin. They contain all of its live prefix, but for the units from `seen` on. */
static REAL *reach(walk_t *w, int64_t l, int64_t j)
{
    const int64_t p = j / PANEL, m = w->m;
    const int inputs = reads_inputs(w->net, l);
    layer_walk_t *layer = w->layers + l;
    REAL *z = layer->z + p * m * PANEL;
    if (p != layer->panel) {
        layer->panel = p;
        layer->now = panel_of(w->net, l, p);
        layer->seen = 0;
        if (inputs)
            sum_bits(&layer->now, w->bits, w->words, m, 0, z);
        else
            for (int64_t i = 0; i < m; i++) memcpy(z + i * PANEL, layer->now.bias, PANEL * sizeof(REAL));
    }
    const panel_t panel = layer->now;
    const int64_t end = panel.live[j % PANEL];
    if (!inputs && (layer->seen == 0 || layer[-1].done - layer->seen > most_lacking(w, l))) {
        for (int64_t k = layer->seen; k < end;) {
            const int64_t k0 = k / PANEL * PANEL, to = k0 + PANEL < end ? k0 + PANEL : end;
            if (sum_marked(&panel, k, to, layer[-1].z + k0 * m, m, 0, 0, z)) {
                k = to;
                continue;
            }
            for (int u = j % PANEL / TILE_UNITS * TILE_UNITS; u < panel.units; u += TILE_UNITS)
                FOR_TILES(m, i,
                          tile_forward(R, TILE_VECTORS, layer[-1].z + k0 * m + i * PANEL + (k - k0), panel.w + u,
                                       panel.live + u, k, to, 0, z + i * PANEL + u););
            k = to;
        }
        layer->seen = end;
    }
    return z + j % PANEL;
}

/* column += the units from `seen` on that unit j of the last layer sees, in ascending order, for `vectors` vectors of rows. */
static ALWAYS_INLINE void add_recent(int vectors, const walk_t *w, int64_t j, int64_t i, REAL *column)
{
    const layer_walk_t *layer = w->layers + w->net->n_layers - 1;
    const int64_t end = layer->now.live[j % PANEL];
    vec sum[ROWS];
#pragma GCC unroll 6
    for (int v = 0; v < vectors; v++) sum[v] = load(column + i + v * LANES);
    for (int64_t k = layer->seen; k < end; k++) {
        const REAL *h = w->recent + k % RECENT * w->ld + i;
        const vec weight = splat(layer->now.w[k * PANEL + j % PANEL]);
#pragma GCC unroll 6
        for (int v = 0; v < vectors; v++) sum[v] = FMADD(load(h + v * LANES), weight, sum[v]);
    }
#pragma GCC unroll 6
    for (int v = 0; v < vectors; v++) store(column + i + v * LANES, sum[v]);
}

/* column = g(sum of unit j of layer l); returns where the unit's numbers stand. */
static ALWAYS_INLINE REAL *finish_unit(walk_t *w, int64_t l, int64_t j, int activation, REAL *column)
{
    const int64_t direct = direct_of(w->net, l), m = w->m;
    REAL *z = reach(w, l, j);
    for (int64_t i = 0; i < m; i++) column[i] = z[i * PANEL];
    if (!reads_inputs(w->net, l) && w->layers[l].seen < w->layers[l].now.live[j % PANEL]) {
        int64_t i = 0;
        for (; i + ROWS * LANES <= w->ld; i += ROWS * LANES) add_recent(ROWS, w, j, i, column);
        for (; i < m; i += LANES) add_recent(1, w, j, i, column);
    }
    if (direct) {
        const REAL *add = reach(w, direct, j);
        for (int64_t i = 0; i < m; i++) column[i] += add[i * PANEL];
    }
    activate(column, (m + LANES - 1) / LANES * LANES, activation);
    return z;
}

/* Finish the units of hidden layer l that see nothing but the first `final` units of the layer below and `drawn` inputs. */
static void finish(walk_t *w, int64_t l, int64_t final, int64_t drawn)
{
    const int64_t *layer = w->net->layers + l * LAYER_COLUMNS, direct = layer[DIRECT];
    const int32_t *live = w->net->n_live + layer[UNITS];
    const int32_t *direct_live = direct ? w->net->n_live + w->net->layers[direct * LAYER_COLUMNS + UNITS] : 0;
    int64_t *done = &w->layers[l].done;
    while (*done < layer[N_OUT] && live[*done] <= final && (!direct || direct_live[*done] <= drawn)) {
        REAL *column = l == w->net->n_layers - 2 ? w->recent + *done % RECENT * w->ld : w->column;
        REAL *z = finish_unit(w, l, (*done)++, (int)layer[ACTIVATION], column);
        for (int64_t i = 0; i < w->m; i++) z[i * PANEL] = column[i];
    }
}

/* Finish the hidden units that see nothing but the first `drawn` inputs. */
static void finish_hidden(walk_t *w, int64_t drawn)
{
    int64_t final = drawn;
    for (int64_t l = 0; l < w->net->n_layers - 1; l++) {
        finish(w, l, final, drawn);
        final = w->layers[l].done;
    }
}

/* x at place p is 1 where the row's uniform u is below its conditional: among the row's bits, and in a column of x. Not to put
 * whole rows in order afterwards is 4 % of a draw. */
static void draw(walk_t *w, int64_t p, const double *u, int64_t column, uint8_t *x)
{
    const int64_t D = w->net->layers[N_IN];
    for (int64_t i0 = 0; i0 < w->m; i0 += 64) {
        const int64_t end = w->m - i0 < 64 ? w->m - i0 : 64;
        uint64_t ones = 0;
        for (int64_t i = 0; i < end; i++) ones |= (uint64_t)(u[i0 + i] < (double)w->column[i0 + i]) << i;
        for (; ones; ones &= ones - 1) {
            const int64_t i = i0 + __builtin_ctzll(ones);
            x[i * D + column] = 1;
            put_one(w, i, p);
        }
    }
}

static void sample(const call_t *c)
{
    enum { AHEAD = 8 }; /* uniforms of a row that share a cache line */
    const net_t *net = &c->net;
    const int64_t D = net->layers[N_IN], last = net->n_layers - 1, block = c->block, n = c->batches.n_rows;
    walk_t w = {.net = net};
    for (int64_t start = 0; start < n; start += block) {
        const int64_t m = n - start < block ? n - start : block;
        const double *uniforms = c->uniforms + start * D;
        uint8_t *x = (uint8_t *)c->out + start * D;
        double *const ahead = (double *)begin_walk(&w, m, block, &c->scratch); /* (AHEAD, m) */
        memset(x, 0, m * D);
        for (int64_t p = 0; p < D; p++) {
            if (p % AHEAD == 0)
                for (int64_t i = 0; i < m; i++)
                    for (int64_t q = 0; q < AHEAD && p + q < D; q++) ahead[q * m + i] = uniforms[i * D + p + q];
            finish_unit(&w, last, p, SIGMOID, w.column);
            draw(&w, p, ahead + p % AHEAD * m, c->columns[p], x);
            finish_hidden(&w, p + 1);
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------------
 * Walks with evidence
 */

/* One variable of a block of rows on a walk. Columns of logits, and of what its levels are drawn by, are `ld` apart. */
typedef struct {
    int64_t n_levels, ld;
    const REAL *z, *share;    /* share: weight * exp(z - top_weighed) */
    const REAL *top, *sum;    /* the largest z, and the sum of exp(z - top) */
    const REAL *top_weighed;  /* the largest z of a level of positive weight */
    const double *weights;    /* of its levels, or null */
} place_t;

/* The number of levels of the variable at place v + 1. */
static int64_t n_levels_of(const net_t *net, int64_t v)
{
    const int64_t width = net->variables ? start_of(net, v + 1) - start_of(net, v) : 1;
    return width > 1 ? width : width + 1;
}

/* The columns of a place from those of its logits, for m rows. */
static void weigh(const place_t *place, int64_t m, REAL *share, REAL *top, REAL *sum, REAL *top_weighed)
{
    const int64_t ld = place->ld;
    for (int64_t i = 0; i < m; i += LANES) {
        vec most = load(place->z + i), total = splat(0), weighed = most;
        int any = 0;
        for (int64_t q = 1; q < place->n_levels; q++) most = MAX(most, load(place->z + q * ld + i));
        for (int64_t q = 0; q < place->n_levels; q++) total += vexp(load(place->z + q * ld + i) - most);
        for (int64_t q = 0; q < place->n_levels; q++)
            if (!place->weights || place->weights[q] > 0) {
                const vec z = load(place->z + q * ld + i);
                weighed = any ? MAX(weighed, z) : z;
                any = 1;
            }
        for (int64_t q = 0; q < place->n_levels; q++) {
            const REAL weight = place->weights ? (REAL)place->weights[q] : 1;
            vec e = splat(0); /* where the weight is 0, z may be larger than `weighed` */
            if (weight > 0) e = vexp(load(place->z + q * ld + i) - weighed) * splat(weight);
            store(share + q * ld + i, e);
        }
        store(top + i, most);
        store(sum + i, total);
        store(top_weighed + i, weighed);
    }
}

/* The same for the weights of row i alone. */
static void weigh_row(const place_t *place, int64_t i, REAL *share, REAL *top_weighed)
{
    const REAL *z = place->z + i;
    const int64_t ld = place->ld;
    double weighed = -INFINITY;
    for (int64_t q = 0; q < place->n_levels; q++)
        if (place->weights[q] > 0 && !((double)z[q * ld] <= weighed)) weighed = (double)z[q * ld]; /* a NaN stays */
    for (int64_t q = 0; q < place->n_levels; q++) {
        const double weight = place->weights[q];
        share[q * ld + i] = weight > 0 ? (REAL)(weight * exp((double)z[q * ld] - weighed)) : 0;
    }
    top_weighed[i] = weighed > -INFINITY ? (REAL)weighed : z[0];
}

/* The level of row i at a place, see reference.walk; log_mass grows by that of the place. */
static int32_t choose_level(const place_t *place, int64_t i, int32_t given, double u, double *log_mass)
{
    const REAL *share = place->share + i;
    const int64_t ld = place->ld, n = place->n_levels;
    const double all = (double)place->top[i] + log((double)place->sum[i]);
    if (given >= 0) {
        *log_mass += (double)place->z[given * ld + i] - all;
        return given;
    }
    double total = 0, up_to = 0;
    int64_t likeliest = 0;
    for (int64_t q = 0; q < n; q++) {
        total += (double)share[q * ld];
        if (share[q * ld] > share[likeliest * ld]) likeliest = q;
    }
    if (place->weights) *log_mass += log(total) + (double)place->top_weighed[i] - all;
    if (u < 0) return (int32_t)likeliest;
    for (int64_t q = n - 1; q > 0; q--) {
        up_to += (double)share[q * ld];
        if (u * total < up_to) return (int32_t)q;
    }
    int64_t first = 0; /* rounding may lead here, but to no level without a share */
    while (first < n - 1 && !(share[first * ld] > 0)) first++;
    return (int32_t)first;
}

/* The indicators of a level become ones of row i. */
static void put_level(walk_t *w, int64_t i, int64_t start, int64_t width, int coding, int32_t level)
{
    if (width < 2) {
        if (level == 1) put_one(w, i, start);
        return;
    }
    for (int64_t q = coding == THERMOMETER ? 0 : level; q <= level; q++) put_one(w, i, start + q);
}

static void walk(const call_t *c)
{
    const net_t *net = &c->net;
    const int64_t D = net->layers[N_IN], last = net->n_layers - 1, block = c->block, n = c->batches.n_rows;
    const int64_t V = net->variables ? net->n_variables : D, ld = (block + 15) / 16 * 16;
    const int64_t context = net->variables ? start_of(net, 0) : 0;
    int32_t *levels = c->out;
    int64_t widest = 2;
    for (int64_t v = 0; net->variables && v < V; v++)
        if (start_of(net, v + 1) - start_of(net, v) > widest) widest = start_of(net, v + 1) - start_of(net, v);
    walk_t w = {.net = net};
    for (int64_t start = 0; start < n; start += block) {
        const int64_t m = n - start < block ? n - start : block;
        double *log_mass = c->log_mass + start;
        REAL *z = begin_walk(&w, m, block, &c->scratch);
        for (int64_t i = 0; i < m; i++) {
            for (int64_t q = 0; q * 64 < context; q++) { /* the bits may go on with the variables */
                const uint64_t word = c->context[(start + i) * c->context_words + q];
                w.bits[i * w.words + q] = context - q * 64 < 64 ? word & ((1ull << (context - q * 64)) - 1) : word;
            }
            log_mass[i] = 0;
        }
        finish_hidden(&w, context);
        const double *weights = c->weights;
        for (int64_t v = 0, first = context; v < c->n_places; v++) {
            const int64_t width = net->variables ? start_of(net, v + 1) - first : 1, n_levels = n_levels_of(net, v);
            const int64_t partner = c->partners ? c->partners[v] : -1;
            const int coding = net->variables ? net->variables[v * VARIABLE_COLUMNS + CODING] : ONE_HOT;
            REAL *share = z + widest * ld, *top = share + widest * ld;
            place_t place = {n_levels, ld, z, share, top, top + ld, top + 2 * ld, partner < 0 ? weights : 0};
            memset(z, 0, n_levels * ld * sizeof(REAL)); /* of a binary variable, level 0 has the logit 0 */
            for (int64_t q = 0; q < width; q++) {
                finish_unit(&w, last, first - context + q, IDENTITY, w.column);
                memcpy(z + (q + (width == 1)) * ld, w.column, m * sizeof(REAL));
            }
            weigh(&place, m, share, top, top + ld, top + 2 * ld);
            for (int64_t i = 0; i < m; i++) {
                const int64_t at = (start + i) * V + v;
                if (partner >= 0) {
                    place.weights = weights + levels[(start + i) * V + partner] * n_levels;
                    weigh_row(&place, i, share, top + 2 * ld);
                }
                const int32_t level = choose_level(&place, i, c->given[at], c->uniforms[at], log_mass + i);
                levels[at] = level;
                put_level(&w, i, first, width, coding, level);
            }
            if (weights) weights += n_levels * (partner < 0 ? 1 : n_levels_of(net, partner));
            first += width;
            finish_hidden(&w, first);
        }
    }
}
