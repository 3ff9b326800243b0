"""Every kernel of every implementation, at every CPU level, against the float64 reference on the same parameters."""

from __future__ import annotations

import inspect
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import (
    CLIPPED,
    TOLERANCE,
    Case,
    assert_close,
    both_types,
    compiled,
    everywhere,
    native,
    on_every_level,
    pack_bits,
    room,
    run,
    written_out_masks,
)

from made_fast import kernels
from made_fast.kernels import layout as panels
from made_fast.kernels import optimizers as rules
from made_fast.kernels import records, reference
from made_fast.kernels.layout import ACTIVATIONS, DIRECT
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.kernels.reference import dense

ROOT = Path(__file__).parents[2]
SAMPLED = [shape for shape in Case.SHAPES if shape != (31, (100,), 100, "none")]
SMALL = (7, (9, 8), 9, "all")
shapes = pytest.mark.parametrize("shape", Case.SHAPES, ids=str)
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
    assert len(found) == 63
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
    args = dict(zip(inspect.signature(reference.score).parameters, (c.net, c.bits, 7, 9, scratch, np.zeros(9)), strict=True))
    if kernel == "train":
        values = (*c.arguments("adam", CLIPPED).values(), records.Crew(0, 1, np.zeros(panels.SYNC, np.int32)))
        args = dict(zip(inspect.signature(reference.train).parameters, values, strict=True))
    right = getattr(args[record], field) if field else args[record]
    kinds = (right.astype(np.complex64), right.view(np.uint8), right[None], right.astype(right.dtype.newbyteorder()))
    for wrong in (*kinds, right.tolist(), *([right.repeat(2, axis=-1)[..., ::2]] if right.size else [])):
        args[record] = args[record]._replace(**{field: wrong}) if field else wrong
        with pytest.raises(TypeError, match="needs"):
            getattr(module, kernel)(*args.values())


@native
def test_arrays_that_must_not_change_are_refused_as_outputs(module):
    c, log_p = case(SMALL, "float32"), np.zeros(9)
    log_p.flags.writeable = False
    scratch = c.scratch(*panels.score_workspace(c.layout, 9))
    with pytest.raises(TypeError, match="writable"):
        module.score(c.net, c.bits, 7, 9, scratch, log_p)
    assert not log_p.any()


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


@on_every_level
@both_types
@shapes
def test_a_lone_row_of_bytes_has_the_score_of_its_bits(module, dtype, shape):
    c, D = case(shape, dtype), shape[0]
    order, scratch = np.random.default_rng(0).permutation(D), c.scratch(*panels.row_workspace(c.layout))
    for i in range(min(3, len(c.x))):
        x, log_p, seen = np.zeros((1, D), np.uint8), room(1, "float64"), room(1, np.uint8, 9)
        x[0, order] = c.x[i]
        run(module, "score_row", c.net, x, order, scratch, log_p, seen)
        assert log_p[0] == c.score(module, rows=slice(i, i + 1))[0]
        assert seen[0] == x.max(initial=0)
        for d in {0, D - 1}:
            for value in (2, 128, 255):
                wrong = x.copy()
                wrong[0, d] = value
                run(module, "score_row", c.net, wrong, order, scratch, log_p, seen)
                assert seen[0] > 1


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


@on_every_level
@both_types
@shapes
def test_score_and_conditionals(module, dtype, shape):
    c, D = case(shape, dtype), shape[0]
    right = c.exact.conditionals(reference)
    assert_close(c.conditionals(module), right, dtype, "value")
    log_p = np.log(np.where(c.x == 1, right, 1 - right))
    for n_places in (0, 1, D // 2, D):
        found = c.score(module, n_places=n_places)
        assert_close(found, c.exact.score(reference, n_places=n_places), dtype, "log_p")
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
def test_bits_do_not_depend_on_block_or_rows(module, dtype, shape):
    c, half = case(shape, dtype), (shape[0] + 1) // 2
    c.check_same_bits(module, half)


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
def test_parameters_may_be_read_only(module):
    shape = (9, (31,), 9, "output")
    c, model = case(shape, "float32"), Case(shape, "float32")
    model.net.theta.flags.writeable = False
    uniforms = np.random.default_rng(0).random((9, 9))
    assert np.array_equal(model.score(module), c.score(module))
    assert np.array_equal(model.sample(module, uniforms), c.sample(module, uniforms))
