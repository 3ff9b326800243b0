# What _native.pyx uses of native.h; fields may stand in another order, and pointers point to anything.

from libc.stdint cimport int64_t, uint8_t

cdef extern from "native.h" nogil:
    ctypedef struct net_t:
        void *theta, *layers, *n_live, *panel_start, *variables
        int64_t n_layers, n_rows, n_variables

    ctypedef struct shared_t:
        void *values, *layout, *order

    ctypedef struct masks_t:
        void *layers, *panel_start, *n_live, *orders, *variables
        int64_t n_layers, n_rows, n_panels, units, n_order, n_variables

    ctypedef struct batches_t:
        void *bits, *weights, *rows
        int64_t words, n_rows, batch_size

    ctypedef struct dropout_t:
        void *keep
        int64_t words
        double scale

    ctypedef struct update_t:
        int optimizer
        int64_t step, n
        void *constants, *state

    ctypedef struct scratch_t:
        void *gradient, *theta, *dtheta, *reals, *ints

    ctypedef struct crew_t:
        int rank, n_ranks
        void *sync

    ctypedef struct call_t:
        net_t net
        shared_t shared
        masks_t masks
        batches_t batches
        dropout_t dropout
        update_t update
        scratch_t scratch
        crew_t crew
        int64_t real_bytes, n_points, n_features, n_groups, n_runs, n_places, block, l, m
        void *points, *features, *groups, *runs, *uniforms, *columns, *x, *dz, *out, *nll, *context, *given, *weights, *partners, *log_mass, *marks
        int64_t context_words, mark_words
        double scale

    ctypedef void kernel_t(const call_t *)

    ctypedef struct kernels_t:
        kernel_t *pack, *score, *conditionals, *sample, *walk, *train, *train_shared, *train_latent, *apply_gradient
        kernel_t *affine_forward, *bernoulli_nll, *affine_backward_input, *affine_backward_weights

    ctypedef struct level_t:
        const char *name
        const kernels_t *of_float, *of_double

    int made_fast_levels(level_t *)
    void made_fast_call(kernel_t *, const call_t *)
    int64_t made_fast_n_chain(const void *, int64_t)
    uint8_t made_fast_pack_bits(const void *, int64_t, int64_t, const void *, void *, void *)
