/* The C library of made_fast: open a model file, score rows of 0/1, draw rows. No Python, no BLAS, no thread of its own.
 *
 *     made_fast_error_t error;
 *     made_fast_model_t *model = made_fast_open("model.safetensors", &error);
 *     if (!model) return fprintf(stderr, "%s\n", error.text), 1;
 *     if (made_fast_score(model, rows, n_rows, made_fast_n_inputs(model), log_p, &error)) ...
 *     made_fast_close(model);
 *
 * It reads what `save` of the Python package writes, checks all of it (checksums, sizes, masks), and refuses what Python
 * refuses. Scores and draws are bitwise those of Python on the same CPU. Models of tables of columns are not for this library:
 * opening one is an error of MADE_FAST_UNSUPPORTED.
 *
 * Threads: there is no global state. Any number of threads may score and draw from one model at once; one closes it when no
 * other uses it. Nothing here starts a thread: to use several, give each a share of the rows.
 *
 * Errors: functions that can fail take `error`, which may be null. They set its status, MADE_FAST_OK or what is below, and a
 * text that says what was demanded, what was found, and a way out; the caller owns it, nothing needs to be freed.
 */
#ifndef MADE_FAST_H
#define MADE_FAST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MADE_FAST_API __attribute__((visibility("default")))
#else
#define MADE_FAST_API
#endif

enum {
    MADE_FAST_OK = 0,
    MADE_FAST_CANNOT_READ = 1,   /* there is no such file, or it cannot be read */
    MADE_FAST_BAD_FILE = 2,      /* it is no whole, consistent model file */
    MADE_FAST_UNSUPPORTED = 3,   /* it may be one, of a kind that this library does not open */
    MADE_FAST_BAD_ARGUMENT = 4,  /* a wrong number of columns, a null pointer, no such mask */
    MADE_FAST_BAD_VALUE = 5,     /* rows have entries other than 0 and 1 */
    MADE_FAST_OVERFLOW = 6,      /* the weights are so large that arithmetic overflows: there is no answer */
    MADE_FAST_NO_MEMORY = 7
};

typedef struct {
    int status;
    char text[508]; /* one line of UTF-8 (a path in it is as the caller gave it), ends with a 0 */
} made_fast_error_t;

typedef struct made_fast_model made_fast_model_t; /* opaque, immutable */

/* Open the model file at a path; null if it fails. `made_fast_open` reads it into memory. `made_fast_map` maps it, so that
 * processes share one copy of the parameters: replace such a file by a rename, as `save` does, never in place, for a mapped
 * file that is cut short kills the processes that use it (SIGBUS). Both check the whole file. */
MADE_FAST_API made_fast_model_t *made_fast_open(const char *path, made_fast_error_t *error);
MADE_FAST_API made_fast_model_t *made_fast_map(const char *path, made_fast_error_t *error);

/* The same for the content of a file; the bytes are copied. */
MADE_FAST_API made_fast_model_t *made_fast_open_bytes(const void *bytes, size_t n_bytes, made_fast_error_t *error);

/* Free a model; null is fine. */
MADE_FAST_API void made_fast_close(made_fast_model_t *model);

/* Number of inputs, D: the columns of every row. */
MADE_FAST_API size_t made_fast_n_inputs(const made_fast_model_t *model);

/* Number of networks that are mixed: the masks, or the points of a latent mixture, of all members together. */
MADE_FAST_API size_t made_fast_n_networks(const made_fast_model_t *model);

/* Name of column d, in UTF-8, which lives as long as the model; null if the model has no names, or there is no such column. */
MADE_FAST_API const char *made_fast_column_name(const made_fast_model_t *model, size_t d);

/* Whether the model has a threshold (`binarize`), above which a value counts as 1; put into *threshold unless null. */
MADE_FAST_API int made_fast_has_threshold(const made_fast_model_t *model, double *threshold);

/* CPU level of the kernels: x86-64-v4, x86-64-v3, x86-64-v2 or baseline; the best that this CPU runs, unless the environment
 * variable MADE_FAST_CPU names another when the model is opened. */
MADE_FAST_API const char *made_fast_cpu(const made_fast_model_t *model);

/* Log-likelihood of rows, log p(x) in nats: log_p[i] is that of rows[i * n_columns .. ]. Exact. Entries are 0 or 1; of a model
 * with a threshold (`binarize`), any uint8, and those above it count as 1. Returns the status; if it is not MADE_FAST_OK,
 * log_p means nothing. */
MADE_FAST_API int made_fast_score(const made_fast_model_t *model, const uint8_t *rows, size_t n_rows, size_t n_columns,
                                  double *log_p, made_fast_error_t *error);

/* Every conditional of rows under one network: proba[i * n_columns + d] = p(x_d = 1 | the inputs of row i at places before
 * that of d). For models of one network, which has one ordering; MADE_FAST_UNSUPPORTED otherwise. */
MADE_FAST_API int made_fast_conditionals(const made_fast_model_t *model, const uint8_t *rows, size_t n_rows, size_t n_columns,
                                         double *proba, made_fast_error_t *error);

/* Draw independent rows of 0/1, (n_rows, n_columns): those of Python's `model.sample(n_rows, random_state=seed)`, whose random
 * numbers are those of NumPy's default_rng(seed), a PCG64. */
MADE_FAST_API int made_fast_sample(const made_fast_model_t *model, size_t n_rows, size_t n_columns, uint64_t seed,
                                   uint8_t *rows, made_fast_error_t *error);

#ifdef __cplusplus
}
#endif
#endif
