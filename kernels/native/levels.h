/* Variables of several levels: the softmax of their logits, its log, its gradient. Not here: the walk that draws them (walk.h).
 *
 * A variable's logits stand side by side, across panels. So LOSS_ROWS rows of logits, or as many as a vector has lanes, are
 * turned into columns, a number of each row in every lane; then each step is one operation on a whole vector, and the bits of
 * a row depend on no other.
 */

/* Units of layer l. */
static int64_t n_units(const net_t *net, int64_t l) { return net->layers[l * LAYER_COLUMNS + N_OUT]; }

/* The first indicator of the variable at place v + 1; of the number of variables, the number of indicators. */
static int64_t start_of(const net_t *net, int64_t v) { return net->variables[v * VARIABLE_COLUMNS + START]; }

/* Turn m <= LANES rows of the first n logits, which stand in panels of `rows` rows, into columns: to[j * LANES + r]. */
static void to_columns(const REAL *from, int64_t rows, int64_t m, int64_t n, REAL *to)
{
    for (int64_t j = 0; j < n; j += LANES) {
        const REAL *at = from + j / PANEL * rows * PANEL + j % PANEL;
        if (m == LANES)
            transpose(at, PANEL, to + j * LANES, LANES);
        else
            for (int64_t u = 0; u < LANES; u++)
                for (int64_t r = 0; r < LANES; r++) to[(j + u) * LANES + r] = r < m ? at[r * PANEL + u] : 0;
    }
}

/* And back, as many as panels hold. */
static void from_columns(const REAL *from, int64_t rows, int64_t m, int64_t n, REAL *to)
{
    for (int64_t j = 0; j < n; j += LANES) {
        REAL *at = to + j / PANEL * rows * PANEL + j % PANEL;
        if (m == LANES)
            transpose(from + j * LANES, LANES, at, PANEL);
        else
            for (int64_t u = 0; u < LANES; u++)
                for (int64_t r = 0; r < m; r++) at[r * PANEL + u] = from[(j + u) * LANES + r];
    }
}

/* The level that bits start .. start + width - 1 of a row tell: the last one that is set, or 0. */
static int64_t level_of(const uint64_t *bits, int64_t start, int64_t width)
{
    for (int64_t end = start + width; end > start;) { /* word by word, from the last one */
        const int64_t word = (end - 1) / 64, from = 64 * word > start ? 64 * word : start;
        const uint64_t mask = (~0ull >> (63 - (end - 1) % 64)) & (~0ull << from % 64), set = bits[word] & mask;
        if (set) return 64 * word + 63 - __builtin_clzll(set) - start;
        end = from;
    }
    return 0;
}

/* exp(z - max z) in place of `width` columns z, returns their sum in each lane, and the largest z in `top`. */
static ALWAYS_INLINE vec exponentials(REAL *z, int64_t width, vec *top)
{
    vec most = load(z), sum = splat(0);
    for (int64_t q = 1; q < width; q++) most = MAX(most, load(z + q * LANES));
    for (int64_t q = 0; q < width; q++) {
        const vec e = vexp(load(z + q * LANES) - most);
        store(z + q * LANES, e);
        sum += e;
    }
    *top = most;
    return sum;
}

/* The loss of the rows i0 .. i0 + m - 1, over the first loss->n_places variables; nll[i] is that of a row. Logits and their
 * gradient are in buffers of `rows` rows; `room` is for LANES rows of logits. */
static void levels_loss(const net_t *net, const loss_t *loss, const REAL *logits, int64_t rows, int64_t i0, int64_t m,
                        REAL *room)
{
    const int64_t n_logits = n_units(net, net->n_layers - 1), context = start_of(net, 0);
    const int64_t counted = start_of(net, loss->n_places) - context;
    for (int64_t i = i0; i < i0 + m; i += LANES) {
        const int64_t n = i0 + m - i < LANES ? i0 + m - i : LANES;
        vec scale = splat(0);
        dvec total = {0};
        for (int64_t r = 0; r < n; r++) {
            const double weight = loss->weights ? loss->weights[loss->which ? loss->which[i + r] : i + r] : 1;
            scale[r] = (REAL)(loss->scale * weight);
        }
        to_columns(logits + i * PANEL, rows, n, counted, room);
        for (int64_t v = 0; v < loss->n_places; v++) {
            const int64_t start = start_of(net, v), width = start_of(net, v + 1) - start;
            REAL *z = room + (start - context) * LANES;
            if (width == 0) continue;
            ivec level = {0};
            const uint64_t *bits = loss->bits + i * loss->words;
            if (width == 1) {
                vec nll, gradient;
                for (int64_t r = 0; r < n; r++) level[r] = -(INT)(bits[r * loss->words + start / 64] >> start % 64 & 1);
                bernoulli(load(z), level, &nll, &gradient);
                total += widen(nll);
                store(z, gradient * scale);
                continue;
            }
            for (int64_t r = 0; r < n; r++) level[r] = (INT)level_of(bits + r * loss->words, start, width);
            vec chosen = splat(0), top;
            for (int64_t q = 0; q < width; q++) {
                const ivec mine = level == (INT)q;
                chosen = (vec)((ivec)chosen | ((ivec)load(z + q * LANES) & mine));
            }
            const vec sum = exponentials(z, width, &top);
            total += widen(vlog(sum)) + (widen(top) - widen(chosen));
            if (!loss->dz) continue;
            const vec share = splat(1) / sum;
            for (int64_t q = 0; q < width; q++) {
                const vec is = (vec)((level == (INT)q) & (ivec)splat(1));
                store(z + q * LANES, (load(z + q * LANES) * share - is) * scale);
            }
        }
        for (int64_t r = 0; r < n; r++) loss->nll[i + r] = total[r];
        if (!loss->dz) continue;
        memset(room + counted * LANES, 0, (PADDED(n_logits) - counted) * LANES * sizeof(REAL));
        from_columns(room, rows, n, PADDED(n_logits), loss->dz + i * PANEL);
    }
}

/* Logits become probabilities, in place: of each level, or of a 1. For rows 0 .. m - 1 of buffers of `rows` rows. */
static void levels_proba(const net_t *net, REAL *logits, int64_t rows, int64_t m, REAL *room)
{
    const int64_t n_logits = n_units(net, net->n_layers - 1), context = start_of(net, 0);
    for (int64_t i = 0; i < m; i += LANES) {
        const int64_t n = m - i < LANES ? m - i : LANES;
        to_columns(logits + i * PANEL, rows, n, n_logits, room);
        for (int64_t v = 0; v < net->n_variables; v++) {
            const int64_t start = start_of(net, v), width = start_of(net, v + 1) - start;
            REAL *z = room + (start - context) * LANES;
            vec top;
            if (width == 1) store(z, vsigmoid(load(z)));
            if (width < 2) continue;
            const vec share = splat(1) / exponentials(z, width, &top);
            for (int64_t q = 0; q < width; q++) store(z + q * LANES, load(z + q * LANES) * share);
        }
        from_columns(room, rows, n, PADDED(n_logits), logits + i * PANEL);
    }
}
