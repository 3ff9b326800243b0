/* What the C files of the library share: text, JSON, tensors, members, networks. Not here: the public names (made_fast.h).
 *
 * Names that other files see begin with mf_. A function that can fail returns 1 and has set the error, or 0.
 */
#ifndef MADE_FAST_INTERNAL_H
#define MADE_FAST_INTERNAL_H

#include "made_fast.h"
#include "native.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little-endian, and this library reads their numbers in place"
#endif

/* ---- error.c: errors, memory ---- */

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
int mf_fail(made_fast_error_t *error, int status, const char *format, ...); /* 1, always */
int mf_no_memory(made_fast_error_t *error);                                 /* 1, always */
void *mf_aligned(size_t n_bytes); /* on a 64-byte boundary, not initialised; for free(); null where there is none */

typedef struct {
    const char *at; /* UTF-8, not terminated */
    size_t n;
} text_t;

#define SHOWN(text) mf_shown(text), (text).at /* for %.*s */

int mf_shown(text_t text); /* how many bytes of it a message shows */

int mf_is(text_t text, const char *word);

/* ---- json.c ---- */

enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_INT, JSON_FLOAT, JSON_STRING, JSON_LIST, JSON_OBJECT };

typedef struct {
    int kind;
    text_t key;    /* in an object */
    text_t text;   /* of a string */
    double number; /* of an int or a float; an int beyond all floats is infinite */
    int64_t count; /* of an int: itself if it is in 0 .. 2^62, else -1 */
    size_t n, end; /* children; the node behind this one and all that is in it */
} json_t;

typedef struct {
    json_t *nodes; /* each value before what is in it: children of node i begin at i + 1 */
    char *strings;
} json_doc_t;

/* Parse an object of strict JSON: no name twice, no NaN, no infinity, no half of a surrogate pair. */
int mf_json(text_t text, const char *what, json_doc_t *doc, made_fast_error_t *error);
void mf_json_free(json_doc_t *doc);
const json_t *mf_json_find(const json_t *object, const json_t *nodes, const char *key); /* or null */

/* ---- sha256.c ---- */

typedef struct {
    uint32_t h[8];
    uint64_t n;
    unsigned char block[64];
} sha256_t;

void mf_sha256_start(sha256_t *sha);
void mf_sha256_add(sha256_t *sha, const void *bytes, size_t n);
void mf_sha256_hex(sha256_t *sha, char hex[65]);

/* ---- file.c ---- */

enum { F32, F64, I32, I64, U8 };
enum { MAX_DIMENSIONS = 8 };

typedef struct {
    text_t name;
    int dtype, n_dims;
    int64_t shape[MAX_DIMENSIONS], begin, end; /* bytes of the data */
    const void *values;                        /* in the file: mapped, another process may change them at any time */
} tensor_t;

typedef struct {
    json_doc_t header;
    char *head;        /* a copy of the first bytes */
    tensor_t *tensors; /* in order */
    size_t n_tensors;
    const json_t *metadata;
    unsigned char *bytes; /* the whole file, on a 64-byte boundary */
    size_t n_bytes;
    int mapped;
} file_t;

int mf_file_read(file_t *file, const char *path, int map, made_fast_error_t *error);
int mf_file_copy(file_t *file, const void *bytes, size_t n_bytes, made_fast_error_t *error);
void mf_file_free(file_t *file);
size_t mf_dtype_size(int dtype);

/* ---- decode.c ---- */

enum { DIRECT_NONE, DIRECT_OUTPUT, DIRECT_ALL };
enum { MAX_HIDDEN = MAX_LAYERS - 1, MAX_POINTS = 256 };

typedef struct { /* one model: a network under each of K masks, or at each of K points */
    int real_bytes, activation, direct, connectivity_weights, is_shared;
    int64_t D, L, sizes[MAX_HIDDEN]; /* inputs, hidden layers, their units */
    int64_t n_masks, n_points;
    int32_t *ordering, *degrees[MAX_HIDDEN]; /* (n_masks, D), (n_masks, H_l): a copy; ordering owns all */
    const void *values;                      /* theta, or what masks share */
    int64_t n_values;                        /* that are served */
    int has_threshold, guarded;
    double threshold;
} member_t;

typedef struct {
    member_t *members;
    double *weights; /* of members, or null: there is one, and it is no mixture */
    size_t n_members;
    json_doc_t names_doc;
    char **names; /* or null */
} content_t;

int mf_decode(const file_t *file, content_t *content, made_fast_error_t *error);
void mf_content_free(content_t *content);

/* ---- layout.c ---- */

typedef struct { /* one network, packed, with its tables */
    net_t net;
    int64_t *order, *layers;                     /* order[p]: the input at place p + 1; the rest is net's */
    int32_t *sorted;                             /* original numbers of inputs and hidden units, in order of degree */
    int64_t *shared_layout;                      /* of shared parameters */
    int64_t n_theta, n_biases, n_reals, n_bytes; /* n_reals: of the outputs of all layers, for a row */
    void *theta;                                 /* packed by this network, or null */
    int overflows;                               /* it is guarded, and random rows have no finite scores */
} network_t;

int64_t mf_n_packed(const member_t *member); /* length that is enough for any mask */
int64_t mf_n_shared(const member_t *member);
int mf_network_tables(const member_t *member, int64_t mask, network_t *network); /* 1: no memory */
void mf_network_free(network_t *network);

/* ---- random.c ---- */

typedef struct {
    uint64_t high, low, inc_high, inc_low; /* 128 bits each */
    uint32_t half;
    int has_half;
} random_t;

void mf_random_seed(random_t *random, uint64_t seed);
double mf_random_uniform(random_t *random); /* in [0, 1) */
uint32_t mf_random_32(random_t *random);
uint32_t mf_random_below(random_t *random, uint32_t limit); /* limit > 1 */

/* ---- open.c ---- */

enum { KEPT_BYTES = 64 << 20 }; /* of packed networks */

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

/* The workspace of a network and a block of rows, cut into what each step needs. */
typedef struct {
    void *reals;
    int32_t *ints, *place;
    uint64_t *bits;
    uint8_t *rows; /* (block, D) */
    double *wide;  /* (block, D): uniforms, or conditionals of either type */
} cut_t;

/* A part of a member, ready for a call. */
typedef struct {
    const made_fast_model_t *model;
    const member_t *member;
    const kernels_t *kernels;
    net_t net;
    const int64_t *order;
    int64_t n_reals;
    int overflows;
    network_t own;                                  /* packed for this call */
    int64_t layers[2 * MAX_LAYERS * LAYER_COLUMNS]; /* of a point */
} part_t;

/* Take a workspace, and cut it for a block of rows; null where there is no memory. */
room_t *mf_take_room(const part_t *part, int64_t block, cut_t *cut);
void mf_give_room(const made_fast_model_t *model, room_t *room);

size_t mf_n_parts(const member_t *member);
int mf_begin(const made_fast_model_t *model, size_t m, size_t k, part_t *part,
             made_fast_error_t *error);                                             /* part k of member m */
int mf_end(part_t *part, int failed);                                               /* failed */
void mf_score_bits(const part_t *part, const cut_t *cut, int64_t n, double *log_p); /* of n rows that are packed */
int mf_are_finite(const double *values, int64_t n);

#endif
