"""Native kernels: the signatures of ``reference`` on compiled SIMD code, without the GIL.

This file only unwraps records, one function for each, and picks the table of the CPU level; the arithmetic is in the C files
beside it. It checks the types of arrays and nothing else (the callers in ``made_fast`` do that). The level is the best that
this CPU runs, or the one that ``MADE_FAST_CPU`` names.
"""

import os

from numpy cimport (
    NPY_ARRAY_CARRAY, NPY_ARRAY_CARRAY_RO, PyArray_Check, PyArray_CHKFLAGS, PyArray_DATA, PyArray_DIM, PyArray_ISFLOAT,
    PyArray_ISNOTSWAPPED, PyArray_ISSIGNED, PyArray_ISUNSIGNED, PyArray_ITEMSIZE, PyArray_NDIM, PyArray_SIZE, import_array, ndarray,
)

include "native.pxi"

import_array()

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


if os.environ.get("MADE_FAST_CPU"):
    select_level(os.environ["MADE_FAST_CPU"])

# ---------------------------------------------------------------------------------------------------------------------------
# Arrays and records
# ---------------------------------------------------------------------------------------------------------------------------

cdef void *_at(call_t *call, object a, char kind, int n_dims, bint written=False, int64_t *shape=NULL) except? NULL:
    """Return where the numbers of an array are, or null if there are none; the caller's record keeps it alive.

    Kinds: i int32, q int64, Q uint64, B one byte, d double, r REAL: the first of a call decides between float and double.
    """
    cdef int64_t size = 1 if kind == b"B" else 4 if kind == b"i" else call.real_bytes if kind == b"r" else 8
    cdef int flags = NPY_ARRAY_CARRAY if written else NPY_ARRAY_CARRAY_RO
    if not PyArray_Check(a):
        raise TypeError(f"needs a NumPy array, got {type(a).__name__}")
    cdef ndarray array = <ndarray>a
    cdef int64_t itemsize = PyArray_ITEMSIZE(array)
    cdef bint right = PyArray_NDIM(array) == n_dims and (itemsize == size if size else itemsize == 4 or itemsize == 8)
    if kind == b"d" or kind == b"r":
        right = right and PyArray_ISFLOAT(array)
    elif kind != b"B":
        right = right and (PyArray_ISUNSIGNED(array) if kind == b"Q" else PyArray_ISSIGNED(array))
    if not (right and PyArray_CHKFLAGS(array, flags) and PyArray_ISNOTSWAPPED(array)):
        raise TypeError(
            f"needs {n_dims} dimensions of kind {chr(kind)!r}, C-contiguous{' and writable' if written else ''}; "
            f"got {a.ndim} of {a.dtype} with flags {a.flags.num}"
        )
    for i in range(n_dims if shape else 0):
        shape[i] = PyArray_DIM(array, i)
    if kind == b"r":
        call.real_bytes = itemsize
    return PyArray_DATA(array) if PyArray_SIZE(array) else NULL


cdef int _net(call_t *call, net, bint written=False) except -1:
    theta, layers, n_live, panel_start, variables = net
    cdef int64_t table[2], rows[2]
    call.net.theta = _at(call, theta, b"r", 1, written)
    call.net.layers = _at(call, layers, b"q", 2, False, table)
    call.net.n_live = _at(call, n_live, b"i", 1)
    call.net.panel_start = _at(call, panel_start, b"q", 1)
    call.net.variables = _at(call, variables, b"i", 2, False, rows)
    call.net.n_variables = rows[0] - 1
    call.net.n_layers, call.net.n_rows = made_fast_n_chain(call.net.layers, table[0]), table[0]
    return 0


cdef int _shared(call_t *call, shared, bint written=False) except -1:
    values, layout = shared
    call.shared.values = _at(call, values, b"r", 1, written)
    call.shared.layout = _at(call, layout, b"q", 2)
    return 0


cdef int _masks(call_t *call, masks) except -1:
    orders, layers, n_live, panel_start, variables = masks
    cdef masks_t *to = &call.masks
    cdef int64_t order[2], table[3], live[2], start[2], rows[3]
    to.orders = _at(call, orders, b"i", 2, False, order)
    to.layers = _at(call, layers, b"q", 3, False, table)
    to.n_live = _at(call, n_live, b"i", 2, False, live)
    to.panel_start = _at(call, panel_start, b"q", 2, False, start)
    to.variables = _at(call, variables, b"i", 3, False, rows)
    to.n_variables = rows[1] - 1
    to.n_order, to.n_rows, to.units, to.n_panels = order[1], table[1], live[1], start[1]
    to.n_layers = made_fast_n_chain(to.layers, to.n_rows)
    return 0


cdef int _rows(call_t *call, bits) except -1:
    cdef int64_t n[2]
    call.batches.bits = _at(call, bits, b"Q", 2, False, n)
    call.batches.n_rows, call.batches.words = n[0], n[1]
    return 0


cdef int _update(call_t *call, update) except -1:
    optimizer, step, constants, state = update
    cdef int64_t n[2]
    call.update.optimizer, call.update.step = optimizer, step
    call.update.constants = _at(call, constants, b"d", 1)
    call.update.state = _at(call, state, b"r", 2, True, n)
    call.update.n = n[1]
    return 0


cdef int _scratch(call_t *call, scratch) except -1:
    reals, ints = scratch
    call.scratch.reals = _at(call, reals, b"r", 1, True)
    call.scratch.ints = _at(call, ints, b"i", 1, True)
    return 0


cdef int _training(call_t *call, batches, dropout, update, scratch, nll, crew) except -1:
    bits, weights, rows, batch_size = batches
    keep, rate = dropout
    gradient, theta, dtheta, reals, ints = scratch
    rank, n_ranks, sync = crew
    cdef int64_t n_rows, words[2]
    _rows(call, bits)
    call.batches.weights = _at(call, weights, b"d", 1)
    call.batches.rows = _at(call, rows, b"q", 1, False, &n_rows)
    call.batches.n_rows, call.batches.batch_size = n_rows, batch_size
    call.dropout.keep = _at(call, keep, b"Q", 2, False, words)
    call.dropout.words, call.dropout.scale = words[1], 1 / (1 - <double>rate)
    _update(call, update)
    call.scratch.gradient = _at(call, gradient, b"r", 1, True)
    call.scratch.theta = _at(call, theta, b"r", 1, True)
    call.scratch.dtheta = _at(call, dtheta, b"r", 1, True)
    _scratch(call, (reals, ints))
    call.crew.rank, call.crew.n_ranks = rank, n_ranks
    call.crew.sync = _at(call, sync, b"i", 1, True)
    call.out = _at(call, nll, b"d", 1, True)
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
    cdef call_t call = _empty
    cdef int64_t n[2]
    cdef void *rows = _at(&call, x, b"B", 2, False, n)
    cdef void *columns = _at(&call, order, b"q", 1)
    cdef void *places = _at(&call, place, b"i", 1, True)
    cdef void *bits = _at(&call, out, b"Q", 2, True)
    cdef uint8_t *found = <uint8_t *>_at(&call, seen, b"B", 1, True)
    with nogil:
        found[0] = made_fast_pack_bits(rows, n[0], n[1], columns, places, bits)


def pack(shared, order, net):
    cdef call_t call = _empty
    _net(&call, net, True)
    _shared(&call, shared)
    call.shared.order = _at(&call, order, b"i", 1)
    _run(_kernels(&call).pack, &call)


def score(net, bits, int64_t n_places, int64_t block, scratch, log_p):
    cdef call_t call = _empty
    _net(&call, net)
    _rows(&call, bits)
    _scratch(&call, scratch)
    call.n_places, call.block, call.out = n_places, block, _at(&call, log_p, b"d", 1, True)
    _run(_kernels(&call).score, &call)


def score_row(net, x, order, scratch, log_p, seen):
    cdef call_t call = _empty
    cdef int64_t n[2]
    _net(&call, net)
    _scratch(&call, scratch)
    cdef void *row = _at(&call, x, b"B", 2, False, n)
    cdef void *columns = _at(&call, order, b"q", 1)
    cdef uint8_t *found = <uint8_t *>_at(&call, seen, b"B", 1, True)
    cdef int64_t D = n[1], words = (D + 63) // 64
    cdef char *bits = <char *>call.scratch.ints, *place = bits + 8 * words
    call.batches.bits, call.batches.words, call.batches.n_rows = bits, words, 1
    call.scratch.ints = bits + 4 * ((2 * words + D + 63) // 64 * 64)  # layout.row_workspace
    call.n_places, call.block, call.out = D, 1, _at(&call, log_p, b"d", 1, True)
    with nogil:
        found[0] = made_fast_pack_bits(row, 1, D, columns, place, bits)
    _run(_kernels(&call).score, &call)


def conditionals(net, bits, int64_t block, scratch, proba):
    cdef call_t call = _empty
    _net(&call, net)
    _rows(&call, bits)
    _scratch(&call, scratch)
    call.block, call.out = block, _at(&call, proba, b"r", 2, True)
    _run(_kernels(&call).conditionals, &call)


def sample(net, uniforms, columns, int64_t block, scratch, x):
    cdef call_t call = _empty
    cdef int64_t n[2]
    _net(&call, net)
    _scratch(&call, scratch)
    call.uniforms = _at(&call, uniforms, b"d", 2, False, n)
    call.columns = _at(&call, columns, b"q", 1)
    call.batches.n_rows, call.block, call.out = n[0], block, _at(&call, x, b"B", 2, True)
    _run(_kernels(&call).sample, &call)


def walk(net, context, given, weights, partners, uniforms, int64_t n_places, int64_t block, scratch, levels, log_mass):
    cdef call_t call = _empty
    cdef int64_t n[2], words[2]
    _net(&call, net)
    _scratch(&call, scratch)
    call.context = _at(&call, context, b"Q", 2, False, words)
    call.context_words = words[1]
    call.given = _at(&call, given, b"i", 2, False, n)
    call.weights = _at(&call, weights, b"d", 1)
    call.partners = _at(&call, partners, b"i", 1)
    call.uniforms = _at(&call, uniforms, b"d", 2)
    call.batches.n_rows, call.n_places, call.block = n[0], n_places, block
    call.out = _at(&call, levels, b"i", 2, True)
    call.log_mass = _at(&call, log_mass, b"d", 1, True)
    _run(_kernels(&call).walk, &call)


def train(net, batches, dropout, update, scratch, nll, crew):
    cdef call_t call = _empty
    _net(&call, net, True)
    _training(&call, batches, dropout, update, scratch, nll, crew)
    _run(_kernels(&call).train, &call)


def train_shared(shared, masks, batches, groups, dropout, update, scratch, nll, crew):
    cdef call_t call = _empty
    cdef int64_t n[2]
    _shared(&call, shared, True)
    _masks(&call, masks)
    _training(&call, batches, dropout, update, scratch, nll, crew)
    call.groups = _at(&call, groups, b"q", 2, False, n)
    call.n_groups = n[0]
    _run(_kernels(&call).train_shared, &call)


def apply_gradient(values, gradient, runs, update):
    cdef call_t call = _empty
    cdef int64_t n[2]
    call.out = _at(&call, values, b"r", 1, True)
    call.x = _at(&call, gradient, b"r", 1)
    call.runs = _at(&call, runs, b"q", 2, False, n)
    call.n_runs = n[0]
    _update(&call, update)
    _run(_kernels(&call).apply_gradient, &call)


def train_latent(net, points, features, batches, dropout, update, scratch, nll, crew):
    cdef call_t call = _empty
    cdef int64_t n[3]
    _net(&call, net, True)
    _training(&call, batches, dropout, update, scratch, nll, crew)
    call.points = _at(&call, points, b"q", 3)
    call.features = _at(&call, features, b"r", 2, False, n)
    call.n_points, call.n_features = n[0], n[1]
    _run(_kernels(&call).train_latent, &call)

# ---------------------------------------------------------------------------------------------------------------------------
# Building blocks
# ---------------------------------------------------------------------------------------------------------------------------


cdef int _layer(call_t *call, net, int64_t l, x, dz, bint written=False) except -1:
    """The layer, its inputs, as an activation buffer or as bits, and the gradient of its sums."""
    cdef int64_t n[3]
    _net(call, net, written)
    call.l, call.dz = l, _at(call, dz, b"r", 3, False, n)
    call.m = n[1]
    if x.dtype == "uint64":
        call.marks = _at(call, x, b"Q", 2, False, n)
        call.mark_words = n[1]
    else:
        call.x = _at(call, x, b"r", 3)
    return 0


def affine_forward(net, int64_t l, x, direct, out):
    cdef call_t call = _empty
    cdef int64_t n[3]
    _layer(&call, net, l, x, direct)
    call.out = _at(&call, out, b"r", 3, True, n)
    call.m = n[1]
    _run(_kernels(&call).affine_forward, &call)


def bernoulli_nll(logits, bits, int64_t n_columns, double scale, weights, nll, dlogits):
    cdef call_t call = _empty
    cdef int64_t n[3]
    _rows(&call, bits)
    call.x = _at(&call, logits, b"r", 3, False, n)
    call.l, call.m, call.scale, call.n_places = n[0], n[1], scale, n_columns
    call.batches.weights = _at(&call, weights, b"d", 1)
    call.nll, call.out = _at(&call, nll, b"d", 1, True), _at(&call, dlogits, b"r", 3, True)
    _run(_kernels(&call).bernoulli_nll, &call)


def affine_backward_input(net, int64_t l, dz, h, dh):
    cdef call_t call = _empty
    _layer(&call, net, l, h, dz)
    call.out = _at(&call, dh, b"r", 3, True)
    _run(_kernels(&call).affine_backward_input, &call)


def affine_backward_weights(net, int64_t l, x, dz, update):
    cdef call_t call = _empty
    _layer(&call, net, l, x, dz, True)
    _update(&call, update)
    _run(_kernels(&call).affine_backward_weights, &call)
