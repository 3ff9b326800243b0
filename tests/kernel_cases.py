"""What the tests of the kernels share: the implementations, how close is close, checked calls, random nets with a batch."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from made_fast import kernels
from made_fast.kernels import layout as panels
from made_fast.kernels import reference
from made_fast.kernels.layout import ACTIVATIONS, BIAS, DIRECT, N_OUT, N_PANELS, PANEL, n_panels
from made_fast.kernels.optimizers import GRADIENT, OPTIMIZERS
from made_fast.network.masks import draw_connectivity

# Largest error allowed, as a share of 1 + |right value|. None of the nets is large, so none of the sums is.
TOLERANCE = {
    "float32": {"value": 2e-6, "gradient": 5e-7, "log_p": 3e-7, "activation": 5e-7, "difference": 6e-7, "trained": 1.5e-6},
    "float64": {"value": 5e-15, "gradient": 1e-15, "log_p": 3e-15, "activation": 1e-15, "difference": 6e-10, "trained": 3e-14},
}
# (lr, a, b, eps, decay) other than the defaults: each matters, and no rule makes much of the rounding of a small gradient.
HYPER = {
    "sgd": (0.1, 0.3, 0.0, 0.0, 0.2),
    "momentum": (0.05, 0.2, 0.8, 0.0, 0.3),
    "adagrad": (0.02, 0.0, 0.0, 1e-4, 0.5),
    "adadelta": (0.8, 0.9, 0.0, 1e-3, 0.01),
    "rmsprop": (0.01, 0.8, 0.0, 1e-2, 0.7),
    "adam": (0.02, 0.8, 0.95, 1e-2, 0.4),
}
# What a kernel may write to.
OUTPUTS = {
    "affine_backward_input": {"dh"},
    "affine_backward_weights": {"theta", "state"},
    "affine_backward_weights_sparse": {"theta", "state"},
    "affine_forward": {"out"},
    "affine_forward_sparse": {"out"},
    "bernoulli_nll": {"nll", "dlogits"},
    "conditionals": {"reals", "ints", "proba"},
    "list_ones": {"count", "index"},
    "list_rows": {"count", "index"},
    "pack": {"theta"},
    "pack_bits": {"place", "out", "seen"},
    "sample": {"reals", "ints", "x"},
    "score": {"reals", "ints", "log_p"},
    "train": {"theta", "state", "reals", "ints", "nll", "sync"},
    "train_shared": {"shared", "state", "gradient", "theta", "dtheta", "reals", "ints", "nll", "sync"},
    "unpack_gradient": {"shared"},
}
CALL_OFF = 48  # of ``sync``
LEVELS = kernels.load("native").levels() if importlib.util.find_spec("made_fast.kernels._native") else ()
NATIVE = [f"native-{level}" for level in LEVELS]
Shape = tuple[int, tuple[int, ...], int, str]  # D, hidden sizes, B, direct connections

# For the fixture ``module`` of conftest.py.
everywhere = pytest.mark.parametrize("module", [*NATIVE, "jit", "reference"], indirect=True)
compiled = pytest.mark.parametrize("module", [*NATIVE, "jit"], indirect=True)
native = pytest.mark.parametrize("module", NATIVE, indirect=True)
both_types = pytest.mark.parametrize("dtype", ["float32", "float64"])
activations = pytest.mark.parametrize("activation", ACTIVATIONS[1:])
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def implementation(name: str) -> Iterator[ModuleType]:
    """Yield the implementation called ``native-<CPU level>``, ``jit`` or ``reference``, then undo the choice of level."""
    name, _, level = name.partition("-")
    found = kernels.load(name)
    if not level:
        yield found
        return
    before = found.level()
    found.select_level(level)
    yield found
    found.select_level(before)


def run(module: ModuleType, kernel: str, *args: Any) -> None:
    """Call a kernel; check that it returns nothing and leaves alone its inputs and what lies behind any array."""
    names = inspect.signature(getattr(reference, kernel)).parameters
    arrays = {n: a for n, a in zip(names, args, strict=True) if isinstance(a, np.ndarray)}
    before = {n: (b"" if n in OUTPUTS[kernel] else a.tobytes(), _behind(a)) for n, a in arrays.items()}
    assert getattr(module, kernel)(*args) is None
    for n, a in arrays.items():
        now = b"" if n in OUTPUTS[kernel] else a.tobytes(), _behind(a)
        assert now == before[n], f"{kernel} wrote {'behind' if now[0] == before[n][0] else 'to'} {n}"


def _behind(a: Any) -> bytes:
    """Return the bytes behind a view, up to the end of the array that it is a view of."""
    if a.base is None:
        return b""
    end = a.__array_interface__["data"][0] + a.nbytes - a.base.__array_interface__["data"][0]
    return a.base.reshape(-1).view(np.uint8)[end:].tobytes()


def run_crew(module: ModuleType, kernel: str, *args: Any, n_ranks: int) -> None:
    """Call a training kernel on all ranks at once, each from its own thread."""
    sync = room(64, np.int32, 0)

    def work(rank: int) -> None:
        try:
            run(module, kernel, *args, rank, n_ranks, sync)
        except BaseException:
            sync[CALL_OFF] = 1
            raise

    with ThreadPoolExecutor(n_ranks) as pool:
        for done in [pool.submit(work, rank) for rank in range(n_ranks)]:
            done.result()


def check_called_off(module: ModuleType, kernel: str, begin: Callable[[], Any], known: list[Any], n_ranks: int) -> None:
    """Call a training off at moments all over its time: whenever that is, every weight is at a step.

    All ranks have made the same steps; of one more step, some weights have been made, each with its state. ``begin()`` returns
    the arguments but the last three, parameters, and state; ``known[i]`` are those two, stacked, after i steps.
    """
    steps: list[int | None] = []
    whole = 0.0
    for i in range(60):  # the first one runs to its end, and tells how long that takes
        (fixed, parameters, state), sync = begin(), np.zeros(64, np.int32)
        train = getattr(module, kernel)
        crew = [threading.Thread(target=train, args=(*fixed, rank, n_ranks, sync)) for rank in range(n_ranks)]
        started = time.perf_counter()
        for rank in crew:
            rank.start()
        if i:
            time.sleep(whole * i / 60)
            sync[CALL_OFF] = 1
        for rank in crew:
            rank.join()
        whole = whole or time.perf_counter() - started
        now = np.stack([parameters, *state])
        found = (
            step + (now == after).all()
            for step, (before, after) in enumerate(itertools.pairwise(known))
            if ((now == before).all(axis=0) | (now == after).all(axis=0)).all()
        )
        steps.append(next(found, None))
    assert None not in steps
    assert steps[0] == len(known) - 1
    assert set(steps[1:]) - {0, steps[0]}  # some were called off on the way


def room(shape: int | tuple[int, ...], dtype: Any, fill: Any = np.nan) -> Any:
    """Return an array on a 64-byte boundary, every number of it ``fill``, with as many as in a panel row behind it."""
    n = math.prod(np.atleast_1d(shape).tolist())
    whole = panels.aligned_empty(n + PANEL, dtype)
    whole[:] = fill
    return whole[:n].reshape(shape)


def copied(a: Any, dtype: Any = None) -> Any:
    """Return a copy in ``room``."""
    made = room(a.shape, dtype or a.dtype, 0)
    made[:] = a
    return made


def assert_close(found: Any, right: Any, dtype: str, kind: str) -> None:
    error = np.abs(found - right) / (1 + np.abs(right))
    assert np.all(error <= TOLERANCE[dtype][kind]), f"off by {np.max(error):.1e}"  # and so no NaN


def assert_same(found: Any, right: Any) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(found, right, strict=True))


def pack_bits(x: Any) -> Any:
    padded = np.zeros((len(x), -(-x.shape[1] // 64) * 64), np.uint8)
    padded[:, : x.shape[1]] = x
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def buffer(rows: int, n_units: int, dtype: Any, fill: float = np.nan) -> Any:
    """Return an activation buffer, every number of it ``fill``."""
    return room((n_panels(n_units), rows, PANEL), dtype, fill)


def to_buffer(dense: Any, dtype: Any = "float64") -> Any:
    """Return an activation buffer of the units ``dense`` (B, n), with 0 in the fill-up units."""
    made = buffer(*dense.shape, dtype)
    reference.write_buffer(dense, made)
    return made


def fill_up(made: Any, n_units: int) -> Any:
    """Return the units of an activation buffer from ``n_units`` on."""
    return reference.read_buffer(made, PANEL * len(made))[:, n_units:]


def optimizer_arguments(optimizer: str, n: int, dtype: str, clip: float = 0.0, **hyper: float) -> tuple[int, Any, Any]:
    """Return (code, hyper, state) for n parameters; ``"gradient"`` is the rule that only writes it down."""
    code, n_state, *_ = OPTIMIZERS.get(optimizer, (GRADIENT, 1))
    values = [*HYPER.get(optimizer, (0.0,) * 5), clip]
    for name, value in hyper.items():
        values[("lr", "a", "b", "eps", "decay").index(name)] = value
    return code, np.array(values), room((n_state, n), dtype, 0)


class Case:
    """A random net and a batch for it, with the calls that need scratch. All scratch starts as garbage."""

    def __init__(self, shape: Shape, dtype: str, activation: str | None = None, degrees: Any = "stratified") -> None:
        n_inputs, hidden, n_rows, direct = shape
        rng = np.random.default_rng([n_inputs, n_rows, *hidden])
        self.dtype = dtype
        activation = activation or ACTIVATIONS[1 + (n_inputs + sum(hidden)) % 5]
        self.connectivity = draw_connectivity(n_inputs, hidden, "random", degrees, rng)
        staircase = self.connectivity.staircase(direct)
        self.layout = panels.make_layout(n_inputs, staircase.n_live, activation, staircase.direct)
        theta, live, bias = np.zeros((3, panels.n_parameters(self.layout)))
        for l, (n_in, n_out, *_) in enumerate(self.layout.layers):
            W, b = rng.normal(size=(n_in, n_out)) * 1.5 / np.sqrt(n_in), rng.normal(size=n_out)
            own = np.full(n_out, self.layout.layers[l, DIRECT] >= 0)  # the bias of direct connections is 0 and not trained
            reference.pack_layer(W, b * own, *self.layout, l, theta)
            reference.pack_layer(np.ones_like(W), own, *self.layout, l, live)
            reference.pack_layer(np.zeros_like(W), own, *self.layout, l, bias)
        self.live, self.bias = live == 1, bias == 1
        self.theta = copied(theta, dtype)
        self.x = (rng.random((n_rows, n_inputs)) < 0.3).astype(np.uint8)
        self.bits = pack_bits(self.x)
        self.weights = rng.normal(size=n_rows) + 0.5  # of rows; some are negative

    def exact(self) -> Case:
        """Return the same net and batch with float64 parameters."""
        other = object.__new__(Case)
        other.__dict__ = {**self.__dict__, "dtype": "float64", "theta": self.theta.astype(np.float64)}
        return other

    def scratch(self, n_reals: int, n_ints: int) -> tuple[Any, Any]:
        return room(n_reals, self.dtype), room(n_ints, np.int32, -7)

    def score(
        self, module: ModuleType, rows: slice = slice(None), n_places: int | None = None, sparse: bool = True, block: int = 7
    ) -> Any:
        bits, places = self.bits[rows], self.x.shape[1] if n_places is None else n_places
        log_p, scratch = room(len(bits), "float64"), self.scratch(*panels.score_workspace(self.layout, block))
        run(module, "score", self.theta, *self.layout, bits, places, sparse, block, *scratch, log_p)
        return log_p

    def conditionals(self, module: ModuleType, x: Any = None, sparse: bool = True, block: int = 7) -> Any:
        bits = self.bits if x is None else pack_bits(x)
        proba = room((len(bits), self.x.shape[1]), self.dtype)
        scratch = self.scratch(*panels.score_workspace(self.layout, block))
        run(module, "conditionals", self.theta, *self.layout, bits, sparse, block, *scratch, proba)
        return proba

    def sample(self, module: ModuleType, uniforms: Any, block: int = 7) -> Any:
        x, scratch = room(uniforms.shape, np.uint8, 9), self.scratch(*panels.sample_workspace(self.layout, block))
        run(module, "sample", self.theta, *self.layout, uniforms, block, *scratch, x)
        return x

    def train(
        self,
        module: ModuleType,
        optimizer: str,
        sparse: bool,
        batch_size: int,
        n_steps: int,
        weights: Any = None,
        n_ranks: int = 1,
    ) -> Any:
        """Return (losses, theta, state) after ``n_steps`` steps, the last on a shorter batch."""
        theta, weights = copied(self.theta), np.zeros(0) if weights is None else weights
        code, hyper, state = optimizer_arguments(optimizer, len(theta), self.dtype)
        rows = np.arange(n_steps * batch_size - batch_size // 2) * 5 % len(self.bits)
        scratch, nll = self.scratch(*panels.train_workspace(self.layout, batch_size)), room(n_steps, "float64")
        fixed = theta, *self.layout, self.bits, weights, rows, batch_size, sparse, code, 3, hyper, state, *scratch, nll
        run_crew(module, "train", *fixed, n_ranks=n_ranks)
        return nll, theta, state

    def layers(self) -> list[tuple[int, Any, Any, Any]]:
        """Return (l, input, output of its direct connections, output) of every layer in float64, as activation buffers."""
        layers, x, theta = self.layout.layers, to_buffer(self.x), self.theta.astype(np.float64)
        chain, found, outputs = panels.n_chain(layers), [], {}
        for l in [*range(chain, len(layers)), *range(chain)]:
            below, adds = outputs[l - 1] if 0 < l < chain else x, layers[l, DIRECT]
            direct = outputs[adds] if adds > 0 else x[:0]
            outputs[l] = buffer(len(self.x), layers[l, N_OUT], "float64")
            reference.affine_forward(theta, *self.layout, l, below, direct, outputs[l])
            found.append((l, below, direct, outputs[l]))
        return found

    def lists(self, kernel: str) -> tuple[Any, Any]:
        """Return what ``list_ones`` or ``list_rows`` makes of the batch."""
        shape = self.x.shape if kernel == "list_ones" else self.x.T.shape
        count, index = np.full(shape[0], -1, np.int32), np.full(shape, -1, np.int32)
        getattr(reference, kernel)(self.bits, self.x.shape[1], count, index)
        return count, index

    def part(self, l: int) -> Any:
        """Return which parameters are those of layer l: its weights and its bias."""
        row, mine = self.layout.layers[l], np.zeros(len(self.theta), bool)
        mine[row[panels.WEIGHTS] : row[BIAS] + PANEL * row[N_PANELS]] = True
        return mine


def written_out_masks(connectivity: Any, direct: str) -> list[Any]:
    """Return the mask (n_in, n_out) of every layer in original order, direct connections last, straight from the degrees."""
    m0, degrees = connectivity.ordering, connectivity.degrees
    found = [mask.T == 1 for mask in reference.masks(m0, degrees)]
    if direct == "all":
        found += [m0[:, None] <= m for m in degrees[1:]]
    if direct != "none" and degrees:
        found.append(m0[:, None] < m0)
    return found
