"""Models of several masks: the mixture is normalised and equals the mean of its members, in little memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import ACTIVATIONS, all_inputs, assert_drawn_from, dense_log_p, peak, random_model, rows
from scipy.stats import binomtest, chi2_contingency

from made_fast import MADE, MADEModel, load
from made_fast.inference import model
from made_fast.kernels import layout as panels
from made_fast.network.architecture import Architecture
from made_fast.network.masks import Connectivity, MaskSet, draw_connectivity
from made_fast.network.network import Shared

D = 7
DEPTHS = [(), (20,), (9, 70), (8, 5, 6)]
COMBINATIONS = list(itertools.product([False, True], ["none", "output", "all"], DEPTHS, [1, 4, None]))


def is_autoregressive(net):
    """Return whether no unit has a weight from an input beyond its degree, and no output from its own input or a later one."""
    m0 = net["ordering"]
    degrees = [m0, *net["degrees"], m0 - 1]
    layers = zip(net["weights"], degrees[1:], degrees[:-1], strict=True)
    fine = [not W[above[:, None] < below].any() for W, above, below in layers]
    fine += [A is None or not A[above[:, None] < m0].any() for A, above in zip(net["direct"], degrees[1:], strict=True)]
    return all(fine)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("case", "combination"), list(enumerate(COMBINATIONS)), ids=[str(c) for c in COMBINATIONS])
def test_the_mixture_and_each_member_sum_to_one_after_training(case, combination, activation):
    connectivity_weights, direct, hidden_sizes, n_masks = combination
    rng = np.random.default_rng(case)
    made = MADE(
        hidden_sizes, activation, n_masks=n_masks, n_eval_masks=3, direct_connections=direct, dtype="float64", batch_size=10,
        connectivity_weights=connectivity_weights, learning_rate=0.03, max_epochs=6, random_state=case,
    )  # fmt: skip
    patterns = np.array([[1, 1, 0, 0, 0, 1, 1], [0, 1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0, 1]])
    fitted = made.fit(patterns[rng.integers(3, size=100)] ^ (rng.random((100, D)) < 0.1)).model_
    K = 3 if n_masks is None else n_masks
    assert fitted.n_masks == K
    X, p = all_inputs(D), []
    for k in range(K):
        net = fitted.to_dense(k)
        assert is_autoregressive(net)
        L = len(hidden_sizes)
        there = {"none": [], "output": [L], "all": range(L + 1)}[direct]
        assert [A is not None for A in net["direct"]] == [l > 0 and l in there for l in range(L + 1)]
        log_p = fitted.score_samples(X, mask=k)
        np.testing.assert_allclose(log_p, dense_log_p(net, X, activation), rtol=1e-12)
        p.append(np.exp(log_p))
        assert abs(p[-1].sum() - 1) < 1e-12
    mixture = np.exp(fitted.score_samples(X))
    assert abs(mixture.sum() - 1) < 1e-12
    np.testing.assert_allclose(mixture, np.mean(p, axis=0), rtol=1e-12)
    assert all(not np.allclose(p[0], other, rtol=1e-3) for other in p[1:])  # or it would be no test of a mixture


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_masks", [2, 5, 33, 100])
def test_the_score_is_the_logarithm_of_the_mean_probability(n_masks, dtype):
    """Neither the mean of log-probabilities nor that of logits; with rows that are all but impossible under every mask."""
    mixture = random_model(150, (40,), n_masks=n_masks, dtype=dtype, scale=6.0, direct="output", activation="tanh")
    X = (np.random.default_rng(0).random((40, 150)) < 0.5).astype(np.uint8)
    log_p = np.array([dense_log_p(mixture.to_dense(k), X, "tanh") for k in range(n_masks)])
    assert log_p.max() < -100
    highest = log_p.max(axis=0)
    expected = highest + np.log(np.exp(log_p - highest).sum(axis=0)) - np.log(n_masks)
    np.testing.assert_allclose(mixture.score_samples(X), expected, rtol=1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("options", [{}, {"direct": "all", "connectivity_weights": True}], ids=str)
def test_any_connectivity_can_be_asked_for(options):
    """A network of shared weights: those of a connectivity that was never trained are the shared ones under its masks."""
    mixture = random_model(6, (9, 8), n_masks=None, **options)
    foreign = draw_connectivity(6, (9, 8), "random", "uniform", np.random.default_rng(77))
    net = mixture.to_dense(foreign)
    assert (net["ordering"] == foreign.ordering).all()
    assert all((a == b).all() for a, b in zip(net["degrees"], foreign.degrees, strict=True))
    assert is_autoregressive(net)
    P = mixture.conditional_proba(all_inputs(6), mask=foreign)
    X = all_inputs(6)
    log_p = np.log(np.where(X == 1, P, 1 - P)).sum(axis=1)
    np.testing.assert_allclose(log_p, dense_log_p(net, X, "relu"), rtol=1e-11)
    assert abs(np.exp(log_p).sum() - 1) < 1e-12
    known = mixture.to_dense(0)
    for l, (W, V) in enumerate(zip(net["weights"], known["weights"], strict=True)):
        both = (W != 0) & (V != 0)
        assert both.any(), l
        assert (W[both] == V[both]).all()  # one weight, whatever the mask
    own = mixture.to_dense(mixture.masks[2])
    for a, b in zip(own["weights"], mixture.to_dense(2)["weights"], strict=True):
        np.testing.assert_array_equal(a, b)


# Bits


@pytest.mark.parametrize("kept", [model.KEPT_BYTES, 0])
def test_coming_back_to_a_mask_gives_the_same_bits(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(model, "KEPT_BYTES", kept)
    mixture = random_model(50, (70, 30), n_masks=6, dtype="float32", connectivity_weights=True, direct="all")
    X = rows(300, 50)

    def answers(of, k):
        return [of.score_samples(X, mask=k), of.conditional_proba(X, mask=k), of.sample(50, 3, mask=k), of.member(k).vector]

    first = [answers(mixture, k) for k in range(6)]
    mixture.score_samples(X)
    mixture.sample(100, 0)
    mixture.save(tmp_path / "m.safetensors")
    for of in (mixture, load(tmp_path / "m.safetensors"), load(tmp_path / "m.safetensors", mmap=True)):
        for k in (3, 0, 5, 0, 1, 2, 4):
            for a, b in zip(first[k], answers(of, k), strict=True):
                np.testing.assert_array_equal(a, b, strict=True)
    assert all((first[0][0] != first[k][0]).all() for k in range(1, 6))


def test_members_are_kept_within_the_bytes_allowed(monkeypatch):
    mixture = random_model(50, (70, 30), n_masks=6, dtype="float32")
    size = max(mixture.source.network(mixture.masks[k]).vector.nbytes for k in range(6))
    monkeypatch.setattr(model, "KEPT_BYTES", 2 * size)
    members = [mixture.member(k) for k in range(6)]
    assert [mixture.member(k) is members[k] for k in range(6)] == [True, True, False, False, False, False]


# Memory


@pytest.mark.parametrize("kept", [0, 1_000_000])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_memory_does_not_grow_with_the_number_of_masks(monkeypatch, kept, n_threads):
    """A member takes 280 kB packed, so 64 of them 18 MB; the scores of 3000 rows under 64 masks would take 1.5 MB."""
    monkeypatch.setattr(model, "KEPT_BYTES", kept)
    X = rows(3000, 100)
    peaks = {}
    for n_masks in (8, 64):
        mixture = random_model(100, (600,), n_masks=n_masks, dtype="float32")
        assert mixture.member(n_masks - 1).vector.nbytes > 200_000
        mixture.score_samples(X[:1], n_threads=n_threads)  # threads are started once
        peaks[n_masks] = peak(lambda of=mixture: of.score_samples(X, n_threads=n_threads))
    assert peaks[64] < 1.1 * peaks[8] + 50_000


# Samples


def test_samples_follow_the_mixture():
    mixture = random_model(4, (6, 5), n_masks=5, activation="tanh", direct="all", connectivity_weights=True, seed=3)
    for mask in (None, *range(5)):
        p = np.exp(mixture.score_samples(all_inputs(4), mask=mask))
        assert_drawn_from(mixture.sample(60_000, 0, mask=mask), p)


def members_that_never_agree():
    """Return a mixture of two masks over two inputs: the first always draws (1, 1), the second (1, 0).

    Input 0 is 1 unless it is told otherwise, input 1 is 0 unless it knows that input 0 is 1.
    """
    architecture = Architecture(2, (), "relu")
    values = panels.aligned_zeros(architecture.n_shared, np.float64)
    row = architecture.shared_layout[0]
    values[row[panels.SHARED_WEIGHTS] + 1] = 100  # from input 0 to output 1
    values[row[panels.SHARED_BIAS] :][:2] = 50, -50
    places = [np.array(ordering, np.int32) for ordering in ([1, 2], [2, 1])]
    return MADEModel(Shared(architecture, values), MaskSet.of([Connectivity(m0, ()) for m0 in places]))


def test_each_row_comes_from_a_member_of_its_own():
    mixture = members_that_never_agree()
    n = 20_000
    X = mixture.sample(n, 0)
    assert X[:, 0].all()
    assert binomtest(int(X[:, 1].sum()), n).pvalue > 1e-4
    pairs = np.bincount(2 * X[:-1:2, 1] + X[1::2, 1], minlength=4).reshape(2, 2)
    assert chi2_contingency(pairs).pvalue > 1e-4  # neighbouring rows have nothing to do with each other
    assert (mixture.sample(50, 0, mask=0) == [1, 1]).all()
    assert (mixture.sample(50, 0, mask=1) == [1, 0]).all()


# Refusals


def test_masks_that_do_not_exist_are_refused():
    single, mixture, X = random_model(5, (4,)), random_model(5, (4,), n_masks=3), all_inputs(5)
    assert (single.conditional_proba(X) == single.conditional_proba(X, mask=0)).all()  # the only one is meant
    assert (single.score_samples(X, mask=0) == single.score_samples(X)).all()
    assert (single.sample(50, 1, mask=0) == single.sample(50, 1)).all()
    foreign = Connectivity(np.array([1, 2, 3, 4, 4], np.int32), (np.ones(4, np.int32),))
    one_member = (mixture.to_dense, lambda mask: mixture.conditional_proba(X, mask=mask), mixture.member)
    any_number = (lambda mask: mixture.score_samples(X, mask=mask), lambda mask: mixture.sample(5, 0, mask=mask))
    for calls, masks in ((one_member[:2], [None]), ((*one_member, *any_number), [-1, 3, "0"]), (one_member, [foreign])):
        for call, mask in itertools.product(calls, masks):
            with pytest.raises((ValueError, TypeError), match=r"mask must (be|say)|each place 1\.\.5 once"):
                call(mask)


def test_a_fixed_model_answers_under_its_own_connectivity_only():
    single, X = random_model(5, (4, 3)), all_inputs(5)
    own = single.masks[0]
    copy = Connectivity(own.ordering.copy(), tuple(m.copy() for m in own.degrees))
    assert (single.conditional_proba(X, mask=copy) == single.conditional_proba(X)).all()
    assert (single.to_dense(copy)["ordering"] == own.ordering).all()
    other = np.where(own.degrees[1] == own.degrees[1][0], 5 - own.degrees[1], own.degrees[1]).astype(np.int32)
    foreign = (
        Connectivity(own.ordering[::-1].copy(), own.degrees),
        Connectivity(own.ordering, (own.degrees[0], other)),
        Connectivity(own.ordering, own.degrees[:1]),
        Connectivity(own.ordering, (*own.degrees, own.degrees[0])),
        Connectivity(own.ordering[:4], own.degrees),
    )
    for mask in foreign:
        for call in (single.to_dense, single.member, lambda c: single.conditional_proba(X, mask=c)):
            with pytest.raises(ValueError, match="mask must be the model's own connectivity"):
                call(mask)
