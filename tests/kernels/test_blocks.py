"""The building blocks of the network kernels, at every CPU level, against the float64 reference."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from kernel_cases import (
    Case,
    assert_close,
    blocks_everywhere,
    both_types,
    buffer,
    copied,
    fill_up,
    native,
    pack_bits,
    room,
    run,
    to_buffer,
)

from made_fast.kernels import layout as panels
from made_fast.kernels import reference
from made_fast.kernels.layout import BIAS, DIRECT, N_IN, N_OUT
from made_fast.kernels.optimizers import GRADIENT, SGD
from made_fast.kernels.records import Net, Update
from made_fast.kernels.reference import dense

shapes = pytest.mark.parametrize("shape", Case.SHAPES, ids=str)
case = lru_cache(Case)


@blocks_everywhere
@both_types
@shapes
def test_forward_of_every_layer(module, dtype, shape):
    c = case(shape, dtype)
    for l, *values, output in c.layers():
        n_out = c.layout.layers[l, N_OUT]
        (x, direct), out, right = (v.astype(dtype) for v in values), buffer(len(c.x), n_out, dtype), np.zeros_like(output)
        run(module, "affine_forward", c.net, l, x, direct, out)
        reference.affine_forward(c.exact.net, l, x.astype(np.float64), direct.astype(np.float64), right)
        assert_close(dense.read_buffer(out, n_out), dense.read_buffer(right, n_out), dtype, "value")
        if l == 0 or c.layout.layers[l, DIRECT] < 0:
            of_bits = buffer(len(c.x), n_out, dtype)
            run(module, "affine_forward", c.net, l, c.bits, direct[:0], of_bits)
            assert_close(dense.read_buffer(of_bits, n_out), dense.read_buffer(right, n_out), dtype, "value")


def few_on(n: int, dtype: str) -> list[Any]:
    """Return two buffers of 40 rows of n units that are mostly 0, but for ten rows; these begin the second of them."""
    rng, made = np.random.default_rng(n), []
    x = rng.normal(size=(40, n)) * (rng.random((40, n)) < 0.3)
    x[20:30], x[30] = rng.normal(size=(10, n)), 0
    for first in (x[:8].copy(), x[20:28]):
        x[:8] = first
        made.append(to_buffer(x.astype(np.float32), dtype))
    return made


@blocks_everywhere
@both_types
def test_a_row_has_the_same_bits_whether_those_before_it_are_mostly_off(module, dtype):
    c, forward, backward = Case((100, (130, 100), 40, "none"), dtype, "relu"), [], []
    exact = c.exact.net
    for x in few_on(130, dtype):
        out, right = buffer(40, 100, dtype), buffer(40, 100, "float64")
        run(module, "affine_forward", c.net, 1, x, x[:0], out)
        reference.affine_forward(exact, 1, x.astype(np.float64), x[:0].astype(np.float64), right)
        assert_close(dense.read_buffer(out, 100), dense.read_buffer(right, 100), dtype, "value")
        forward.append(dense.read_buffer(out, 100)[8:])
    h = to_buffer(np.random.default_rng(0).random((40, 130)) + 0.5, dtype)
    for dz in few_on(100, dtype):
        dh, right = room(h.shape, dtype), np.zeros(h.shape)
        run(module, "affine_backward_input", c.net, 1, dz, h, dh)
        reference.affine_backward_input(exact, 1, dz.astype(np.float64), h.astype(np.float64), right)
        assert_close(dh, right, dtype, "value")
        backward.append(dense.read_buffer(dh, 130)[8:])
    if module is not reference:  # whose products are of the BLAS
        assert np.array_equal(*forward)
        assert np.array_equal(*backward)


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
            reference.affine_backward_input(c.exact.net, l, dz64, x64, right)
            assert_close(dh, right, dtype, "gradient")
            assert not fill_up(dh, n_in).any()
        # The gradient goes to this layer's part of state[0], nothing else is written; the update stays inside it too.
        mine, right = c.part(l), np.zeros((1, len(c.live)))
        reference.affine_backward_weights(c.exact.net, l, x64, dz64, Update(GRADIENT, 0, np.zeros(6), right))
        for inputs in (x, pack_bits(c.x.T)) if l == 0 or l >= chain else (x,):
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
                Update(SGD, 0, np.array([0.5, 0, 0, 0, 0, 0]), state[:0]),
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
