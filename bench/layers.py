"""Single kernels on one masked layer, 100 rows, float32: what is timed, and how it is held to the truth.

Beside ``native`` stand ``numpy``, the dense product with masked weights into a buffer, and ``peak``, as many
multiply-adds as are *live* and nothing else: what there is left to gain. Truth is the same kernel of ``reference`` in float64
on the same arrays. Whole steps and calls of users are in ``cases.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import machine, nets
from bench.implementations import kernels_of
from bench.nets import Layer
from bench.work import FLOAT32, TRAINED, Work
from made_fast import kernels
from made_fast.kernels import layout as panels
from made_fast.kernels.layout import N_OUT, UNITS
from made_fast.kernels.optimizers import GRADIENT, OPTIMIZERS
from made_fast.kernels.records import Net, Update
from made_fast.kernels.reference import dense
from made_fast.tables.bits import pack_bits

__all__ = ["BACKWARD", "BACKWARD_INPUT", "FORWARD", "KERNELS", "LAYERS", "implementations"]

LAYERS = (Layer(784, 500, 0), Layer(500, 784, 1), Layer(2000, 2000, 1))

FORWARD, FORWARD_SPARSE, BACKWARD_INPUT = "affine_forward", "affine_forward_sparse", "affine_backward_input"
BACKWARD, BACKWARD_ADAM = "affine_backward_weights", "affine_backward_weights, Adam"
BACKWARD_SPARSE = "affine_backward_weights_sparse, Adam"
KERNELS = {
    FORWARD: LAYERS,
    FORWARD_SPARSE: LAYERS[:1],
    BACKWARD_INPUT: LAYERS[1:],
    BACKWARD: LAYERS,
    BACKWARD_ADAM: LAYERS,
    BACKWARD_SPARSE: LAYERS[:1],
}
"""What is timed, on which layers: only the first has binary input, and it passes no gradient on."""

BINARY = (FORWARD_SPARSE, BACKWARD_SPARSE)
"""Those that read bits."""

Call = tuple[Callable[[], Any], Callable[[], NDArray[Any]]]
"""A call of a kernel, and what returns its result as a matrix."""


class Arrays:
    """A layer under its staircase, a mini-batch, and gradients of its sums drawn at random, in buffers of the kernels.

    The mini-batch is of binary rows, or of numbers none of which is 0, so that all of a dense product is made.
    """

    def __init__(self, name: str, layer: Layer, dtype: str) -> None:
        trainer = nets.new_trainer(layer.size)
        source: Any = trainer.parameters
        self.layer, self.dtype, self.l = layer, dtype, layer.l
        self.net = Net(self.aligned(source.vector), *source.layout)
        rows, n = nets.rows(layer.size)[0], layer.size.batch
        rng = np.random.default_rng(nets.SEED)
        binary = rows[:n, source.order].astype(np.uint8) if name in BINARY else None
        x = np.abs(rng.standard_normal((n, layer.n_in))) + 1e-3 if binary is None else binary
        dz = rng.standard_normal((n, layer.n_out)) / n
        self.rows = binary
        self.x, self.dz = (self.aligned(dense.to_buffer(a.astype(np.float32))) for a in (x, dz))
        row = self.net.layers[layer.l]
        self.flops = 2.0 * n * int(self.net.n_live[row[UNITS] :][: row[N_OUT]].sum())

    def aligned(self, a: NDArray[Any]) -> NDArray[Any]:
        """Return a copy on a 64-byte boundary."""
        made = panels.aligned_empty(a.size, self.dtype).reshape(a.shape)
        made[:] = a
        return made

    def dense(self, theta: NDArray[Any]) -> NDArray[Any]:
        """Return W (n_in, n_out), dead weights 0, with the bias as one more row."""
        W, mask, b = dense.unpack_layer(self.net._replace(theta=theta), self.l)
        return np.vstack([W * mask, b])


def ours(name: str, a: Arrays, module: Any) -> Call:
    """Return the building block called ``name`` of an implementation."""
    fixed, (n_in, n_out, _) = (a.net, a.l), a.layer
    if name in (FORWARD, FORWARD_SPARSE):
        out = a.aligned(np.zeros_like(a.dz))
        x: Any = a.x if a.rows is None else pack_bits(a.rows)
        return partial(module.affine_forward, *fixed, x, a.x[:0], out), lambda: dense.read_buffer(out, n_out)
    if name == BACKWARD_INPUT:
        dh = a.aligned(np.zeros_like(a.x))
        return partial(module.affine_backward_input, *fixed, a.dz, a.x, dh), lambda: dense.read_buffer(dh, n_in)
    adam, start = OPTIMIZERS["adam"], a.dense(a.net.theta)
    code, n_state = (GRADIENT, 1) if name == BACKWARD else (adam.code, adam.n_state)
    state = a.aligned(np.zeros((n_state, len(a.net.theta)), np.float32))
    x = a.x if a.rows is None else pack_bits(a.rows.T)
    update = Update(code, 0, np.array([*adam.constants, 0.0, 0.0]), state)
    call = partial(module.affine_backward_weights, *fixed, x, a.dz, update)
    return call, lambda: a.dense(state[0]) if name == BACKWARD else a.dense(a.net.theta) - start


def implementations(name: str) -> tuple[str, ...]:
    """Return who can be timed on the kernel called ``name``."""
    return (*["numpy"] * ("Adam" not in name), "native", *["peak"] * ("sparse" not in name))


def in_numpy(name: str, a: Arrays) -> Call:
    """Return the dense product that stands against a kernel."""
    n_in, n_out, _ = a.layer
    W, b = np.vsplit(a.dense(a.net.theta), [n_in])
    x, dz = (np.ascontiguousarray(dense.read_buffer(buffer, n)) for buffer, n in ((a.x, n_in), (a.dz, n_out)))
    mask = dense.unpack_layer(a.net, a.l)[1]
    z, dh, on, gradient, ones = (
        np.empty_like(dz),
        np.empty_like(x),
        x > 0,
        np.empty_like(a.dense(a.net.theta)),
        np.ones_like(x[:, 0]),
    )

    def forward() -> None:
        np.add(np.matmul(x, W, out=z), b, out=z)
        if a.l == 0:
            np.maximum(z, 0, out=z)

    def backward_input() -> None:
        np.multiply(np.matmul(dz, W.T, out=dh), np.greater(x, 0, out=on), out=dh)

    def backward_weights() -> None:
        np.multiply(np.matmul(x.T, dz, out=gradient[:-1]), mask, out=gradient[:-1])
        np.matmul(ones, dz, out=gradient[-1])

    calls: dict[str, Call] = {
        FORWARD: (forward, lambda: z),
        FORWARD_SPARSE: (forward, lambda: z),
        BACKWARD_INPUT: (backward_input, lambda: dh),
        BACKWARD: (backward_weights, lambda: gradient),
    }
    return calls[name]


@lru_cache(nets.KEPT)
def truth(name: str, layer: Layer) -> NDArray[np.float64]:
    """Return what the reference makes of the same arrays in float64."""
    call, read = ours(name, Arrays(name, layer, "float64"), kernels.load("reference"))
    call()
    return read()


def work(name: str, layer: Layer, implementation: str) -> Work:
    """Return the kernel called ``name`` on a layer, by an implementation, as work."""
    a = Arrays(name, layer, "float32")
    if implementation == "peak":
        nothing_else = machine.multiply_adds(a.flops)
        assert nothing_else is not None
        return Work(implementation, nothing_else, lambda _: None)
    call, read = in_numpy(name, a) if implementation == "numpy" else ours(name, a, kernels.load(kernels_of(implementation)))

    def check(_: Any) -> None:
        right = truth(name, layer)
        error = np.linalg.norm(read() - right) / np.linalg.norm(right)
        assert error < (TRAINED if "Adam" in name else FLOAT32), f"{name} is off by {error:.2g}"

    return Work(implementation, call, check)
