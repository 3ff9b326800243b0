/* NumPy's random numbers: PCG64 (XSL-RR 128/64), seeded from one number by its SeedSequence; uniforms, numbers below a limit.
 *
 * M. E. O'Neill, "PCG: a family of simple fast space-efficient statistically good algorithms for random number generation",
 * 2014; D. Lemire, "Fast random integer generation in an interval", 2019.
 */

#include "internal.h"

__extension__ typedef unsigned __int128 wide_t;

static wide_t joined(uint64_t high, uint64_t low) { return (wide_t)high << 64 | low; }

static void advance(random_t *random)
{
    const wide_t by = joined(0x2360ed051fc65da4, 0x4385df649fccf645);
    const wide_t state = joined(random->high, random->low) * by + joined(random->inc_high, random->inc_low);
    random->high = (uint64_t)(state >> 64);
    random->low = (uint64_t)state;
}

static uint64_t next(random_t *random)
{
    advance(random);
    const uint64_t mixed = random->high ^ random->low;
    const unsigned turn = random->high >> 58;
    return mixed >> turn | mixed << (-turn & 63);
}

static uint32_t hashed(uint32_t value, uint32_t *by, uint32_t step)
{
    value ^= *by;
    *by *= step;
    value *= *by;
    return value ^ value >> 16;
}

void mf_random_seed(random_t *random, uint64_t seed)
{
    uint32_t pool[4] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0, 0}, by = 0x43b0d7e5;
    uint64_t words[4] = {0};
    for (int i = 0; i < 4; i++) pool[i] = hashed(pool[i], &by, 0x931e8875);
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++) {
            if (from == to) continue;
            const uint32_t mixed = 0xca01f9ddu * pool[to] - 0x4973f715u * hashed(pool[from], &by, 0x931e8875);
            pool[to] = mixed ^ mixed >> 16;
        }
    by = 0x8b51f9dd;
    for (int i = 0; i < 8; i++) words[i / 2] |= (uint64_t)hashed(pool[i % 4], &by, 0x58f38ded) << 32 * (i % 2);
    *random = (random_t){.inc_high = words[2] << 1 | words[3] >> 63, .inc_low = words[3] << 1 | 1};
    advance(random);
    const wide_t state = joined(random->high, random->low) + joined(words[0], words[1]);
    random->high = (uint64_t)(state >> 64);
    random->low = (uint64_t)state;
    advance(random);
}

double mf_random_uniform(random_t *random) { return (double)(next(random) >> 11) * (1.0 / 9007199254740992.0); }

uint32_t mf_random_32(random_t *random)
{
    if (random->has_half) {
        random->has_half = 0;
        return random->half;
    }
    const uint64_t both = next(random);
    random->has_half = 1;
    random->half = (uint32_t)(both >> 32);
    return (uint32_t)both;
}

uint32_t mf_random_below(random_t *random, uint32_t limit)
{
    uint64_t product = (uint64_t)mf_random_32(random) * limit;
    if ((uint32_t)product < limit) {
        const uint32_t least = (uint32_t)-limit % limit;
        while ((uint32_t)product < least) product = (uint64_t)mf_random_32(random) * limit;
    }
    return (uint32_t)(product >> 32);
}
