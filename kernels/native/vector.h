/* One SIMD vector of REAL, and exp, log1p, sigmoid, tanh on it. Nothing here knows a layer or a panel.
 *
 * Activations, the loss and its gradient are right to 2.5 units in the last place over the whole range; what is below twice
 * the smallest normal number may become 0 (made_fast_call takes denormals as 0).
 *
 * The width follows the CPU level. The compiler may not contract a*b+c (see setup.py): where a fused multiply-add is meant,
 * FMADD is written, so that the main part and the remainder of a loop round alike.
 */

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define LANES (VECTOR_BYTES * 8 / BITS)

typedef REAL vec __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef REAL vec_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INT ivec __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef double dvec __attribute__((vector_size(LANES * sizeof(double)), may_alias));

static ALWAYS_INLINE vec load(const REAL *p) { return *(const vec_unaligned *)p; }
static ALWAYS_INLINE void store(REAL *p, vec v) { *(vec_unaligned *)p = v; }

/* x in every lane. (Adding 0 would lose the sign of -0.0.) */
#define splat(x) ((vec)((REAL)(x) - (vec){0}))

static ALWAYS_INLINE vec choose(ivec mask, vec yes, vec no)
{
    return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask));
}

/* FMADD(a, b, c): a * b + c, rounded once where the CPU level has the instruction. MAX(a, b): b where either is NaN, so that
 * MAX(0, z) keeps a NaN. SQRT(a). OP(name) is the CPU's own operation. */
#if defined(__SSE2__)
#if VECTOR_BYTES == 64
#define WIDTH _mm512_
#elif VECTOR_BYTES == 32
#define WIDTH _mm256_
#else
#define WIDTH _mm_
#endif
#if BITS == 32
#define OP(name) JOIN(WIDTH, name, _p, s)
#else
#define OP(name) JOIN(WIDTH, name, _p, d)
#endif
typedef __typeof__(OP(setzero)()) native_t;
#define MAX(a, b) ((vec)OP(max)((native_t)(a), (native_t)(b)))
#define SQRT(a) ((vec)OP(sqrt)((native_t)(a)))
#if VECTOR_BYTES >= 32
#define FMADD(a, b, c) ((vec)OP(fmadd)((native_t)(a), (native_t)(b), (native_t)(c)))
#else
#define FMADD(a, b, c) ((a) * (b) + (c))
#endif
#elif defined(__aarch64__)
#define OP(name) JOIN(v, name, q_f, BITS)
#if BITS == 32
typedef float32x4_t native_t;
#else
typedef float64x2_t native_t;
#endif
#define FMADD(a, b, c) ((vec)OP(fma)((native_t)(c), (native_t)(a), (native_t)(b)))
#define MAX(a, b) ((vec)OP(max)((native_t)(a), (native_t)(b)))
#define SQRT(a) ((vec)OP(sqrt)((native_t)(a)))
#else
static ALWAYS_INLINE vec square_root(vec a)
{
    for (int i = 0; i < LANES; i++) a[i] = (REAL)sqrt(a[i]);
    return a;
}
#define FMADD(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) choose((a) > (b), (a), (b))
#define SQRT(a) square_root(a)
#endif

/* Lane i holds 1 << i. */
#if LANES == 16
#define LANE_BITS ((ivec){1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768})
#elif LANES == 8
#define LANE_BITS ((ivec){1, 2, 4, 8, 16, 32, 64, 128})
#elif LANES == 4
#define LANE_BITS ((ivec){1, 2, 4, 8})
#else
#define LANE_BITS ((ivec){1, 2})
#endif

/* All ones in the lanes whose bit of `bits` is set, else all zeros. */
static ALWAYS_INLINE ivec spread(uint64_t bits)
{
    const ivec chunk = (ivec){0} + (INT)(bits & ((1u << LANES) - 1));
    return (chunk & LANE_BITS) != 0;
}

/* Bit i: whether lane i is not 0; a NaN is not. */
static ALWAYS_INLINE uint64_t nonzero(vec a)
{
#if VECTOR_BYTES == 64 && BITS == 32
    return _mm512_cmp_ps_mask((native_t)a, (native_t)splat(0), _CMP_NEQ_UQ);
#elif VECTOR_BYTES == 64
    return _mm512_cmp_pd_mask((native_t)a, (native_t)splat(0), _CMP_NEQ_UQ);
#elif defined(__SSE2__)
    return (uint64_t)OP(movemask)((native_t)(a != 0));
#else
    uint64_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= (uint64_t)(a[i] != 0) << i;
    return bits;
#endif
}

static ALWAYS_INLINE vec absolute(vec a) { return (vec)((ivec)a & ~(ivec)splat((REAL)-0.0)); }

/* Sum of REAL lanes, accumulated as double: total += v, lane by lane. */
static ALWAYS_INLINE dvec widen(vec v) { return __builtin_convertvector(v, dvec); }

/* exp(x) - 1 = 2^n - 1 + 2^n (exp(r) - 1), x = n ln 2 + r, |r| <= ln 2 / 2, and scale = 2^n, by Cody and Waite's reduction.
 * x is cut off below where exp(x) is the smallest normal number: no denormals, no zero. Domain: x <= 1. */
static ALWAYS_INLINE vec exp_parts(vec x, vec *scale)
{
#if BITS == 32
    const vec magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    x = MAX(splat(-87.33654f), x);
    const vec shifted = FMADD(x, splat(1.44269504088896341f), magic);
    const vec n = shifted - magic;
    vec r = FMADD(n, splat(-0.693359375f), x);
    r = FMADD(n, splat(2.12194440e-4f), r);
    *scale = (vec)(((ivec)shifted + 127) << 23);
    static const REAL terms[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, /* S. Moshier, Cephes, expf */
                                 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
#else
    const vec magic = splat(6755399441055744.0); /* 1.5 * 2^52 */
    x = MAX(splat(-708.396418532264), x);
    const vec shifted = FMADD(x, splat(1.44269504088896340736), magic);
    const vec n = shifted - magic;
    vec r = FMADD(n, splat(-6.93147180369123816490e-01), x); /* ln 2 in two parts, as in fdlibm */
    r = FMADD(n, splat(-1.90821492927058770002e-10), r);
    *scale = (vec)(((ivec)shifted + 1023) << 52);
    static const REAL terms[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
                                 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0,
                                 0.5}; /* Taylor: 1/13! ... 1/2!; the rest is below 4e-18 */
#endif
    vec q = splat(terms[0]);
#pragma GCC unroll 16
    for (int i = 1; i < (int)(sizeof(terms) / sizeof(REAL)); i++) q = FMADD(q, r, splat(terms[i]));
    return FMADD(q * r, r, r); /* exp(r) - 1 */
}

static ALWAYS_INLINE vec vexp(vec x)
{
    vec scale;
    const vec p = exp_parts(x, &scale);
    return (splat(1) + p) * scale; /* p * scale alone might be too small to be there */
}

static ALWAYS_INLINE vec vexpm1(vec x)
{
    vec scale;
    const vec p = exp_parts(x, &scale);
    return FMADD(p, scale, scale - splat(1));
}

/* log(1 + y) for 0 <= y <= 1. In float, y times the polynomial of least relative error, 5e-9, found by Lawson's iteration; in
 * double 2 artanh(s) with s = y / (2 + y) <= 1/3, odd Taylor series, whose rest is below (1/9)^17 / 35 = 1.7e-18. */
static ALWAYS_INLINE vec vlog1p(vec y)
{
#if BITS == 32
    static const REAL terms[] = {-3.24398093e-3f, 1.98512636e-2f, -5.69591597e-2f, 0.106036171f, -0.153055698f,
                                 0.196759313f,    -0.249541327f,  0.333299637f,    -0.499999017f, 1};
    vec q = splat(terms[0]);
#pragma GCC unroll 16
    for (int i = 1; i < (int)(sizeof(terms) / sizeof(REAL)); i++) q = FMADD(q, y, splat(terms[i]));
    return q * y;
#else
    enum { TERMS = 16 };
    const vec s = y / (splat(2) + y), t = s * s;
    vec q = splat((REAL)(2.0 / (2 * TERMS + 1)));
    for (int i = TERMS - 1; i > 0; i--) q = FMADD(q, t, splat((REAL)(2.0 / (2 * i + 1))));
    return FMADD(q * t, s, s + s);
#endif
}

/* log(x) for x >= 1: x = 2^k m, m in [sqrt(1/2), sqrt(2)), log(m) = 2 artanh(s) with s = (m - 1) / (m + 1), odd Taylor series. */
static ALWAYS_INLINE vec vlog(vec x)
{
#if BITS == 32
    enum { TERMS = 4, MANTISSA = 23 }; /* |s| < 0.1716: the rest is below 2e-9 */
    const ivec half = (ivec)splat(0.70710678f);
    const vec high = splat(0.693359375f), low = splat(-2.12194440e-4f);
#else
    enum { TERMS = 10, MANTISSA = 52 }; /* below 2e-18 */
    const ivec half = (ivec)splat(0.70710678118654752440);
    const vec high = splat(6.93147180369123816490e-01), low = splat(1.90821492927058770002e-10);
#endif
    const ivec k = ((ivec)x - half) >> MANTISSA; /* so that m = x / 2^k is at least sqrt(1/2) */
    const vec m = (vec)((ivec)x - (k << MANTISSA)), n = __builtin_convertvector(k, vec);
    const vec s = (m - splat(1)) / (m + splat(1)), t = s * s;
    vec q = splat((REAL)(2.0 / (2 * TERMS + 1)));
    for (int i = TERMS - 1; i > 0; i--) q = FMADD(q, t, splat((REAL)(2.0 / (2 * i + 1))));
    return FMADD(n, high, FMADD(n, low, FMADD(q * t, s, s + s))) + (x - x); /* a NaN stays one */
}

static ALWAYS_INLINE vec vsigmoid(vec a)
{
    const vec e = vexp(-absolute(a)), r = splat(1) / (splat(1) + e);
    return choose(a < 0, e * r, r);
}

/* log(1 + exp(a)) */
static ALWAYS_INLINE vec vsoftplus(vec a)
{
    return MAX(splat(0), a) + vlog1p(vexp(-absolute(a)));
}

static ALWAYS_INLINE vec vtanh(vec a)
{
    const vec e = vexpm1(splat(-2) * absolute(a)), t = -e / (splat(2) + e);
    return (vec)((ivec)t | ((ivec)a & (ivec)splat((REAL)-0.0)));
}

/* g(z) */
static ALWAYS_INLINE vec activated(vec z, int code)
{
    switch (code) {
    case RELU: return MAX(splat(0), z);
    case SOFTPLUS: return vsoftplus(z);
    case TANH: return vtanh(z);
    case SIGMOID: return vsigmoid(z);
    case SOFTSIGN: return z / (splat(1) + absolute(z));
    default: return z;
    }
}

/* g'(z) as a function of h = g(z). */
static ALWAYS_INLINE vec derivative(vec h, int code)
{
    const vec one = splat(1), left = one - absolute(h);
    switch (code) {
    case RELU: return (vec)((h > 0) & (ivec)one);
    case SOFTPLUS: return -vexpm1(-h);
    case TANH: return FMADD(-h, h, one);
    case SIGMOID: return FMADD(-h, h, h);
    case SOFTSIGN: return left * left;
    default: return one;
    }
}

/* One loop for each activation but the identity, so that none chooses inside. */
#define EACH_ACTIVATION(code, EACH)                                                                                           \
    switch (code) { EACH(RELU) EACH(SOFTPLUS) EACH(TANH) EACH(SIGMOID) EACH(SOFTSIGN) }

/* Apply g in place to n REALs, n a multiple of LANES. */
static void activate(REAL *z, int64_t n, int code)
{
#define ACTIVATE(CODE)                                                                                                        \
    case CODE:                                                                                                                \
        for (int64_t j = 0; j < n; j += LANES) store(z + j, activated(load(z + j), CODE));                                    \
        break;
    EACH_ACTIVATION(code, ACTIVATE)
}

/* Multiply n REALs by g' in place. */
static void derive(REAL *dz, const REAL *h, int64_t n, int code)
{
#define DERIVE(CODE)                                                                                                          \
    case CODE:                                                                                                                \
        for (int64_t j = 0; j < n; j += LANES) store(dz + j, load(dz + j) * derivative(load(h + j), CODE));                   \
        break;
    EACH_ACTIVATION(code, DERIVE)
}
