"""Native kernels: the signatures of ``reference`` on compiled SIMD code, without the GIL.

This file only unwraps records, one function for each, and picks the table of the CPU level; the arithmetic is in the C files
beside it. It checks the types of arrays and nothing else (the callers in ``made_fast`` do that). The level is the best that
this CPU runs, or the one that ``MADE_FAST_CPU`` names.
"""

import os

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport strchr

include "native.pxi"

cdef level_t _levels[4]
cdef int _n_levels = made_fast_levels(_levels)
cdef const level_t *_level = _levels
cdef call_t _empty  # all 0


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
            _level = &_levels[i]
            return
    raise ValueError(f"CPU level must be one this machine runs: {', '.join(levels())}; got {name!r}. Unset MADE_FAST_CPU.")


def constants():
    """Return the constants of ``native.h``, by name."""
    cdef const constant_t *constant = made_fast_constants
    found = {}
    while constant.name:
        found[constant.name.decode()] = constant.value
        constant += 1
    return found


if os.environ.get("MADE_FAST_CPU"):
    select_level(os.environ["MADE_FAST_CPU"])

# ---------------------------------------------------------------------------------------------------------------------------
# Arrays and records
# ---------------------------------------------------------------------------------------------------------------------------

cdef struct array_t:
    void *data  # or null, if there are no numbers
    int64_t size  # bytes of a number
    int64_t shape[3]


cdef array_t _array(object a, const char *formats, int64_t size, int n_dims, bint written=False) except *:
    """Say where the numbers of an array are. The caller's record keeps the array alive during the call."""
    cdef Py_buffer view
    cdef array_t found
    PyObject_GetBuffer(a, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if written else 0))
    found.data = view.buf if view.len else NULL
    found.size = view.itemsize
    cdef bint right = view.ndim == n_dims and strchr(formats, view.format[0]) and (size == 0 or view.itemsize == size)
    for i in range(n_dims if right else 0):
        found.shape[i] = view.shape[i]
    got = None if right else f"{view.ndim} of {view.format.decode()!r} ({view.itemsize} bytes each)"
    PyBuffer_Release(&view)
    if not right:
        raise TypeError(f"needs {n_dims} dimensions of one of {formats.decode()!r} ({size or '4 or 8'} bytes each); got {got}")
    return found


cdef inline array_t _reals(call_t *call, object a, int n_dims, bint written=False) except *:
    """The first array of a call decides between float and double."""
    cdef array_t found = _array(a, b"fd", call.real_bytes, n_dims, written)
    call.real_bytes = found.size
    return found


cdef inline array_t _doubles(object a, int n_dims, bint written=False) except *:
    return _array(a, b"d", 8, n_dims, written)


cdef inline array_t _int32(object a, int n_dims, bint written=False) except *:
    return _array(a, b"il", 4, n_dims, written)


cdef inline array_t _int64(object a, int n_dims) except *:
    return _array(a, b"lq", 8, n_dims)


cdef inline array_t _bits(object a, bint written=False) except *:
    return _array(a, b"LQ", 8, 2, written)


cdef int _net(call_t *call, net, bint written=False) except -1:
    theta, layers, n_live, panel_start = net
    cdef array_t table = _int64(layers, 2)
    call.net.theta = _reals(call, theta, 1, written).data
    call.net.layers = <int64_t *>table.data
    call.net.n_live = <int32_t *>_int32(n_live, 1).data
    call.net.panel_start = <int64_t *>_int64(panel_start, 1).data
    call.net.n_layers = made_fast_n_chain(call.net.layers, table.shape[0])
    call.net.n_rows = table.shape[0]
    return 0


cdef int _shared(call_t *call, shared, bint written=False) except -1:
    values, layout = shared
    call.shared.values = _reals(call, values, 1, written).data
    call.shared.layout = <int64_t *>_int64(layout, 2).data
    return 0


cdef int _masks(call_t *call, masks) except -1:
    orders, layers, n_live, panel_start = masks
    cdef array_t order = _int32(orders, 2), table = _int64(layers, 3), live = _int32(n_live, 2), start = _int64(panel_start, 2)
    cdef masks_t *to = &call.masks
    to.orders, to.n_order = <int32_t *>order.data, order.shape[1]
    to.layers, to.n_rows = <int64_t *>table.data, table.shape[1]
    to.n_live, to.units = <int32_t *>live.data, live.shape[1]
    to.panel_start, to.n_panels = <int64_t *>start.data, start.shape[1]
    to.n_layers = made_fast_n_chain(to.layers, to.n_rows)
    return 0


cdef int _rows(call_t *call, bits, bint sparse) except -1:
    cdef array_t found = _bits(bits)
    call.batches.bits = <uint64_t *>found.data
    call.batches.n_rows, call.batches.words = found.shape[0], found.shape[1]
    call.batches.sparse = sparse
    return 0


cdef int _batches(call_t *call, batches) except -1:
    bits, weights, rows, batch_size, sparse = batches
    _rows(call, bits, sparse)
    cdef array_t order = _int64(rows, 1)
    call.batches.weights = <double *>_doubles(weights, 1).data
    call.batches.rows, call.batches.n_rows = <int64_t *>order.data, order.shape[0]
    call.batches.batch_size = batch_size
    return 0


cdef int _dropout(call_t *call, dropout) except -1:
    keep, rate = dropout
    cdef array_t words = _bits(keep)
    call.dropout.keep, call.dropout.words = <uint64_t *>words.data, words.shape[1]
    call.dropout.scale = 1 / (1 - <double>rate)
    return 0


cdef int _update(call_t *call, update) except -1:
    optimizer, step, constants, state = update
    cdef array_t vectors = _reals(call, state, 2, True)
    call.update.optimizer, call.update.step = optimizer, step
    call.update.constants = <double *>_doubles(constants, 1).data
    call.update.state, call.update.n = vectors.data, vectors.shape[1]
    return 0


cdef int _scratch(call_t *call, scratch) except -1:
    reals, ints = scratch
    call.scratch.reals = _reals(call, reals, 1, True).data
    call.scratch.ints = <int32_t *>_int32(ints, 1, True).data
    return 0


cdef int _train_scratch(call_t *call, scratch) except -1:
    gradient, theta, dtheta, reals, ints = scratch
    call.scratch.gradient = _reals(call, gradient, 1, True).data
    call.scratch.theta = _reals(call, theta, 1, True).data
    call.scratch.dtheta = _reals(call, dtheta, 1, True).data
    return _scratch(call, (reals, ints))


cdef int _crew(call_t *call, crew) except -1:
    rank, n_ranks, sync = crew
    call.crew.rank, call.crew.n_ranks = rank, n_ranks
    call.crew.sync = <int32_t *>_int32(sync, 1, True).data
    return 0


cdef int _lists(call_t *call, count, index, bint written=False) except -1:
    cdef array_t lists = _int32(index, 2, written)
    call.ones.count, call.ones.index = <int32_t *>_int32(count, 1, written).data, <int32_t *>lists.data
    call.ones.ld = lists.shape[1]
    return 0


cdef inline const kernels_t *_kernels(const call_t *call) noexcept:
    return _level.of_float if call.real_bytes == sizeof(float) else _level.of_double


cdef inline void _run(kernel_t *kernel, const call_t *call) noexcept:
    with nogil:
        made_fast_call(kernel, call)

# ---------------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------------


def pack_bits(x, order, place, out, seen):
    cdef array_t rows = _array(x, b"B", 1, 2), columns = _int64(order, 1), places = _int32(place, 1, True)
    cdef array_t bits = _bits(out, True), found = _array(seen, b"B", 1, 1, True)
    with nogil:
        (<uint8_t *>found.data)[0] = made_fast_pack_bits(<uint8_t *>rows.data, rows.shape[0], rows.shape[1],
                                                         <int64_t *>columns.data, <int32_t *>places.data,
                                                         <uint64_t *>bits.data)


def pack(shared, order, net):
    cdef call_t call = _empty
    _net(&call, net, True)
    _shared(&call, shared)
    call.shared.order = <int32_t *>_int32(order, 1).data
    _run(_kernels(&call).pack, &call)


def score(net, bits, int64_t n_places, bint sparse, int64_t block, scratch, log_p):
    cdef call_t call = _empty
    _net(&call, net)
    _rows(&call, bits, sparse)
    _scratch(&call, scratch)
    call.n_places, call.block, call.out = n_places, block, _doubles(log_p, 1, True).data
    _run(_kernels(&call).score, &call)


def conditionals(net, bits, bint sparse, int64_t block, scratch, proba):
    cdef call_t call = _empty
    _net(&call, net)
    _rows(&call, bits, sparse)
    _scratch(&call, scratch)
    call.block, call.out = block, _reals(&call, proba, 2, True).data
    _run(_kernels(&call).conditionals, &call)


def sample(net, uniforms, int64_t block, scratch, x):
    cdef call_t call = _empty
    cdef array_t rows = _doubles(uniforms, 2)
    _net(&call, net)
    _scratch(&call, scratch)
    call.uniforms, call.batches.n_rows = <double *>rows.data, rows.shape[0]
    call.block, call.out = block, _array(x, b"B", 1, 2, True).data
    _run(_kernels(&call).sample, &call)


def train(net, batches, dropout, update, scratch, nll, crew):
    cdef call_t call = _empty
    _net(&call, net, True)
    _training(&call, batches, dropout, update, scratch, nll, crew)
    _run(_kernels(&call).train, &call)


def train_shared(shared, masks, batches, groups, dropout, update, scratch, nll, crew):
    cdef call_t call = _empty
    cdef array_t table = _int64(groups, 2)
    _shared(&call, shared, True)
    _masks(&call, masks)
    _training(&call, batches, dropout, update, scratch, nll, crew)
    call.groups, call.n_groups = <int64_t *>table.data, table.shape[0]
    _run(_kernels(&call).train_shared, &call)


cdef int _training(call_t *call, batches, dropout, update, scratch, nll, crew) except -1:
    _batches(call, batches)
    _dropout(call, dropout)
    _update(call, update)
    _train_scratch(call, scratch)
    _crew(call, crew)
    call.out = _doubles(nll, 1, True).data
    return 0

# ---------------------------------------------------------------------------------------------------------------------------
# Building blocks
# ---------------------------------------------------------------------------------------------------------------------------


def list_ones(bits, int64_t n_columns, count, index):
    cdef call_t call = _empty
    _rows(&call, bits, True)
    _lists(&call, count, index, True)
    with nogil:
        made_fast_list_ones(call.batches.bits, call.batches.words, call.batches.n_rows, n_columns, call.ones.count,
                            call.ones.index)


def list_rows(bits, int64_t n_columns, count, index):
    cdef call_t call = _empty
    _rows(&call, bits, True)
    _lists(&call, count, index, True)
    with nogil:
        made_fast_list_rows(call.batches.bits, call.batches.words, call.batches.n_rows, n_columns, 0, call.batches.words,
                            call.ones.ld, call.ones.count, call.ones.index)


def affine_forward(net, int64_t l, x, direct, out):
    cdef call_t call = _empty
    cdef array_t rows = _reals(&call, x, 3)
    _net(&call, net)
    call.l, call.m, call.x, call.dz = l, rows.shape[1], rows.data, _reals(&call, direct, 3).data
    call.out = _reals(&call, out, 3, True).data
    _run(_kernels(&call).affine_forward, &call)


def affine_forward_sparse(net, int64_t l, count, index, out):
    cdef call_t call = _empty
    cdef array_t rows = _reals(&call, out, 3, True)
    _net(&call, net)
    _lists(&call, count, index)
    call.l, call.m, call.out = l, rows.shape[1], rows.data
    _run(_kernels(&call).affine_forward, &call)


def bernoulli_nll(logits, bits, int64_t n_columns, double scale, weights, nll, dlogits):
    cdef call_t call = _empty
    cdef array_t panels = _reals(&call, logits, 3)
    _rows(&call, bits, True)
    call.batches.weights = <double *>_doubles(weights, 1).data
    call.l, call.m, call.x, call.scale, call.n_places = panels.shape[0], panels.shape[1], panels.data, scale, n_columns
    call.nll, call.out = <double *>_doubles(nll, 1, True).data, _reals(&call, dlogits, 3, True).data
    _run(_kernels(&call).bernoulli_nll, &call)


def affine_backward_input(net, int64_t l, dz, h, dh):
    cdef call_t call = _empty
    cdef array_t sums = _reals(&call, dz, 3)
    _net(&call, net)
    call.l, call.m, call.dz, call.x = l, sums.shape[1], sums.data, _reals(&call, h, 3).data
    call.out = _reals(&call, dh, 3, True).data
    _run(_kernels(&call).affine_backward_input, &call)


cdef int _backward_weights(call_t *call, net, int64_t l, dz, update) except -1:
    cdef array_t sums = _reals(call, dz, 3)
    _net(call, net, True)
    _update(call, update)
    call.l, call.m, call.dz = l, sums.shape[1], sums.data
    _run(_kernels(call).affine_backward_weights, call)
    return 0


def affine_backward_weights(net, int64_t l, x, dz, update):
    cdef call_t call = _empty
    call.x = _reals(&call, x, 3).data
    _backward_weights(&call, net, l, dz, update)


def affine_backward_weights_sparse(net, int64_t l, count, index, dz, update):
    cdef call_t call = _empty
    _lists(&call, count, index)
    _backward_weights(&call, net, l, dz, update)
