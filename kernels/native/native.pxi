# What _native.pyx uses of native.h; fields may stand in another order.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef extern from "native.h" nogil:
    ctypedef struct net_t:
        void *theta
        int64_t *layers, *panel_start
        int32_t *n_live
        int64_t n_layers, n_rows

    ctypedef struct shared_t:
        void *values
        int64_t *layout
        int32_t *order

    ctypedef struct masks_t:
        int64_t *layers, *panel_start
        int32_t *n_live, *orders
        int64_t n_layers, n_rows, n_panels, units, n_order

    ctypedef struct batches_t:
        uint64_t *bits
        int64_t words, n_rows, batch_size
        double *weights
        int64_t *rows
        int sparse

    ctypedef struct dropout_t:
        uint64_t *keep
        int64_t words
        double scale

    ctypedef struct update_t:
        int optimizer
        int64_t step, n
        double *constants
        void *state

    ctypedef struct scratch_t:
        void *gradient, *theta, *dtheta, *reals
        int32_t *ints

    ctypedef struct crew_t:
        int rank, n_ranks
        int32_t *sync

    ctypedef struct lists_t:
        int32_t *count, *index
        int64_t ld

    ctypedef struct call_t:
        net_t net
        shared_t shared
        masks_t masks
        batches_t batches
        dropout_t dropout
        update_t update
        scratch_t scratch
        crew_t crew
        lists_t ones
        int64_t real_bytes, n_groups, n_places, block, l, m
        int64_t *groups
        void *x, *dz, *out
        double *uniforms, *nll
        double scale

    ctypedef void kernel_t(const call_t *)

    ctypedef struct kernels_t:
        kernel_t *pack, *score, *conditionals, *sample, *train, *train_shared
        kernel_t *affine_forward, *bernoulli_nll, *affine_backward_input, *affine_backward_weights

    ctypedef struct level_t:
        const char *name
        const kernels_t *of_float, *of_double

    ctypedef struct constant_t:
        const char *name
        int64_t value

    const constant_t *made_fast_constants
    int made_fast_levels(level_t *)
    void made_fast_call(kernel_t *, const call_t *)
    int64_t made_fast_n_chain(const int64_t *, int64_t)
    void made_fast_list_ones(const uint64_t *, int64_t, int64_t, int64_t, int32_t *, int32_t *)
    void made_fast_list_rows(const uint64_t *, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int32_t *, int32_t *)
    uint8_t made_fast_pack_bits(const uint8_t *, int64_t, int64_t, const int64_t *, int32_t *, uint64_t *)
