"""Numba kernels: the signatures of ``reference.py`` as compiled loops over live panels, for machines without a C compiler.

They follow the kernel contract (``made_fast.kernels``) and the design of the C sources: one tile serves all three products,
every sum is a single chain of multiply-adds in ascending order. So, on one machine, sparse and dense input, any ``block``
and the one-pass sampler give the same bits. Not here: several threads (``train`` is for ``n_ranks == 1``), the choice of a
CPU level (LLVM compiles for the machine it runs on), the bits of ``native``.

Importing this file compiles nothing. A kernel is compiled on its first call, and kept in Numba's cache where one can be
written. With ``NUMBA_DISABLE_JIT=1`` all of it runs as plain Python.

Speed rests on three habits. Inner loops run over the 64 units of a panel row, contiguous and of constant length, so LLVM
turns them into SIMD. Sums stand in a block on the stack, which LLVM knows to overlap nothing and keeps in registers. Each
pass over such a block takes two rows and four products, as many as hide the loads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import config, extending, njit, types
from numba.core import cgutils
from numba.np import arrayobj
from numpy.typing import NDArray

from made_fast.kernels.layout import ACTIVATION, ACTIVATIONS, BIAS, MAX_LAYERS, N_IN, N_OUT, N_PANELS, PANEL, PANELS, UNITS
from made_fast.kernels.optimizers import GRADIENT

__all__ = [
    "affine_backward_input",
    "affine_backward_weights",
    "affine_backward_weights_sparse",
    "affine_forward",
    "affine_forward_sparse",
    "bernoulli_nll",
    "conditionals",
    "list_ones",
    "list_rows",
    "sample",
    "score",
    "train",
]

Real = NDArray[Any]  # float32 or float64, the same in one call
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Bits = NDArray[np.uint64]
Net = tuple[Real, Int64, Int32, Int64]  # theta, layers, n_live, panel_start
Function = TypeVar("Function", bound=Callable[..., Any])

IDENTITY, RELU, SOFTPLUS, TANH, SIGMOID, SOFTSIGN = range(len(ACTIVATIONS))

# "contract" lets a * b + c be one instruction. Nothing here may be reassociated, or sums would depend on how they are cut.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def _kernel(function: Function) -> Function:
    """Compile on the first call; keep the machine code in Numba's cache if there is a place to write one.

    Numba drops what it kept when this file changes, not when ``layout.py`` or ``optimizers.py`` does.
    """
    try:
        return cast(Function, njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # "cannot cache function: no locator available": read-only files and no home
        return cast(Function, njit(**_OPTIONS)(function))


def _inline(function: Function) -> Function:
    """Compile as a part of the kernels that call it."""
    return cast(Function, njit(forceinline=True, **_OPTIONS)(function))


def _stack_code(typing_context: Any, like: Any, n_rows: Any, n_columns: Any) -> Any:
    """Make the code of ``_stack``: room in the frame of the function that calls it, seen as an array without an owner."""
    array_type = types.Array(like.dtype, 2, "C")
    rows, columns = n_rows.literal_value, n_columns.literal_value
    build: Any = cgutils  # neither has types
    arrays: Any = arrayobj

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        item = context.get_data_type(like.dtype)
        size = context.get_abi_sizeof(item)
        room = build.alloca_once(builder, item, size=ir.Constant(ir.IntType(64), rows * columns))
        shape = [ir.Constant(ir.IntType(64), n) for n in (rows, columns)]
        strides = [ir.Constant(ir.IntType(64), n) for n in (columns * size, size)]
        array = arrays.make_array(array_type)(context, builder)
        arrays.populate_array(array, room, shape, strides, strides[1], meminfo=None)
        return array._getvalue()

    return array_type(like, n_rows, n_columns), code


def _stack_python(like: Real, n_rows: int, n_columns: int) -> Real:
    """Return an uninitialised (n_rows, n_columns) array of the dtype of ``like``."""
    return np.empty((n_rows, n_columns), like.dtype)


_stack: Any = _stack_python
if not cast(Any, config).DISABLE_JIT:
    _stack = extending.intrinsic(prefer_literal=True)(_stack_code)

# ---------------------------------------------------------------------------------------------------------------------------
# exp, log, activations; ``real`` is the type of the numbers: a Python constant would turn float32 into float64
# ---------------------------------------------------------------------------------------------------------------------------

_EXP = np.array([1 / math.factorial(i) for i in range(13, 1, -1)])  # the rest of the series is below 4e-18
_LOG = np.array([2 / (2 * i + 1) for i in range(16, 0, -1)])  # below 1.7e-18
_EXP_SINGLE, _LOG_SINGLE = 6, 10  # first terms that matter in float32: the rest is below 5e-9 and 1.4e-8


@_inline
def _is_single(real: Any) -> bool:
    """Say if ``real`` is float32. The compiler works it out, and leaves out the branches that do not apply."""
    return bool(real(1.0) + real(1e-9) == real(1.0))


@_inline
def _two_to(real: Any, n: Any) -> Any:
    """Return 2^n for int32 n <= 0 by putting the exponent's bits in place; 0 where it is no normal number."""
    if _is_single(real):
        return real(np.int32((max(n, -127) + 127) << 23).view(np.float32))
    return real(np.int64((max(n, -1023) + np.int64(1023)) << 52).view(np.float64))


@_inline
def _exp_parts(real: Any, x: Any) -> Any:
    """Return (exp(r) - 1, 2^n) where x = n ln 2 + r, |r| <= ln 2 / 2; x <= 0."""
    x = real(-708.0) if x < real(-708.0) else x
    n = np.int32(x * real(1.44269504088896340736) - real(0.5))  # the cast truncates: for x <= 0 this rounds to the nearest
    r = x + real(n) * real(-0.693359375) + real(n) * real(2.12194440054690582768e-4)  # the first product is exact
    q = real(0.0)
    for i in range(_EXP_SINGLE if _is_single(real) else 0, len(_EXP)):
        q = q * r + real(_EXP[i])
    return q * r * r + r, _two_to(real, n)


@_inline
def _exp(real: Any, x: Any) -> Any:
    """Return exp(x) for x <= 0."""
    p, scale = _exp_parts(real, x)
    return p * scale + scale


@_inline
def _expm1(real: Any, x: Any) -> Any:
    """Return exp(x) - 1 for x <= 0."""
    p, scale = _exp_parts(real, x)
    return p * scale + (scale - real(1.0))


@_inline
def _log1p(real: Any, y: Any) -> Any:
    """Return log(1 + y) for 0 <= y <= 1: 2 artanh(s) with s = y / (2 + y) <= 1/3."""
    s = y / (real(2.0) + y)
    t = s * s
    q = real(0.0)
    for i in range(_LOG_SINGLE if _is_single(real) else 0, len(_LOG)):
        q = q * t + real(_LOG[i])
    return q * t * s + (s + s)


@_kernel
def _activate(z: Real, code: int) -> None:
    """Do ``z = g(z)`` on a vector. A NaN stays one."""
    real = z.dtype.type
    zero, one = real(0.0), real(1.0)
    if code == RELU:
        for u in range(len(z)):
            z[u] = zero if z[u] < zero else z[u]
    elif code == SOFTPLUS:
        for u in range(len(z)):
            z[u] = (zero if z[u] < zero else z[u]) + _log1p(real, _exp(real, -abs(z[u])))
    elif code == TANH:
        for u in range(len(z)):
            e = _expm1(real, real(-2.0) * abs(z[u]))
            t = e / (real(2.0) + e)
            z[u] = t if z[u] < zero else -t
    elif code == SIGMOID:
        for u in range(len(z)):
            e = _exp(real, -abs(z[u]))
            z[u] = (e if z[u] < zero else one) / (one + e)
    elif code == SOFTSIGN:
        for u in range(len(z)):
            z[u] = z[u] / (one + abs(z[u]))


@_kernel
def _derive(dz: Real, h: Real, code: int) -> None:
    """Do ``dz *= g'(z)`` on a vector, g' as a function of ``h = g(z)``."""
    real = dz.dtype.type
    zero, one = real(0.0), real(1.0)
    if code == RELU:
        for u in range(len(dz)):
            dz[u] = dz[u] if h[u] > zero else zero
    elif code == SOFTPLUS:
        for u in range(len(dz)):
            dz[u] *= -_expm1(real, -h[u])
    elif code == TANH:
        for u in range(len(dz)):
            dz[u] *= one - h[u] * h[u]
    elif code == SIGMOID:
        for u in range(len(dz)):
            dz[u] *= h[u] - h[u] * h[u]
    elif code == SOFTSIGN:
        for u in range(len(dz)):
            t = one - abs(h[u])
            dz[u] *= t * t


# ---------------------------------------------------------------------------------------------------------------------------
# Panels and the tile
# ---------------------------------------------------------------------------------------------------------------------------


@_inline
def _width(n_units: Any) -> Any:
    """``layout.width``."""
    return PANEL * -(-n_units // PANEL) + 16


@_inline
def _panel(net: Net, l: int, p: int) -> tuple[Real, Int32, Any]:
    """Return panel p of layer l: its weights (depth, 64), its live counts (64,), and where its bias starts in theta."""
    theta, layers, n_live, panel_start = net
    live = n_live[layers[l, UNITS] + p * PANEL :][:PANEL]
    start, depth = panel_start[layers[l, PANELS] + p], np.int64(live[PANEL - 1])
    return theta[start : start + depth * PANEL].reshape(depth, PANEL), live, layers[l, BIAS] + p * PANEL


@_kernel
def _add_products(z0: Real, z1: Real, x0: Real, x1: Real, w: Real, c: int, n: int) -> None:
    """Add ``sum_{k < n} x[k] w[k, c + u]`` to z[u], for two rows (z, x) and the 64 units u; k ascending."""
    a, c_ = _stack(z0, 2, PANEL), np.uint64(c)
    a0, a1 = a[0], a[1]
    for u in range(PANEL):
        a0[u] = z0[u]
        a1[u] = z1[u]
    for k in range(np.uint64(n)):
        p, q = x0[k], x1[k]
        for u in range(PANEL):
            a0[u] += p * w[k, c_ + np.uint64(u)]
            a1[u] += q * w[k, c_ + np.uint64(u)]
    for u in range(PANEL):
        z0[u] = a0[u]
        z1[u] = a1[u]


@_kernel
def _add_rows(z: Real, w: Real, c: int, index: Int32, n: Any) -> None:
    """Add ``sum_{i < n} w[index[i], c + u]`` to z[u], for the 64 units u; i ascending."""
    a, c_ = _stack(z, 1, PANEL), np.uint64(c)
    for u in range(PANEL):
        a[0, u] = z[u]
    for i in range(np.uint64(n)):
        k = np.uint64(index[i])
        for u in range(PANEL):
            a[0, u] += w[k, c_ + np.uint64(u)]
    for u in range(PANEL):
        z[u] = a[0, u]


@_inline
def _copy(source: Real, target: Real) -> None:
    for u in range(len(target)):
        target[u] = source[u]


# ---------------------------------------------------------------------------------------------------------------------------
# Kernels: one step of the network
# ---------------------------------------------------------------------------------------------------------------------------


@_inline
def _lowest_one(word: Any) -> Any:
    """Return the number of the lowest bit of a word that is not 0: the exponent of that bit as a float."""
    return (np.float64(word & (~word + np.uint64(1))).view(np.int64) >> 52) - 1023


@_kernel
def list_ones(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """See ``reference.list_ones``."""
    for i in range(bits.shape[0]):
        n = 0
        for q in range(bits.shape[1]):
            word = bits[i, q]
            while word != 0:
                index[i, n] = 64 * q + _lowest_one(word)
                n += 1
                word &= word - np.uint64(1)
        count[i] = n


@_kernel
def list_rows(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """See ``reference.list_rows``."""
    count[:n_columns] = 0
    for i in range(bits.shape[0]):
        for q in range(bits.shape[1]):
            word = bits[i, q]
            while word != 0:
                p = 64 * q + _lowest_one(word)
                index[p, count[p]] = i
                count[p] += 1
                word &= word - np.uint64(1)


@_kernel
def affine_forward(theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, x: Real, out: Real) -> None:
    """See ``reference.affine_forward``."""
    net = (theta, layers, n_live, panel_start)
    m = len(x)
    for p in range(layers[l, N_PANELS]):
        w, _, bias = _panel(net, l, p)
        c = p * PANEL
        for i in range(0, m, 2):
            i1 = min(i + 1, m - 1)  # a last single row is worked on twice
            z0, z1 = out[i, c : c + PANEL], out[i1, c : c + PANEL]
            _copy(theta[bias : bias + PANEL], z0)
            _copy(theta[bias : bias + PANEL], z1)
            _add_products(z0, z1, x[i], x[i1], w, 0, len(w))
    for i in range(m):
        _activate(out[i, : PANEL * layers[l, N_PANELS]], layers[l, ACTIVATION])


@_kernel
def affine_forward_sparse(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, count: Int32, index: Int32, out: Real
) -> None:
    """See ``reference.affine_forward_sparse``."""
    net = (theta, layers, n_live, panel_start)
    for p in range(layers[l, N_PANELS]):
        w, _, bias = _panel(net, l, p)
        for i in range(len(count)):
            n = np.int64(count[i])
            while n > 0 and index[i, n - 1] >= len(w):
                n -= 1
            z = out[i, p * PANEL : (p + 1) * PANEL]
            _copy(theta[bias : bias + PANEL], z)
            _add_rows(z, w, 0, index[i], n)
    for i in range(len(count)):
        _activate(out[i, : PANEL * layers[l, N_PANELS]], layers[l, ACTIVATION])


@_kernel
def bernoulli_nll(logits: Real, bits: Bits, n_columns: int, scale: float, nll: Float64, dlogits: Real) -> None:
    """See ``reference.bernoulli_nll``. ``dlogits`` may be ``logits``."""
    real = logits.dtype.type
    zero, one, scale_ = real(0.0), real(1.0), real(scale)
    block, total = _stack(logits, 3, PANEL), _stack(nll, 1, PANEL)
    flip, loss, slope = block[0], block[1], block[2]
    for i in range(len(logits)):
        total[0, :] = 0
        for c in range(0, n_columns, PANEL):
            word = bits[i, c // PANEL]
            a, da = logits[i, c : c + PANEL], dlogits[i, c : c + PANEL]
            for u in range(PANEL):  # on its own: words of 64 bits would halve the lanes of what follows
                flip[u] = one - real(2.0) * real(np.int32((word >> np.uint64(u)) & np.uint64(1)))
            for u in range(PANEL):  # t = -a where the input is 1, else a: -log p is log(1 + e^t), its slope +-sigmoid(t)
                t = flip[u] * a[u]
                e = _exp(real, -abs(t))
                loss[u] = (zero if t < zero else t) + _log1p(real, e)
                slope[u] = flip[u] * scale_ * ((e if t < zero else one) / (one + e))
            for u in range(n_columns - c, PANEL):
                loss[u] = slope[u] = 0
            for u in range(PANEL):
                total[0, u] += loss[u]
                da[u] = slope[u]
        row = 0.0
        for u in range(PANEL):
            row += total[0, u]
        nll[i] = row


@_kernel
def affine_backward_input(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, dz: Real, h: Real, dh: Real
) -> None:
    """See ``reference.affine_backward_input``."""
    net = (theta, layers, n_live, panel_start)
    m, n_in = len(dz), layers[l, N_IN]
    block = _stack(theta, PANEL, PANEL)
    for k0 in range(0, n_in, PANEL):
        for i in range(m):
            dh[i, k0 : k0 + PANEL] = 0
        for p in range(layers[l, N_PANELS]):
            w, live, _ = _panel(net, l, p)
            if len(w) <= k0:
                continue  # no unit of this panel sees these inputs
            j0 = 0
            while live[j0] <= k0:
                j0 += 1
            # The sum runs along the rows of the panel: 64 x 64 numbers of it are transposed and used for all rows of dz.
            n = min(len(w) - k0, PANEL)
            block[j0:, n:] = 0
            for j in range(j0, PANEL):
                for k in range(n):
                    block[j, k] = w[k0 + k, j]
            c = p * PANEL
            for i in range(0, m, 2):
                i1 = min(i + 1, m - 1)
                dh0, dh1 = dh[i, k0 : k0 + PANEL], dh[i1, k0 : k0 + PANEL]
                _add_products(dh0, dh1, dz[i, c + j0 :], dz[i1, c + j0 :], block[j0:], 0, PANEL - j0)
    for i in range(m):
        _derive(dh[i, :n_in], h[i, :n_in], layers[l - 1, ACTIVATION])


@_inline
def _prepare(theta: Real, optimizer: int, step: int, hyper: Float64) -> tuple[Any, ...]:
    """Return what a step of the rule needs, worked out in double: lr, a, b, eps, 1 - a, 1 - b, and Adam's two corrections."""
    real = theta.dtype.type
    lr, a, b, t = hyper[0], hyper[1], hyper[2], float(step + 1)
    correct_a, correct_b = 0.0, 0.0
    if optimizer <= 2:
        lr = lr / (1 + a * step)
    elif optimizer == 6:
        correct_a, correct_b = lr / (1 - a**t), 1 / (1 - b**t)
    return real(lr), real(a), real(b), real(hyper[3]), real(1 - a), real(1 - b), real(correct_a), real(correct_b)


@_kernel
def _update(theta: Real, at: int, g: Real, optimizer: int, rule: tuple[Any, ...], state: Real) -> None:
    """Update the 64 weights from ``theta[at]`` on by their gradient g. The rules are written out in ``optimizers.py``."""
    lr, a, b, eps, one_a, one_b, correct_a, correct_b = rule
    w = theta[at : at + PANEL]
    if optimizer == GRADIENT:
        _copy(g, state[0, at : at + PANEL])
    elif optimizer == 1:
        for u in range(PANEL):
            w[u] -= lr * g[u]
    elif optimizer == 2:
        s = state[0, at : at + PANEL]
        for u in range(PANEL):
            s[u] = b * s[u] - lr * g[u]
            w[u] += s[u]
    elif optimizer == 3:
        s = state[0, at : at + PANEL]
        for u in range(PANEL):
            s[u] += g[u] * g[u]
            w[u] -= lr * g[u] / np.sqrt(s[u] + eps)
    elif optimizer == 4:
        s, r = state[0, at : at + PANEL], state[1, at : at + PANEL]
        for u in range(PANEL):
            s[u] = a * s[u] + one_a * g[u] * g[u]
            d = np.sqrt(r[u] + eps) / np.sqrt(s[u] + eps) * g[u]
            r[u] = a * r[u] + one_a * d * d
            w[u] -= lr * d
    elif optimizer == 5:
        s = state[0, at : at + PANEL]
        for u in range(PANEL):
            s[u] = a * s[u] + one_a * g[u] * g[u]
            w[u] -= lr * g[u] / (np.sqrt(s[u]) + eps)
    elif optimizer == 6:
        s, r = state[0, at : at + PANEL], state[1, at : at + PANEL]
        for u in range(PANEL):
            s[u] = a * s[u] + one_a * g[u]
            r[u] = b * r[u] + one_b * g[u] * g[u]
            w[u] -= correct_a * s[u] / (np.sqrt(r[u] * correct_b) + eps)


@_inline
def _live_only(g: Real, live: Int32, k: int) -> None:
    """Give the dead entries of a panel's corner the gradient 0; so they stay 0."""
    if k >= live[0]:
        for u in range(PANEL):
            if k >= live[u]:
                g[u] = 0


@_inline
def _update_bias(theta: Real, at: int, dz: Real, c: int, g: Real, optimizer: int, rule: tuple[Any, ...], state: Real) -> None:
    g[:] = 0
    for i in range(len(dz)):
        row = dz[i, c : c + PANEL]
        for u in range(PANEL):
            g[u] += row[u]
    _update(theta, at, g, optimizer, rule, state)


@_kernel
def affine_backward_weights(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    l: int,
    x: Real,
    dz: Real,
    optimizer: int,
    step: int,
    hyper: Float64,
    state: Real,
) -> None:
    """See ``reference.affine_backward_weights``."""
    net = (theta, layers, n_live, panel_start)
    rule = _prepare(theta, optimizer, step, hyper)
    g = _stack(theta, 2, PANEL)
    for p in range(layers[l, N_PANELS]):
        w, live, bias = _panel(net, l, p)
        start, depth, c = panel_start[layers[l, PANELS] + p], len(w), p * PANEL
        for k in range(0, depth, 2):
            g[:] = 0
            _add_products(g[0], g[1], x[:, k], x[:, min(k + 1, depth - 1)], dz, c, len(dz))
            for r in range(min(2, depth - k)):
                _live_only(g[r], live, k + r)
                _update(theta, start + (k + r) * PANEL, g[r], optimizer, rule, state)
        _update_bias(theta, bias, dz, c, g[0], optimizer, rule, state)


@_kernel
def affine_backward_weights_sparse(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    l: int,
    count: Int32,
    index: Int32,
    dz: Real,
    optimizer: int,
    step: int,
    hyper: Float64,
    state: Real,
) -> None:
    """See ``reference.affine_backward_weights_sparse``."""
    net = (theta, layers, n_live, panel_start)
    rule = _prepare(theta, optimizer, step, hyper)
    g = _stack(theta, 1, PANEL)
    for p in range(layers[l, N_PANELS]):
        w, live, bias = _panel(net, l, p)
        start, depth, c = panel_start[layers[l, PANELS] + p], len(w), p * PANEL
        for k in range(depth):
            g[:] = 0
            _add_rows(g[0], dz, c, index[k], np.int64(count[k]))
            _live_only(g[0], live, k)
            _update(theta, start + k * PANEL, g[0], optimizer, rule, state)
        _update_bias(theta, bias, dz, c, g[0], optimizer, rule, state)


# ---------------------------------------------------------------------------------------------------------------------------
# Kernels: the whole network
# ---------------------------------------------------------------------------------------------------------------------------


@_inline
def _outputs(reals: Real, layers: Int64, l: int, block: int, m: int) -> Real:
    """Return the (m, width) buffer for the output of layer l, cut from scratch as ``layout.score_workspace`` says.

    Layer -1 are the inputs; from layer L + 1 on come the gradients of ``layout.train_workspace``.
    """
    n_layers = len(layers)
    start, width = 0, _width(layers[0, N_IN])
    for q in range(l + 1):
        start += block * width
        width = _width(layers[q % n_layers, N_OUT])
    return reals[start : start + m * width].reshape(m, width)


@_kernel
def _forward(net: Net, bits: Bits, sparse: bool, block: int, reals: Real, ints: Int32) -> Real:
    """Take at most ``block`` rows through all layers; return the logits (rows, width(D))."""
    layers = net[1]
    m, n_inputs = len(bits), layers[0, N_IN]
    x, first = _outputs(reals, layers, -1, block, m), 0
    if sparse:
        count, index = ints[:m], ints[block : block + m * n_inputs].reshape(m, n_inputs)
        x, first = _outputs(reals, layers, 0, block, m), 1
        list_ones(bits, n_inputs, count, index)
        affine_forward_sparse(*net, 0, count, index, x)
    else:
        for i in range(m):
            for q in range(bits.shape[1]):
                word, row = bits[i, q], x[i, PANEL * q : PANEL * (q + 1)]
                for u in range(PANEL):
                    row[u] = np.int32((word >> np.uint64(u)) & np.uint64(1))
    for l in range(first, len(layers)):
        out = _outputs(reals, layers, l, block, m)
        affine_forward(*net, l, x, out)
        x = out
    return x


@_kernel
def score(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    sparse: bool,
    block: int,
    reals: Real,
    ints: Int32,
    log_p: Float64,
) -> None:
    """See ``reference.score``."""
    net = (theta, layers, n_live, panel_start)
    for i in range(0, len(bits), block):
        rows, total = bits[i : i + block], log_p[i : i + block]
        logits = _forward(net, rows, sparse, block, reals, ints)
        bernoulli_nll(logits, rows, layers[0, N_IN], 0.0, total, logits)
        for r in range(len(total)):
            total[r] = -total[r]


@_kernel
def conditionals(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    sparse: bool,
    block: int,
    reals: Real,
    ints: Int32,
    proba: Real,
) -> None:
    """See ``reference.conditionals``."""
    net = (theta, layers, n_live, panel_start)
    for i in range(0, len(bits), block):
        logits = _forward(net, bits[i : i + block], sparse, block, reals, ints)
        for r in range(len(logits)):
            row = proba[i + r]
            for p in range(len(row)):
                row[p] = logits[r, p]
            _activate(row, SIGMOID)


# Sampling. A unit is final once the inputs it sees are drawn. One walk over the places draws an input, then finishes the
# units that have become final. A layer's current panel holds the sums of what it has seen; it is brought up to date, in the
# order of the full pass, as its units are read: the sample is the one that D full passes would draw, bit for bit.

_SUMS, _CURRENT, _SEEN, _DONE = range(4)  # of a layer: start of its buffer, current panel, what that has seen, final units


@_inline
def _reach(net: Net, l: int, j: int, walk: Int64, reals: Real, count: Int32, taken: Int32, index: Int32) -> Real:
    """Bring the sums of the panel that holds unit j up to unit j's live prefix. Return the layer's buffer (m, width)."""
    theta, layers = net[0], net[1]
    m, p, width = len(count), j // PANEL, _width(layers[l, N_OUT])
    w, live, bias = _panel(net, l, p)
    z = reals[walk[l, _SUMS] : walk[l, _SUMS] + m * width].reshape(m, width)
    c = p * PANEL
    if p != walk[l, _CURRENT]:
        walk[l, _CURRENT], walk[l, _SEEN] = p, 0
        for i in range(m):
            _copy(theta[bias : bias + PANEL], z[i, c : c + PANEL])
        if l == 0:
            taken[:] = 0
    seen, end = walk[l, _SEEN], np.int64(live[j - c])
    if end > seen and l == 0:  # inputs: the ones drawn so far
        for i in range(m):
            n = np.int64(count[i] - taken[i])
            while n > 0 and index[i, taken[i] + n - 1] >= end:
                n -= 1
            if n > 0:
                _add_rows(z[i, c : c + PANEL], w, 0, index[i, taken[i] :], n)
                taken[i] += n
    elif end > seen:
        below = _width(layers[l, N_IN])
        h = reals[walk[l - 1, _SUMS] : walk[l - 1, _SUMS] + m * below].reshape(m, below)
        for i in range(0, m if end - seen >= 8 else 0, 2):
            i1 = min(i + 1, m - 1)
            _add_products(z[i, c : c + PANEL], z[i1, c : c + PANEL], h[i, seen:], h[i1, seen:], w[seen:], 0, end - seen)
        for i in range(0 if end - seen >= 8 else m):  # too short to be worth a tile
            sums = z[i, c : c + PANEL]
            for k in range(seen, end):
                w_, h_ = w[k], h[i, k]
                for u in range(PANEL):
                    sums[u] += h_ * w_[u]
    walk[l, _SEEN] = max(end, seen)
    return z


@_kernel
def sample(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    uniforms: Float64,
    block: int,
    reals: Real,
    ints: Int32,
    x: NDArray[np.uint8],
) -> None:
    """See ``reference.sample``."""
    net = (theta, layers, n_live, panel_start)
    n_inputs, last = layers[0, N_IN], len(layers) - 1
    walk = _stack(layers, MAX_LAYERS, 4)
    for start in range(0, len(uniforms), block):
        m = min(block, len(uniforms) - start)
        column, sums = reals[:m], -(-block // 16) * 16
        count, taken = ints[:m], ints[block : block + m]
        index = ints[2 * block : 2 * block + m * n_inputs].reshape(m, n_inputs)
        for l in range(last + 1):
            walk[l, _SUMS], walk[l, _CURRENT], walk[l, _SEEN], walk[l, _DONE] = sums, -1, 0, 0
            sums += m * _width(layers[l, N_OUT])
        count[:] = 0
        for p in range(n_inputs):
            z = _reach(net, last, p, walk, reals, count, taken, index)
            for i in range(m):
                column[i] = z[i, p]
            _activate(column, SIGMOID)
            for i in range(m):
                one = uniforms[start + i, p] < column[i]
                x[start + i, p] = one
                if one:
                    index[i, count[i]] = p
                    count[i] += 1
            final = p + 1
            for l in range(last):
                live = n_live[layers[l, UNITS] :]
                while walk[l, _DONE] < layers[l, N_OUT] and live[walk[l, _DONE]] <= final:
                    j = walk[l, _DONE]
                    z = _reach(net, l, j, walk, reals, count, taken, index)
                    for i in range(m):
                        column[i] = z[i, j]
                    _activate(column, layers[l, ACTIVATION])
                    for i in range(m):
                        z[i, j] = column[i]
                    walk[l, _DONE] = j + 1
                final = walk[l, _DONE]


@_kernel
def train(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    rows: Int64,
    batch_size: int,
    sparse: bool,
    optimizer: int,
    step: int,
    hyper: Float64,
    state: Real,
    reals: Real,
    ints: Int32,
    nll: Float64,
    rank: int,
    n_ranks: int,
    sync: Int32,
) -> None:
    """See ``reference.train``; ``n_ranks`` is 1."""
    net = (theta, layers, n_live, panel_start)
    n_inputs, n_words, n_layers = layers[0, N_IN], bits.shape[1], len(layers)
    cut = 2 * batch_size * n_words  # scratch, as layout.train_workspace says: bits, NLL, then as score, then places
    batch_bits = ints[:cut].view(np.uint64).reshape(batch_size, n_words)
    batch_nll = ints[cut : cut + 2 * batch_size].view(np.float64)
    lists = ints[cut + 2 * batch_size :]
    places = lists[batch_size * (n_inputs + 1) :]
    count, index = places[:n_inputs], places[n_inputs : n_inputs * (batch_size + 1)].reshape(n_inputs, batch_size)
    for batch in range(len(nll)):
        chosen = rows[batch * batch_size : (batch + 1) * batch_size]
        m = len(chosen)
        for i in range(m):
            for q in range(n_words):
                batch_bits[i, q] = bits[chosen[i], q]
        logits = _forward(net, batch_bits[:m], sparse, batch_size, reals, lists)
        dz = _outputs(reals, layers, 2 * n_layers - 1, batch_size, m)
        bernoulli_nll(logits, batch_bits[:m], n_inputs, 1.0 / m, batch_nll[:m], dz)
        total = 0.0
        for i in range(m):
            total += batch_nll[i]
        nll[batch] = total
        for l in range(n_layers - 1, -1, -1):
            x, dx = _outputs(reals, layers, l - 1, batch_size, m), dz
            if l > 0:
                dx = _outputs(reals, layers, n_layers + l - 1, batch_size, m)
                affine_backward_input(*net, l, dz, x, dx)
            if l == 0 and sparse:
                list_rows(batch_bits[:m], n_inputs, count, index)
                affine_backward_weights_sparse(*net, 0, count, index, dz, optimizer, step + batch, hyper, state)
            else:
                affine_backward_weights(*net, l, x, dz, optimizer, step + batch, hyper, state)
            dz = dx
