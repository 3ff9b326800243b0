/* What does not depend on REAL or on the CPU level: bits, the call of a kernel, which levels this CPU runs. */

#include "native.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

/* n bytes of 0/1 as bits of out, in another order; returns the bitwise or of all runs of eight bytes. */
static uint64_t pack_row(const uint8_t *x, int64_t n, const int32_t *place, uint64_t *out)
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
    return seen;
}

uint8_t made_fast_pack_bits(const uint8_t *x, int64_t n, int64_t n_columns, const int64_t *order, int32_t *place,
                            uint64_t *out)
{
    uint64_t seen = 0;
    for (int64_t p = 0; p < n_columns; p++) place[order[p]] = (int32_t)p;
    for (int64_t i = 0; i < n; i++) seen |= pack_row(x + i * n_columns, n_columns, place, out + i * ((n_columns + 63) / 64));
    seen |= seen >> 32;
    seen |= seen >> 16;
    return (uint8_t)(seen | seen >> 8);
}

int64_t made_fast_n_chain(const int64_t *layers, int64_t n_rows)
{
    int64_t n = 0;
    while (n < n_rows && layers[n * LAYER_COLUMNS + DIRECT] >= 0) n++;
    return n;
}

/* The state of an optimiser decays into denormals where an input is never on, and each of them makes the CPU stumble: a step
 * on MNIST took twice the time. The thread gets its own mode back, for the host process may need its denormals. */
void made_fast_call(kernel_t *kernel, const call_t *call)
{
#if defined(__x86_64__)
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* flush to zero, denormals are zero */
    kernel(call);
    _mm_setcsr(mode);
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (1ull << 24)));
    kernel(call);
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
    kernel(call);
#endif
}

/* A build may lack levels (made_fast/embedded): LACKS_v2 and so on say so. */
int made_fast_levels(level_t *levels)
{
#define ADD(name, level)                                                                                                      \
    do {                                                                                                                      \
        extern const kernels_t made_fast_##level##_f32, made_fast_##level##_f64;                                              \
        levels[n++] = (level_t){name, &made_fast_##level##_f32, &made_fast_##level##_f64};                                    \
    } while (0)
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("ssse3");
    const int v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                   __builtin_cpu_supports("bmi2");
    const int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512cd");
#ifndef LACKS_v4
    if (v4) ADD("x86-64-v4", v4);
#endif
#ifndef LACKS_v3
    if (v3) ADD("x86-64-v3", v3);
#endif
#ifndef LACKS_v2
    if (v2) ADD("x86-64-v2", v2);
#endif
#endif
    ADD("baseline", baseline);
    return n;
}
