/* The kernels for one CPU level and one REAL: setup.py compiles it with LEVEL, BITS (32 or 64) and the level's flags. */

#include "native.h"

#include <math.h>
#include <sched.h>
#include <time.h>
#if defined(__linux__) && defined(__LP64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if BITS == 32
typedef float REAL;
typedef int32_t INT;
#else
typedef double REAL;
typedef int64_t INT;
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define JOIN_EXPANDED(a, b, c, d) a##b##c##d
#define JOIN(a, b, c, d) JOIN_EXPANDED(a, b, c, d)

#include "vector.h"
#include "bits.h"
#include "affine.h"
#include "update.h"
#include "levels.h"
#include "net.h"
#include "walk.h"
#include "train.h"
#include "shared.h"
#include "latent.h"

#ifdef SERVING_ONLY /* made_fast/embedded: the compiler leaves out what nobody calls */
const kernels_t JOIN(made_fast_, LEVEL, _f, BITS) = {.pack = pack, .score = score, .conditionals = conditionals, .sample = sample};
#else
const kernels_t JOIN(made_fast_, LEVEL, _f, BITS) = {
    pack, score, conditionals, sample, walk, train, train_shared, train_latent, apply_gradient,
    affine_forward, bernoulli_nll, affine_backward_input, affine_backward_weights,
};
#endif
