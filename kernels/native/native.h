/* What Python, Cython and C share: columns of tables, codes, the records of records.py, and the table of kernels of one unit.
 *
 * REAL arrays are void * here: one unit is compiled for float, another for double. Every function follows the kernel contract
 * (made_fast.kernels). The enums repeat layout.py and optimizers.py; a test compares them.
 */
#ifndef MADE_FAST_NATIVE_H
#define MADE_FAST_NATIVE_H

#include <stdint.h>

enum { N_IN, N_OUT, N_PANELS, WEIGHTS, BIAS, UNITS, PANELS, ACTIVATION, DIRECT, LAYER_COLUMNS }; /* Layout.layers */
enum { SHARED_WEIGHTS, SHARED_BIAS, SHARED_U, ROW, IN_ORDER, OUT_ORDER, SHARED_COLUMNS };        /* SharedLayout */
enum { FIRST, STOP, MASK, PLACES, STEP, STEP_ROWS, GROUP_COLUMNS };                              /* groups */
enum { ARRIVED = 0, ASLEEP = 1, ROUND = 32, CALL_OFF = 48, SYNC = 64 };                          /* Crew.sync */
enum { IDENTITY, RELU, SOFTPLUS, TANH, SIGMOID, SOFTSIGN };                                      /* ACTIVATIONS */
enum { GRADIENT, SGD, MOMENTUM, ADAGRAD, ADADELTA, RMSPROP, ADAM };                              /* OPTIMIZERS */
enum { LR, COEF_A, COEF_B, EPS, DECAY, CLIP };                                                   /* Update.constants */
enum { RUN_START, RUN_STOP, RUN_DECAYS, RUN_COLUMNS };                                          /* runs */
enum { START, CODING, VARIABLE_COLUMNS };                                                        /* Layout.variables */
enum { ONE_HOT, THERMOMETER };                                                                   /* codings */
enum { PANEL = 64, STRIP = 16, MAX_LAYERS = 64, MAX_FEATURES = 64, LOSS_ROWS = 16, RECENT = 16 };

typedef struct {
    void *theta;
    const int64_t *layers;      /* (n_rows, LAYER_COLUMNS) */
    const int32_t *n_live;      /* per padded unit */
    const int64_t *panel_start; /* per panel */
    int64_t n_layers;           /* of the chain; rows n_layers .. n_rows - 1 are direct connections */
    int64_t n_rows;
    const int32_t *variables; /* (n_variables + 1, VARIABLE_COLUMNS), or null: all inputs are binary variables */
    int64_t n_variables;
} net_t;

typedef struct {
    void *values;
    const int64_t *layout; /* (n_rows, SHARED_COLUMNS) */
    const int32_t *order;  /* of the connectivity at work */
} shared_t;

typedef struct { /* the tables of all connectivities, one after the other */
    const int64_t *layers, *panel_start;
    const int32_t *n_live, *orders, *variables;
    int64_t n_layers, n_rows, n_panels, units, n_order, n_variables; /* per connectivity */
} masks_t;

typedef struct {
    const uint64_t *bits;
    int64_t words;
    const double *weights; /* of every row of bits, or null */
    const int64_t *rows;   /* in the order of use; score and conditionals take all rows of bits, in order */
    int64_t n_rows, batch_size;
} batches_t;

typedef struct {
    const uint64_t *keep; /* (rows, words), or null: a bit for every hidden unit */
    int64_t words;
    double scale; /* 1 / (1 - probability of being dropped) */
} dropout_t;

typedef struct {
    int optimizer;
    int64_t step;
    const double *constants;
    void *state; /* (n_state, n) */
    int64_t n;
} update_t;

typedef struct {
    void *gradient; /* or null */
    void *theta, *dtheta, *reals;
    int32_t *ints;
} scratch_t;

typedef struct {
    int rank, n_ranks;
    int32_t *sync;
} crew_t;

typedef struct { /* the arguments of any kernel; each reads those that its signature in reference names */
    int64_t real_bytes;
    net_t net;
    shared_t shared;
    masks_t masks;
    batches_t batches;
    dropout_t dropout;
    update_t update;
    scratch_t scratch;
    crew_t crew;
    const int64_t *points; /* (n_points, n_rows, LAYER_COLUMNS) */
    const void *features;  /* (n_points, n_features) */
    const int64_t *groups, *runs;
    int64_t n_points, n_features, n_groups, n_runs, n_places, block;
    const double *uniforms;
    const int64_t *columns; /* (D,), of the rows drawn, in order of place */
    void *out;
    const uint64_t *context; /* of walk: (n, context_words), or null */
    int64_t context_words;
    const int32_t *given;     /* (n, n_variables) */
    const double *weights;    /* of every level, or null */
    const int32_t *partners;  /* (n_variables,), or null */
    double *log_mass;
    /* Of the building blocks only: */
    int64_t l;
    const void *x, *dz; /* inputs, or the gradient of apply_gradient; gradient of the sums, or, for affine_forward, what direct connections add */
    const uint64_t *marks; /* in place of x, or null: bits of each row, for affine_forward, or of each column */
    int64_t mark_words;
    int64_t m;          /* rows of the buffers */
    double scale, *nll;
} call_t;

typedef void kernel_t(const call_t *);

typedef struct {
    kernel_t *pack, *score, *conditionals, *sample, *walk, *train, *train_shared, *train_latent, *apply_gradient;
    kernel_t *affine_forward, *bernoulli_nll, *affine_backward_input, *affine_backward_weights;
} kernels_t;

typedef struct {
    const char *name;
    const kernels_t *of_float, *of_double;
} level_t;

/* Levels this CPU can run, best first; returns how many. */
int made_fast_levels(level_t *levels);

/* Call a kernel with denormal numbers taken as 0. */
void made_fast_call(kernel_t *kernel, const call_t *call);

/* How many layers of the chain stand among the n rows of a table. */
int64_t made_fast_n_chain(const int64_t *layers, int64_t n_rows);

/* Bits of one row in another order; place[d] is that of column d. */
void made_fast_permute(const uint64_t *bits, int64_t words, const int32_t *place, uint64_t *out);

/* Rows of 0/1 as bits, in another order, whose inverse is written to place; returns the bitwise or of all. */
uint8_t made_fast_pack_bits(const uint8_t *x, int64_t n, int64_t n_columns, const int64_t *order, int32_t *place,
                            uint64_t *out);

#endif
