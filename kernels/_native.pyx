"""Native kernels: the signatures of ``reference.py`` on compiled SIMD code, without the GIL.

This file only unwraps arrays and picks the table of the CPU level; the arithmetic is in the C headers beside it. It
validates nothing (the callers in ``made_fast`` do). The level is the best this CPU runs, or the one that
``MADE_FAST_CPU`` names.
"""

import os

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef extern from "native.h" nogil:
    enum:
        DIRECT
        LAYER_COLUMNS

    ctypedef struct net_t:
        void *theta
        const int64_t *layers
        const int32_t *n_live
        const int64_t *panel_start
        int64_t n_layers
        int64_t n_rows

    ctypedef struct shared_t:
        void *values
        const int64_t *layout
        const int32_t *order

    ctypedef struct masks_t:
        const int64_t *layers
        const int64_t *panel_start
        const int32_t *n_live
        const int32_t *orders
        int64_t n_layers
        int64_t n_rows
        int64_t n_panels
        int64_t units
        int64_t n_order

    ctypedef struct batches_t:
        const uint64_t *bits
        int64_t words
        const double *weights
        const int64_t *rows
        int64_t n_rows
        int64_t batch_size
        int sparse

    ctypedef struct dropout_t:
        const uint64_t *keep
        int64_t words
        double scale

    ctypedef struct rule_t:
        int optimizer
        int64_t step
        const double *hyper
        void *state
        int64_t n_theta

    ctypedef struct crew_t:
        int rank
        int n_ranks
        int32_t *sync

    ctypedef struct kernels_t:
        void (*forward)(const net_t *, int64_t, const void *, const void *, int64_t, int64_t, void *) noexcept nogil
        void (*forward_sparse)(const net_t *, int64_t, const int32_t *, const int32_t *, int64_t, int64_t, int64_t,
                               void *) noexcept nogil
        void (*nll)(const void *, int64_t, const uint64_t *, int64_t, int64_t, int64_t, double, const double *, double *,
                    void *) noexcept nogil
        void (*backward_input)(const net_t *, int64_t, const void *, const void *, int64_t, int64_t, void *) noexcept nogil
        void (*backward_weights)(const net_t *, int64_t, const void *, const void *, int64_t, const rule_t *) noexcept nogil
        void (*backward_weights_sparse)(const net_t *, int64_t, const int32_t *, const int32_t *, int64_t, const void *,
                                        int64_t, const rule_t *) noexcept nogil
        void (*score)(const net_t *, const uint64_t *, int64_t, int64_t, int64_t, int, int64_t, void *, int32_t *,
                      double *) noexcept nogil
        void (*conditionals)(const net_t *, const uint64_t *, int64_t, int64_t, int, int64_t, void *, int32_t *,
                             void *) noexcept nogil
        void (*sample)(const net_t *, const double *, int64_t, int64_t, void *, int32_t *, uint8_t *) noexcept nogil
        void (*train)(const net_t *, const batches_t *, const rule_t *, void *, int32_t *, double *,
                      const crew_t *) noexcept nogil
        void (*pack)(const net_t *, const shared_t *) noexcept nogil
        void (*unpack_gradient)(const net_t *, const shared_t *, int) noexcept nogil
        void (*train_shared)(const shared_t *, const masks_t *, const batches_t *, const int64_t *, int64_t, const dropout_t *,
                             const rule_t *, void *, void *, void *, void *, int32_t *, double *,
                             const crew_t *) noexcept nogil

    ctypedef struct level_t:
        const char *name
        kernels_t of[2]

    void made_fast_list_ones(const uint64_t *, int64_t, int64_t, int64_t, int32_t *, int32_t *) noexcept
    void made_fast_list_rows(const uint64_t *, int64_t, const int64_t *, int64_t, int64_t, int64_t, int64_t, int64_t,
                             int32_t *, int32_t *) noexcept
    uint8_t made_fast_pack_bits(const uint8_t *, int64_t, const int32_t *, uint64_t *) noexcept
    uint64_t made_fast_enter() noexcept
    void made_fast_leave(uint64_t) noexcept
    int made_fast_levels(const level_t **) noexcept

ctypedef fused real:
    float
    double

cdef const level_t *_levels[8]
cdef int _n_levels = made_fast_levels(_levels)
cdef const level_t *_level = _levels[0]


def levels():
    """Return the names of the CPU levels that this machine runs, best first."""
    return tuple([_levels[i].name.decode() for i in range(_n_levels)])


def level():
    """Return the name of the CPU level in use."""
    return _level.name.decode()


def select_level(str name):
    """Use the kernels compiled for CPU level ``name`` from now on, in every thread."""
    global _level
    for i in range(_n_levels):
        if _levels[i].name.decode() == name:
            _level = _levels[i]
            return
    raise ValueError(f"CPU level must be one this machine runs: {', '.join(levels())}; got {name!r}. Unset MADE_FAST_CPU.")


if os.environ.get("MADE_FAST_CPU"):
    select_level(os.environ["MADE_FAST_CPU"])


cdef inline net_t _net(const real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live,
                       const int64_t[::1] panel_start) noexcept nogil:
    cdef net_t net
    net.theta = <void *>&theta[0]
    net.layers = &layers[0, 0]
    net.n_live = &n_live[0]
    net.panel_start = &panel_start[0]
    net.n_rows = layers.shape[0]
    net.n_layers = _n_chain(&layers[0, 0], layers.shape[0])
    return net


cdef inline int64_t _n_chain(const int64_t *layers, int64_t n_rows) noexcept nogil:
    cdef int64_t n = 0
    while n < n_rows and layers[n * LAYER_COLUMNS + DIRECT] >= 0:
        n += 1
    return n


cdef inline const kernels_t *_kernels(const real[::1] theta) noexcept nogil:
    return &_level.of[0 if real is float else 1]


def pack_bits(const uint8_t[:, ::1] x, const int64_t[::1] order, int32_t[::1] place, uint64_t[:, ::1] out, uint8_t[::1] seen):
    cdef Py_ssize_t i
    with nogil:
        for i in range(order.shape[0]):
            place[order[i]] = <int32_t>i
        seen[0] = 0
        for i in range(x.shape[0]):
            seen[0] |= made_fast_pack_bits(&x[i, 0], x.shape[1], &place[0], &out[i, 0])


def list_ones(const uint64_t[:, ::1] bits, int64_t n_columns, int32_t[::1] count, int32_t[:, ::1] index):
    if bits.shape[0] == 0:
        return
    with nogil:
        made_fast_list_ones(&bits[0, 0], bits.shape[1], bits.shape[0], n_columns, &count[0], &index[0, 0])


def list_rows(const uint64_t[:, ::1] bits, int64_t n_columns, int32_t[::1] count, int32_t[:, ::1] index):
    if bits.shape[0] == 0:
        count[:] = 0
        return
    with nogil:
        made_fast_list_rows(&bits[0, 0], bits.shape[1], NULL, bits.shape[0], n_columns, 0, bits.shape[1], index.shape[1],
                            &count[0], &index[0, 0])


def affine_forward(const real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live, const int64_t[::1] panel_start,
                   int64_t l, const real[:, :, ::1] x, const real[:, :, ::1] direct, real[:, :, ::1] out):
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    if x.shape[1] == 0:
        return
    cdef const void *add = &direct[0, 0, 0] if direct.shape[0] else NULL
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).forward(&net, l, &x[0, 0, 0], add, x.shape[1], x.shape[1], &out[0, 0, 0])
        made_fast_leave(mode)


def affine_forward_sparse(const real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live,
                          const int64_t[::1] panel_start, int64_t l, const int32_t[::1] count, const int32_t[:, ::1] index,
                          real[:, :, ::1] out):
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    if count.shape[0] == 0:
        return
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).forward_sparse(&net, l, &count[0], &index[0, 0], index.shape[1], count.shape[0], count.shape[0],
                                        &out[0, 0, 0])
        made_fast_leave(mode)


def bernoulli_nll(const real[:, :, ::1] logits, const uint64_t[:, ::1] bits, int64_t n_columns, double scale,
                  const double[::1] weights, double[::1] nll, real[:, :, ::1] dlogits):
    if logits.shape[1] == 0:
        return
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _level.of[0 if real is float else 1].nll(&logits[0, 0, 0], 64 * logits.shape[0], &bits[0, 0], bits.shape[1], n_columns,
                                                 logits.shape[1], scale, _weights(weights), &nll[0], &dlogits[0, 0, 0])
        made_fast_leave(mode)


def affine_backward_input(const real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live,
                          const int64_t[::1] panel_start, int64_t l, const real[:, :, ::1] dz, const real[:, :, ::1] h,
                          real[:, :, ::1] dh):
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    if dz.shape[1] == 0:
        return
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).backward_input(&net, l, &dz[0, 0, 0], &h[0, 0, 0], dz.shape[1], dz.shape[1], &dh[0, 0, 0])
        made_fast_leave(mode)


cdef inline const double *_weights(const double[::1] weights) noexcept nogil:
    return &weights[0] if weights.shape[0] else NULL


cdef inline rule_t _rule(int optimizer, int64_t step, const double[::1] hyper, real[:, ::1] state) noexcept nogil:
    cdef rule_t rule
    rule.optimizer = optimizer
    rule.step = step
    rule.hyper = &hyper[0]
    rule.state = &state[0, 0] if state.shape[0] else NULL
    rule.n_theta = state.shape[1]
    return rule


def affine_backward_weights(real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live,
                            const int64_t[::1] panel_start, int64_t l, const real[:, :, ::1] x, const real[:, :, ::1] dz,
                            int optimizer, int64_t step, const double[::1] hyper, real[:, ::1] state):
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    cdef rule_t rule = _rule(optimizer, step, hyper, state)
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).backward_weights(&net, l, &x[0, 0, 0], &dz[0, 0, 0], dz.shape[1], &rule)
        made_fast_leave(mode)


def affine_backward_weights_sparse(real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live,
                                   const int64_t[::1] panel_start, int64_t l, const int32_t[::1] count,
                                   const int32_t[:, ::1] index, const real[:, :, ::1] dz, int optimizer, int64_t step,
                                   const double[::1] hyper, real[:, ::1] state):
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    cdef rule_t rule = _rule(optimizer, step, hyper, state)
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).backward_weights_sparse(&net, l, &count[0], &index[0, 0], index.shape[1], &dz[0, 0, 0],
                                                dz.shape[1], &rule)
        made_fast_leave(mode)


def score(const real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live, const int64_t[::1] panel_start,
          const uint64_t[:, ::1] bits, int64_t n_places, bint sparse, int64_t block, real[::1] reals, int32_t[::1] ints,
          double[::1] log_p):
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    if bits.shape[0] == 0:
        return
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).score(&net, &bits[0, 0], bits.shape[1], bits.shape[0], n_places, sparse, block, &reals[0], &ints[0],
                              &log_p[0])
        made_fast_leave(mode)


def conditionals(const real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live, const int64_t[::1] panel_start,
                 const uint64_t[:, ::1] bits, bint sparse, int64_t block, real[::1] reals, int32_t[::1] ints,
                 real[:, ::1] proba):
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    if bits.shape[0] == 0:
        return
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).conditionals(&net, &bits[0, 0], bits.shape[1], bits.shape[0], sparse, block, &reals[0], &ints[0],
                                     &proba[0, 0])
        made_fast_leave(mode)


def sample(const real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live, const int64_t[::1] panel_start,
           const double[:, ::1] uniforms, int64_t block, real[::1] reals, int32_t[::1] ints, uint8_t[:, ::1] x):
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    if uniforms.shape[0] == 0:
        return
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).sample(&net, &uniforms[0, 0], uniforms.shape[0], block, &reals[0], &ints[0], &x[0, 0])
        made_fast_leave(mode)


cdef inline batches_t _batches(const uint64_t[:, ::1] bits, const double[::1] weights, const int64_t[::1] rows,
                               int64_t batch_size, bint sparse) noexcept nogil:
    cdef batches_t data
    data.bits = &bits[0, 0]
    data.words = bits.shape[1]
    data.weights = _weights(weights)
    data.rows = &rows[0]
    data.n_rows = rows.shape[0]
    data.batch_size = batch_size
    data.sparse = sparse
    return data


cdef inline crew_t _crew(int rank, int n_ranks, int32_t[::1] sync) noexcept nogil:
    cdef crew_t crew
    crew.rank = rank
    crew.n_ranks = n_ranks
    crew.sync = &sync[0]
    return crew


def train(real[::1] theta, const int64_t[:, ::1] layers, const int32_t[::1] n_live, const int64_t[::1] panel_start,
          const uint64_t[:, ::1] bits, const double[::1] weights, const int64_t[::1] rows, int64_t batch_size, bint sparse,
          int optimizer, int64_t step, const double[::1] hyper, real[:, ::1] state, real[::1] reals, int32_t[::1] ints,
          double[::1] nll, int rank, int n_ranks, int32_t[::1] sync):
    if rows.shape[0] == 0:
        return
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    cdef batches_t data = _batches(bits, weights, rows, batch_size, sparse)
    cdef rule_t rule = _rule(optimizer, step, hyper, state)
    cdef crew_t crew = _crew(rank, n_ranks, sync)
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).train(&net, &data, &rule, &reals[0], &ints[0], &nll[0], &crew)
        made_fast_leave(mode)


cdef inline shared_t _shared(const real[::1] values, const int64_t[:, ::1] layout, const int32_t *order) noexcept nogil:
    cdef shared_t shared
    shared.values = <void *>&values[0]
    shared.layout = &layout[0, 0]
    shared.order = order
    return shared


def pack(const real[::1] shared, const int64_t[:, ::1] shared_layout, const int32_t[::1] order, real[::1] theta,
         const int64_t[:, ::1] layers, const int32_t[::1] n_live, const int64_t[::1] panel_start):
    cdef net_t net = _net(theta, layers, n_live, panel_start)
    cdef shared_t source = _shared(shared, shared_layout, &order[0])
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(theta).pack(&net, &source)
        made_fast_leave(mode)


def unpack_gradient(const real[::1] gradient, const int64_t[:, ::1] layers, const int32_t[::1] n_live,
                    const int64_t[::1] panel_start, const int64_t[:, ::1] shared_layout, const int32_t[::1] order, bint add,
                    real[::1] shared):
    cdef net_t net = _net(gradient, layers, n_live, panel_start)
    cdef shared_t target = _shared(shared, shared_layout, &order[0])
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(gradient).unpack_gradient(&net, &target, add)
        made_fast_leave(mode)


def train_shared(real[::1] shared, const int64_t[:, ::1] shared_layout, const int32_t[:, ::1] orders,
                 const int64_t[:, :, ::1] layers, const int32_t[:, ::1] n_live, const int64_t[:, ::1] panel_start,
                 const uint64_t[:, ::1] bits, const double[::1] weights, const int64_t[::1] rows, const int64_t[:, ::1] groups,
                 int64_t batch_size, const uint64_t[:, ::1] keep, double dropout, bint sparse, int optimizer, int64_t step,
                 const double[::1] hyper, real[:, ::1] state, real[::1] gradient, real[::1] theta, real[::1] dtheta,
                 real[::1] reals, int32_t[::1] ints, double[::1] nll, int rank, int n_ranks, int32_t[::1] sync):
    if rows.shape[0] == 0:
        return
    cdef shared_t parameters = _shared(shared, shared_layout, &orders[0, 0])
    cdef masks_t masks
    masks.layers = &layers[0, 0, 0]
    masks.panel_start = &panel_start[0, 0]
    masks.n_live = &n_live[0, 0]
    masks.orders = &orders[0, 0]
    masks.n_rows = layers.shape[1]
    masks.n_layers = _n_chain(masks.layers, masks.n_rows)
    masks.n_panels = panel_start.shape[1]
    masks.units = n_live.shape[1]
    masks.n_order = orders.shape[1]
    cdef batches_t data = _batches(bits, weights, rows, batch_size, sparse)
    cdef dropout_t dropped
    dropped.keep = &keep[0, 0] if keep.shape[0] else NULL
    dropped.words = keep.shape[1]
    dropped.scale = 1 / (1 - dropout)
    cdef rule_t rule = _rule(optimizer, step, hyper, state)
    cdef crew_t crew = _crew(rank, n_ranks, sync)
    cdef void *whole = &gradient[0] if gradient.shape[0] else NULL
    cdef uint64_t mode
    with nogil:
        mode = made_fast_enter()
        _kernels(shared).train_shared(&parameters, &masks, &data, &groups[0, 0], groups.shape[0], &dropped, &rule, whole,
                                      &theta[0], &dtheta[0], &reals[0], &ints[0], &nll[0], &crew)
        made_fast_leave(mode)
