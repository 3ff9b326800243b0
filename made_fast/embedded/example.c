/* An example of the C library: the scores of rows of 0/1 from standard input, or draws.
 *
 *     example MODEL < ROWS        a row a line, its 0s and 1s one after the other; prints log p of each, in nats
 *     example MODEL sample N SEED
 *     example MODEL time          prints how long it takes to score one row
 */
#define _POSIX_C_SOURCE 200809L

#include "made_fast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int fail(const made_fast_error_t *error)
{
    fprintf(stderr, "%s\n", error->text);
    return 1;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median time of a call with one row, a sixth of it ones. */
static int show_time(const made_fast_model_t *model, uint8_t *row)
{
    enum { CALLS = 20001 };
    static double took[CALLS];
    const size_t D = made_fast_n_inputs(model);
    made_fast_error_t error;
    double log_p;
    size_t d;
    int i;
    for (d = 0; d < D; d++) row[d] = d % 6 == 0;
    for (i = 0; i < CALLS; i++) {
        const double begin = seconds();
        if (made_fast_score(model, row, 1, D, &log_p, &error)) return fail(&error);
        took[i] = seconds() - begin;
    }
    qsort(took, CALLS, sizeof(double), by_size);
    printf("one row of %zu: median %.1f us, 99 %% within %.1f us, %zu network(s), %s\n", D, 1e6 * took[CALLS / 2],
           1e6 * took[CALLS / 100 * 99], made_fast_n_networks(model), made_fast_cpu(model));
    return 0;
}

static int draw(const made_fast_model_t *model, size_t n, unsigned long long seed)
{
    const size_t D = made_fast_n_inputs(model);
    uint8_t *rows = malloc(n * D + 1);
    made_fast_error_t error;
    size_t i;
    if (!rows || made_fast_sample(model, n, D, seed, rows, &error)) {
        free(rows);
        return rows ? fail(&error) : 1;
    }
    for (i = 0; i < n * D; i++) {
        putchar('0' + rows[i]);
        if (i % D == D - 1) putchar('\n');
    }
    free(rows);
    return 0;
}

static int score_lines(const made_fast_model_t *model, uint8_t *row)
{
    const size_t D = made_fast_n_inputs(model);
    made_fast_error_t error;
    double log_p;
    size_t d = 0;
    int c;
    while ((c = getchar()) != EOF) {
        if (c == '\n') {
            if (made_fast_score(model, row, 1, d, &log_p, &error)) return fail(&error); /* also if d is not D */
            printf("%.17g\n", log_p);
            d = 0;
        } else if (d < D)
            row[d++] = (uint8_t)(c - '0');
        else
            return fprintf(stderr, "a line has more than %zu columns\n", D), 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    made_fast_error_t error;
    made_fast_model_t *model;
    uint8_t *row;
    int status;
    if (argc < 2) return fprintf(stderr, "usage: %s MODEL [sample N SEED | time]\n", argv[0]), 2;
    model = made_fast_open(argv[1], &error);
    if (!model) return fail(&error);
    row = malloc(made_fast_n_inputs(model));
    if (!row)
        status = 1;
    else if (argc == 5 && strcmp(argv[2], "sample") == 0)
        status = draw(model, (size_t)strtoull(argv[3], 0, 10), strtoull(argv[4], 0, 10));
    else if (argc == 3 && strcmp(argv[2], "time") == 0)
        status = show_time(model, row);
    else
        status = score_lines(model, row);
    free(row);
    made_fast_close(model);
    return status;
}
