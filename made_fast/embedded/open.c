/* Opening and closing a model: its networks, workspaces for calls, and what it says of itself. Not here: answers (answer.c).
 *
 * A member has parts, which are mixed in equal parts: a network under each mask, or at each point of a latent mixture. Those
 * of shared parameters are packed when the model is opened, as many as KEPT_BYTES hold; others are packed anew in every call.
 * After that a model never changes, but for `spare`, the workspace of the last call, which the next one takes.
 */

#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SPARE = 8 << 20, PROBES = 16 };

/* ---- Workspaces ---- */

static room_t *take_bytes(const made_fast_model_t *model, size_t n_bytes)
{
    room_t *room = __atomic_exchange_n(&((made_fast_model_t *)model)->spare, (room_t *)0, __ATOMIC_ACQUIRE);
    if (room && room->n_bytes >= n_bytes) return room;
    free(room);
    if ((room = mf_aligned(sizeof(*room) + n_bytes))) room->n_bytes = n_bytes;
    return room;
}

void mf_give_room(const made_fast_model_t *model, room_t *room)
{
    if (room && room->n_bytes <= MOST_SPARE)
        room = __atomic_exchange_n(&((made_fast_model_t *)model)->spare, room, __ATOMIC_ACQ_REL);
    free(room);
}

/* Cut a workspace for a block of rows; without memory, say how many bytes it takes. */
static size_t cut_room(unsigned char *memory, const part_t *part, int64_t block, cut_t *cut)
{
    const member_t *member = part->member;
    const int64_t D = member->D, n_reals = part->n_reals, words = (D + 63) / 64, rows = (block + 15) / 16 * 16;
    const int64_t reals = (1 + RECENT) * rows + block * (words * 64 + n_reals + 16); /* for scores and draws, see layout.py */
    const int64_t sizes[] = {
        reals * member->real_bytes, 4 * block * (D + 1), 4 * D, 8 * block * words, block * D, 8 * block * D};
    size_t at = 0;
    unsigned char *parts[6];
    for (int i = 0; i < 6; i++) {
        parts[i] = memory ? memory + at : 0;
        at += ((size_t)sizes[i] + 63) / 64 * 64;
    }
    *cut = (cut_t){parts[0], (int32_t *)parts[1], (int32_t *)parts[2], (uint64_t *)parts[3],
                   parts[4], (double *)parts[5]};
    return at;
}

room_t *mf_take_room(const part_t *part, int64_t block, cut_t *cut)
{
    room_t *room = take_bytes(part->model, cut_room(0, part, block, cut));
    if (room) cut_room(room->memory, part, block, cut);
    return room;
}

/* ---- Networks ---- */

size_t mf_n_parts(const member_t *member) { return (size_t)(member->n_points > 1 ? member->n_points : member->n_masks); }

static const kernels_t *kernels_of(const made_fast_model_t *model, const member_t *member)
{
    return member->real_bytes == 4 ? model->level.of_float : model->level.of_double;
}

void mf_score_bits(const part_t *part, const cut_t *cut, int64_t n, double *log_p)
{
    const int64_t D = part->member->D, words = (D + 63) / 64;
    call_t call = {.real_bytes = part->member->real_bytes, .net = part->net, .n_places = D, .block = n, .out = log_p};
    call.batches = (batches_t){.bits = cut->bits, .words = words, .n_rows = n};
    call.scratch = (scratch_t){.reals = cut->reals, .ints = cut->ints};
    made_fast_call(part->kernels->score, &call);
}

int mf_are_finite(const double *values, int64_t n)
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
    room_t *room = mf_take_room(part, 2 * PROBES, &cut);
    if (!room) return 1;
    mf_random_seed(&random, 0); /* default_rng(0).integers(0, 2, (PROBES, D), np.uint8), and the opposites of these rows */
    memset(cut.bits, 0, (size_t)(2 * PROBES * words) * sizeof(uint64_t));
    uint32_t bytes = 0;
    for (int64_t i = 0, k = 0; i < PROBES; i++)
        for (int64_t p = 0; p < D; p++, k++) {
            bytes = k % 4 ? bytes >> 8 : mf_random_32(&random);
            cut.bits[(bytes >> 7 & 1 ? i : PROBES + i) * words + p / 64] |= 1ull << p % 64;
        }
    mf_score_bits(part, &cut, 2 * PROBES, log_p);
    part->overflows = !mf_are_finite(log_p, 2 * PROBES);
    mf_give_room(part->model, room);
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

int mf_begin(const made_fast_model_t *model, size_t m, size_t k, part_t *part, made_fast_error_t *error)
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

int mf_end(part_t *part, int failed)
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
            if (member->is_shared ? pack(model, member, (int64_t)k, network) : mf_network_tables(member, 0, network))
                return mf_no_memory(error);
            if (!member->is_shared) network->net.theta = (void *)member->values;
            n_bytes += member->is_shared ? network->n_bytes : 0;
            model->n_kept[m] = k + 1;
            part_t part;
            if (!member->guarded || member->n_points > 1) continue;
            if (mf_begin(model, m, k, &part, error)) return 1;
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
    if (i == n)
        return mf_fail(error, MADE_FAST_BAD_ARGUMENT,
                       "CPU level must be one that this machine runs, got '%.60s'. Unset MADE_FAST_CPU.", wanted);
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
        failed =
            mf_fail(&own, MADE_FAST_BAD_ARGUMENT, "it must be the path or the content of a model file, got a null pointer.");
    else
        failed = choose_level(model, &own) ||
                 (path ? mf_file_read(&model->file, path, map, &own) : mf_file_copy(&model->file, bytes, n_bytes, &own)) ||
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
    for (size_t m = 0; model && m < model->content.n_members; m++) n += mf_n_parts(model->content.members + m);
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
