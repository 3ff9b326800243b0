"""What the tests of the kernels share: the implementations, how close is close, checked calls, random nets with a batch."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from variable_cases import in_order, levels_and_inputs, nll_of_levels, places_of, variables_of

from made_fast import kernels
from made_fast.kernels import layout as panels
from made_fast.kernels import reference
from made_fast.kernels.layout import ACTIVATIONS, BIAS, CALL_OFF, DIRECT, N_OUT, N_PANELS, PANEL, SYNC, n_panels
from made_fast.kernels.optimizers import GRADIENT, OPTIMIZERS
from made_fast.kernels.records import Batches, Crew, Dropout, Net, Scratch, TrainScratch, Update
from made_fast.kernels.reference import dense
from made_fast.network.architecture import Architecture
from made_fast.network.masks import Variables, draw_connectivity

# Largest error allowed, as a share of 1 + |right value|. None of the nets is large, so none of the sums is.
TOLERANCE = {
    "float32": {
        "value": 2e-6,
        "gradient": 5e-7,
        "log_p": 3e-7,
        "walk": 1e-5,
        "activation": 5e-7,
        "difference": 1e-6,  # of the reference in float32, whose products are of the BLAS of the CPU
        "trained": 2e-6,
    },
    "float64": {
        "value": 5e-15,
        "gradient": 1e-15,
        "log_p": 3e-15,
        "walk": 2e-14,
        "activation": 1e-15,
        "difference": 6e-10,
        "trained": 3e-14,
    },
}
# (lr, a, b, eps, decay, clip), not the defaults: each matters, and rounding of a small gradient matters to none.
CONSTANTS = {
    "sgd": (0.1, 0.3, 0.0, 0.0, 0.2, 0.0),
    "momentum": (0.05, 0.2, 0.8, 0.0, 0.3, 0.0),
    "adagrad": (0.02, 0.0, 0.0, 1e-4, 0.5, 0.0),
    "adadelta": (0.8, 0.9, 0.0, 1e-3, 0.01, 0.0),
    "rmsprop": (0.01, 0.8, 0.0, 1e-2, 0.7, 0.0),
    "adam": (0.02, 0.8, 0.95, 1e-2, 0.4, 0.0),
}
# What a kernel may write to beside its scratch.
OUTPUTS = {
    "affine_backward_input": {"dh"},
    "affine_backward_weights": {"net.theta", "update.state"},
    "affine_forward": {"out"},
    "apply_gradient": {"values", "update.state"},
    "bernoulli_nll": {"nll", "dlogits"},
    "conditionals": {"proba"},
    "pack": {"net.theta"},
    "pack_bits": {"place", "out", "seen"},
    "sample": {"x"},
    "score": {"log_p"},
    "score_row": {"log_p", "seen"},
    "train": {"net.theta", "update.state", "nll", "crew.sync"},
    "train_latent": {"net.theta", "update.state", "nll", "crew.sync"},
    "train_shared": {"shared.values", "update.state", "nll", "crew.sync"},
    "walk": {"levels", "log_mass"},
}
LEVELS = kernels.load("native").levels() if importlib.util.find_spec("made_fast.kernels.native._native") else ()
NATIVE = [f"native-{level}" for level in LEVELS if level != "baseline" or len(LEVELS) == 1]
"""The baseline has the vectors of x86-64-v2: what ``on_every_level`` tests is enough to see that it is compiled well."""
Shape = tuple[int | str, tuple[int, ...], int, str]  # D or ``variables_of``, hidden sizes, B, direct connections

# For the fixture ``module`` of conftest.py.
on_every_level = pytest.mark.parametrize(
    "module", [*(f"native-{level}" for level in LEVELS), "jit", "reference"], indirect=True
)
everywhere = pytest.mark.parametrize("module", [*NATIVE, "jit", "reference"], indirect=True)
blocks_everywhere = pytest.mark.parametrize("module", [*NATIVE, "reference"], indirect=True)
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
    arrays: dict[str, Any] = {}
    for name, value in zip(inspect.signature(getattr(reference, kernel)).parameters, args, strict=True):
        fields = {f"{name}.{field}": v for field, v in value._asdict().items()} if isinstance(value, tuple) else {name: value}
        arrays |= {n: a for n, a in fields.items() if isinstance(a, np.ndarray)}

    def seen() -> dict[str, tuple[bytes, bytes]]:
        written = OUTPUTS[kernel]
        return {n: (b"" if n in written or n[:8] == "scratch." else a.tobytes(), _behind(a)) for n, a in arrays.items()}

    before = seen()
    assert getattr(module, kernel)(*args) is None
    wrong = [n for n, now in seen().items() if now != before[n]]
    assert not wrong, f"{kernel} wrote to, or behind, {wrong}"


def _behind(a: Any) -> bytes:
    """Return the bytes behind a view, up to the end of the array that it is a view of."""
    if a.base is None:
        return b""
    end = a.__array_interface__["data"][0] + a.nbytes - a.base.__array_interface__["data"][0]
    return a.base.reshape(-1).view(np.uint8)[end:].tobytes()


def run_crew(module: ModuleType, kernel: str, *args: Any, n_ranks: int = 1) -> None:
    """Call a training kernel on all ranks at once, each from its own thread."""
    sync = room(SYNC, np.int32, 0)

    def work(rank: int) -> None:
        try:
            run(module, kernel, *args, Crew(rank, n_ranks, sync))
        except BaseException:
            sync[CALL_OFF] = 1
            raise

    with ThreadPoolExecutor(n_ranks) as pool:
        for done in [pool.submit(work, rank) for rank in range(n_ranks)]:
            done.result()


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


def to_buffer(units: Any, dtype: Any = "float64") -> Any:
    """Return an activation buffer of the units (B, n), with 0 in the fill-up units."""
    made = buffer(*units.shape, dtype)
    dense.write_buffer(units, made)
    return made


def fill_up(made: Any, n_units: int) -> Any:
    """Return the units of an activation buffer from ``n_units`` on."""
    return dense.read_buffer(made, PANEL * len(made))[:, n_units:]


def new_update(optimizer: str, n: int, dtype: str, step: int = 3, **constants: float) -> Update:
    """Return an update of n parameters with an empty state; ``"gradient"`` only writes the gradient there."""
    code, n_state, *_ = OPTIMIZERS.get(optimizer, (GRADIENT, 1))
    values = dict(zip(("lr", "a", "b", "eps", "decay", "clip"), CONSTANTS.get(optimizer, (0.0,) * 6), strict=True))
    return Update(code, step, np.array([*(values | constants).values()]), room((n_state, n), dtype, 0))


class Options(NamedTuple):
    """What a run of training may ask for beside an optimizer; ``train`` knows the middle three."""

    several: bool = False  # groups in a step, some with fewer places
    clip: float = 0.0
    dropout: float = 0.0
    weighted: bool = False
    gradient: bool = False  # give room for the gradient even where none is needed


PLAIN = Options()
FULL = Options(several=True, clip=0.5, dropout=0.4, weighted=True)
SEVERAL = Options(several=True, weighted=True)
CLIPPED = Options(clip=0.5, dropout=0.4)


class Trained:
    """Parameters and rows that ``kernel`` trains on; ``parameters`` are those at the start, ``padding`` is always 0.
    ``derived`` ones follow from others and have no gradient.

    ``arguments(optimizer, options, ...)`` returns those of the kernel but the crew, in order: the parameters come first.
    """

    MANY = 200  # steps that take long enough to be called off amid them
    kernel: str
    parameters: Any
    bias: Any
    padding: Any
    derived: Any
    layout: Any

    def runs(self) -> Any:
        """Return the parameters that are trained, as ``apply_gradient`` takes them."""
        return panels.runs_of(self.layout.layers)

    def train(self, module: ModuleType, *args: Any, n_ranks: int = 1, **kwargs: Any) -> tuple[Any, Any, Any]:
        """Return (losses, parameters, state); what to do is as for ``arguments``."""
        return self.train_with(module, self.arguments(*args, n_ranks=n_ranks, **kwargs), n_ranks)

    def train_with(self, module: ModuleType, arguments: dict[str, Any], n_ranks: int = 1) -> tuple[Any, Any, Any]:
        """Return (losses, parameters, state)."""
        run_crew(module, self.kernel, *arguments.values(), n_ranks=n_ranks)
        parameters, *_ = arguments.values()
        return arguments["nll"], parameters[0], arguments["update"].state


class Case(Trained):
    """A random net and a batch for it, with the calls that need scratch. All scratch starts as garbage."""

    kernel = "train"
    SMALL = (9, (8, 31), 9, "output")
    LARGE = (100, (31, 70), 31, "all")
    # Below, at and beyond the vectors, the register tiles, the panels and the rows of a batch that are summed at a time.
    SHAPES = (
        (1, (), 7, "none"),
        (1, (9,), 1, "output"),
        (7, (), 8, "none"),
        (8, (7,), 31, "none"),
        (9, (31,), 9, "none"),
        (9, (9, 8), 1, "all"),
        (31, (9,), 7, "output"),
        (31, (100,), 100, "none"),
        (40, (20, 70), 300, "output"),
        (65, (64, 31), 8, "none"),
        (65, (31, 8), 31, "output"),
        (70, (70, 7, 70), 8, "all"),
        (100, (7, 31, 8), 31, "none"),
        (100, (100, 130), 7, "all"),
    )

    def __init__(self, shape: Shape, dtype: str, activation: str | None = None, degrees: Any = "stratified") -> None:
        inputs, hidden, n_rows, direct = shape
        self.variables = variables_of(inputs)
        n_inputs = inputs if isinstance(inputs, int) else self.variables.n_inputs
        rng = np.random.default_rng([n_inputs, n_rows, *hidden])
        self.dtype = dtype
        activation = activation or ACTIVATIONS[1 + (n_inputs + sum(hidden)) % 5]
        network = Architecture(n_inputs, hidden, activation, direct, variables=self.variables)
        self.n_places = network.n_variables
        self.connectivity = draw_connectivity(self.n_places, hidden, "random", degrees, rng, network.variables)
        self.layout = network.layout(network.staircase(self.connectivity))
        theta, live, bias = (Net(a, *self.layout) for a in np.zeros((3, panels.n_parameters(self.layout))))
        for l, (n_in, n_out, *_) in enumerate(self.layout.layers):
            W, b = rng.normal(size=(n_in, n_out)) * 1.5 / np.sqrt(n_in), rng.normal(size=n_out)
            own = np.full(n_out, self.layout.layers[l, DIRECT] >= 0)  # the bias of direct connections is 0 and not trained
            dense.pack_layer(theta, l, W, b * own)
            dense.pack_layer(live, l, np.ones_like(W), own)
            dense.pack_layer(bias, l, np.zeros_like(W), own)
        self.live, self.bias, self.padding = live.theta == 1, bias.theta == 1, live.theta == 0
        self.net = Net(copied(theta.theta.astype("f4"), dtype), *self.layout)
        self.parameters = self.net.theta
        self.derived = np.zeros(len(self.parameters), bool)
        self.exact: Case = self if dtype == "float64" else Case(shape, "float64", activation, degrees)
        self.x = self.levels = (rng.random((n_rows, n_inputs)) < 0.3).astype(np.uint8)
        if self.variables is not None:
            self.in_order = in_order(self.variables, self.connectivity.ordering)
            self.levels, self.x = levels_and_inputs(self.in_order, n_rows, rng)
        self.bits = pack_bits(self.x)
        self.weights = rng.normal(size=n_rows) + 0.5  # of rows; some are negative
        words = sum(n_panels(size) for size in hidden)  # of a row of dropout
        self.kept = pack_bits(rng.random((500 if words else 0, PANEL * max(words, 1))) < 0.6)

    def scratch(self, n_reals: int, n_ints: int) -> Scratch:
        return Scratch(room(n_reals, self.dtype), room(n_ints, np.int32, -7))

    def score(self, module: ModuleType, rows: slice = slice(None), n_places: int | None = None, block: int = 7) -> Any:
        bits, places = self.bits[rows], self.n_places if n_places is None else n_places
        log_p, scratch = room(len(bits), "float64"), self.scratch(*panels.score_workspace(self.layout, block))
        run(module, "score", self.net, bits, places, block, scratch, log_p)
        return log_p

    def conditionals(self, module: ModuleType, x: Any = None, block: int = 7) -> Any:
        bits = self.bits if x is None else pack_bits(x)
        proba = room((len(bits), self.layout.layers[panels.n_chain(self.layout.layers) - 1, N_OUT]), self.dtype)
        scratch = self.scratch(*panels.score_workspace(self.layout, block))
        run(module, "conditionals", self.net, bits, block, scratch, proba)
        return proba

    def check_same_bits(self, module: ModuleType, half: int) -> None:
        """Check that the bits of scores and conditionals depend on no way to work on the rows; ``half``: fewer places."""
        log_p, proba, marginal = self.score(module), self.conditionals(module), self.score(module, n_places=half)
        for block in (1, 2, 3, 7, 16, 100):
            assert np.array_equal(self.score(module, block=block), log_p)
            assert np.array_equal(self.conditionals(module, block=block), proba)
            assert np.array_equal(self.score(module, n_places=half, block=block), marginal)
        for rows in (slice(0), slice(1), slice(3, None), slice(2, 5)):
            assert np.array_equal(self.score(module, rows), log_p[rows])

    def sample(self, module: ModuleType, uniforms: Any, block: int = 7) -> Any:
        x, scratch = room(uniforms.shape, np.uint8, 9), self.scratch(*panels.sample_workspace(self.layout, block))
        columns = np.random.default_rng(1).permutation(x.shape[1])
        run(module, "sample", self.net, uniforms, columns, block, scratch, x)
        return x[:, columns]

    def arguments(
        self,
        optimizer: str,
        options: Options,
        *,
        n_steps: int = 4,
        steps: slice | None = None,
        n_ranks: int = 1,
        **constants: float,
    ) -> dict[str, Any]:
        """Return the arguments of ``train`` but the crew, for some of ``n_steps`` steps on eight rows, the last on five."""
        start, stop, _ = (steps or slice(n_steps)).indices(n_steps)
        rows = np.arange(8 * n_steps - 3)[8 * start : 8 * stop] * 5 % len(self.bits)
        net = self.net._replace(theta=copied(self.net.theta))
        keep = self.kept[8 * start :][: len(rows) if options.dropout else 0]
        none, scratch = room(0, self.dtype), self.scratch(*panels.train_workspace(self.layout, 8, n_ranks))
        return {
            "net": net,
            "batches": Batches(self.bits, self.weights if options.weighted else np.zeros(0), rows, 8),
            "dropout": Dropout(keep, options.dropout),
            "update": new_update(optimizer, len(net.theta), self.dtype, 3 + start, clip=options.clip, **constants),
            "scratch": TrainScratch(room(len(net.theta), self.dtype) if options.clip else none, none, none, *scratch),
            "nll": room(stop - start, "float64"),
        }

    def loss(self, theta: Any, options: Options) -> float:
        """Return the loss of the first step."""
        arguments = self.arguments("sgd", options, steps=slice(1))
        net, (_, weights, rows, *_), keep, *_ = arguments.values()
        x, factors = self.x[rows].astype(float), dense.kept(net.layers, keep, slice(8), np.dtype("f8"))
        logits = dense.forward(net._replace(theta=theta), x, factors)[-1]
        widths = np.ones(self.n_places, int) if self.variables is None else self.in_order.widths
        return float(weights[rows] @ nll_of_levels(logits, self.levels[rows], widths).sum(axis=1)) / 8

    def layers(self) -> list[tuple[int, Any, Any, Any]]:
        """Return (l, input, output of its direct connections, output) of every layer in float64, as activation buffers."""
        layers, x, net = self.layout.layers, to_buffer(self.x), self.exact.net
        chain, found, outputs = panels.n_chain(layers), [], {}
        for l in [*range(chain, len(layers)), *range(chain)]:
            below, adds = outputs[l - 1] if 0 < l < chain else x, layers[l, DIRECT]
            direct = outputs[adds] if adds > 0 else x[:0]
            outputs[l] = buffer(len(self.x), layers[l, N_OUT], "float64")
            reference.affine_forward(net, l, below, direct, outputs[l])
            found.append((l, below, direct, outputs[l]))
        return found

    def part(self, l: int) -> Any:
        """Return which parameters are those of layer l: its weights and its bias."""
        row, mine = self.layout.layers[l], np.zeros(len(self.net.theta), bool)
        mine[row[panels.WEIGHTS] : row[BIAS] + PANEL * row[N_PANELS]] = True
        return mine


def written_out_masks(connectivity: Any, direct: str, variables: Variables | None = None) -> list[Any]:
    """Return the mask (n_in, n_out) of every layer in original order, direct connections last, straight from the degrees."""
    (inputs, outputs), degrees = places_of(connectivity.ordering, variables), connectivity.degrees
    below = [inputs, *degrees]
    found = [m[:, None] <= above for m, above in zip(below, degrees, strict=False)] + [below[-1][:, None] < outputs]
    if direct == "all":
        found += [inputs[:, None] <= m for m in degrees[1:]]
    if direct != "none" and degrees:
        found.append(inputs[:, None] < outputs)
    return found
