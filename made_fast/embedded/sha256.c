/* SHA-256 (FIPS 180-4), plain C: the checksum of model files. */

#include "internal.h"

#include <string.h>

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

static void add_block(uint32_t h[8], const unsigned char *block)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) {
        memcpy(w + i, block + 4 * i, 4);
        w[i] = __builtin_bswap32(w[i]);
    }
    for (int i = 16; i < 64; i++) {
        const uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + w[i - 7] + (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
    }
    memcpy(v, h, sizeof(v));
    for (int i = 0; i < 64; i++) {
        const uint32_t s1 = rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25), choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
        const uint32_t s0 = rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22);
        const uint32_t most = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]), t = v[7] + s1 + choice + K[i] + w[i];
        memmove(v + 1, v, 7 * sizeof(uint32_t));
        v[4] += t;
        v[0] = t + s0 + most;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
}

void mf_sha256_start(sha256_t *sha)
{
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
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
        add_block(sha->h, sha->block);
        at += more;
        n -= more;
    }
    for (; n >= 64; at += 64, n -= 64) add_block(sha->h, at);
    if (n) memcpy(sha->block, at, n);
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
