"""Every kernel of every implementation, at every CPU level, against the float64 reference on the same parameters."""

from __future__ import annotations

import importlib.util
import inspect
import threading
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from made_fast import kernels
from made_fast.kernels import layout as panels
from made_fast.kernels import reference
from made_fast.kernels.layout import ACTIVATION, ACTIVATIONS, BIAS, N_IN, N_OUT, N_PANELS, PANEL, PANELS, n_panels
from made_fast.kernels.optimizers import GRADIENT, OPTIMIZERS
from made_fast.masks import draw_connectivity

# Largest error allowed, as a share of 1 + |right value|. None of the sizes below is large, so none of the sums is.
TOLERANCE = {
    "float32": {"value": 2e-6, "gradient": 5e-7, "log_p": 3e-7, "activation": 5e-7, "difference": 6e-7, "trained": 1.5e-6},
    "float64": {"value": 5e-15, "gradient": 1e-15, "log_p": 3e-15, "activation": 1e-15, "difference": 6e-10, "trained": 4e-15},
}
# (lr, a, b, eps) other than the defaults: each number matters, and no rule makes much of the rounding of a small gradient.
HYPER = {
    "sgd": (0.1, 0.3, 0.0, 0.0),
    "momentum": (0.05, 0.2, 0.8, 0.0),
    "adagrad": (0.02, 0.0, 0.0, 1e-4),
    "adadelta": (0.8, 0.9, 0.0, 1e-3),
    "rmsprop": (0.01, 0.8, 0.0, 1e-2),
    "adam": (0.02, 0.8, 0.95, 1e-2),
}
# (D, hidden sizes, B): below, at and beyond the vectors, the register tiles and the panels of 64.
SHAPES = [
    (1, (), 7),
    (1, (9,), 1),
    (7, (), 8),
    (8, (7,), 31),
    (9, (31,), 9),
    (9, (9, 8), 1),
    (31, (9,), 7),
    (31, (100,), 100),
    (65, (64, 31), 8),
    (100, (7, 31, 8), 31),
    (100, (100, 130), 7),
]
SAMPLED = [shape for shape in SHAPES if shape != (31, (100,), 100)]
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
    "sample": {"reals", "ints", "x"},
    "score": {"reals", "ints", "log_p"},
    "train": {"theta", "state", "reals", "ints", "nll", "sync"},
}
LEVELS = kernels.load("native").levels() if importlib.util.find_spec("made_fast.kernels._native") else ()
NATIVE = [f"native-{level}" for level in LEVELS]
Shape = tuple[int, tuple[int, ...], int]


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Return the implementation called ``native-<CPU level>``, ``jit`` or ``reference``."""
    name, _, level = request.param.partition("-")
    found = kernels.load(name)
    if not level:
        yield found
        return
    before = found.level()
    found.select_level(level)
    yield found
    found.select_level(before)


everywhere = pytest.mark.parametrize("module", [*NATIVE, "jit", "reference"], indirect=True)
compiled = pytest.mark.parametrize("module", [*NATIVE, "jit"], indirect=True)
native = pytest.mark.parametrize("module", NATIVE, indirect=True)
both_types = pytest.mark.parametrize("dtype", ["float32", "float64"])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
activations = pytest.mark.parametrize("activation", ACTIVATIONS[1:])


def run(module: ModuleType, kernel: str, *args: Any) -> None:
    """Call a kernel; check that it returns nothing and leaves every byte of its inputs alone."""
    names = inspect.signature(getattr(reference, kernel)).parameters
    inputs = {n: a for n, a in zip(names, args, strict=True) if isinstance(a, np.ndarray) and n not in OUTPUTS[kernel]}
    before = {n: a.tobytes() for n, a in inputs.items()}
    assert getattr(module, kernel)(*args) is None
    for n, a in inputs.items():
        assert a.tobytes() == before[n], f"{kernel} wrote to {n}"


def assert_close(found: Any, right: Any, dtype: str, kind: str) -> None:
    error = np.abs(found - right) / (1 + np.abs(right))
    assert np.all(error <= TOLERANCE[dtype][kind]), f"off by {np.max(error):.1e}"  # and so no NaN


def pack_bits(x: Any) -> Any:
    padded = np.zeros((len(x), -(-x.shape[1] // 64) * 64), np.uint8)
    padded[:, : x.shape[1]] = x
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def buffer(rows: int, n_units: int, dtype: Any, fill: float = np.nan) -> Any:
    """Return an activation buffer, every number of it ``fill``."""
    return np.full((n_panels(n_units), rows, PANEL), fill, dtype)


def to_buffer(dense: Any, dtype: Any = "float64") -> Any:
    """Return an activation buffer of the units ``dense`` (B, n), with 0 in the fill-up units."""
    made = buffer(*dense.shape, dtype)
    reference.write_buffer(dense, made)
    return made


def fill_up(made: Any, n_units: int) -> Any:
    """Return the fill-up units of an activation buffer."""
    return made[-1, :, PANEL - -n_units % PANEL :]


class Case:
    """A random net and a batch for it, with the calls that need scratch. All scratch starts as garbage."""

    def __init__(self, shape: Shape, dtype: str, activation: str | None = None, degrees: Any = "stratified") -> None:
        n_inputs, hidden, n_rows = shape
        rng = np.random.default_rng([n_inputs, n_rows, *hidden])
        self.dtype = dtype
        activation = activation or ACTIVATIONS[1 + (n_inputs + sum(hidden)) % 5]
        self.connectivity = draw_connectivity(n_inputs, hidden, "random", degrees, rng)
        self.layout = panels.make_layout(n_inputs, self.connectivity.staircase().n_live, activation)
        theta, live = np.zeros((2, panels.n_parameters(self.layout)))
        for l, (n_in, n_out, *_) in enumerate(self.layout.layers):
            W, b = rng.normal(size=(n_in, n_out)) * 1.5 / np.sqrt(n_in), rng.normal(size=n_out)
            reference.pack_layer(W, b, *self.layout, l, theta)
            reference.pack_layer(np.ones_like(W), np.ones_like(b), *self.layout, l, live)
        self.live = live == 1
        self.theta = panels.aligned_empty(len(theta), dtype)
        self.theta[:] = theta
        self.x = (rng.random((n_rows, n_inputs)) < 0.3).astype(np.uint8)
        self.bits = pack_bits(self.x)

    def exact(self) -> Case:
        """Return the same net and batch with float64 parameters."""
        other = object.__new__(Case)
        other.__dict__ = {**self.__dict__, "dtype": "float64", "theta": self.theta.astype(np.float64)}
        return other

    def scratch(self, n_reals: int, n_ints: int) -> tuple[Any, Any]:
        reals, ints = panels.aligned_empty(n_reals, self.dtype), panels.aligned_empty(n_ints, np.int32)
        reals[:], ints[:] = np.nan, -7
        return reals, ints

    def score(self, module: ModuleType, rows: slice = slice(None), sparse: bool = True, block: int = 7) -> Any:
        bits = self.bits[rows]
        log_p, scratch = np.full(len(bits), np.nan), self.scratch(*panels.score_workspace(self.layout, block))
        run(module, "score", self.theta, *self.layout, bits, sparse, block, *scratch, log_p)
        return log_p

    def conditionals(self, module: ModuleType, x: Any = None, sparse: bool = True, block: int = 7) -> Any:
        bits = self.bits if x is None else pack_bits(x)
        proba = np.full((len(bits), self.x.shape[1]), np.nan, self.dtype)
        scratch = self.scratch(*panels.score_workspace(self.layout, block))
        run(module, "conditionals", self.theta, *self.layout, bits, sparse, block, *scratch, proba)
        return proba

    def sample(self, module: ModuleType, uniforms: Any, block: int = 7) -> Any:
        x, scratch = np.full(uniforms.shape, 9, np.uint8), self.scratch(*panels.sample_workspace(self.layout, block))
        run(module, "sample", self.theta, *self.layout, uniforms, block, *scratch, x)
        return x

    def train(self, module: ModuleType, optimizer: str, sparse: bool, batch_size: int, n_steps: int, n_ranks: int = 1) -> Any:
        """Return (losses, theta, state) after ``n_steps`` steps, the last on a shorter batch."""
        code, n_state, _ = OPTIMIZERS.get(optimizer, (GRADIENT, 1, None))
        hyper = np.array(HYPER.get(optimizer, (0.0, 0.0, 0.0, 0.0)))
        rows = np.arange(n_steps * batch_size - batch_size // 2) * 5 % len(self.bits)
        theta, state = self.theta.copy(), np.zeros((n_state, len(self.theta)), self.dtype)
        scratch, nll = self.scratch(*panels.train_workspace(self.layout, batch_size)), np.full(n_steps, np.nan)
        fixed = (theta, *self.layout, self.bits, rows, batch_size, sparse, code, 3, hyper, state, *scratch, nll)
        sync = np.zeros(64, np.int32)
        crew = [threading.Thread(target=run, args=(module, "train", *fixed, r, n_ranks, sync)) for r in range(1, n_ranks)]
        for thread in crew:
            thread.start()
        run(module, "train", *fixed, 0, n_ranks, sync)
        for thread in crew:
            thread.join()
        return nll, theta, state


case = lru_cache(Case)


def outputs_of(case: Case) -> list[Any]:
    """Return the input and every layer's output in float64, each as an activation buffer."""
    values = [to_buffer(case.x)]
    for l, n_out in enumerate(case.layout.layers[:, N_OUT]):
        values.append(buffer(len(case.x), n_out, "float64"))
        reference.affine_forward(case.exact().theta, *case.layout, l, values[-2], values[-1])
    return values


@compiled
@pytest.mark.parametrize("kernel", kernels.KERNELS)
def test_signatures_are_those_of_the_reference(module, kernel):
    function = getattr(module, kernel)
    found = inspect.signature(getattr(function, "py_func", function)).parameters
    assert list(found) == list(inspect.signature(getattr(reference, kernel)).parameters)


@pytest.mark.parametrize("shape", [(7, (), 1), (9, (31,), 1), (31, (9, 8), 1), (8, (7, 100, 7), 1)], ids=str)
@pytest.mark.parametrize("degrees", ["stratified", "uniform"])
def test_staircase_is_the_masks_of_the_degrees(shape, degrees):
    c = case(shape, "float64", "relu", degrees)
    sorts = c.connectivity.staircase().sorts
    for l, mask in enumerate(reference.masks(c.connectivity.ordering, c.connectivity.degrees)):
        W, live, _ = reference.unpack_layer(c.theta, *c.layout, l)
        assert np.array_equal(mask[np.ix_(sorts[l + 1], sorts[l])].T, live)
        assert np.array_equal(W != 0, live)


@everywhere
@pytest.mark.parametrize("n_columns", [1, 7, 8, 9, 31, 64, 100])
@pytest.mark.parametrize("kernel", ["list_ones", "list_rows"])
def test_lists(module, kernel, n_columns):
    rng = np.random.default_rng(n_columns)
    for n_rows, density in ((0, 0.5), (1, 1.0), (7, 0.1), (31, 0.5)):
        bits = pack_bits(rng.random((n_rows, n_columns)) < density)
        shape = (n_rows, n_columns) if kernel == "list_ones" else (n_columns, n_rows)
        lists = [(np.full(shape[0], -1, np.int32), np.full(shape, -1, np.int32)) for _ in range(2)]
        run(module, kernel, bits, n_columns, *lists[0])
        getattr(reference, kernel)(bits, n_columns, *lists[1])
        assert all(np.array_equal(a, b) for a, b in zip(*lists, strict=True))


@everywhere
@both_types
@shapes
def test_forward_of_every_layer(module, dtype, shape):
    c, unpack = case(shape, dtype), reference.read_buffer
    values = outputs_of(c)
    for l, n_out in enumerate(c.layout.layers[:, N_OUT]):
        x = values[l].astype(dtype)
        out, right = np.full(values[l + 1].shape, np.nan, dtype), np.zeros_like(values[l + 1])
        run(module, "affine_forward", c.theta, *c.layout, l, x, out)
        reference.affine_forward(c.exact().theta, *c.layout, l, x.astype(np.float64), right)
        assert_close(unpack(out, n_out), unpack(right, n_out), dtype, "value")
        if l == 0:
            count, index, sparse = np.empty(len(c.x), np.int32), np.empty(c.x.shape, np.int32), np.full_like(out, np.nan)
            reference.list_ones(c.bits, c.x.shape[1], count, index)
            run(module, "affine_forward_sparse", c.theta, *c.layout, 0, count, index, sparse)
            assert_close(unpack(sparse, n_out), unpack(right, n_out), dtype, "value")


@everywhere
@both_types
@shapes
def test_backward_of_every_layer(module, dtype, shape):
    c, rng = case(shape, dtype), np.random.default_rng(0)
    values = outputs_of(c)
    for l, row in enumerate(c.layout.layers):
        n_in, n_out = row[N_IN], row[N_OUT]
        x, dz = values[l].astype(dtype), to_buffer(rng.normal(size=(len(c.x), n_out)) / len(c.x), dtype)
        x64, dz64 = x.astype(np.float64), dz.astype(np.float64)
        if l:
            dh, right = np.full(x.shape, np.nan, dtype), np.zeros(x.shape)
            run(module, "affine_backward_input", c.theta, *c.layout, l, dz, x, dh)
            reference.affine_backward_input(c.exact().theta, *c.layout, l, dz64, x64, right)
            assert_close(dh, right, dtype, "gradient")
            assert not fill_up(dh, n_in).any()
        # The gradient goes to this layer's part of state[0], nothing else is written; the update stays inside it too.
        mine = np.zeros(len(c.theta), bool)
        mine[c.layout.panel_start[row[PANELS]] : row[BIAS] + PANEL * row[N_PANELS]] = True
        right = np.zeros((1, len(c.theta)))
        reference.affine_backward_weights(c.exact().theta, *c.layout, l, x64, dz64, GRADIENT, 0, np.zeros(4), right)
        ways = [("affine_backward_weights", (x,))]
        if l == 0:
            count, index = np.empty(n_in, np.int32), np.empty((n_in, len(c.x)), np.int32)
            reference.list_rows(c.bits, n_in, count, index)
            ways.append(("affine_backward_weights_sparse", (count, index)))
        for kernel, inputs in ways:
            theta, state = c.theta.copy(), np.where(mine & ~c.live, 0, 7).astype(dtype)[None]  # dead entries start at 0
            run(module, kernel, theta, *c.layout, l, *inputs, dz, GRADIENT, 0, np.zeros(4), state)
            assert np.array_equal(theta, c.theta)
            assert (state[0, ~mine] == 7).all()
            assert_close(state[0, mine], right[0, mine], dtype, "gradient")
            assert (state[0, mine & ~c.live] == 0).all()
            run(module, kernel, theta, *c.layout, l, *inputs, dz, 1, 0, np.array([0.5, 0, 0, 0]), state[:0])
            assert np.array_equal(theta[~mine], c.theta[~mine])
            assert_close(theta[mine], c.theta[mine] - 0.5 * right[0, mine], dtype, "gradient")


@everywhere
@both_types
@activations
def test_activations_from_minus_200_to_200(module, dtype, activation):
    z = np.concatenate([np.linspace(-200, 200, 81), [0, -1e-6, 1e-6, -0.3, 0.3], np.linspace(-9, 9, 10)]).astype(dtype)
    c = Case((9, (len(z),), 7), dtype, activation)
    c.theta[: c.layout.layers[0, BIAS]] = 0
    c.theta[c.layout.layers[0, BIAS] :][: len(z)] = z
    h = buffer(7, len(z), dtype)
    run(module, "affine_forward", c.theta, *c.layout, 0, buffer(7, 9, dtype, 1), h)
    right = reference.activate(z.astype(np.float64), c.layout.layers[0, ACTIVATION])
    tiny = 2 * np.finfo(dtype).tiny  # the smallest numbers may be cut off
    assert np.all(np.abs(reference.read_buffer(h, len(z)) - right) <= tiny + TOLERANCE[dtype]["activation"] * np.abs(right))


@everywhere
@both_types
@pytest.mark.parametrize("n_columns", [1, 7, 8, 9, 31, 64, 100])
def test_bernoulli_nll_at_logits_from_minus_200_to_200(module, dtype, n_columns):
    rng = np.random.default_rng(n_columns)
    logits = to_buffer(rng.permutation(np.linspace(-200, 200, 31 * n_columns)).reshape(31, -1), dtype)
    fill_up(logits, n_columns)[:] = 1e30  # what stands there must not matter
    bits = pack_bits(rng.random((31, n_columns)) < 0.5)
    nll, dlogits = np.full(31, np.nan), np.full_like(logits, np.nan)
    run(module, "bernoulli_nll", logits, bits, n_columns, 0.25, nll, dlogits)
    right, slope = np.zeros(31), np.zeros(logits.shape)
    reference.bernoulli_nll(logits.astype(np.float64), bits, n_columns, 0.25, right, slope)
    assert_close(nll, right, dtype, "log_p")
    assert_close(dlogits, slope, dtype, "activation")
    assert not fill_up(dlogits, n_columns).any()


@everywhere
@both_types
def test_certain_conditionals_are_finite(module, dtype):
    c = Case((8, (), 1), dtype)
    logits = np.array([-200, -88, -30, -1e-3, 1e-3, 30, 88, 200], dtype)
    c.theta[:] = 0
    c.theta[c.layout.layers[0, BIAS] :][:8] = logits
    right = 1 / (1 + np.exp(-logits.astype(np.float64)))
    error = np.abs(c.conditionals(module)[0] - right)
    assert np.all(error <= 2 * np.finfo(dtype).tiny + TOLERANCE[dtype]["activation"] * right)
    for x in (np.zeros((1, 8)), np.ones((1, 8))):
        c.bits = pack_bits(x)
        assert_close(c.score(module), -np.logaddexp(0, np.where(x == 1, -logits, logits).astype(float)).sum(), dtype, "log_p")


@everywhere
@both_types
@shapes
def test_score_and_conditionals(module, dtype, shape):
    c = case(shape, dtype)
    assert_close(c.score(module), c.exact().score(reference), dtype, "log_p")
    assert_close(c.conditionals(module), c.exact().conditionals(reference), dtype, "value")


@compiled
@both_types
@shapes
def test_bits_do_not_depend_on_sparse_block_or_rows(module, dtype, shape):
    c = case(shape, dtype)
    log_p, proba = c.score(module), c.conditionals(module)
    for block in (1, 2, 3, 7, 100):
        for sparse in (False, True):
            assert np.array_equal(c.score(module, sparse=sparse, block=block), log_p)
            assert np.array_equal(c.conditionals(module, sparse=sparse, block=block), proba)
    for rows in (slice(0), slice(1), slice(3, None), slice(2, 5)):
        assert np.array_equal(c.score(module, rows), log_p[rows])


@everywhere
@both_types
@pytest.mark.parametrize("shape", SAMPLED, ids=str)
def test_samples_are_those_of_full_passes(module, dtype, shape):
    c = case(shape, dtype)
    uniforms = np.random.default_rng(0).random(c.x.shape)
    uniforms[0] = np.nextafter(1, 0)
    uniforms[-1] = c.conditionals(module, np.zeros_like(c.x))[-1]  # a uniform equal to p draws a 0
    x = c.sample(module, uniforms)
    assert not x[-1].any()
    assert np.array_equal(x, uniforms < c.conditionals(module, x))  # the first d columns fix conditional d: one pass shows all
    if module is not reference:
        for block in (1, 2, 100):
            assert np.array_equal(c.sample(module, uniforms, block), x)


@everywhere
@both_types
@activations
def test_gradient_of_the_network_by_central_differences(module, dtype, activation):
    c = case((7, (9, 8), 9), dtype, activation)
    for sparse in (False, True):
        _, theta, state = c.train(module, "gradient", sparse, 9, 1)
        assert np.array_equal(theta, c.theta)
        assert_close(state[0], differences(dtype, activation), dtype, "difference")
        assert (state[0, ~c.live] == 0).all()


@lru_cache
def differences(dtype: str, activation: str) -> Any:
    """Return the gradient of the mean NLL of the rows that ``Case.train`` uses first, by central differences."""
    c = case((7, (9, 8), 9), dtype, activation).exact()
    rows, gradient = np.arange(5) * 5 % 9, np.zeros(len(c.theta))
    c.bits = c.bits[rows]
    for i in np.flatnonzero(c.live):
        for sign in (1, -1):
            c.theta[i] += sign * 1e-5
            gradient[i] -= sign * c.score(reference).mean() / 2e-5
            c.theta[i] -= sign * 1e-5
    return gradient


@everywhere
@both_types
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(9, (9,), 9), (100, (31, 70), 31)], ids=str)
def test_ten_training_steps(module, dtype, sparse, optimizer, shape):
    c = case(shape, dtype)
    nll, theta, state = c.train(module, optimizer, sparse, 7, 10)
    right_nll, right_theta, right_state = c.exact().train(reference, optimizer, sparse, 7, 10)
    assert_close(nll, right_nll, dtype, "trained")
    assert_close(theta, right_theta, dtype, "trained")
    assert_close(state, right_state, dtype, "trained")
    assert (theta[~c.live] == 0).all()
    assert (state[:, ~c.live] == 0).all()
    assert not np.array_equal(theta, c.theta)


@compiled
@both_types
@pytest.mark.parametrize("shape", [(9, (), 9), (65, (31, 8), 31)], ids=str)
def test_training_on_sparse_and_dense_input_gives_the_same_bits(module, dtype, shape):
    ways = [case(shape, dtype).train(module, "adam", sparse, 8, 3) for sparse in (False, True)]
    assert all(np.array_equal(a, b) for a, b in zip(*ways, strict=True))


@native
@both_types
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("shape", [(1, (7,), 8), (9, (), 31), (100, (31, 7), 31)], ids=str)
def test_training_gives_the_same_bits_on_any_number_of_threads(module, dtype, sparse, shape):
    alone = case(shape, dtype).train(module, "adadelta", sparse, 8, 4)
    for n_ranks in (2, 3):
        together = case(shape, dtype).train(module, "adadelta", sparse, 8, 4, n_ranks)
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@compiled
@both_types
@pytest.mark.parametrize("optimizer", ["momentum", "adadelta", "rmsprop", "adam"])
def test_state_that_decays_ends_at_zero_and_not_among_the_denormals(module, dtype, optimizer):
    """Of an input that is never on, say. A denormal stays for ever (0.9 times the smallest is the smallest) and is slow."""
    c, rule, tiny = case((9, (31,), 9), dtype), OPTIMIZERS[optimizer], np.finfo(dtype).tiny
    x, dz, theta = buffer(9, 9, dtype, 0.0), buffer(9, 31, dtype, 0.0), c.theta.copy()
    state = np.full((rule.n_state, len(theta)), 1.5 * tiny, dtype)
    for step in range(20):
        run(module, "affine_backward_weights", theta, *c.layout, 0, x, dz, rule.code, step, np.array(HYPER[optimizer]), state)
    first = state[:, c.layout.panel_start[0] : c.layout.layers[0, BIAS]]
    assert ((first == 0) | (first >= tiny)).all()
    assert (first == 0).any()


@everywhere
def test_parameters_may_be_read_only(module):
    c, model = case((9, (31,), 9), "float32"), Case((9, (31,), 9), "float32")
    model.theta.flags.writeable = False
    uniforms = np.random.default_rng(0).random((9, 9))
    assert np.array_equal(model.score(module), c.score(module))
    assert np.array_equal(model.sample(module, uniforms), c.sample(module, uniforms))
