/* One SIMD vector of REAL, and exp, log1p, sigmoid, tanh on it.
 *
 * Activations, the loss and its gradient are right to 2.5 units in the last place over the whole range; what is below twice the
 * smallest normal number may become 0 (denormals are taken as 0, see native.h).
 *
 * Included by level.h, once for REAL = float and once for REAL = double. The width follows the CPU level that the file is
 * compiled for. Nothing here knows a layer or a panel. The compiler may not contract a*b+c (see setup.py): where a fused
 * multiply-add is meant, FMADD is written, so that the main part and the remainder of a loop round alike.
 */

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef REAL NAME(vec) __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef REAL NAME(vec_unaligned) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INT NAME(ivec) __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef double NAME(dvec) __attribute__((vector_size(VECTOR_BYTES * sizeof(double) / sizeof(REAL)), may_alias));

#define vec NAME(vec)
#define ivec NAME(ivec)
#define dvec NAME(dvec)
#define LANES ((int)(VECTOR_BYTES / sizeof(REAL)))

static ALWAYS_INLINE vec NAME(load)(const REAL *p) { return *(const NAME(vec_unaligned) *)p; }
static ALWAYS_INLINE void NAME(store)(REAL *p, vec v) { *(NAME(vec_unaligned) *)p = v; }
#define load NAME(load)
#define store NAME(store)

/* splat(x): x in every lane.  FMADD(a, b, c): a * b + c, rounded once where the CPU level has the instruction.
 * MAX(a, b): b where either is NaN, so MAX(0, z) keeps a NaN.  SQRT. */
#if REAL_IS_FLOAT
#if VECTOR_BYTES == 64
#define splat(x) ((vec)_mm512_set1_ps(x))
#define FMADD(a, b, c) ((vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define MAX(a, b) ((vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define SQRT(a) ((vec)_mm512_sqrt_ps((__m512)(a)))
#elif VECTOR_BYTES == 32
#define splat(x) ((vec)_mm256_set1_ps(x))
#define FMADD(a, b, c) ((vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define MAX(a, b) ((vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define SQRT(a) ((vec)_mm256_sqrt_ps((__m256)(a)))
#elif defined(__SSE2__)
#define splat(x) ((vec)_mm_set1_ps(x))
#define FMADD(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) ((vec)_mm_max_ps((__m128)(a), (__m128)(b)))
#define SQRT(a) ((vec)_mm_sqrt_ps((__m128)(a)))
#elif defined(__aarch64__)
#define splat(x) ((vec)vdupq_n_f32(x))
#define FMADD(a, b, c) ((vec)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define MAX(a, b) ((vec)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define SQRT(a) ((vec)vsqrtq_f32((float32x4_t)(a)))
#else
static ALWAYS_INLINE vec NAME(sqrt)(vec a) { return (vec){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
#define splat(x) ((vec){(x), (x), (x), (x)})
#define FMADD(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) NAME(choose)((a) > (b), (a), (b))
#define SQRT(a) NAME(sqrt)(a)
#endif
#else
#if VECTOR_BYTES == 64
#define splat(x) ((vec)_mm512_set1_pd(x))
#define FMADD(a, b, c) ((vec)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define MAX(a, b) ((vec)_mm512_max_pd((__m512d)(a), (__m512d)(b)))
#define SQRT(a) ((vec)_mm512_sqrt_pd((__m512d)(a)))
#elif VECTOR_BYTES == 32
#define splat(x) ((vec)_mm256_set1_pd(x))
#define FMADD(a, b, c) ((vec)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define MAX(a, b) ((vec)_mm256_max_pd((__m256d)(a), (__m256d)(b)))
#define SQRT(a) ((vec)_mm256_sqrt_pd((__m256d)(a)))
#elif defined(__SSE2__)
#define splat(x) ((vec)_mm_set1_pd(x))
#define FMADD(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) ((vec)_mm_max_pd((__m128d)(a), (__m128d)(b)))
#define SQRT(a) ((vec)_mm_sqrt_pd((__m128d)(a)))
#elif defined(__aarch64__)
#define splat(x) ((vec)vdupq_n_f64(x))
#define FMADD(a, b, c) ((vec)vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#define MAX(a, b) ((vec)vmaxq_f64((float64x2_t)(a), (float64x2_t)(b)))
#define SQRT(a) ((vec)vsqrtq_f64((float64x2_t)(a)))
#else
static ALWAYS_INLINE vec NAME(sqrt)(vec a) { return (vec){sqrt(a[0]), sqrt(a[1])}; }
#define splat(x) ((vec){(x), (x)})
#define FMADD(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) NAME(choose)((a) > (b), (a), (b))
#define SQRT(a) NAME(sqrt)(a)
#endif
#endif

/* Lane number as one bit: lane i holds 1 << i. */
#if VECTOR_BYTES / REAL_BYTES == 16
#define LANE_BITS ((ivec){1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768})
#elif VECTOR_BYTES / REAL_BYTES == 8
#define LANE_BITS ((ivec){1, 2, 4, 8, 16, 32, 64, 128})
#elif VECTOR_BYTES / REAL_BYTES == 4
#define LANE_BITS ((ivec){1, 2, 4, 8})
#else
#define LANE_BITS ((ivec){1, 2})
#endif

/* All ones in the lanes whose bit of `bits` is set, else all zeros. */
static ALWAYS_INLINE ivec NAME(spread)(uint64_t bits)
{
    const ivec chunk = (ivec){0} + (INT)(bits & ((1u << LANES) - 1));
    return (chunk & LANE_BITS) != 0;
}
#define spread NAME(spread)

static ALWAYS_INLINE vec NAME(choose)(ivec mask, vec yes, vec no)
{
    return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask));
}
#define choose NAME(choose)

static ALWAYS_INLINE vec NAME(absolute)(vec a) { return (vec)((ivec)a & ~(ivec)splat((REAL)-0.0)); }
#define absolute NAME(absolute)

/* from[index[0]], from[index[1]], ... in the lanes. */
static ALWAYS_INLINE vec NAME(gather)(const REAL *from, const int32_t *index)
{
#if VECTOR_BYTES == 64 && REAL_IS_FLOAT
    return (vec)_mm512_i32gather_ps(_mm512_loadu_si512(index), from, 4);
#elif VECTOR_BYTES == 64
    return (vec)_mm512_i32gather_pd(_mm256_loadu_si256((const __m256i *)index), from, 8);
#elif VECTOR_BYTES == 32 && REAL_IS_FLOAT
    return (vec)_mm256_i32gather_ps(from, _mm256_loadu_si256((const __m256i *)index), 4);
#elif VECTOR_BYTES == 32
    return (vec)_mm256_i32gather_pd(from, _mm_loadu_si128((const __m128i *)index), 8);
#else
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = from[index[i]];
    return v;
#endif
}

/* Sum of REAL lanes, accumulated as double: total += v, lane by lane. */
static ALWAYS_INLINE dvec NAME(widen)(vec v) { return __builtin_convertvector(v, dvec); }
#define widen NAME(widen)

/* exp(x) - 1 = 2^n - 1 + 2^n (exp(r) - 1), x = n ln 2 + r, |r| <= ln 2 / 2, and scale = 2^n, by Cody and Waite's reduction.
 * x is cut off below at LOWEST, where exp(x) is the smallest normal number: no denormals, no zero. Domain: x <= 1. */
static ALWAYS_INLINE vec NAME(exp_parts)(vec x, vec *scale)
{
#if REAL_IS_FLOAT
    const vec magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    x = MAX(splat(-87.33654f), x);
    const vec shifted = FMADD(x, splat(1.44269504088896341f), magic);
    const vec n = shifted - magic;
    vec r = FMADD(n, splat(-0.693359375f), x);
    r = FMADD(n, splat(2.12194440e-4f), r);
    *scale = (vec)(((ivec)shifted + 127) << 23);
    vec q = splat(1.9875691500e-4f); /* coefficients: S. Moshier, Cephes, expf */
    q = FMADD(q, r, splat(1.3981999507e-3f));
    q = FMADD(q, r, splat(8.3334519073e-3f));
    q = FMADD(q, r, splat(4.1665795894e-2f));
    q = FMADD(q, r, splat(1.6666665459e-1f));
    q = FMADD(q, r, splat(5.0000001201e-1f));
#else
    const vec magic = splat(6755399441055744.0); /* 1.5 * 2^52 */
    x = MAX(splat(-708.396418532264), x);
    const vec shifted = FMADD(x, splat(1.44269504088896340736), magic);
    const vec n = shifted - magic;
    vec r = FMADD(n, splat(-6.93147180369123816490e-01), x); /* ln 2 in two parts, as in fdlibm */
    r = FMADD(n, splat(-1.90821492927058770002e-10), r);
    *scale = (vec)(((ivec)shifted + 1023) << 52);
    vec q = splat(1.0 / 6227020800.0); /* Taylor: 1/13! ... 1/2!; the rest is below 4e-18 */
    q = FMADD(q, r, splat(1.0 / 479001600.0));
    q = FMADD(q, r, splat(1.0 / 39916800.0));
    q = FMADD(q, r, splat(1.0 / 3628800.0));
    q = FMADD(q, r, splat(1.0 / 362880.0));
    q = FMADD(q, r, splat(1.0 / 40320.0));
    q = FMADD(q, r, splat(1.0 / 5040.0));
    q = FMADD(q, r, splat(1.0 / 720.0));
    q = FMADD(q, r, splat(1.0 / 120.0));
    q = FMADD(q, r, splat(1.0 / 24.0));
    q = FMADD(q, r, splat(1.0 / 6.0));
    q = FMADD(q, r, splat(0.5));
#endif
    return FMADD(q * r, r, r); /* exp(r) - 1 */
}

static ALWAYS_INLINE vec NAME(vexp)(vec x)
{
    vec scale;
    const vec p = NAME(exp_parts)(x, &scale);
    return (splat(1) + p) * scale; /* p * scale alone might be too small to be there */
}

static ALWAYS_INLINE vec NAME(vexpm1)(vec x)
{
    vec scale;
    const vec p = NAME(exp_parts)(x, &scale);
    return FMADD(p, scale, scale - splat(1));
}

/* log(1 + y) for 0 <= y <= 1: 2 artanh(s) with s = y / (2 + y) <= 1/3, odd Taylor series. */
static ALWAYS_INLINE vec NAME(vlog1p)(vec y)
{
    const vec s = y / (splat(2) + y), t = s * s;
#if REAL_IS_FLOAT
    enum { TERMS = 6 }; /* the rest is below (1/9)^7 / 15 = 1.4e-8 */
#else
    enum { TERMS = 16 }; /* below (1/9)^17 / 35 = 1.7e-18 */
#endif
    vec q = splat((REAL)(2.0 / (2 * TERMS + 1)));
    for (int i = TERMS - 1; i > 0; i--) q = FMADD(q, t, splat((REAL)(2.0 / (2 * i + 1))));
    return FMADD(q * t, s, s + s);
}

static ALWAYS_INLINE vec NAME(vsigmoid)(vec a)
{
    const vec e = NAME(vexp)(-absolute(a)), r = splat(1) / (splat(1) + e);
    return choose(a < 0, e * r, r);
}

/* log(1 + exp(a)) */
static ALWAYS_INLINE vec NAME(vsoftplus)(vec a)
{
    return MAX(splat(0), a) + NAME(vlog1p)(NAME(vexp)(-absolute(a)));
}

static ALWAYS_INLINE vec NAME(vtanh)(vec a)
{
    const vec e = NAME(vexpm1)(splat(-2) * absolute(a)), t = -e / (splat(2) + e);
    return (vec)((ivec)t | ((ivec)a & (ivec)splat((REAL)-0.0)));
}

/* g(z); the codes are those of layout.ACTIVATIONS. */
static ALWAYS_INLINE vec NAME(activated)(vec z, int code)
{
    switch (code) {
    case 1: return MAX(splat(0), z);
    case 2: return NAME(vsoftplus)(z);
    case 3: return NAME(vtanh)(z);
    case 4: return NAME(vsigmoid)(z);
    case 5: return z / (splat(1) + absolute(z));
    default: return z;
    }
}

/* g'(z) as a function of h = g(z). */
static ALWAYS_INLINE vec NAME(derivative)(vec h, int code)
{
    const vec one = splat(1);
    switch (code) {
    case 1: return (vec)((h > 0) & (ivec)one);
    case 2: return -NAME(vexpm1)(-h);
    case 3: return FMADD(-h, h, one);
    case 4: return FMADD(-h, h, h);
    case 5: {
        const vec t = one - absolute(h);
        return t * t;
    }
    default: return one;
    }
}

/* Apply g in place to n REALs, n a multiple of LANES. */
static void NAME(activate)(REAL *z, int64_t n, int code)
{
#define EACH(CODE)                                                                                                            \
    case CODE:                                                                                                                \
        for (int64_t j = 0; j < n; j += LANES) store(z + j, NAME(activated)(load(z + j), CODE));                              \
        break;
    switch (code) { EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) }
#undef EACH
}

/* Multiply n REALs by g' in place. */
static void NAME(derive)(REAL *dz, const REAL *h, int64_t n, int code)
{
#define EACH(CODE)                                                                                                            \
    case CODE:                                                                                                                \
        for (int64_t j = 0; j < n; j += LANES) store(dz + j, load(dz + j) * NAME(derivative)(load(h + j), CODE));             \
        break;
    switch (code) { EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) }
#undef EACH
}
