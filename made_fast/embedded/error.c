/* Errors as text that the caller owns, memory on cache lines, and the comparison of text. */

#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first n bytes of UTF-8, or as many fewer as make whole characters. */
static size_t whole(const char *text, size_t n)
{
    size_t start = n;
    while (start && ((unsigned char)text[start - 1] & 0xc0) == 0x80) start--;
    return start && (unsigned char)text[start - 1] >= 0xc0 ? start - 1 : n;
}

int mf_shown(text_t text) { return (int)(text.n <= 80 ? text.n : whole(text.at, 80)); }

int mf_fail(made_fast_error_t *error, int status, const char *format, ...)
{
    if (!error) return 1;
    va_list arguments;
    va_start(arguments, format);
    error->status = status;
    if (vsnprintf(error->text, sizeof(error->text), format, arguments) < 0) error->text[0] = 0;
    va_end(arguments);
    size_t n = strlen(error->text);
    if (n == sizeof(error->text) - 1) n = whole(error->text, n);
    error->text[n] = 0;
    for (size_t i = 0; i < n; i++) /* what a file holds is shown on one line, and does nothing to a terminal */
        if ((unsigned char)error->text[i] < 0x20 || error->text[i] == 0x7f) error->text[i] = '?';
    return 1;
}

int mf_no_memory(made_fast_error_t *error)
{
    return mf_fail(error, MADE_FAST_NO_MEMORY, "there is not enough memory. Close other models, or score fewer rows at once.");
}

void *mf_aligned(size_t n_bytes)
{
    void *memory = 0;
    if (n_bytes > SIZE_MAX / 2 || posix_memalign(&memory, 64, n_bytes ? n_bytes : 1)) return 0;
    return memory;
}

int mf_is(text_t text, const char *word) { return text.n == strlen(word) && memcmp(text.at, word, text.n) == 0; }
