/* What _native.pyx and the compiled CPU levels share: the network's tables, and the table of kernels of one level.
 *
 * REAL arrays are void * here: entry 0 of a pair of tables works on float, entry 1 on double. Every function follows the
 * kernel contract (made_fast.kernels): C-contiguous arrays, nothing allocated, nothing raised, no thread started.
 */
#ifndef MADE_FAST_NATIVE_H
#define MADE_FAST_NATIVE_H

#include <stdint.h>

/* Columns of Layout.layers, see layout.py. */
enum { N_IN, N_OUT, N_PANELS, WEIGHTS, BIAS, UNITS, PANELS, ACTIVATION, DIRECT, LAYER_COLUMNS };
/* Columns of SharedLayout. */
enum { SHARED_WEIGHTS, SHARED_BIAS, SHARED_U, ROW, IN_ORDER, OUT_ORDER, SHARED_COLUMNS };
/* Columns of groups, see train_shared. */
enum { FIRST, STOP, MASK, PLACES, STEP, STEP_ROWS, GROUP_COLUMNS };
enum { PANEL = 64, STRIP = 16, TRAIN_BLOCK = 128, MAX_LAYERS = 64, SIGMOID = 4, SYNC = 64 };

typedef struct {
    void *theta;
    const int64_t *layers;      /* (n_rows, LAYER_COLUMNS) */
    const int32_t *n_live;      /* per padded unit */
    const int64_t *panel_start; /* per panel */
    int64_t n_layers; /* of the chain; rows n_layers .. n_rows - 1 are direct connections */
    int64_t n_rows;
} net_t;

typedef struct {
    void *values;
    const int64_t *layout; /* (n_rows, SHARED_COLUMNS) */
    const int32_t *order;  /* of the connectivity at work */
} shared_t;

typedef struct { /* the tables of all connectivities, each K times as long as in net_t and shared_t */
    const int64_t *layers, *panel_start;
    const int32_t *n_live, *orders;
    int64_t n_layers, n_rows, n_panels, units, n_order; /* per connectivity */
} masks_t;

typedef struct { /* rows to train on, in mini-batches */
    const uint64_t *bits;
    int64_t words;
    const double *weights; /* of every row of bits, or null */
    const int64_t *rows;   /* in the order of use */
    int64_t n_rows, batch_size;
    int sparse;
} batches_t;

typedef struct {
    const uint64_t *keep; /* (rows, words), or null: a bit for every hidden unit */
    int64_t words;
    double scale; /* 1 / (1 - probability of being dropped) */
} dropout_t;

typedef struct {
    int optimizer; /* code, see optimizers.py */
    int64_t step;
    const double *hyper; /* lr, a, b, eps, decay, clip */
    void *state;         /* (n_state, n_theta) */
    int64_t n_theta;
} rule_t;

typedef struct {
    int rank, n_ranks;
    int32_t *sync; /* (SYNC,) */
} crew_t;

typedef struct {
    void (*forward)(const net_t *, int64_t l, const void *x, const void *direct, int64_t rows, int64_t m, void *out);
    void (*forward_sparse)(const net_t *, int64_t l, const int32_t *count, const int32_t *index, int64_t ld, int64_t rows,
                           int64_t m, void *out);
    void (*nll)(const void *logits, int64_t columns, const uint64_t *bits, int64_t words, int64_t n, int64_t m, double scale,
                const double *weights, double *nll, void *dlogits);
    void (*backward_input)(const net_t *, int64_t l, const void *dz, const void *h, int64_t rows, int64_t m, void *dh);
    void (*backward_weights)(const net_t *, int64_t l, const void *x, const void *dz, int64_t m, const rule_t *);
    void (*backward_weights_sparse)(const net_t *, int64_t l, const int32_t *count, const int32_t *index, int64_t ld,
                                    const void *dz, int64_t m, const rule_t *);
    void (*score)(const net_t *, const uint64_t *bits, int64_t words, int64_t n, int64_t n_places, int sparse, int64_t block,
                  void *reals, int32_t *ints, double *log_p);
    void (*conditionals)(const net_t *, const uint64_t *bits, int64_t words, int64_t n, int sparse, int64_t block,
                         void *reals, int32_t *ints, void *proba);
    void (*sample)(const net_t *, const double *uniforms, int64_t n, int64_t block, void *reals, int32_t *ints, uint8_t *x);
    void (*train)(const net_t *, const batches_t *, const rule_t *, void *reals, int32_t *ints, double *nll, const crew_t *);
    void (*pack)(const net_t *, const shared_t *);
    void (*unpack_gradient)(const net_t *, const shared_t *, int add);
    void (*train_shared)(const shared_t *, const masks_t *, const batches_t *, const int64_t *groups, int64_t n_groups,
                         const dropout_t *, const rule_t *, void *gradient, void *theta, void *dtheta, void *reals,
                         int32_t *ints, double *nll, const crew_t *);
} kernels_t;

typedef struct {
    const char *name;
    kernels_t of[2]; /* float, double */
} level_t;

extern const level_t made_fast_level_baseline;
#if defined(__x86_64__)
extern const level_t made_fast_level_v2, made_fast_level_v3, made_fast_level_v4;
#endif

void made_fast_list_ones(const uint64_t *bits, int64_t words, int64_t n, int64_t n_columns, int32_t *count, int32_t *index);
void made_fast_list_rows(const uint64_t *bits, int64_t words, const int64_t *rows, int64_t n, int64_t n_columns,
                         int64_t word_start, int64_t word_stop, int64_t ld, int32_t *count, int32_t *index);

/* Bits of one row in another order; place[d] is that of column d. */
void made_fast_permute(const uint64_t *bits, int64_t words, const int32_t *place, uint64_t *out);

/* n bytes of 0/1 as bits, in another order; returns the bitwise or of them. */
uint8_t made_fast_pack_bits(const uint8_t *x, int64_t n, const int32_t *place, uint64_t *out);

/* Take denormal numbers as 0 on this thread, and give back the mode it was in before. The state of an optimiser decays into
 * denormals where an input is never on, stays there, and each makes the CPU stumble: MNIST took twice the time. */
uint64_t made_fast_enter(void);
void made_fast_leave(uint64_t mode);

/* Levels this CPU can run, best first; returns how many. */
int made_fast_levels(const level_t **levels);

#endif
