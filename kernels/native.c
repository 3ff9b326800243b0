/* What does not depend on REAL or on the CPU level: lists of ones, the mode of the FPU, which levels this CPU can run. */

#include "native.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

void made_fast_list_ones(const uint64_t *bits, int64_t words, int64_t n, int64_t n_columns, int32_t *count, int32_t *index)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t *ones = index + i * n_columns;
        for (int64_t w = 0; w < words; w++)
            for (uint64_t word = bits[i * words + w]; word; word &= word - 1)
                *ones++ = (int32_t)(64 * w + __builtin_ctzll(word));
        count[i] = (int32_t)(ones - (index + i * n_columns));
    }
}

/* Lists, for each column of words [word_start, word_stop), the places i with bit on in row rows[i] (row i if rows is null).
 * ld is the length of a list. */
void made_fast_list_rows(const uint64_t *bits, int64_t words, const int64_t *rows, int64_t n, int64_t n_columns,
                         int64_t word_start, int64_t word_stop, int64_t ld, int32_t *count, int32_t *index)
{
    for (int64_t w = word_start; w < word_stop; w++) {
        int32_t *counts = count + 64 * w, *lists = index + 64 * w * ld;
        for (int64_t j = 0; j < 64 && 64 * w + j < n_columns; j++) counts[j] = 0;
        for (int64_t i = 0; i < n; i++)
            for (uint64_t word = bits[(rows ? rows[i] : i) * words + w]; word; word &= word - 1) {
                const int j = __builtin_ctzll(word);
                lists[j * ld + counts[j]++] = (int32_t)i;
            }
    }
}

static void permute_word(uint64_t word, const int32_t *place, uint64_t *out)
{
    for (; word; word &= word - 1) {
        const int32_t p = place[__builtin_ctzll(word)];
        out[p / 64] |= 1ull << (p % 64);
    }
}

void made_fast_permute(const uint64_t *bits, int64_t words, const int32_t *place, uint64_t *out)
{
    for (int64_t w = 0; w < words; w++) out[w] = 0;
    for (int64_t w = 0; w < words; w++) permute_word(bits[w], place + 64 * w, out);
}

uint8_t made_fast_pack_bits(const uint8_t *x, int64_t n, const int32_t *place, uint64_t *out)
{
    uint64_t seen = 0;
    for (int64_t w = 0; w < (n + 63) / 64; w++) out[w] = 0;
    for (int64_t d = 0; d < n; d += 64) {
        const int64_t m = n - d < 64 ? n - d : 64;
        uint64_t word = 0;
        int64_t j = 0;
        for (; j + 8 <= m; j += 8) {
            uint64_t bytes;
            memcpy(&bytes, x + d + j, 8);
            if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) bytes = __builtin_bswap64(bytes);
            seen |= bytes;
            word |= (bytes * 0x0102040810204080ull >> 56) << j; /* moves bit 0 of byte b to bit b of the last byte */
        }
        for (; j < m; j++) {
            seen |= x[d + j];
            word |= (uint64_t)(x[d + j] & 1) << j;
        }
        permute_word(word, place + d, out);
    }
    seen |= seen >> 32;
    seen |= seen >> 16;
    return (uint8_t)(seen | seen >> 8);
}

uint64_t made_fast_enter(void)
{
#if defined(__x86_64__)
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* flush to zero, denormals are zero */
    return mode;
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (1ull << 24)));
    return mode;
#else
    return 0;
#endif
}

void made_fast_leave(uint64_t mode)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
    (void)mode;
#endif
}

int made_fast_levels(const level_t **levels)
{
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("ssse3");
    const int v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                   __builtin_cpu_supports("bmi2");
    const int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512cd");
    if (v4) levels[n++] = &made_fast_level_v4;
    if (v3) levels[n++] = &made_fast_level_v3;
    if (v2) levels[n++] = &made_fast_level_v2;
#endif
    levels[n++] = &made_fast_level_baseline;
    return n;
}
