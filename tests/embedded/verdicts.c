/* What the C library says of model files that come one after the other from standard input, as numbers in hexadecimal.
 *
 * A file comes as its length, 8 bytes, and its content. The answer is one line: its status and text; or 0, the number of inputs,
 * the scores of the rows that `verdicts.py` scores too, and the rows that it draws.
 */
#include "made_fast.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FEW_INPUTS = 5, DRAWS = 6, SEED = 3 };

static int tell(const made_fast_model_t *model)
{
    const size_t D = made_fast_n_inputs(model), n = D <= FEW_INPUTS ? (size_t)1 << D : 2;
    made_fast_error_t error;
    uint8_t *rows = malloc((n > DRAWS ? n : DRAWS) * D);
    double *log_p = malloc(n * sizeof(double)), *proba = malloc(n * D * sizeof(double));
    size_t i, d;
    int status = MADE_FAST_NO_MEMORY;
    if (!rows || !log_p || !proba) goto end;
    for (i = 0; i < n; i++)
        for (d = 0; d < D; d++) rows[i * D + d] = D <= FEW_INPUTS ? i >> d & 1 : i;
    if ((status = made_fast_score(model, rows, n, D, log_p, &error))) goto end;
    if (made_fast_n_networks(model) == 1 && (status = made_fast_conditionals(model, rows, n, D, proba, &error))) goto end;
    if ((status = made_fast_sample(model, DRAWS, D, SEED, rows, &error))) goto end;
    printf("0 %zu ", D);
    for (i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, log_p + i, 8);
        printf("%016" PRIx64, bits);
    }
    putchar(' ');
    for (i = 0; i < DRAWS * D; i++) putchar('0' + rows[i]);
    putchar('\n');
end:
    if (status) printf("%d %s\n", status, error.text);
    free(rows);
    free(log_p);
    free(proba);
    return status;
}

int main(void)
{
    uint64_t n;
    while (fread(&n, 8, 1, stdin) == 1) {
        unsigned char *bytes = malloc(n ? n : 1); /* of just that length: a sanitizer sees a read behind it */
        made_fast_error_t error;
        made_fast_model_t *model;
        if (!bytes || fread(bytes, 1, n, stdin) != n) return 1;
        model = made_fast_open_bytes(bytes, n, &error);
        if (model)
            tell(model);
        else
            printf("%d %s\n", error.status, error.text);
        made_fast_close(model);
        free(bytes);
        fflush(stdout);
    }
    return 0;
}
