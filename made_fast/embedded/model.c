/* The public functions: open and close, scores, conditionals, draws; as Python's `MADEModel`, `LatentModel`, `MixtureModel` answer.
 *
 * A member has parts, which are mixed in equal parts: a network under each mask, or at each point of a latent mixture. Those of
 * shared parameters are packed when the model is opened, as many as KEPT_BYTES hold; others are packed anew in every call. After
 * that a model never changes, but for `spare`, the workspace of the last call, which the next one takes.
 */

#include "internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 96, MASKS_AT_ONCE = 32, KEPT_BYTES = 64 << 20, MOST_SPARE = 8 << 20, PROBES = 16 };

#define LOG_2 0.693147180559945309417232121458176568

typedef struct {
    size_t n_bytes;
    unsigned char fill_up[64 - sizeof(size_t)];
    unsigned char memory[]; /* on a 64-byte boundary */
} room_t;

struct made_fast_model {
    file_t file;
    content_t content;
    level_t level;
    network_t **networks; /* of each member */
    size_t *n_kept;       /* how many: of one mask 1, which all points share */
    room_t *spare;        /* or null; taken and given back by an atomic exchange */
};

/* ---- Workspaces ---- */

static room_t *take_room(const made_fast_model_t *model, size_t n_bytes)
{
    room_t *room = __atomic_exchange_n(&((made_fast_model_t *)model)->spare, (room_t *)0, __ATOMIC_ACQUIRE);
    if (room && room->n_bytes >= n_bytes) return room;
    free(room);
    if ((room = mf_aligned(sizeof(*room) + n_bytes))) room->n_bytes = n_bytes;
    return room;
}

static void give_room(const made_fast_model_t *model, room_t *room)
{
    if (room && room->n_bytes <= MOST_SPARE) room = __atomic_exchange_n(&((made_fast_model_t *)model)->spare, room, __ATOMIC_ACQ_REL);
    free(room);
}

/* The workspace of a network and a block of rows, cut into what each step needs. */
typedef struct {
    void *reals;
    int32_t *ints, *place;
    uint64_t *bits;
    uint8_t *rows; /* (block, D) */
    double *wide;  /* (block, D): uniforms, or conditionals of either type */
    int64_t *plain; /* 0, 1, .. D - 1 */
} cut_t;

static size_t cut_room(unsigned char *memory, const member_t *member, int64_t n_reals, int64_t n_rows, int64_t block, cut_t *cut)
{
    const int64_t D = member->D, words = (D + 63) / 64, rows = (block + 15) / 16 * 16;
    const int64_t reals = rows + block * (words * 64 + n_reals + 16); /* enough for scores and for draws, see layout.py */
    const int64_t sizes[] = {reals * member->real_bytes, 4 * block * (D + 1 + n_rows), 4 * D, 8 * block * words, block * D, 8 * block * D, 8 * D};
    size_t at = 0;
    unsigned char *parts[7];
    for (int i = 0; i < 7; i++) {
        parts[i] = memory ? memory + at : 0;
        at += ((size_t)sizes[i] + 63) / 64 * 64;
    }
    *cut = (cut_t){parts[0], (int32_t *)parts[1], (int32_t *)parts[2], (uint64_t *)parts[3], parts[4], (double *)parts[5], (int64_t *)parts[6]};
    return at;
}

/* ---- Networks ---- */

/* A part of a member, ready for a call. */
typedef struct {
    const made_fast_model_t *model;
    const member_t *member;
    const kernels_t *kernels;
    net_t net;
    const int64_t *order;
    int64_t n_reals;
    int overflows;
    network_t own; /* packed for this call */
    int64_t layers[2 * MAX_LAYERS * LAYER_COLUMNS]; /* of a point */
} part_t;

static size_t n_parts(const member_t *member) { return (size_t)(member->n_points > 1 ? member->n_points : member->n_masks); }

static const kernels_t *kernels_of(const made_fast_model_t *model, const member_t *member)
{
    return member->real_bytes == 4 ? model->level.of_float : model->level.of_double;
}

static void score_bits(const part_t *part, const cut_t *cut, int64_t n, double *log_p)
{
    const int64_t D = part->member->D, words = (D + 63) / 64;
    int64_t ones = 0;
    for (int64_t i = 0; i < n * words; i++) ones += __builtin_popcountll(cut->bits[i]);
    call_t call = {.real_bytes = part->member->real_bytes, .net = part->net, .n_places = D, .block = n, .out = log_p};
    call.batches = (batches_t){.bits = cut->bits, .words = words, .n_rows = n, .sparse = 3 * ones < n * D};
    call.scratch = (scratch_t){.reals = cut->reals, .ints = cut->ints};
    made_fast_call(part->kernels->score, &call);
}

static int are_finite(const double *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(values[i])) return 0;
    return 1;
}

/* Whether some random rows have scores that are not finite: infinite logits look like certainty. 1: there is no memory. */
static int probe(part_t *part)
{
    const int64_t D = part->member->D, words = (D + 63) / 64;
    random_t random;
    double log_p[2 * PROBES];
    cut_t cut;
    const size_t n_bytes = cut_room(0, part->member, part->n_reals, part->net.n_rows, 2 * PROBES, &cut);
    room_t *room = take_room(part->model, n_bytes);
    if (!room) return 1;
    cut_room(room->memory, part->member, part->n_reals, part->net.n_rows, 2 * PROBES, &cut);
    mf_random_seed(&random, 0); /* default_rng(0).integers(0, 2, (PROBES, D), np.uint8), and the opposites of these rows */
    memset(cut.bits, 0, (size_t)(2 * PROBES * words) * sizeof(uint64_t));
    uint32_t bytes = 0;
    for (int64_t i = 0, k = 0; i < PROBES; i++)
        for (int64_t p = 0; p < D; p++, k++) {
            bytes = k % 4 ? bytes >> 8 : mf_random_32(&random);
            cut.bits[(bytes >> 7 & 1 ? i : PROBES + i) * words + p / 64] |= 1ull << p % 64;
        }
    score_bits(part, &cut, 2 * PROBES, log_p);
    part->overflows = !are_finite(log_p, 2 * PROBES);
    give_room(part->model, room);
    return 0;
}

/* Pack shared parameters for a mask. 1: there is no memory. */
static int pack(const made_fast_model_t *model, const member_t *member, int64_t mask, network_t *network)
{
    if (mf_network_tables(member, mask, network)) return 1;
    const size_t n_bytes = (size_t)network->n_theta * (size_t)member->real_bytes;
    if (!(network->theta = mf_aligned(n_bytes))) {
        mf_network_free(network);
        return 1;
    }
    network->net.theta = network->theta;
    network->n_bytes += (int64_t)n_bytes;
    call_t call = {.real_bytes = member->real_bytes, .net = network->net};
    call.shared = (shared_t){(void *)member->values, network->shared_layout, network->sorted};
    made_fast_call(kernels_of(model, member)->pack, &call);
    return 0;
}

static int begin(const made_fast_model_t *model, size_t m, size_t k, part_t *part, made_fast_error_t *error)
{
    const member_t *member = model->content.members + m;
    const int alone = !member->is_shared;
    network_t *network = k < model->n_kept[m] ? model->networks[m] + k : alone ? model->networks[m] : &part->own;
    part->model = model;
    part->member = member;
    part->kernels = kernels_of(model, member);
    part->own = (network_t){0};
    if (network == &part->own && pack(model, member, (int64_t)k, network)) return mf_no_memory(error);
    part->net = network->net;
    part->order = network->order;
    part->n_reals = network->n_reals;
    part->overflows = network->overflows;
    if (member->n_points > 1) { /* its biases stand in the table of the point */
        int64_t at = network->n_theta + (int64_t)k * network->n_biases;
        memcpy(part->layers, network->layers, (size_t)(part->net.n_rows * LAYER_COLUMNS) * sizeof(int64_t));
        for (int64_t l = 0; l < part->net.n_layers; at += part->layers[l * LAYER_COLUMNS + N_PANELS] * PANEL, l++)
            part->layers[l * LAYER_COLUMNS + BIAS] = at;
        part->net.layers = part->layers;
    }
    if (member->guarded && (network == &part->own || member->n_points > 1) && probe(part)) {
        mf_network_free(&part->own);
        return mf_no_memory(error);
    }
    return 0;
}

static int end(part_t *part, int failed)
{
    if (part->own.layers) mf_network_free(&part->own);
    return failed;
}

/* Make the networks that a model keeps. */
static int keep_networks(made_fast_model_t *model, made_fast_error_t *error)
{
    const size_t M = model->content.n_members;
    int64_t n_bytes = 0;
    model->networks = calloc(M, sizeof(*model->networks));
    model->n_kept = calloc(M, sizeof(*model->n_kept));
    if (!model->networks || !model->n_kept) return mf_no_memory(error);
    for (size_t m = 0; m < M; m++) {
        const member_t *member = model->content.members + m;
        const size_t n = member->is_shared ? (size_t)member->n_masks : 1;
        if (!(model->networks[m] = calloc(n, sizeof(network_t)))) return mf_no_memory(error);
        for (size_t k = 0; k < n && n_bytes < KEPT_BYTES; k++) {
            network_t *network = model->networks[m] + k;
            if (member->is_shared ? pack(model, member, (int64_t)k, network) : mf_network_tables(member, 0, network)) return mf_no_memory(error);
            if (!member->is_shared) network->net.theta = (void *)member->values;
            n_bytes += member->is_shared ? network->n_bytes : 0;
            model->n_kept[m] = k + 1;
            part_t part;
            if (!member->guarded || member->n_points > 1) continue;
            if (begin(model, m, k, &part, error)) return 1;
            if (probe(&part)) return mf_no_memory(error);
            network->overflows = part.overflows;
        }
    }
    return 0;
}

/* ---- Opening ---- */

static int choose_level(made_fast_model_t *model, made_fast_error_t *error)
{
    level_t levels[4];
    const int n = made_fast_levels(levels);
    const char *wanted = getenv("MADE_FAST_CPU");
    int i = 0;
    while (wanted && *wanted && i < n && strcmp(levels[i].name, wanted) != 0) i++;
    if (i == n) return mf_fail(error, MADE_FAST_BAD_ARGUMENT, "CPU level must be one that this machine runs, got '%.60s'. Unset MADE_FAST_CPU.", wanted);
    model->level = levels[i];
    return 0;
}

/* A model of the file that `read` takes in. */
static made_fast_model_t *opened(const char *path, const void *bytes, size_t n_bytes, int map, made_fast_error_t *error)
{
    made_fast_error_t own;
    made_fast_model_t *model = calloc(1, sizeof(*model));
    own.status = MADE_FAST_OK;
    own.text[0] = 0;
    int failed = !model;
    if (failed)
        mf_no_memory(&own);
    else if (!path && !bytes)
        failed = mf_fail(&own, MADE_FAST_BAD_ARGUMENT, "it must be the path or the content of a model file, got a null pointer.");
    else
        failed = choose_level(model, &own) || (path ? mf_file_read(&model->file, path, map, &own) : mf_file_copy(&model->file, bytes, n_bytes, &own)) ||
                 mf_decode(&model->file, &model->content, &own) || keep_networks(model, &own);
    if (failed) {
        made_fast_close(model);
        model = 0;
    }
    if (!error) return model;
    if (failed)
        mf_fail(error, own.status, "%.200s: %s", path ? path : "bytes", own.text);
    else
        *error = own;
    return model;
}

made_fast_model_t *made_fast_open(const char *path, made_fast_error_t *error) { return opened(path, 0, 0, 0, error); }

made_fast_model_t *made_fast_map(const char *path, made_fast_error_t *error) { return opened(path, 0, 0, 1, error); }

made_fast_model_t *made_fast_open_bytes(const void *bytes, size_t n_bytes, made_fast_error_t *error)
{
    return opened(0, bytes, n_bytes, 0, error);
}

void made_fast_close(made_fast_model_t *model)
{
    if (!model) return;
    for (size_t m = 0; model->networks && m < model->content.n_members; m++) {
        for (size_t k = 0; model->networks[m] && k < model->n_kept[m]; k++) mf_network_free(model->networks[m] + k);
        free(model->networks[m]);
    }
    free(model->networks);
    free(model->n_kept);
    free(model->spare);
    mf_content_free(&model->content);
    mf_file_free(&model->file);
    free(model);
}

size_t made_fast_n_inputs(const made_fast_model_t *model) { return model ? (size_t)model->content.members->D : 0; }

size_t made_fast_n_networks(const made_fast_model_t *model)
{
    size_t n = 0;
    for (size_t m = 0; model && m < model->content.n_members; m++) n += n_parts(model->content.members + m);
    return n;
}

const char *made_fast_column_name(const made_fast_model_t *model, size_t d)
{
    return model && model->content.names && d < made_fast_n_inputs(model) ? model->content.names[d] : 0;
}

int made_fast_has_threshold(const made_fast_model_t *model, double *threshold)
{
    if (!model || !model->content.members->has_threshold) return 0;
    if (threshold) *threshold = model->content.members->threshold;
    return 1;
}

const char *made_fast_cpu(const made_fast_model_t *model) { return model ? model->level.name : 0; }

/* ---- Scores ---- */

static int wrong_value(const uint8_t *rows, size_t n, size_t D, size_t first, made_fast_error_t *error)
{
    for (size_t i = 0; i < n * D; i++)
        if (rows[i] > 1)
            return mf_fail(error, MADE_FAST_BAD_VALUE, "rows must hold only 0 and 1, got %d at row %zu, column %zu (counted from 0).", rows[i], first + i / D, i % D);
    return 1;
}

static int overflow(const char *what, made_fast_error_t *error)
{
    return mf_fail(error, MADE_FAST_OVERFLOW, "the model's weights are so large that arithmetic overflows: %s must be finite. Train it again with a smaller "
                                              "learning_rate or clip_norm, or with dtype='float64'.", what);
}

/* Pack n rows in order of place. */
static int pack_rows(const part_t *part, const cut_t *cut, const uint8_t *rows, size_t n, size_t first, made_fast_error_t *error)
{
    const member_t *member = part->member;
    const size_t D = (size_t)member->D;
    const uint8_t *from = rows;
    if (member->has_threshold) {
        for (size_t i = 0; i < n * D; i++) cut->rows[i] = rows[i] > member->threshold;
        from = cut->rows;
    }
    if (made_fast_pack_bits(from, (int64_t)n, member->D, part->order, cut->place, cut->bits) <= 1) return 0;
    return wrong_value(rows, n, D, first, error);
}

static int score_part(const part_t *part, const uint8_t *rows, size_t n, double *log_p, made_fast_error_t *error)
{
    const member_t *member = part->member;
    const size_t D = (size_t)member->D, block = n < BLOCK ? n : BLOCK;
    cut_t cut;
    if (member->guarded && part->overflows) return overflow("log p", error);
    room_t *room = take_room(part->model, cut_room(0, member, part->n_reals, part->net.n_rows, (int64_t)block, &cut));
    if (!room) return mf_no_memory(error);
    cut_room(room->memory, member, part->n_reals, part->net.n_rows, (int64_t)block, &cut);
    int failed = 0;
    for (size_t i = 0; i < n && !failed; i += block) {
        const size_t m = n - i < block ? n - i : block;
        failed = pack_rows(part, &cut, rows + i * D, m, i, error);
        if (!failed) score_bits(part, &cut, (int64_t)m, log_p + i);
    }
    give_room(part->model, room);
    return failed || (member->guarded && !are_finite(log_p, (int64_t)n) && overflow("log p", error));
}

/* log(exp(a) + exp(b)), as numpy.logaddexp computes it. */
static double log_add(double a, double b)
{
    if (a == b) return a + LOG_2;
    const double difference = a - b;
    if (difference > 0) return a + log1p(exp(-difference));
    return difference <= 0 ? b + log1p(exp(difference)) : difference;
}

/* Of one member; `room` is for 2 n numbers, if it has several parts. */
static int score_member(const made_fast_model_t *model, size_t m, const uint8_t *rows, size_t n, double *room, double *log_p, made_fast_error_t *error)
{
    const member_t *member = model->content.members + m;
    const size_t parts = n_parts(member);
    const int64_t fit = KEPT_BYTES / (mf_n_packed(member) * member->real_bytes);
    const size_t at_once = fit < 1 ? 1 : fit < MASKS_AT_ONCE ? (size_t)fit : MASKS_AT_ONCE; /* sums are taken as Python takes them */
    double *group = room, *one = room + n;
    part_t part;
    for (size_t i = 0; parts > 1 && i < n; i++) log_p[i] = -INFINITY;
    for (size_t k = 0; k < parts; k++) {
        double *to = parts == 1 ? log_p : k % at_once ? one : group;
        if (begin(model, m, k, &part, error) || end(&part, score_part(&part, rows, n, to, error))) return 1;
        if (parts == 1) return 0;
        for (size_t i = 0; to == one && i < n; i++) group[i] = log_add(group[i], one[i]);
        if ((k + 1) % at_once && k + 1 < parts) continue;
        for (size_t i = 0; i < n; i++) log_p[i] = log_add(log_p[i], group[i]);
    }
    const double share = log((double)parts);
    for (size_t i = 0; i < n; i++) log_p[i] -= share;
    return 0;
}

static int start_call(const made_fast_model_t *model, const void *a, const void *b, size_t n_columns, made_fast_error_t *error)
{
    if (error) {
        error->status = MADE_FAST_OK;
        error->text[0] = 0;
    }
    if (!model || !a || !b) return mf_fail(error, MADE_FAST_BAD_ARGUMENT, "the model and the arrays must be there, got a null pointer.");
    if (n_columns == made_fast_n_inputs(model)) return 0;
    return mf_fail(error, MADE_FAST_BAD_ARGUMENT, "rows must have the model's %zu columns, got %zu.", made_fast_n_inputs(model), n_columns);
}

/* The status to return; it is known to a caller without an error, too. */
static int status(int failed, const made_fast_error_t *error) { return failed ? error->status : MADE_FAST_OK; }

int made_fast_score(const made_fast_model_t *model, const uint8_t *rows, size_t n_rows, size_t n_columns, double *log_p, made_fast_error_t *error)
{
    made_fast_error_t own;
    error = error ? error : &own;
    if (start_call(model, rows, log_p, n_columns, error)) return error->status;
    const content_t *content = &model->content;
    double *room = 0, *of_member = log_p;
    if (n_rows == 0) return MADE_FAST_OK;
    if (made_fast_n_networks(model) > 1) {
        if (n_rows > SIZE_MAX / 32 || !(room = malloc(3 * n_rows * sizeof(double)))) return status(mf_no_memory(error), error);
        if (content->weights) of_member = room + 2 * n_rows;
    }
    int failed = 0;
    if (!content->weights || !room) /* a mixture of one is that one, to the bit */
        failed = score_member(model, 0, rows, n_rows, room, log_p, error);
    else {
        for (size_t i = 0; i < n_rows; i++) log_p[i] = -INFINITY;
        for (size_t m = 0; m < content->n_members && !failed; m++) {
            failed = score_member(model, m, rows, n_rows, room, of_member, error);
            const double log_w = log(content->weights[m]);
            for (size_t i = 0; i < n_rows && !failed; i++) log_p[i] = log_add(log_p[i], log_w + of_member[i]);
        }
    }
    free(room);
    return status(failed, error);
}

/* ---- Conditionals ---- */

static int conditionals_part(const part_t *part, const uint8_t *rows, size_t n, double *proba, made_fast_error_t *error)
{
    const member_t *member = part->member;
    const size_t D = (size_t)member->D, block = n < BLOCK ? n : BLOCK;
    cut_t cut;
    if (member->guarded && part->overflows) return overflow("probabilities", error);
    room_t *room = take_room(part->model, cut_room(0, member, part->n_reals, part->net.n_rows, (int64_t)block, &cut));
    if (!room) return mf_no_memory(error);
    cut_room(room->memory, member, part->n_reals, part->net.n_rows, (int64_t)block, &cut);
    int failed = 0;
    for (size_t i = 0; i < n && !failed; i += block) {
        const size_t m = n - i < block ? n - i : block;
        if ((failed = pack_rows(part, &cut, rows + i * D, m, i, error))) break;
        call_t call = {.real_bytes = member->real_bytes, .net = part->net, .block = (int64_t)m, .out = cut.wide};
        call.batches = (batches_t){.bits = cut.bits, .words = (member->D + 63) / 64, .n_rows = (int64_t)m, .sparse = 1};
        call.scratch = (scratch_t){.reals = cut.reals, .ints = cut.ints};
        made_fast_call(part->kernels->conditionals, &call);
        for (size_t r = 0; r < m; r++)
            for (size_t p = 0; p < D; p++) {
                const double found = member->real_bytes == 4 ? (double)((const float *)cut.wide)[r * D + p] : cut.wide[r * D + p];
                if (isnan(found)) failed = overflow("probabilities", error);
                proba[(i + r) * D + (size_t)part->order[p]] = found;
            }
    }
    give_room(part->model, room);
    return failed;
}

int made_fast_conditionals(const made_fast_model_t *model, const uint8_t *rows, size_t n_rows, size_t n_columns, double *proba, made_fast_error_t *error)
{
    made_fast_error_t own;
    part_t part;
    error = error ? error : &own;
    if (start_call(model, rows, proba, n_columns, error)) return error->status;
    if (made_fast_n_networks(model) > 1)
        return status(mf_fail(error, MADE_FAST_UNSUPPORTED, "conditionals need a model of one network, which has one ordering, got %zu. Use Python.",
                              made_fast_n_networks(model)), error);
    if (n_rows == 0) return MADE_FAST_OK;
    return status(begin(model, 0, 0, &part, error) || end(&part, conditionals_part(&part, rows, n_rows, proba, error)), error);
}

/* ---- Draws ---- */

/* Draw n rows from a part; row i goes to to[rows[i]], or, without rows, to to[i]. */
static int draw_part(const part_t *part, random_t *random, const size_t *rows, size_t n, uint8_t *to, made_fast_error_t *error)
{
    const member_t *member = part->member;
    const size_t D = (size_t)member->D, block = n < BLOCK ? n : BLOCK;
    double log_p[BLOCK];
    cut_t cut;
    room_t *room = take_room(part->model, cut_room(0, member, part->n_reals, part->net.n_rows, (int64_t)block, &cut));
    if (!room) return mf_no_memory(error);
    cut_room(room->memory, member, part->n_reals, part->net.n_rows, (int64_t)block, &cut);
    for (size_t p = 0; p < D; p++) cut.plain[p] = (int64_t)p;
    int failed = 0;
    for (size_t i = 0; i < n && !failed; i += block) {
        const size_t m = n - i < block ? n - i : block;
        for (size_t j = 0; j < m * D; j++) cut.wide[j] = mf_random_uniform(random);
        call_t call = {.real_bytes = member->real_bytes, .net = part->net, .block = (int64_t)m, .uniforms = cut.wide, .out = cut.rows};
        call.batches.n_rows = (int64_t)m;
        call.scratch = (scratch_t){.reals = cut.reals, .ints = cut.ints};
        made_fast_call(part->kernels->sample, &call);
        for (size_t r = 0; r < m; r++) {
            uint8_t *row = to + (rows ? rows[i + r] : i + r) * D;
            for (size_t p = 0; p < D; p++) row[part->order[p]] = cut.rows[r * D + p];
        }
        if (!member->guarded) continue;
        made_fast_pack_bits(cut.rows, (int64_t)m, member->D, cut.plain, cut.place, cut.bits); /* a comparison with NaN has left no trace */
        score_bits(part, &cut, (int64_t)m, log_p);
        if (part->overflows || !are_finite(log_p, (int64_t)m)) failed = overflow("log p", error);
    }
    give_room(part->model, room);
    return failed;
}

/* The n rows of `chosen`, a number for each, for which that is k; `kept` says which rows these are of the caller's. */
static size_t rows_for(const uint32_t *chosen, size_t n, size_t k, const size_t *rows, size_t *kept)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        if (chosen[i] == k) kept[found++] = rows ? rows[i] : i;
    return found;
}

/* Draw from a member, each row from a part that is drawn for it. `chosen` and `kept` are room for n numbers. */
static int draw_member(const made_fast_model_t *model, size_t m, random_t *random, const size_t *rows, size_t n, uint32_t *chosen, size_t *kept,
                       uint8_t *to, made_fast_error_t *error)
{
    const size_t parts = n_parts(model->content.members + m);
    part_t part;
    for (size_t i = 0; parts > 1 && i < n; i++) chosen[i] = mf_random_below(random, (uint32_t)parts);
    for (size_t k = 0; k < parts; k++) {
        const size_t found = parts > 1 ? rows_for(chosen, n, k, rows, kept) : n;
        if (!found) continue;
        if (begin(model, m, k, &part, error) || end(&part, draw_part(&part, random, parts > 1 ? kept : rows, found, to, error))) return 1;
    }
    return 0;
}

/* Draw from a mixture, each row from a member that is drawn for it by weight. */
static int draw_mixture(const made_fast_model_t *model, random_t *random, size_t n, uint32_t *chosen, size_t *kept, uint8_t *to, made_fast_error_t *error)
{
    const content_t *content = &model->content;
    for (size_t i = 0; i < n; i++) {
        const double u = mf_random_uniform(random);
        double up_to = 0;
        chosen[i] = 0;
        for (size_t m = 0; m + 1 < content->n_members; m++) {
            up_to += content->weights[m];
            chosen[i] += u >= up_to;
        }
    }
    for (size_t m = 0; m < content->n_members; m++) {
        const size_t found = rows_for(chosen, n, m, 0, kept);
        if (found && draw_member(model, m, random, kept, found, chosen + n, kept + n, to, error)) return 1;
    }
    return 0;
}

int made_fast_sample(const made_fast_model_t *model, size_t n_rows, size_t n_columns, uint64_t seed, uint8_t *rows, made_fast_error_t *error)
{
    made_fast_error_t own;
    random_t random;
    error = error ? error : &own;
    if (start_call(model, rows, rows, n_columns, error)) return error->status;
    if (n_rows == 0) return MADE_FAST_OK;
    if (n_rows > SIZE_MAX / 32) return status(mf_no_memory(error), error);
    size_t *kept = malloc(2 * n_rows * sizeof(size_t));
    uint32_t *chosen = malloc(2 * n_rows * sizeof(uint32_t));
    int failed;
    mf_random_seed(&random, seed);
    if (!kept || !chosen)
        failed = mf_no_memory(error);
    else if (model->content.weights)
        failed = draw_mixture(model, &random, n_rows, chosen, kept, rows, error);
    else
        failed = draw_member(model, 0, &random, 0, n_rows, chosen, kept, rows, error);
    free(kept);
    free(chosen);
    return status(failed, error);
}
