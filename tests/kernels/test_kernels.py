"""Every kernel of every implementation, at every CPU level, against the float64 reference on the same parameters."""

from __future__ import annotations

import inspect
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_cases import (
    CONSTANTS,
    TOLERANCE,
    Case,
    activations,
    assert_close,
    assert_same,
    blocks_everywhere,
    both_types,
    buffer,
    check_a_rank_that_waits,
    check_called_off,
    compiled,
    copied,
    everywhere,
    fill_up,
    native,
    optimizers,
    pack_bits,
    room,
    run,
    to_buffer,
    written_out_masks,
)

from made_fast import kernels
from made_fast.kernels import layout as panels
from made_fast.kernels import optimizers as rules
from made_fast.kernels import records, reference
from made_fast.kernels.layout import ACTIVATIONS, BIAS, DIRECT, N_IN, N_OUT
from made_fast.kernels.optimizers import GRADIENT, OPTIMIZERS
from made_fast.kernels.records import Net, Update
from made_fast.kernels.reference import dense

# (D, hidden sizes, B, direct connections): below, at and beyond the vectors, the register tiles, the panels of 64
# and the rows of a batch that are summed at a time.
SHAPES = [
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
]
ROOT = Path(__file__).parents[2]
SAMPLED = [shape for shape in SHAPES if shape != (31, (100,), 100, "none")]
SMALL = (7, (9, 8), 9, "all")
FULL = {"dropout": 0.4, "clip": 0.5}
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
case = lru_cache(Case)


@compiled
def test_signatures_are_the_same_everywhere(module):
    for kernel in kernels.KERNELS if module.__name__.endswith("jit") else (*kernels.KERNELS, *kernels.BLOCKS):
        function = getattr(module, kernel)
        found = inspect.signature(getattr(function, "py_func", function)).parameters
        assert list(found) == list(inspect.signature(getattr(reference, kernel)).parameters)


def test_constants_are_the_same_in_c():
    text, known = (ROOT / "kernels" / "native" / "native.h").read_text(), vars(panels) | vars(rules)
    known |= {name.upper(): code for code, name in enumerate(ACTIVATIONS)} | {
        name.upper(): o.code for name, o in OPTIMIZERS.items()
    }
    found = {}
    for names in re.findall(r"enum \{ (.*?) \}", text):
        value = -1
        for name, given in re.findall(r"(\w+)(?: = (\d+))?", names):
            found[name] = value = int(given) if given else value + 1
    assert len(found) == 50
    assert found == {name: known[name] for name in found}


@native
@pytest.mark.parametrize(
    ("kernel", "record", "field"),
    [
        ("score", "net", "layers"),
        ("score", "net", "n_live"),
        ("score", "scratch", "reals"),
        ("score", "bits", ""),
        ("score", "log_p", ""),
        ("train", "batches", "weights"),
        ("train", "batches", "rows"),
        ("train", "dropout", "keep"),
        ("train", "update", "constants"),
        ("train", "update", "state"),
        ("train", "crew", "sync"),
    ],
)
def test_arrays_of_another_type_are_refused(module, kernel, record, field):
    c = case(SMALL, "float32")
    scratch = c.scratch(*panels.score_workspace(c.layout, 9))
    args = dict(
        zip(inspect.signature(reference.score).parameters, (c.net, c.bits, 7, True, 9, scratch, np.zeros(9)), strict=True)
    )
    if kernel == "train":
        values = (*c.arguments("adam", 9, slice(1), dropout=0.5), records.Crew(0, 1, np.zeros(panels.SYNC, np.int32)))
        args = dict(zip(inspect.signature(reference.train).parameters, values, strict=True))
    right = getattr(args[record], field) if field else args[record]
    for wrong in (right.astype(np.complex64), right.view(np.uint8), right[None], right.astype(right.dtype.newbyteorder())):
        args[record] = args[record]._replace(**{field: wrong}) if field else wrong
        with pytest.raises(TypeError, match="needs"):
            getattr(module, kernel)(*args.values())


@pytest.mark.parametrize(
    "shape",
    [
        (7, (), 1, "output"),
        (9, (31,), 1, "none"),
        (31, (9, 8), 1, "output"),
        (8, (7, 100, 7), 1, "all"),
        (1, (9, 7), 1, "all"),
    ],
    ids=str,
)
@pytest.mark.parametrize("degrees", ["stratified", "uniform"])
def test_staircase_is_the_masks_of_the_degrees(shape, degrees):
    c, chain = case(shape, "float64", "relu", degrees), len(shape[1]) + 1
    sorts = c.connectivity.staircase().sorts
    masks = written_out_masks(c.connectivity, shape[3])
    assert len(masks) == len(c.layout.layers)
    for l, mask in enumerate(masks):
        fed = l if l < chain else c.layout.layers[:chain, DIRECT].tolist().index(l)
        W, live, _ = dense.unpack_layer(c.net, l)
        assert np.array_equal(mask[np.ix_(sorts[l if l < chain else 0], sorts[fed + 1])], live)
        assert np.array_equal(W != 0, live)


@everywhere
@pytest.mark.parametrize("n_columns", [1, 7, 8, 63, 64, 65, 100, 192])
def test_pack_bits(module, n_columns):
    rng = np.random.default_rng(n_columns)
    for n_rows, density in ((0, 0.5), (1, 1.0), (7, 0.1), (31, 0.5)):
        X, order = (rng.random((n_rows, n_columns)) < density).astype(np.uint8), rng.permutation(n_columns)
        place, out, seen = (
            room(n_columns, np.int32, -1),
            room((n_rows, -(-n_columns // 64)), np.uint64, 7),
            room(1, np.uint8, 9),
        )
        run(module, "pack_bits", X, order, place, out, seen)
        assert np.array_equal(out, pack_bits(X[:, order]))
        assert np.array_equal(order[place], np.arange(n_columns))
        assert seen[0] == X.max(initial=0)
        for d in {0, n_columns - 1, n_columns // 2} if n_rows else ():
            for value in (2, 128, 255):
                wrong = X.copy()
                wrong[-1, d] = value
                run(module, "pack_bits", wrong, order, place, out, seen)
                assert seen[0] == value | X[:, :n_columns].max(initial=0, where=wrong == X)


@blocks_everywhere
@both_types
@shapes
def test_forward_of_every_layer(module, dtype, shape):
    c = case(shape, dtype)
    for l, *values, output in c.layers():
        n_out = c.layout.layers[l, N_OUT]
        (x, direct), out, right = (v.astype(dtype) for v in values), buffer(len(c.x), n_out, dtype), np.zeros_like(output)
        run(module, "affine_forward", c.net, l, x, direct, out)
        reference.affine_forward(c.exact().net, l, x.astype(np.float64), direct.astype(np.float64), right)
        assert_close(dense.read_buffer(out, n_out), dense.read_buffer(right, n_out), dtype, "value")
        if l == 0 or c.layout.layers[l, DIRECT] < 0:
            sparse = buffer(len(c.x), n_out, dtype)
            run(module, "affine_forward", c.net, l, dense.ones_of(c.x), direct[:0], sparse)
            assert_close(dense.read_buffer(sparse, n_out), dense.read_buffer(right, n_out), dtype, "value")


@blocks_everywhere
@both_types
@shapes
def test_backward_of_every_layer(module, dtype, shape):
    c, rng, chain = case(shape, dtype), np.random.default_rng(0), len(shape[1]) + 1
    for l, x, *_ in c.layers():
        n_in, n_out = c.layout.layers[l, [N_IN, N_OUT]]
        x, dz = x.astype(dtype), to_buffer(rng.normal(size=(len(c.x), n_out)) / len(c.x), dtype)
        x64, dz64 = x.astype(np.float64), dz.astype(np.float64)
        if 0 < l < chain:
            dh, right = room(x.shape, dtype), np.zeros(x.shape)
            run(module, "affine_backward_input", c.net, l, dz, x, dh)
            reference.affine_backward_input(c.exact().net, l, dz64, x64, right)
            assert_close(dh, right, dtype, "gradient")
            assert not fill_up(dh, n_in).any()
        # The gradient goes to this layer's part of state[0], nothing else is written; the update stays inside it too.
        mine, right = c.part(l), np.zeros((1, len(c.live)))
        reference.affine_backward_weights(c.exact().net, l, x64, dz64, Update(GRADIENT, 0, np.zeros(6), right))
        for inputs in (x, dense.ones_of(c.x.T)) if l == 0 or l >= chain else (x,):
            net = c.net._replace(theta=copied(c.net.theta))
            state = copied(np.where(mine & ~c.live, 0, 7)[None], dtype)  # dead entries start at 0
            run(module, "affine_backward_weights", net, l, inputs, dz, Update(GRADIENT, 0, np.zeros(6), state))
            assert np.array_equal(net.theta, c.net.theta)
            assert (state[0, ~mine] == 7).all()
            assert_close(state[0, mine], right[0, mine], dtype, "gradient")
            assert (state[0, mine & ~c.live] == 0).all()
            run(
                module,
                "affine_backward_weights",
                net,
                l,
                inputs,
                dz,
                Update(rules.SGD, 0, np.array([0.5, 0, 0, 0, 0, 0]), state[:0]),
            )
            assert np.array_equal(net.theta[~mine], c.net.theta[~mine])
            assert_close(net.theta[mine], c.net.theta[mine] - 0.5 * right[0, mine], dtype, "gradient")
            assert (net.theta[~c.live] == 0).all()


@blocks_everywhere
@both_types
@pytest.mark.parametrize(
    ("n_columns", "n_inputs"),
    [(1, 1), (9, 9), (64, 64), (100, 100), (0, 9), (8, 31), (63, 64), (65, 200)],
)
def test_bernoulli_nll_at_logits_from_minus_200_to_200(module, dtype, n_columns, n_inputs):
    rng = np.random.default_rng(n_columns)
    logits = to_buffer(rng.permutation(np.linspace(-200, 200, 31 * n_inputs)).reshape(31, -1), dtype)
    fill_up(logits, n_columns)[:] = 1e30  # what stands there must not matter
    bits = pack_bits(rng.random((31, n_inputs)) < 0.5)
    for weights in (np.zeros(0), rng.normal(size=31)):
        nll, dlogits = room(31, "float64"), room(logits.shape, dtype)
        run(module, "bernoulli_nll", logits, bits, n_columns, 0.25, weights, nll, dlogits)
        right, slope = np.zeros(31), np.zeros(logits.shape)
        reference.bernoulli_nll(logits.astype(np.float64), bits, n_columns, 0.25, np.zeros(0), right, slope)
        slope *= weights[:, None] if len(weights) else 1
        assert_close(nll, right, dtype, "log_p")
        assert_close(dlogits, slope, dtype, "activation")
        assert not fill_up(dlogits, n_columns).any()


@everywhere
@both_types
def test_certain_conditionals_are_finite(module, dtype):
    c = Case((8, (), 1, "none"), dtype)
    logits = np.array([-200, -88, -30, -1e-3, 1e-3, 30, 88, 200], dtype)
    dense.pack_layer(c.net, 0, np.zeros((8, 8)), logits)
    right = 1 / (1 + np.exp(-logits.astype(np.float64)))
    error = np.abs(c.conditionals(module)[0] - right)
    assert np.all(error <= 2 * np.finfo(dtype).tiny + TOLERANCE[dtype]["activation"] * right)
    for x in (np.zeros((1, 8)), np.ones((1, 8))):
        c.bits = pack_bits(x)
        assert_close(c.score(module), -np.logaddexp(0, np.where(x == 1, -logits, logits).astype(float)).sum(), dtype, "log_p")
        assert np.array_equal(c.sample(module, np.where(x == 1, -1.0, 2.0)), x)  # evidence against all odds


@everywhere
@both_types
@shapes
def test_score_and_conditionals(module, dtype, shape):
    c, D = case(shape, dtype), shape[0]
    right = c.exact().conditionals(reference)
    assert_close(c.conditionals(module), right, dtype, "value")
    log_p = np.log(np.where(c.x == 1, right, 1 - right))
    for n_places in (0, 1, D // 2, D):
        found = c.score(module, n_places=n_places)
        assert_close(found, c.exact().score(reference, n_places=n_places), dtype, "log_p")
        assert np.allclose(found, log_p[:, :n_places].sum(axis=1), rtol=1e-5)


@everywhere
@pytest.mark.parametrize("shape", [(9, (31,), 9, "output"), SMALL, (31, (100, 130), 8, "all")], ids=str)
def test_conditionals_depend_on_all_places_before_them_and_on_no_other(module, shape):
    c, D = case(shape, "float64", "tanh"), shape[0]
    before, seen = c.conditionals(module), np.zeros((D, D), bool)
    for p in range(D):
        x = c.x.copy()
        x[:, p] ^= 1
        seen[p] = (c.conditionals(module, x) != before).any(axis=0)
    assert np.array_equal(seen, np.tri(D, k=-1).T == 1)


@compiled
@both_types
@shapes
def test_bits_do_not_depend_on_sparse_block_or_rows(module, dtype, shape):
    c, half = case(shape, dtype), (shape[0] + 1) // 2
    log_p, proba, marginal = c.score(module), c.conditionals(module), c.score(module, n_places=half)
    for block in (1, 2, 3, 7, 100):
        for sparse in (False, True):
            assert np.array_equal(c.score(module, sparse=sparse, block=block), log_p)
            assert np.array_equal(c.conditionals(module, sparse=sparse, block=block), proba)
        assert np.array_equal(c.score(module, n_places=half, sparse=block % 2 == 0, block=block), marginal)
    for rows in (slice(0), slice(1), slice(3, None), slice(2, 5)):
        assert np.array_equal(c.score(module, rows), log_p[rows])


@everywhere
@both_types
@pytest.mark.parametrize("shape", SAMPLED, ids=str)
def test_samples_are_those_of_full_passes(module, dtype, shape):
    c, rng = case(shape, dtype), np.random.default_rng(0)
    uniforms = rng.random(c.x.shape)
    uniforms[0] = np.nextafter(1, 0)
    uniforms[-1] = c.conditionals(module, np.zeros_like(c.x))[-1]  # a uniform equal to p draws a 0
    fixed = rng.random(c.x.shape) < 0.3
    fixed[[0, -1]] = False
    uniforms[fixed] = np.where(c.x, -1, 2)[fixed]  # evidence
    x = c.sample(module, uniforms)
    assert not x[-1].any()
    assert np.array_equal(x[fixed], c.x[fixed])
    assert np.array_equal(x, uniforms < c.conditionals(module, x))  # the first d columns fix conditional d: one pass shows all
    if module is not reference:
        for block in (1, 2, 100):
            assert np.array_equal(c.sample(module, uniforms, block), x)


@everywhere
@both_types
@activations
@pytest.mark.parametrize("dropout", [0.0, 0.4], ids=["", "dropout"])
def test_gradient_of_the_network_by_central_differences(module, dtype, activation, dropout):
    c = case(SMALL, dtype, activation)
    for sparse in (False, True):
        options = {"sparse": sparse, "weights": c.weights, "dropout": dropout}
        _, theta, state = c.train(module, "gradient", 9, 1, **options)
        assert np.array_equal(theta, c.net.theta)
        assert_close(state[0], differences(dtype, activation, dropout), dtype, "difference")
        assert (state[0, ~c.live] == 0).all()


@lru_cache
def differences(dtype: str, activation: str, dropout: float) -> Any:
    """Return the gradient of the loss on the rows that ``Case.train`` uses first, by central differences."""
    c = case(SMALL, dtype, activation).exact()
    net, batches, keep, *_ = c.arguments("sgd", 9, slice(1), short=4, dropout=dropout)
    gradient = np.zeros_like(net.theta)
    x, factors = c.x[batches.rows].astype(float), dense.kept(net.layers, keep, slice(5), np.dtype("f8"))

    def loss() -> float:
        logits = dense.forward(net, x, factors)[-1]
        return dense.loss(logits, x, x.shape[1], c.weights[batches.rows], 5)[0] / 5

    for i in np.flatnonzero(c.live):
        for sign in (1, -1):
            net.theta[i] += sign * 1e-5
            gradient[i] += sign * loss() / 2e-5
            net.theta[i] -= sign * 1e-5
    return gradient


@everywhere
@both_types
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@optimizers
@pytest.mark.parametrize(
    ("shape", "options"),
    [((9, (9,), 9, "none"), {}), ((100, (31, 70), 31, "all"), {}), ((9, (8, 31), 9, "output"), FULL)],
    ids=["small", "large", "full"],
)
def test_ten_training_steps(module, dtype, sparse, optimizer, shape, options):
    c = case(shape, dtype)
    options = {**options, "sparse": sparse, "weights": None if shape[3] == "none" else c.weights}
    nll, theta, state = c.train(module, optimizer, 7, 10, **options)
    right = c.exact().train(reference, optimizer, 7, 10, **options)
    for found, expected in zip((nll, theta, state), right, strict=True):
        assert_close(found, expected, dtype, "trained")
    assert (theta[~c.live] == 0).all()
    assert (state[:, ~c.live] == 0).all()
    assert (theta[c.bias] != c.net.theta[c.bias]).all()


@everywhere
@both_types
@optimizers
def test_decay_is_apart_from_the_gradient_and_spares_biases(module, dtype, optimizer):
    c = case((9, (31, 8), 9, "all"), dtype)
    lr, a, _, _, decay, _ = CONSTANTS[optimizer]
    rates = [lr / (1 + a * step) if OPTIMIZERS[optimizer].code <= rules.MOMENTUM else lr for step in (3, 4, 5)]
    for clip in (0.0, 0.5):
        _, theta, state = c.train(module, optimizer, 9, 3, weights=np.zeros(9), clip=clip)  # the gradient is 0
        right = np.where(c.bias, 1, np.prod([1 - rate * decay for rate in rates])) * c.net.theta
        assert_close(theta, right, dtype, "trained")
        assert np.array_equal(theta[c.bias], c.net.theta[c.bias])
        assert not state.any()


@everywhere
@both_types
def test_a_long_gradient_is_cut_to_the_clip_and_keeps_its_direction(module, dtype):
    c, once = case((65, (31, 80), 31, "all"), dtype), {"lr": 1, "a": 0, "decay": 0}
    _, _, (gradient,) = c.exact().train(reference, "gradient", 31, 1)
    norm = np.linalg.norm(gradient)
    for clip in (norm / 50, norm * 0.99, norm * 1.01):
        for optimizer in ("gradient", "sgd"):
            _, theta, state = c.train(module, optimizer, 31, 1, clip=clip, **once)
            step = state[0] if optimizer == "gradient" else c.net.theta - theta
            assert_close(step, gradient * min(1, clip / norm), dtype, "trained")


@compiled
@both_types
@pytest.mark.parametrize("shape", [(9, (), 9, "none"), (65, (31, 8), 31, "none"), (65, (31, 8), 31, "all")], ids=str)
def test_training_on_sparse_and_dense_input_gives_the_same_bits(module, dtype, shape):
    c = case(shape, dtype)
    for options in ({}, FULL):
        assert_same(*(c.train(module, "adam", 8, 3, sparse=sparse, weights=c.weights, **options) for sparse in (False, True)))


@native
@both_types
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    "shape", [(1, (7,), 8, "output"), (9, (), 31, "none"), (100, (31, 7), 31, "none"), (100, (31, 7), 31, "all")], ids=str
)
def test_training_gives_the_same_bits_on_any_number_of_threads(module, dtype, sparse, shape):
    c = case(shape, dtype)
    for options in ({}, {"weights": c.weights, **FULL}):
        alone = c.train(module, "adadelta", 8, 4, sparse=sparse, **options)
        for n_ranks in (2, 3):
            assert_same(c.train(module, "adadelta", 8, 4, n_ranks, sparse=sparse, **options), alone)


@native
def test_a_rank_that_waits_in_vain_can_be_called_off(module):
    c = case((9, (31, 8), 9, "all"), "float32")
    net, *args = c.arguments("momentum", 9, slice(1))
    check_a_rank_that_waits(module, "train", net, *args)
    assert np.array_equal(net.theta, c.net.theta)
    assert not args[2].state.any()


@native
@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"clip": 0.5, "dropout": 0.4}], ids=["plain", "full"])
def test_training_that_is_called_off_leaves_every_weight_at_a_step(module, options, n_ranks):
    c = case((100, (31, 7), 31, "all"), "float32")

    def begin(steps):
        args = c.arguments("momentum", 4, steps, weights=c.weights, **options)
        return args, args[0].theta, args[3].state

    check_called_off(module, "train", begin, 120, n_ranks)


@compiled
@both_types
@pytest.mark.parametrize("optimizer", ["momentum", "adadelta", "rmsprop", "adam"])
def test_state_that_decays_ends_at_zero_and_not_among_the_denormals(module, dtype, optimizer):
    """Of an input that is never on, say. A denormal stays for ever (0.9 times the smallest is the smallest) and is slow."""
    c, tiny = case((9, (31,), 9, "none"), dtype), np.finfo(dtype).tiny
    for clip in (0.0, 0.5):
        net, batches, dropout, update, scratch, nll = c.arguments(optimizer, 9, slice(1), weights=np.zeros(9), clip=clip)
        update.state[:] = 1.5 * tiny
        for step in range(20):
            crew = records.Crew(0, 1, np.zeros(panels.SYNC, np.int32))
            run(module, "train", net, batches, dropout, update._replace(step=step), scratch, nll, crew)
        state = update.state[:, c.live]
        assert ((state == 0) | (state >= tiny)).all()
        assert (state == 0).any()


@everywhere
def test_parameters_may_be_read_only(module):
    shape = (9, (31,), 9, "output")
    c, model = case(shape, "float32"), Case(shape, "float32")
    model.net.theta.flags.writeable = False
    uniforms = np.random.default_rng(0).random((9, 9))
    assert np.array_equal(model.score(module), c.score(module))
    assert np.array_equal(model.sample(module, uniforms), c.sample(module, uniforms))


@native
@both_types
def test_functions_are_accurate_over_their_whole_range(module, dtype):
    """To 2.5 units in the last place; results below twice the smallest normal number may be flushed to 0."""
    n, info, rng = 64 * 512, np.finfo(dtype), np.random.default_rng(0)
    most = -np.log(2 * float(info.tiny))
    z = np.concatenate(
        [
            rng.uniform(-most, most, n // 4),
            rng.uniform(-1, 1, n // 4),
            rng.choice([-1, 1], n // 4) * np.exp(rng.uniform(-most, np.log(most), n // 4)),
            rng.normal(0, 5, n - 3 * (n // 4) - 6),
            [0.0, -0.0, most, -most, 200.0, -200.0],
        ]
    ).astype(dtype)
    exact = z.astype(np.longdouble)
    e = np.exp(-np.abs(exact))
    softplus, sigmoid = np.maximum(exact, 0) + np.log1p(e), np.where(exact < 0, e, 1) / (1 + e)

    def assert_accurate(found, true):
        unit = np.spacing(np.abs(true).astype(dtype)).astype(np.longdouble)
        fine = (np.abs(found - true) <= 2.5 * unit) | ((np.abs(true) < 2 * info.tiny) & (np.abs(found) <= 2 * info.tiny))
        assert fine.all(), z[~fine]

    for activation, true in (
        ("relu", np.maximum(exact, 0)),
        ("softplus", softplus),
        ("tanh", np.tanh(exact)),
        ("sigmoid", sigmoid),
        ("softsign", exact / (1 + np.abs(exact))),
    ):
        layout = panels.make_layout(1, [np.zeros(n, np.int32), np.full(1, n, np.int32)], activation)
        net = Net(room(panels.n_parameters(layout), dtype, 0), *layout)
        net.theta[layout.layers[0, BIAS] :][:n] = z
        x, h = np.zeros((1, 1, 64), dtype), room((n // 64, 1, 64), dtype, 7)
        run(module, "affine_forward", net, 0, x, x[:0], h)
        assert_accurate(h.ravel(), true)

    logits, dlogits = np.zeros((1, n, 64), dtype), room((1, n, 64), dtype, 7)
    logits[0, :, 0] = z
    nll = room(n, np.float64, 7)
    run(module, "bernoulli_nll", logits, np.zeros((n, 1), np.uint64), 1, 1.0, np.empty(0), nll, dlogits)
    assert_accurate(nll.astype(dtype), softplus)
    assert_accurate(dlogits[0, :, 0], sigmoid)
