/* From the tensors and metadata of a file to checked members, as Python's `modelfile.py` and `loading.py` do.
 *
 * `modelfile.py` says which tensors and metadata there are. Not here: bytes and headers (file.c), tables of a network
 * (layout.c).
 */

#include "internal.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FREE_UNITS = 1 << 20, PARAMETERS_PER_UNIT = 64, MAX_JSON_READ = (1 << 22) + 1, ROUNDING = 16 };

#define SAVE_AGAIN "Save the model again."
#define BAD(...) mf_fail(error, MADE_FAST_BAD_FILE, __VA_ARGS__)

enum { HYPER, ACTIVATION_OF, DIRECT_OF, WEIGHTS_OF, RULE, VARIABLES, N_POINTS, TRAINED, N_KEYS };

static const char *const KEYS[] = {"hyper", "activation", "direct", "connectivity_weights",
                                   "rule",  "variables",  "points", "trained"};

/* Tensors and metadata of one member: those of the file whose names begin with a prefix. */
typedef struct {
    char prefix[32];             /* "", or "member.<m>." */
    const json_t *about[N_KEYS]; /* or null */
    const tensor_t *tensors[MAX_HIDDEN + 3];
    size_t n_tensors; /* there may be more than are kept */
} entries_t;

static text_t without(text_t text, size_t n) { return (text_t){text.at + n, text.n - n}; }

/* Keep a metadata that is of a part. */
static void keep(entries_t *part, const json_t *entry)
{
    const size_t n = strlen(part->prefix);
    for (int key = 0; key < N_KEYS && entry->key.n >= n; key++)
        if (mf_is(without(entry->key, n), KEYS[key])) part->about[key] = entry;
}

static text_t text_of(const json_t *entry) { return entry ? entry->text : (text_t){"", 0}; }

/* The number of the option that a metadata names, the first one if there is none; -1, and an error, if it is another. */
static int one_of(const entries_t *part, int key, const char *const *options, int n, int needed, made_fast_error_t *error)
{
    const json_t *found = part->about[key];
    if (!found && !needed) return 0;
    for (int i = 0; found && i < n; i++)
        if (mf_is(found->text, options[i])) return i;
    BAD("the %s must be one that this version knows, got '%.*s'. " SAVE_AGAIN, KEYS[key], SHOWN(text_of(found)));
    return -1;
}

static int64_t last_dimension(const tensor_t *t) { return t->shape[t->n_dims - 1]; }

static int64_t size_of(const tensor_t *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= t->shape[i];
    return n;
}

/* The threshold among the notes; 1 if it is none. */
static int read_hyper(const entries_t *part, member_t *member, made_fast_error_t *error)
{
    json_doc_t doc;
    if (mf_json(text_of(part->about[HYPER]), "hyper", &doc, error)) return 1;
    const json_t *threshold = mf_json_find(doc.nodes, doc.nodes, "binarize");
    int failed = 0;
    if (threshold && threshold->kind != JSON_NULL) {
        member->has_threshold = 1;
        member->threshold = threshold->number;
        if ((threshold->kind != JSON_INT && threshold->kind != JSON_FLOAT) || !isfinite(threshold->number))
            failed = BAD("binarize must be None or a finite number, got another value. " SAVE_AGAIN);
    }
    mf_json_free(&doc);
    return failed;
}

/* The rule for further masks, which is checked and not used: this library draws none. */
static int check_rule(const entries_t *part, made_fast_error_t *error)
{
    static const char *const kinds[2][3] = {{"stratified", "uniform", ""}, {"both", "order", "connectivity"}};
    const json_t *found = part->about[RULE];
    json_doc_t doc;
    if (!found) return 0;
    if (mf_json(found->text, "rule", &doc, error)) return 1;
    int known = doc.nodes->n == 2;
    for (int i = 0; i < 2 && known; i++) {
        const json_t *kind = mf_json_find(doc.nodes, doc.nodes, i ? "resample" : "degrees");
        known = 0;
        for (int k = 0; k < 2 + i && kind && kind->kind == JSON_STRING; k++) known |= mf_is(kind->text, kinds[i][k]);
    }
    mf_json_free(&doc);
    return known ? 0 : BAD("the rule must be of degrees and resample, got others. " SAVE_AGAIN);
}

/* Bound the sizes of all layers before anything is made of them. */
static int check_units(int64_t n_units, int64_t n_parameters, made_fast_error_t *error)
{
    const int64_t most = FREE_UNITS + n_parameters / PARAMETERS_PER_UNIT;
    if (n_units <= most) return 0;
    return BAD("%lld parameters must not have more than %lld inputs and hidden units, got %lld. " SAVE_AGAIN,
               (long long)n_parameters, (long long)most, (long long)n_units);
}

static int check_shapes(const entries_t *part, made_fast_error_t *error)
{
    const tensor_t *const *tensors = part->tensors;
    const size_t n = part->n_tensors, n_prefix = strlen(part->prefix);
    int named = n >= 2 && n <= MAX_HIDDEN + 2;
    for (size_t i = 0; named && i < n; i++) {
        char name[32] = "parameters";
        if (i == 1) strcpy(name, "ordering");
        if (i >= 2) { /* degrees.<l> */
            strcpy(name, "degrees.");
            char *to = name + strlen(name);
            if (i - 2 >= 10) *to++ = (char)('0' + (i - 2) / 10);
            *to++ = (char)('0' + (i - 2) % 10);
            *to = 0;
        }
        named = mf_is(without(tensors[i]->name, n_prefix), name);
    }
    if (!named) return BAD("tensors must be parameters, ordering, up to %d degrees.<l>, got others. " SAVE_AGAIN, MAX_HIDDEN);
    const tensor_t *theta = tensors[0], *ordering = tensors[1];
    if ((theta->dtype != F32 && theta->dtype != F64) || theta->n_dims != 1)
        return BAD("parameters must be a vector of F32 or F64, got others. " SAVE_AGAIN);
    int64_t n_units = 0;
    for (size_t i = 1; i < n; i++) {
        const tensor_t *t = tensors[i];
        if (t->dtype != I32 || t->n_dims < 1 || t->n_dims > 2 || t->n_dims != ordering->n_dims ||
            (t->n_dims == 2 && (t->shape[0] != ordering->shape[0] || !t->shape[0])))
            return BAD("tensor '%.*s' must be I32, a vector or K of them (K x n), like the ordering, got others. " SAVE_AGAIN,
                       SHOWN(t->name));
        if (last_dimension(t) < 1 || last_dimension(t) > theta->shape[0])
            return BAD("tensor '%.*s' must not be empty nor longer than the %lld parameters, got %lld. " SAVE_AGAIN,
                       SHOWN(t->name), (long long)theta->shape[0], (long long)last_dimension(t));
        n_units += last_dimension(t);
    }
    return check_units(n_units, theta->shape[0], error);
}

/* Copy orderings and degrees, so that no other process can change what is checked, and check them. */
static int read_masks(const entries_t *part, member_t *member, made_fast_error_t *error)
{
    const tensor_t *const *tensors = part->tensors;
    int64_t total = 0;
    for (size_t i = 1; i < part->n_tensors; i++) total += size_of(tensors[i]);
    member->real_bytes = (int)mf_dtype_size(tensors[0]->dtype);
    member->is_shared = tensors[1]->n_dims == 2;
    member->n_masks = member->is_shared ? tensors[1]->shape[0] : 1;
    member->D = last_dimension(tensors[1]);
    member->L = (int64_t)part->n_tensors - 2;
    int32_t *to = member->ordering = malloc((size_t)total * sizeof(int32_t));
    char *seen = malloc((size_t)member->D);
    int failed = !to || !seen;
    if (failed) mf_no_memory(error);
    for (size_t i = 1; i < part->n_tensors && !failed; i++) {
        const int64_t n = size_of(tensors[i]), most = i == 1 ? member->D : member->D > 2 ? member->D - 1 : 1;
        memcpy(to, tensors[i]->values, (size_t)n * sizeof(int32_t));
        if (i > 1) {
            member->degrees[i - 2] = to;
            member->sizes[i - 2] = last_dimension(tensors[i]);
        }
        for (int64_t j = 0; j < n && !failed; j++) {
            if (i == 1 && j % member->D == 0) memset(seen, 0, (size_t)member->D);
            if (to[j] < 1 || to[j] > most || (i == 1 && seen[to[j] - 1]++))
                failed = i == 1
                             ? BAD("the ordering must hold each place 1..%lld once, got others. " SAVE_AGAIN, (long long)most)
                             : BAD("degrees of hidden layer %zu must be in 1..%lld, got %d. " SAVE_AGAIN, i - 2,
                                   (long long)most, to[j]);
        }
        to += n;
    }
    free(seen);
    return failed;
}

static int is_zero(const member_t *member, int64_t at)
{
    return member->real_bytes == 4 ? ((const float *)member->values)[at] == 0 : ((const double *)member->values)[at] == 0;
}

/* Whether dead corners, fill-up units and biases of direct connections of row l are 0. */
static int is_clean(const member_t *member, const net_t *net, int64_t l)
{
    const int64_t *layer = net->layers + l * LAYER_COLUMNS, n_out = layer[N_OUT];
    for (int64_t j = layer[DIRECT] < 0 ? 0 : n_out; j < layer[N_PANELS] * PANEL; j++)
        if (!is_zero(member, layer[BIAS] + j)) return 0;
    for (int64_t p = 0; p < layer[N_PANELS]; p++) {
        const int32_t *live = net->n_live + layer[UNITS] + p * PANEL;
        const int64_t start = net->panel_start[layer[PANELS] + p], units = n_out - p * PANEL;
        for (int64_t k = 0; k < live[PANEL - 1]; k++)
            for (int64_t u = 0; u < PANEL; u++)
                if ((k >= live[u] || u >= units) && !is_zero(member, start + k * PANEL + u)) return 0;
    }
    return 1;
}

/* Whether what stands behind theta is 0 for units that fill up panels. */
static int are_points_clean(const member_t *member, const network_t *network, int64_t n_rows)
{
    for (int64_t row = 0; row < n_rows; row++) {
        int64_t at = network->n_theta + row * network->n_biases;
        for (int64_t l = 0; l < network->net.n_layers; l++) {
            const int64_t *layer = network->layers + l * LAYER_COLUMNS;
            for (int64_t j = layer[N_OUT]; j < layer[N_PANELS] * PANEL; j++)
                if (!is_zero(member, at + j)) return 0;
            at += layer[N_PANELS] * PANEL;
        }
    }
    return 1;
}

/* Check the values of parameters that one mask has; the number of all is checked first. */
static int check_values(member_t *member, int64_t n, int trained, made_fast_error_t *error)
{
    if (member->is_shared) {
        const int64_t demanded = mf_n_shared(member);
        return n == demanded ? 0
                             : BAD("there must be %lld parameters, by ordering and degrees, got %lld. " SAVE_AGAIN,
                                   (long long)demanded, (long long)n);
    }
    network_t network;
    if (mf_network_tables(member, 0, &network)) return mf_no_memory(error);
    const int64_t tables = member->n_points > 1 ? member->n_points : 0, rows = tables + (tables && trained ? MAX_FEATURES : 0);
    const int64_t demanded = network.n_theta + rows * network.n_biases;
    int failed = 0;
    if (n != demanded)
        failed = BAD("there must be %lld parameters, by ordering and degrees, got %lld. " SAVE_AGAIN, (long long)demanded,
                     (long long)n);
    for (int64_t l = 0; l < network.net.n_rows && !failed; l++)
        if (!is_clean(member, &network.net, l))
            failed = BAD("dead weights and fill-up units must be 0, got others in layer %lld. " SAVE_AGAIN, (long long)l);
    if (!failed && !are_points_clean(member, &network, rows))
        failed = BAD("the biases of fill-up units must be 0 at all points, got others. " SAVE_AGAIN);
    member->n_values = network.n_theta + tables * network.n_biases;
    mf_network_free(&network);
    return failed;
}

/* Whether arithmetic on the parameters can leave the range of their type, by a coarse but cheap bound. */
static int may_overflow(const member_t *member)
{
    double largest = 0, most = 1, h = 1;
    for (int64_t i = 0; i < member->n_values; i++) {
        const double value =
            fabs(member->real_bytes == 4 ? (double)((const float *)member->values)[i] : ((const double *)member->values)[i]);
        if (value > largest) largest = value;
    }
    const int bounded = member->activation == TANH || member->activation == SIGMOID || member->activation == SOFTSIGN;
    for (int64_t l = 0; l <= member->L; l++) {
        const double below = (double)(l ? member->sizes[l - 1] : member->D);
        const double z = largest * (below * h + below + (double)member->D + 1) + 1;
        most = most > z ? most : z;
        h = bounded ? 1 : z;
    }
    return !(most * (double)member->D * ROUNDING < (member->real_bytes == 4 ? (double)FLT_MAX : DBL_MAX));
}

static int read_points(const entries_t *part, member_t *member, made_fast_error_t *error)
{
    const json_t *found = part->about[N_POINTS];
    int64_t n = found ? 0 : 1;
    for (size_t i = 0; found && i < found->text.n && n >= 0; i++) {
        const char digit = found->text.at[i];
        n = digit < '0' || digit > '9' ? -1 : 10 * n + (digit - '0');
    }
    if ((found && found->text.n > 8) || n < 1 || n > MAX_POINTS)
        return BAD("points must be a number in 1..%d, got '%.*s'. " SAVE_AGAIN, MAX_POINTS, SHOWN(found->text));
    if (n > 1 && member->is_shared)
        return BAD("points need parameters of one mask, got those that several masks share. " SAVE_AGAIN);
    member->n_points = n;
    return 0;
}

static int decode_member(const entries_t *part, member_t *member, made_fast_error_t *error)
{
    static const char *const activations[] = {"relu", "softplus", "tanh", "sigmoid", "softsign"};
    static const char *const direct[] = {"none", "output", "all"}, *const booleans[] = {"false", "true"};
    if (part->about[VARIABLES])
        return mf_fail(error, MADE_FAST_UNSUPPORTED,
                       "it holds a model of columns of several levels; this library opens models of 0/1 rows. Use Python.");
    if (read_hyper(part, member, error)) return 1;
    member->activation = RELU + one_of(part, ACTIVATION_OF, activations, 5, 1, error);
    member->direct = one_of(part, DIRECT_OF, direct, 3, 0, error);
    member->connectivity_weights = one_of(part, WEIGHTS_OF, booleans, 2, 0, error);
    const int trained = one_of(part, TRAINED, booleans, 2, 0, error);
    if (member->activation < RELU || member->direct < 0 || member->connectivity_weights < 0 || trained < 0) return 1;
    if (check_shapes(part, error) || read_masks(part, member, error)) return 1;
    if (member->connectivity_weights && !member->is_shared)
        return BAD("connectivity weights need parameters that several masks may share, got those of one mask. " SAVE_AGAIN);
    if (member->is_shared && check_rule(part, error)) return 1;
    if (read_points(part, member, error)) return 1;
    member->values = part->tensors[0]->values;
    member->n_values = part->tensors[0]->shape[0];
    if (check_values(member, member->n_values, trained, error)) return 1;
    member->guarded = may_overflow(member);
    return 0;
}

/* The names of the columns, a list of strings, one for each input. */
static int read_names(const tensor_t *tensor, int64_t D, content_t *content, made_fast_error_t *error)
{
    if (tensor->dtype != U8 || tensor->n_dims != 1)
        return BAD("feature_names must be a vector of U8, got others. " SAVE_AGAIN);
    const size_t n = tensor->shape[0] < MAX_JSON_READ ? (size_t)tensor->shape[0] : MAX_JSON_READ;
    if (mf_json((text_t){tensor->values, n}, "feature_names", &content->names_doc, error)) return 1;
    const json_t *nodes = content->names_doc.nodes, *names = mf_json_find(nodes, nodes, "names");
    int good = nodes->n == 1 && names && names->kind == JSON_LIST;
    for (size_t i = 0; good && i < names->n; i++) good = names[1 + i].kind == JSON_STRING; /* strings have nothing in them */
    if (!good) return BAD("feature_names must be an object of names, a list of strings, got others. " SAVE_AGAIN);
    if (names->n != (size_t)D) return BAD("there must be names for %lld inputs, got %zu. " SAVE_AGAIN, (long long)D, names->n);
    content->names = malloc((size_t)D * sizeof(char *));
    if (!content->names) return mf_no_memory(error);
    for (int64_t d = 0; d < D; d++) content->names[d] = (char *)names[1 + d].text.at;
    return 0;
}

/* The number of the member that a name of a mixture is of, and where its own name begins; -1 if there is no such member. */
static int64_t member_of(text_t name, int64_t n_members)
{
    static const char prefix[] = "member.";
    size_t i = sizeof(prefix) - 1;
    if (name.n < i || memcmp(name.at, prefix, i) != 0) return -1;
    int64_t m = 0;
    const size_t first = i;
    for (; i < name.n && name.at[i] >= '0' && name.at[i] <= '9' && m < n_members; i++) m = 10 * m + (name.at[i] - '0');
    const int plain = i > first && (name.at[first] != '0' || i == first + 1);
    return plain && (i == name.n || name.at[i] == '.') && m < n_members ? m : -1;
}

static int read_weights(const tensor_t *tensor, content_t *content, made_fast_error_t *error)
{
    const size_t M = content->n_members;
    double sum = 0;
    int good = 1;
    content->weights = malloc(M * sizeof(double));
    if (!content->weights) return mf_no_memory(error);
    memcpy(content->weights, tensor->values, M * sizeof(double));
    for (size_t m = 0; m < M; m++) {
        good &= content->weights[m] > 0;
        sum += content->weights[m];
    }
    return good && fabs(sum - 1) <= 1e-9
               ? 0
               : BAD("weights must be positive and add up to 1, got a sum of %.17g. " SAVE_AGAIN, sum);
}

/* Deal the tensors of a mixture out to its members: first the parameters of each, then the weights, then the rest. */
static int deal(const file_t *file, size_t n_tensors, entries_t *parts, content_t *content, made_fast_error_t *error)
{
    const size_t M = content->n_members;
    int64_t n_units = 0, n_parameters = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        const tensor_t *t = file->tensors + i;
        if (i == M) {
            if (!mf_is(t->name, "weights"))
                return BAD("tensors must begin with the parameters of each member, then weights, got others. " SAVE_AGAIN);
            continue;
        }
        const int64_t m = member_of(t->name, (int64_t)M);
        if (m < 0)
            return BAD("names must begin with member.0. to member.%zu., got '%.*s'. " SAVE_AGAIN, M - 1, SHOWN(t->name));
        entries_t *part = parts + m;
        const size_t n_prefix = strlen(part->prefix);
        if (t->name.n < n_prefix || (i < M && ((size_t)m != i || !mf_is(without(t->name, n_prefix), "parameters"))))
            return BAD("tensors must begin with the parameters of each member, then weights, got '%.*s'. " SAVE_AGAIN,
                       SHOWN(t->name));
        if (part->n_tensors < sizeof(part->tensors) / sizeof(*part->tensors)) part->tensors[part->n_tensors] = t;
        part->n_tensors++;
        if (i < M) n_parameters += size_of(t);
        if (t->dtype == I32 && t->n_dims) n_units += last_dimension(t);
    }
    for (size_t k = 0; k < file->metadata->n; k++) {
        const text_t key = file->metadata[1 + k].key;
        static const char *const own[] = {"format", "format_version", "data_sha256", "header_sha256", "kind", "hyper"};
        const int64_t m = member_of(key, (int64_t)M);
        int known = m >= 0;
        if (m >= 0) keep(parts + m, file->metadata + 1 + k);
        for (int i = 0; i < 6; i++) known |= mf_is(key, own[i]);
        if (!known) return BAD("names must begin with member.0. to member.%zu., got '%.*s'. " SAVE_AGAIN, M - 1, SHOWN(key));
    }
    return check_units(n_units, n_parameters, error);
}

static int decode_mixture(const file_t *file, size_t n_tensors, content_t *content, made_fast_error_t *error)
{
    const tensor_t *weights = 0;
    for (size_t i = 0; i < n_tensors; i++)
        if (mf_is(file->tensors[i].name, "weights")) weights = file->tensors + i;
    if (!weights || weights->dtype != F64 || weights->n_dims != 1)
        return BAD("weights must be a vector of F64, got others or none. " SAVE_AGAIN);
    const int64_t M = weights->shape[0];
    if (M < 1 || M >= (int64_t)n_tensors)
        return BAD("there must be members, as many as weights (%lld), got %zu tensors. " SAVE_AGAIN, (long long)M, n_tensors);
    content->n_members = (size_t)M;
    if (read_weights(weights, content, error)) return 1;
    json_doc_t doc; /* the notes on the mixture: a JSON object, of which nothing counts */
    if (mf_json(text_of(mf_json_find(file->metadata, file->header.nodes, "hyper")), "hyper", &doc, error)) return 1;
    mf_json_free(&doc);
    content->members = calloc((size_t)M, sizeof(member_t));
    entries_t *parts = calloc((size_t)M, sizeof(entries_t));
    int failed = !content->members || !parts;
    if (failed) mf_no_memory(error);
    for (int64_t m = 0; m < M && !failed; m++) {
        char digits[24], *at = digits + sizeof(digits);
        int64_t rest = m;
        *--at = 0;
        *--at = '.';
        do *--at = (char)('0' + rest % 10);
        while (rest /= 10);
        strcat(strcpy(parts[m].prefix, "member."), at);
    }
    failed = failed || deal(file, n_tensors, parts, content, error);
    for (int64_t m = 0; m < M && !failed; m++) {
        const member_t *first = content->members, *member = content->members + m;
        failed = decode_member(parts + m, content->members + m, error);
        if (!failed && member->D != first->D)
            failed = BAD("all members must have as many inputs as the first (%lld), got %lld. " SAVE_AGAIN,
                         (long long)first->D, (long long)member->D);
        if (!failed && (member->has_threshold != first->has_threshold || member->threshold != first->threshold))
            failed = BAD("members must have the same binarize, got others. " SAVE_AGAIN);
    }
    free(parts);
    return failed;
}

int mf_decode(const file_t *file, content_t *content, made_fast_error_t *error)
{
    size_t n_tensors = file->n_tensors;
    const json_t *kind = mf_json_find(file->metadata, file->header.nodes, "kind");
    const tensor_t *names = 0;
    *content = (content_t){0};
    for (size_t i = 0; i < n_tensors; i++) {
        if (mf_is(file->tensors[i].name, "columns"))
            return mf_fail(error, MADE_FAST_UNSUPPORTED,
                           "it holds a model of columns; this library opens models of 0/1 rows. Use Python.");
        if (mf_is(file->tensors[i].name, "feature_names")) names = file->tensors + i;
    }
    if (names && names != file->tensors + --n_tensors)
        return BAD("feature_names must be the last tensor, got others behind it. " SAVE_AGAIN);
    if (kind && mf_is(kind->text, "checkpoint"))
        return BAD("the kind of the file must be 'model', got 'checkpoint'. Finish that fit: MADE.resume, or made-fast train "
                   "--resume.");
    if (kind && mf_is(kind->text, "ensemble")) {
        if (decode_mixture(file, n_tensors, content, error)) return 1;
    } else if (kind && mf_is(kind->text, "model")) {
        entries_t part = {.n_tensors = n_tensors};
        for (size_t k = 0; k < file->metadata->n; k++) keep(&part, file->metadata + 1 + k); /* strings have nothing in them */
        for (size_t i = 0; i < n_tensors && i < sizeof(part.tensors) / sizeof(*part.tensors); i++)
            part.tensors[i] = file->tensors + i;
        content->n_members = 1;
        content->members = calloc(1, sizeof(member_t));
        if (!content->members) return mf_no_memory(error);
        if (decode_member(&part, content->members, error)) return 1;
    } else
        return BAD("the kind of the file must be 'model' or 'ensemble', got '%.*s'. This is no made_fast model.",
                   SHOWN(text_of(kind)));
    return names ? read_names(names, content->members->D, content, error) : 0;
}

void mf_content_free(content_t *content)
{
    for (size_t m = 0; content->members && m < content->n_members; m++) free(content->members[m].ordering);
    free(content->members);
    free(content->weights);
    free(content->names);
    mf_json_free(&content->names_doc);
    *content = (content_t){0};
}
