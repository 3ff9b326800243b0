"""The inner loops of the Numba kernels, on rows of 64 numbers, and how they are compiled. Not here: layers and batches.

A row is a row of a panel of weights, or the units of one panel of an activation buffer for one row of the batch. Inner loops
run over such a row, contiguous and of constant length, so LLVM turns them into SIMD. Sums stand in ``stack``, which LLVM knows
to overlap nothing and keeps in registers; two rows at a time hide the loads of the weights.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from made_fast.kernels import layout, optimizers
from made_fast.kernels.layout import ACTIVATIONS, BIAS, PANEL, PANELS, UNITS
from made_fast.kernels.records import Net, Update

__all__ = [
    "PANEL", "SIGMOID", "SOFTPLUS", "Bits", "Float64", "Int32", "Int64", "Real", "Step", "activate", "add", "add_product",
    "add_rows", "clip", "copy", "derive", "exp", "inline", "kernel", "log1p", "n_chain", "panel", "stack",
    "steps", "times_bits", "update",
]  # fmt: skip

Real = NDArray[Any]  # float32 or float64, the same in one call
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Bits = NDArray[np.uint64]
Step = tuple[Any, ...]  # what ``steps`` returns two of
Function = TypeVar("Function", bound=Callable[..., Any])

# Not of type int: for every constant of that type, Numba compiles a kernel anew.
IDENTITY, RELU, SOFTPLUS, TANH, SIGMOID, SOFTSIGN = np.arange(len(ACTIVATIONS))

# ---------------------------------------------------------------------------------------------------------------------------
# Compilation
# ---------------------------------------------------------------------------------------------------------------------------

# "contract" lets a * b + c be one instruction. Nothing here may be reassociated, or sums would depend on how they are cut.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


_FILES = [*Path(__file__).parent.glob("*.py"), *Path(__file__).parents[1].glob("*.py")]
_VERSION = zlib.crc32(b"".join(path.read_bytes() for path in sorted(_FILES)))


def kernel(function: Function, **options: Any) -> Function:
    """Compile on the first call; keep the machine code in Numba's cache if there is a place to write one.

    Numba drops what it kept when the kernel's own file changes, but not when another does from which it took a function or a
    constant. It names what it keeps after the qualified name of the kernel; so the version of all files goes in there.
    """
    function.__qualname__ += f"_{_VERSION}"
    try:
        return cast(Function, njit(cache=True, **_OPTIONS | options)(function))
    except RuntimeError:  # "cannot cache function: no locator available": read-only files and no home
        return cast(Function, njit(**_OPTIONS | options)(function))


def inline(function: Function) -> Function:
    """Compile as a part of the kernels that call it."""
    return cast(Function, njit(forceinline=True, **_OPTIONS)(function))


def _frame_code(typing_context: Any, like: Any) -> Any:
    """Make the code of ``_frame``, a pointer to room for ``stack`` in the frame of the function that calls it."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():
            return builder.alloca(context.get_value_type(like.dtype), size=ir.Constant(ir.IntType(64), 2 * PANEL))

    return cast(Any, types).CPointer(like.dtype)(like), code


_frame: Any = intrinsic(_frame_code)
_as_array: Any = cast(Any, numba).carray


def stack(like: Real) -> Real:
    """Return uninitialised room for two rows of the dtype of ``like``; compiled code takes it from the stack."""
    return np.empty((2, PANEL), like.dtype)


@overload(stack, inline="always")
def _compiled_stack(like: Any) -> Any:
    def code(like: Any) -> Any:
        return _as_array(_frame(like), (2, PANEL))

    return code


# ---------------------------------------------------------------------------------------------------------------------------
# exp, log, activations; ``real`` is the type of the numbers: a Python constant would turn float32 into float64
# ---------------------------------------------------------------------------------------------------------------------------

_EXP = np.array([1 / math.factorial(i) for i in range(13, 1, -1)])  # the rest of the series is below 4e-18
_LOG = np.array([2 / (2 * i + 1) for i in range(16, 0, -1)])  # below 1.7e-18
_EXP_SINGLE, _LOG_SINGLE = 6, 10  # first terms that matter in float32: the rest is below 5e-9 and 1.4e-8


@inline
def _is_single(real: Any) -> bool:
    """Say if ``real`` is float32. The compiler knows, and leaves out the other branches."""
    return bool(real(1.0) + real(1e-9) == real(1.0))


@inline
def _two_to(real: Any, n: Any) -> Any:
    """Return 2^n for int32 n <= 0 by putting the exponent's bits in place; 0 where it is no normal number."""
    if _is_single(real):
        return real(np.int32((max(n, -127) + 127) << 23).view(np.float32))
    return real(np.int64((max(n, -1023) + np.int64(1023)) << 52).view(np.float64))


@inline
def _exp_parts(real: Any, x: Any) -> Any:
    """Return (exp(r) - 1, 2^n) where x = n ln 2 + r, |r| <= ln 2 / 2; x <= 0."""
    x = real(-708.0) if x < real(-708.0) else x
    n = np.int32(x * real(1.44269504088896340736) - real(0.5))  # the cast truncates: for x <= 0 this rounds to the nearest
    r = x + real(n) * real(-0.693359375) + real(n) * real(2.12194440054690582768e-4)  # the first product is exact
    q = real(0.0)
    for i in range(_EXP_SINGLE if _is_single(real) else 0, len(_EXP)):
        q = q * r + real(_EXP[i])
    return q * r * r + r, _two_to(real, n)


@inline
def exp(real: Any, x: Any) -> Any:
    """Return exp(x) for x <= 0."""
    p, scale = _exp_parts(real, x)
    return p * scale + scale


@inline
def _expm1(real: Any, x: Any) -> Any:
    """Return exp(x) - 1 for x <= 0."""
    p, scale = _exp_parts(real, x)
    return p * scale + (scale - real(1.0))


@inline
def log1p(real: Any, y: Any) -> Any:
    """Return log(1 + y) for 0 <= y <= 1: 2 artanh(s) with s = y / (2 + y) <= 1/3."""
    s = y / (real(2.0) + y)
    t = s * s
    q = real(0.0)
    for i in range(_LOG_SINGLE if _is_single(real) else 0, len(_LOG)):
        q = q * t + real(_LOG[i])
    return q * t * s + (s + s)


@kernel
def activate(z: Real, code: Any) -> None:
    """Do ``z = g(z)`` on a vector. A NaN stays one."""
    real = z.dtype.type
    zero, one = real(0.0), real(1.0)
    if code == RELU:
        for u in range(len(z)):
            z[u] = zero if z[u] < zero else z[u]
    elif code == SOFTPLUS:
        for u in range(len(z)):
            z[u] = (zero if z[u] < zero else z[u]) + log1p(real, exp(real, -abs(z[u])))
    elif code == TANH:
        for u in range(len(z)):
            e = _expm1(real, real(-2.0) * abs(z[u]))
            t = e / (real(2.0) + e)
            z[u] = t if z[u] < zero else -t
    elif code == SIGMOID:
        for u in range(len(z)):
            e = exp(real, -abs(z[u]))
            z[u] = (e if z[u] < zero else one) / (one + e)
    elif code == SOFTSIGN:
        for u in range(len(z)):
            z[u] = z[u] / (one + abs(z[u]))


@kernel
def derive(dz: Real, h: Real, share: float, code: Any) -> None:
    """Do ``dz *= g'(z)`` on a vector, g' as a function of ``share h = g(z)``."""
    real = dz.dtype.type
    zero, one, share_ = real(0.0), real(1.0), real(share)
    if code == RELU:
        for u in range(len(dz)):
            dz[u] = dz[u] if h[u] > zero else zero
    elif code == SOFTPLUS:
        for u in range(len(dz)):
            dz[u] *= -_expm1(real, -share_ * h[u])
    elif code == TANH:
        for u in range(len(dz)):
            t = share_ * h[u]
            dz[u] *= one - t * t
    elif code == SIGMOID:
        for u in range(len(dz)):
            t = share_ * h[u]
            dz[u] *= t - t * t
    elif code == SOFTSIGN:
        for u in range(len(dz)):
            t = one - abs(share_ * h[u])
            dz[u] *= t * t


# ---------------------------------------------------------------------------------------------------------------------------
# Panels and sums
# ---------------------------------------------------------------------------------------------------------------------------


n_chain = inline(layout.n_chain)


@kernel
def panel(net: Net, l: int, p: int) -> tuple[Real, Int32, Any]:
    """Return panel p of layer l: its weights (depth, 64), its live counts (64,), and where its bias starts in theta."""
    live = net.n_live[net.layers[l, UNITS] + p * PANEL :][:PANEL]
    start, depth = net.panel_start[net.layers[l, PANELS] + p], np.int64(live[PANEL - 1])
    return net.theta[start : start + depth * PANEL].reshape(depth, PANEL), live, net.layers[l, BIAS] + p * PANEL


@inline
def copy(source: Real, target: Real) -> None:
    """Copy a vector. Numba's own copy would first ask whether the two overlap."""
    for u in range(len(target)):
        target[u] = source[u]


@inline
def add(source: Real, target: Real) -> None:
    """Add a vector to another."""
    for u in range(len(target)):
        target[u] += source[u]


@kernel
def times_bits(rows: Real, bits: Bits, zero: float, one: float) -> None:
    """Multiply a buffer (panels, m, 64) by ``one`` where a bit of (m, panels) words is 1, by ``zero`` where it is 0."""
    real = rows.dtype.type
    base, step = real(zero), real(one - zero)
    for p in range(len(rows)):
        for i in range(len(bits)):
            row, ones = rows[p, i], bits[i, p]
            for u in range(PANEL):
                row[u] *= base + step * real(np.int32((ones >> np.uint64(u)) & np.uint64(1)))


@kernel
def add_product(z: Real, x: Real, w: Real, n: Any) -> None:
    """Do ``z += x w`` on rows z (m, 64) by the first n columns of x (m, >= n) and rows of w (>= n, 64).

    Every sum is one chain of multiply-adds, in the order of w.
    """
    a = stack(z)
    for i0 in range(0, len(z), 2):
        i1 = min(i0 + 1, len(z) - 1)  # a last single row is worked on twice
        z0, z1, x0, x1 = z[i0], z[i1], x[i0], x[i1]
        for u in range(PANEL):
            a[0, u] = z0[u]
            a[1, u] = z1[u]
        for k in range(np.uint64(n)):
            p, q = x0[k], x1[k]
            for u in range(PANEL):
                a[0, u] += p * w[k, u]
                a[1, u] += q * w[k, u]
        for u in range(PANEL):
            z0[u] = a[0, u]
            z1[u] = a[1, u]


@kernel
def add_rows(z: Real, w: Real, index: Int32, n: Any) -> None:
    """Add ``sum_{i < n} w[index[i]]`` to the row z; i ascending."""
    a = stack(z)
    for u in range(PANEL):
        a[0, u] = z[u]
    for i in range(np.uint64(n)):
        k = np.uint64(index[i])
        for u in range(PANEL):
            a[0, u] += w[k, u]
    for u in range(PANEL):
        z[u] = a[0, u]


@partial(kernel, fastmath={"contract", "reassoc"})
def clip(gradient: Real, longest: float) -> None:
    """Scale a gradient down to the norm ``longest``, if it is longer; 0 is no limit."""
    squares = 0.0
    for u in range(len(gradient)):
        squares += np.float64(gradient[u]) * np.float64(gradient[u])
    if 0 < longest < np.sqrt(squares):
        scale = gradient.dtype.type(longest / np.sqrt(squares))
        for u in range(len(gradient)):
            gradient[u] *= scale


# ---------------------------------------------------------------------------------------------------------------------------
# The optimisers
# ---------------------------------------------------------------------------------------------------------------------------


@kernel
def steps(update: Update, step: int) -> tuple[Step, Step]:
    """Return what the update of weights and that of biases need at step ``step`` of a call, computed in double."""
    real, c, t = update.state.dtype.type, update.constants, float(update.step + step + 1)
    lr, a, b = c[optimizers.LR], c[optimizers.COEF_A], c[optimizers.COEF_B]
    correct_a, correct_b = 0.0, 0.0
    if update.optimizer in (optimizers.SGD, optimizers.MOMENTUM):
        lr = lr / (1 + a * (t - 1))
    elif update.optimizer == optimizers.ADAM:
        correct_a, correct_b = lr / (1 - a**t), 1 / (1 - b**t)
    first = (update.optimizer, real(lr), real(a), real(b), real(c[optimizers.EPS]))
    more = (real(1 - a), real(1 - b), real(correct_a), real(correct_b))
    return (*first, *more, real(1 - lr * c[optimizers.DECAY])), (*first, *more, real(1.0))


@inline
def _flush(s: Real) -> None:
    """Make denormal numbers 0. A state that decays would end among them and stay, and each makes the CPU stumble."""
    real = s.dtype.type
    tiny = real(1.1754944e-38) if _is_single(real) else real(2.2250738585072014e-308)
    for u in range(len(s)):
        s[u] = s[u] if abs(s[u]) >= tiny else real(0.0)


# Every product is rounded: of two in a sum either could be contracted, and which one is would depend on the code around it.
@partial(kernel, fastmath=False)
def update(values: Real, at: int, g: Real, one: Step, state: Real) -> None:
    """Update the parameters from ``values[at]`` on by their gradient g, as written in ``optimizers.py``."""
    optimizer, lr, a, b, eps, one_a, one_b, correct_a, correct_b, left = one
    end, w = at + len(g), values[at : at + len(g)]
    if optimizer == optimizers.GRADIENT:
        copy(g, state[0, at:end])
    elif optimizer == optimizers.SGD:
        for u in range(len(g)):
            w[u] = left * w[u] - lr * g[u]
    elif optimizer == optimizers.MOMENTUM:
        s = state[0, at:end]
        for u in range(len(g)):
            s[u] = b * s[u] - lr * g[u]
            w[u] = left * w[u] + s[u]
        _flush(s)
    elif optimizer == optimizers.ADAGRAD:
        s = state[0, at:end]
        for u in range(len(g)):
            s[u] += g[u] * g[u]
            w[u] = left * w[u] - lr * g[u] / np.sqrt(s[u] + eps)
    elif optimizer == optimizers.ADADELTA:
        s, r = state[0, at:end], state[1, at:end]
        for u in range(len(g)):
            s[u] = a * s[u] + one_a * g[u] * g[u]
            d = np.sqrt(r[u] + eps) / np.sqrt(s[u] + eps) * g[u]
            r[u] = a * r[u] + one_a * d * d
            w[u] = left * w[u] - lr * d
        _flush(s)
        _flush(r)
    elif optimizer == optimizers.RMSPROP:
        s = state[0, at:end]
        for u in range(len(g)):
            s[u] = a * s[u] + one_a * g[u] * g[u]
            w[u] = left * w[u] - lr * g[u] / (np.sqrt(s[u]) + eps)
        _flush(s)
    elif optimizer == optimizers.ADAM:
        s, r = state[0, at:end], state[1, at:end]
        for u in range(len(g)):
            s[u] = a * s[u] + one_a * g[u]
            r[u] = b * r[u] + one_b * g[u] * g[u]
            w[u] = left * w[u] - correct_a * s[u] / (np.sqrt(r[u] * correct_b) + eps)
        _flush(s)
        _flush(r)
