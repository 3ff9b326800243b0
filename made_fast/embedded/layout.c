/* The staircase of a mask and the tables of its network, as Python's `network/masks.py` and `kernels/layout.py` make them. */

#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum { STRIDE = 16 };

static int64_t padded(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

/* Units of layer l of the chain, which ends with the outputs. */
static int64_t n_out_of(const member_t *member, int64_t l) { return l < member->L ? member->sizes[l] : member->D; }

static int64_t n_in_of(const member_t *member, int64_t l) { return l && l <= member->L ? member->sizes[l - 1] : member->D; }

static int has_direct(const member_t *member, int64_t l)
{
    return l > 0 && (member->direct == DIRECT_ALL || (member->direct == DIRECT_OUTPUT && l == member->L));
}

/* The layer of the chain that each row of the table of layers adds to: itself, or that which direct connections lead to;
 * returns how many rows there are. */
static int64_t rows_of(const member_t *member, int64_t fed[2 * MAX_LAYERS])
{
    int64_t n = 0;
    for (int64_t l = 0; l <= member->L; l++) fed[n++] = l;
    for (int64_t l = 0; l <= member->L; l++)
        if (has_direct(member, l)) fed[n++] = l;
    return n;
}

int64_t mf_n_packed(const member_t *member)
{
    int64_t fed[2 * MAX_LAYERS], n = 0;
    const int64_t n_rows = rows_of(member, fed);
    for (int64_t r = 0; r < n_rows; r++)
        n += padded(n_out_of(member, fed[r])) * ((r <= member->L ? n_in_of(member, r) : member->D) + 1);
    return n;
}

/* Fill in a table of where shared parameters stand, and return their number. */
static int64_t shared_table(const member_t *member, int64_t *table)
{
    int64_t fed[2 * MAX_LAYERS], order[MAX_LAYERS + 1] = {0}, n = 0;
    const int64_t n_rows = rows_of(member, fed);
    for (int64_t l = 0; l <= member->L; l++) order[l + 1] = order[l] + n_in_of(member, l);
    order[member->L + 1] = 0; /* the outputs have the order of the inputs */
    for (int64_t r = 0; r < n_rows; r++) {
        const int in_chain = r <= member->L, has_u = in_chain && member->connectivity_weights;
        const int64_t n_in = in_chain ? n_in_of(member, r) : member->D;
        const int64_t stride = (n_out_of(member, fed[r]) + STRIDE - 1) / STRIDE * STRIDE, weights = n_in * stride;
        int64_t row[SHARED_COLUMNS] = {-1, -1, -1, -1, -1, -1};
        row[SHARED_WEIGHTS] = n;
        row[ROW] = stride;
        if (in_chain) row[SHARED_BIAS] = n + weights;
        if (has_u) row[SHARED_U] = n + weights + stride;
        row[IN_ORDER] = in_chain ? order[r] : 0;
        row[OUT_ORDER] = order[fed[r] + 1];
        n += weights + (in_chain ? stride : 0) + (has_u ? weights : 0);
        if (table) memcpy(table + r * SHARED_COLUMNS, row, sizeof(row));
    }
    return n;
}

int64_t mf_n_shared(const member_t *member) { return shared_table(member, 0); }

/* Sort the n units of a layer by degree, stable: their numbers to `sorted`, their degrees to `above`. up_to[m] becomes how
 * many are of degree m at most, for m in 0 .. D. */
static void sort_units(const int32_t *degrees, int64_t n, int64_t D, int32_t *sorted, int32_t *above, int32_t *up_to)
{
    memset(up_to, 0, (size_t)(D + 1) * sizeof(int32_t));
    for (int64_t k = 0; k < n; k++) up_to[degrees[k]]++;
    for (int64_t m = 1; m <= D; m++) up_to[m] += up_to[m - 1];
    for (int64_t k = n - 1; k >= 0; k--) {
        const int32_t at = --up_to[degrees[k]];
        sorted[at] = (int32_t)k;
        above[at] = degrees[k];
    }
    for (int64_t m = 0; m < D; m++) up_to[m] = up_to[m + 1]; /* each was lowered to where its degree begins */
    up_to[D] = (int32_t)n;
}

/* The live counts of all rows of the table: n_live[j], for the true units, of layers from the first one on. */
static void stairs(const member_t *member, int64_t mask, network_t *network, int32_t *n_live, int32_t *up_to)
{
    const int64_t D = member->D, L = member->L;
    const int64_t *layers = network->layers;
    int32_t *sorted = network->sorted + D;
    for (int64_t l = 0; l <= L; l++) {
        int32_t *live = n_live + layers[l * LAYER_COLUMNS + UNITS];
        const int64_t direct = layers[l * LAYER_COLUMNS + DIRECT];
        if (l < L) {
            const int64_t n = member->sizes[l];
            int32_t *above = direct ? n_live + layers[direct * LAYER_COLUMNS + UNITS] : live, *own = up_to + l % 2 * (D + 1);
            sort_units(member->degrees[l] + mask * n, n, D, sorted, above, own);
            const int32_t *below = up_to + (l + 1) % 2 * (D + 1);               /* of the layer below */
            for (int64_t j = 0; j < n && l > 0; j++) live[j] = below[above[j]]; /* one of degree m sees those of at most m */
            sorted += n;
        } else { /* the output at place p + 1 sees what is of degree at most p */
            const int32_t *below = up_to + (l + 1) % 2 * (D + 1);
            for (int64_t p = 0; p < D; p++) live[p] = L ? below[p] : (int32_t)p;
            if (direct)
                for (int64_t p = 0; p < D; p++) n_live[layers[direct * LAYER_COLUMNS + UNITS] + p] = (int32_t)p;
        }
    }
}

/* Sizes, and where units and panels begin. */
static void size_rows(const member_t *member, network_t *network, int64_t n_rows, const int64_t *fed)
{
    int64_t units = 0, panels = 0;
    network->n_biases = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t *row = network->layers + r * LAYER_COLUMNS;
        const int in_chain = r <= member->L;
        row[N_IN] = in_chain ? n_in_of(member, r) : member->D;
        row[N_OUT] = n_out_of(member, fed[r]);
        row[N_PANELS] = padded(row[N_OUT]) / PANEL;
        row[UNITS] = units;
        row[PANELS] = panels;
        row[ACTIVATION] = r < member->L ? member->activation : IDENTITY;
        row[DIRECT] = in_chain ? 0 : -1;
        if (!in_chain) network->layers[fed[r] * LAYER_COLUMNS + DIRECT] = r;
        units += row[N_PANELS] * PANEL;
        panels += row[N_PANELS];
        if (in_chain) network->n_biases += row[N_PANELS] * PANEL;
    }
}

/* Fill up panels, and say where each begins in theta; returns the length of theta. */
static int64_t place_panels(network_t *network, int32_t *n_live, int64_t *panel_start, int64_t n_rows)
{
    int64_t at = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t *row = network->layers + r * LAYER_COLUMNS;
        int32_t *live = n_live + row[UNITS];
        for (int64_t j = row[N_OUT]; j < row[N_PANELS] * PANEL; j++) live[j] = live[row[N_OUT] - 1];
        row[WEIGHTS] = at;
        for (int64_t p = 0; p < row[N_PANELS]; p++) {
            panel_start[row[PANELS] + p] = at;
            at += (int64_t)PANEL * live[p * PANEL + PANEL - 1];
        }
        row[BIAS] = at;
        at += row[N_PANELS] * PANEL;
    }
    return at;
}

int mf_network_tables(const member_t *member, int64_t mask, network_t *network)
{
    const int64_t D = member->D;
    int64_t fed[2 * MAX_LAYERS], n_units = 0, n_hidden = 0;
    const int64_t n_rows = rows_of(member, fed);
    for (int64_t r = 0; r < n_rows; r++) n_units += padded(n_out_of(member, fed[r]));
    for (int64_t l = 0; l < member->L; l++) n_hidden += member->sizes[l];
    /* One piece of memory: int64s, then int32s; the last of them are needed here only. */
    const int64_t n_wide = n_rows * (LAYER_COLUMNS + SHARED_COLUMNS) + n_units / PANEL + D;
    const int64_t n_narrow = n_units + D + n_hidden + 2 * (D + 1);
    *network = (network_t){.n_bytes = 8 * n_wide + 4 * n_narrow, .n_reals = n_units};
    int64_t *wide = malloc((size_t)network->n_bytes);
    if (!wide) return 1;
    int32_t *n_live = (int32_t *)(wide + n_wide);
    network->layers = wide;
    network->shared_layout = wide + n_rows * LAYER_COLUMNS;
    int64_t *panel_start = network->shared_layout + n_rows * SHARED_COLUMNS;
    network->order = panel_start + n_units / PANEL;
    network->sorted = n_live + n_units;
    const int32_t *ordering = member->ordering + mask * D;
    for (int64_t d = 0; d < D; d++) {
        network->order[ordering[d] - 1] = d;
        network->sorted[ordering[d] - 1] = (int32_t)d;
    }
    size_rows(member, network, n_rows, fed);
    shared_table(member, network->shared_layout);
    stairs(member, mask, network, n_live, network->sorted + D + n_hidden);
    network->n_theta = place_panels(network, n_live, panel_start, n_rows);
    network->net = (net_t){
        .layers = network->layers, .n_live = n_live, .panel_start = panel_start, .n_layers = member->L + 1, .n_rows = n_rows};
    return 0;
}

void mf_network_free(network_t *network)
{
    free(network->layers);
    free(network->theta);
    *network = (network_t){0};
}
