/* Scores, conditionals and draws, as Python's `MADEModel`, `LatentModel` and `MixtureModel` answer.
 *
 * Sums over networks are taken in the order in which Python takes them, by the same functions of mathematics, so that the bits
 * agree. Not here: opening a model (open.c).
 */

#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 96, MASKS_AT_ONCE = 32 };

#define LOG_2 0.693147180559945309417232121458176568

/* ---- Scores ---- */

static int wrong_value(const uint8_t *rows, size_t n, size_t D, size_t first, made_fast_error_t *error)
{
    for (size_t i = 0; i < n * D; i++)
        if (rows[i] > 1)
            return mf_fail(error, MADE_FAST_BAD_VALUE,
                           "rows must hold only 0 and 1, got %d at row %zu, column %zu (counted from 0).", rows[i],
                           first + i / D, i % D);
    return 1;
}

static int overflow(const char *what, made_fast_error_t *error)
{
    return mf_fail(
        error, MADE_FAST_OVERFLOW,
        "the model's weights are so large that arithmetic overflows: %s must be finite. Train it again with a smaller "
        "learning_rate or clip_norm, or with dtype='float64'.",
        what);
}

/* Pack n rows in order of place. */
static int pack_rows(const part_t *part, const cut_t *cut, const uint8_t *rows, size_t n, size_t first,
                     made_fast_error_t *error)
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
    room_t *room = mf_take_room(part, (int64_t)block, &cut);
    if (!room) return mf_no_memory(error);
    int failed = 0;
    for (size_t i = 0; i < n && !failed; i += block) {
        const size_t m = n - i < block ? n - i : block;
        failed = pack_rows(part, &cut, rows + i * D, m, i, error);
        if (!failed) mf_score_bits(part, &cut, (int64_t)m, log_p + i);
    }
    mf_give_room(part->model, room);
    return failed || (member->guarded && !mf_are_finite(log_p, (int64_t)n) && overflow("log p", error));
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
static int score_member(const made_fast_model_t *model, size_t m, const uint8_t *rows, size_t n, double *room, double *log_p,
                        made_fast_error_t *error)
{
    const member_t *member = model->content.members + m;
    const size_t parts = mf_n_parts(member);
    size_t at_once = (size_t)(KEPT_BYTES / (mf_n_packed(member) * member->real_bytes)); /* summed up first, as in Python */
    if (at_once < 1) at_once = 1;
    if (at_once > MASKS_AT_ONCE) at_once = MASKS_AT_ONCE;
    double *group = room, *one = room + n;
    part_t part;
    for (size_t i = 0; parts > 1 && i < n; i++) log_p[i] = -INFINITY;
    for (size_t k = 0; k < parts; k++) {
        double *to = parts == 1 ? log_p : k % at_once ? one : group;
        if (mf_begin(model, m, k, &part, error) || mf_end(&part, score_part(&part, rows, n, to, error))) return 1;
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
    if (!model || !a || !b)
        return mf_fail(error, MADE_FAST_BAD_ARGUMENT, "the model and the arrays must be there, got a null pointer.");
    if (n_columns == made_fast_n_inputs(model)) return 0;
    return mf_fail(error, MADE_FAST_BAD_ARGUMENT, "rows must have the model's %zu columns, got %zu.",
                   made_fast_n_inputs(model), n_columns);
}

/* The status to return; it is known to a caller without an error, too. */
static int status(int failed, const made_fast_error_t *error) { return failed ? error->status : MADE_FAST_OK; }

int made_fast_score(const made_fast_model_t *model, const uint8_t *rows, size_t n_rows, size_t n_columns, double *log_p,
                    made_fast_error_t *error)
{
    made_fast_error_t own;
    error = error ? error : &own;
    if (start_call(model, rows, log_p, n_columns, error)) return error->status;
    const content_t *content = &model->content;
    double *room = 0, *of_member = log_p;
    if (n_rows == 0) return MADE_FAST_OK;
    if (content->weights || made_fast_n_networks(model) > 1) {
        if (n_rows > SIZE_MAX / 32 || !(room = malloc(3 * n_rows * sizeof(double)))) return status(mf_no_memory(error), error);
        if (content->weights) of_member = room + 2 * n_rows;
    }
    int failed = 0;
    if (!content->weights)
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
    room_t *room = mf_take_room(part, (int64_t)block, &cut);
    if (!room) return mf_no_memory(error);
    int failed = 0;
    for (size_t i = 0; i < n && !failed; i += block) {
        const size_t m = n - i < block ? n - i : block;
        if ((failed = pack_rows(part, &cut, rows + i * D, m, i, error))) break;
        call_t call = {.real_bytes = member->real_bytes, .net = part->net, .block = (int64_t)m, .out = cut.wide};
        call.batches = (batches_t){.bits = cut.bits, .words = (member->D + 63) / 64, .n_rows = (int64_t)m};
        call.scratch = (scratch_t){.reals = cut.reals, .ints = cut.ints};
        made_fast_call(part->kernels->conditionals, &call);
        for (size_t r = 0; r < m; r++)
            for (size_t p = 0; p < D; p++) {
                const double found =
                    member->real_bytes == 4 ? (double)((const float *)cut.wide)[r * D + p] : cut.wide[r * D + p];
                if (isnan(found)) failed = overflow("probabilities", error);
                proba[(i + r) * D + (size_t)part->order[p]] = found;
            }
    }
    mf_give_room(part->model, room);
    return failed;
}

int made_fast_conditionals(const made_fast_model_t *model, const uint8_t *rows, size_t n_rows, size_t n_columns, double *proba,
                           made_fast_error_t *error)
{
    made_fast_error_t own;
    part_t part;
    error = error ? error : &own;
    if (start_call(model, rows, proba, n_columns, error)) return error->status;
    if (made_fast_n_networks(model) > 1)
        return status(mf_fail(error, MADE_FAST_UNSUPPORTED,
                              "conditionals need a model of one network, which has one ordering, got %zu. Use Python.",
                              made_fast_n_networks(model)),
                      error);
    if (n_rows == 0) return MADE_FAST_OK;
    return status(mf_begin(model, 0, 0, &part, error) || mf_end(&part, conditionals_part(&part, rows, n_rows, proba, error)),
                  error);
}

/* ---- Draws ---- */

/* Draw n rows from a part; row i goes to to[rows[i]], or, without rows, to to[i]. */
static int draw_part(const part_t *part, random_t *random, const size_t *rows, size_t n, uint8_t *to, made_fast_error_t *error)
{
    const member_t *member = part->member;
    const size_t D = (size_t)member->D, block = n < BLOCK ? n : BLOCK;
    double log_p[BLOCK];
    cut_t cut;
    room_t *room = mf_take_room(part, (int64_t)block, &cut);
    if (!room) return mf_no_memory(error);
    int failed = 0;
    for (size_t i = 0; i < n && !failed; i += block) {
        const size_t m = n - i < block ? n - i : block;
        for (size_t j = 0; j < m * D; j++) cut.wide[j] = mf_random_uniform(random);
        call_t call = {.real_bytes = member->real_bytes, .net = part->net, .block = (int64_t)m};
        call.uniforms = cut.wide, call.columns = part->order, call.out = cut.rows;
        call.batches.n_rows = (int64_t)m;
        call.scratch = (scratch_t){.reals = cut.reals, .ints = cut.ints};
        made_fast_call(part->kernels->sample, &call);
        for (size_t r = 0; r < m; r++) memcpy(to + (rows ? rows[i + r] : i + r) * D, cut.rows + r * D, D);
        if (!member->guarded) continue;
        made_fast_pack_bits(cut.rows, (int64_t)m, member->D, part->order, cut.place,
                            cut.bits); /* a comparison with NaN has left no trace */
        mf_score_bits(part, &cut, (int64_t)m, log_p);
        if (part->overflows || !mf_are_finite(log_p, (int64_t)m)) failed = overflow("log p", error);
    }
    mf_give_room(part->model, room);
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
static int draw_member(const made_fast_model_t *model, size_t m, random_t *random, const size_t *rows, size_t n,
                       uint32_t *chosen, size_t *kept, uint8_t *to, made_fast_error_t *error)
{
    const size_t parts = mf_n_parts(model->content.members + m);
    part_t part;
    for (size_t i = 0; parts > 1 && i < n; i++) chosen[i] = mf_random_below(random, (uint32_t)parts);
    for (size_t k = 0; k < parts; k++) {
        const size_t found = parts > 1 ? rows_for(chosen, n, k, rows, kept) : n;
        if (!found) continue;
        if (mf_begin(model, m, k, &part, error) ||
            mf_end(&part, draw_part(&part, random, parts > 1 ? kept : rows, found, to, error)))
            return 1;
    }
    return 0;
}

/* Draw from a mixture, each row from a member that is drawn for it by weight. */
static int draw_mixture(const made_fast_model_t *model, random_t *random, size_t n, uint32_t *chosen, size_t *kept,
                        uint8_t *to, made_fast_error_t *error)
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

int made_fast_sample(const made_fast_model_t *model, size_t n_rows, size_t n_columns, uint64_t seed, uint8_t *rows,
                     made_fast_error_t *error)
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
