/* SHA-256 (FIPS 180-4), the checksum of model files: plain C, and the instructions for it of x86-64 CPUs that have them. */

#include "internal.h"

#include <string.h>
#if defined(__x86_64__) && !defined(PLAIN_SHA256)
#define HAS_FAST
#include <cpuid.h>
#include <immintrin.h>
#endif

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotated(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* One round; the caller moves the letters along. */
#define ROUND(a, b, c, d, e, f, g, h, i)                                                                                      \
    do {                                                                                                                      \
        const uint32_t t = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];        \
        d += t;                                                                                                               \
        h = t + (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));                            \
    } while (0)

static void add_plain(uint32_t h[8], const unsigned char *at, size_t n_blocks)
{
    for (; n_blocks; n_blocks--, at += 64) {
        uint32_t w[64], v[8];
        for (int i = 0; i < 16; i++) {
            memcpy(w + i, at + 4 * i, 4);
            w[i] = __builtin_bswap32(w[i]);
        }
        for (int i = 16; i < 64; i++) {
            const uint32_t a = w[i - 15], b = w[i - 2];
            w[i] =
                w[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + w[i - 7] + (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
        }
        memcpy(v, h, sizeof(v));
        for (int i = 0; i < 64; i += 8) {
            ROUND(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], i);
            ROUND(v[7], v[0], v[1], v[2], v[3], v[4], v[5], v[6], i + 1);
            ROUND(v[6], v[7], v[0], v[1], v[2], v[3], v[4], v[5], i + 2);
            ROUND(v[5], v[6], v[7], v[0], v[1], v[2], v[3], v[4], i + 3);
            ROUND(v[4], v[5], v[6], v[7], v[0], v[1], v[2], v[3], i + 4);
            ROUND(v[3], v[4], v[5], v[6], v[7], v[0], v[1], v[2], i + 5);
            ROUND(v[2], v[3], v[4], v[5], v[6], v[7], v[0], v[1], i + 6);
            ROUND(v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[0], i + 7);
        }
        for (int i = 0; i < 8; i++) h[i] += v[i];
    }
}

#if defined(HAS_FAST)
static int has_instructions(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}

/* The instructions want the letters in another order: abef holds f in its lowest lane, cdgh has h. */
__attribute__((target("sha,sse4.1,ssse3"))) static void add_fast(uint32_t h[8], const unsigned char *at, size_t n_blocks)
{
    const __m128i turn = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const __m128i dcba = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)h), 0xb1);
    const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(h + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(dcba, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, dcba, 0xf0);
    for (; n_blocks; n_blocks--, at += 64) {
        const __m128i before[2] = {abef, cdgh};
        __m128i w[4];
        for (int i = 0; i < 4; i++) w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(at + 16 * i)), turn);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) { /* four rounds, and four words of the schedule */
            const __m128i sum = _mm_add_epi32(w[i % 4], _mm_loadu_si128((const __m128i *)(K + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            if (i >= 3 && i < 15) {
                const __m128i more = _mm_add_epi32(w[(i + 1) % 4], _mm_alignr_epi8(w[i % 4], w[(i + 3) % 4], 4));
                w[(i + 1) % 4] = _mm_sha256msg2_epu32(more, w[i % 4]);
            }
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
            if (i >= 1 && i < 13) w[(i + 3) % 4] = _mm_sha256msg1_epu32(w[(i + 3) % 4], w[i % 4]);
        }
        abef = _mm_add_epi32(abef, before[0]);
        cdgh = _mm_add_epi32(cdgh, before[1]);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)h, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(h + 4), _mm_alignr_epi8(dchg, feba, 8));
}
#endif

static void add_blocks(uint32_t h[8], const unsigned char *at, size_t n_blocks)
{
#if defined(HAS_FAST)
    if (has_instructions()) {
        add_fast(h, at, n_blocks);
        return;
    }
#endif
    add_plain(h, at, n_blocks);
}

void mf_sha256_start(sha256_t *sha)
{
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sha->h, first, sizeof(first));
    sha->n = 0;
}

void mf_sha256_add(sha256_t *sha, const void *bytes, size_t n)
{
    const unsigned char *at = bytes;
    const size_t held = sha->n % 64;
    sha->n += n;
    if (held) {
        const size_t more = n < 64 - held ? n : 64 - held;
        memcpy(sha->block + held, at, more);
        if (held + more < 64) return;
        add_blocks(sha->h, sha->block, 1);
        at += more;
        n -= more;
    }
    if (n >= 64) add_blocks(sha->h, at, n / 64);
    if (n % 64) memcpy(sha->block, at + n / 64 * 64, n % 64);
}

void mf_sha256_hex(sha256_t *sha, char hex[65])
{
    const uint64_t n_bits = 8 * sha->n;
    const size_t held = sha->n % 64, fill = held < 56 ? 56 - held : 120 - held;
    unsigned char end[72] = {0x80};
    for (int i = 0; i < 8; i++) end[fill + i] = (unsigned char)(n_bits >> (56 - 8 * i));
    mf_sha256_add(sha, end, fill + 8);
    for (int i = 0; i < 64; i++) hex[i] = "0123456789abcdef"[sha->h[i / 8] >> (28 - 4 * (i % 8)) & 15];
    hex[64] = 0;
}
