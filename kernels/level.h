/* The kernels of one CPU level, for both REALs. Included by level_*.c, which name the level; setup.py gives the flags. */

#include "native.h"

#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))

#define REAL float
#define INT int32_t
#define REAL_IS_FLOAT 1
#define REAL_BYTES 4
#define NAME(x) x##_f32
#include "vector.h"
#include "affine.h"
#include "update.h"
#include "net.h"
#include "train.h"
#include "shared.h"
#include "undef.h"

#define REAL double
#define INT int64_t
#define REAL_IS_FLOAT 0
#define REAL_BYTES 8
#define NAME(x) x##_f64
#include "vector.h"
#include "affine.h"
#include "update.h"
#include "net.h"
#include "train.h"
#include "shared.h"
#include "undef.h"

#define KERNELS(T)                                                                                                            \
    {forward_##T,       forward_sparse_##T, nll_##T,          backward_input_##T, backward_weights_##T,                       \
     backward_weights_sparse_##T, score_##T, conditionals_##T, sample_##T, train_##T,                        \
     pack_##T, unpack_gradient_##T, train_shared_##T}

const level_t LEVEL_TABLE = {LEVEL_NAME, {KERNELS(f32), KERNELS(f64)}};
