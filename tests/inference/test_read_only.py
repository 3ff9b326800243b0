"""Nothing that a fitted model hands out can change it: arrays are copies or read-only, also after a pickle or a deep copy."""

import copy
import pickle

import numpy as np
import pytest

from made_fast import MADE, Connectivity, MADEEnsemble, MADEModel, MixtureModel, load
from made_fast.network.masks import MaskRule, MaskSet, draw_connectivity
from made_fast.network.network import Network, Shared

D = 12
X = (np.random.default_rng(0).random((60, D)) < np.linspace(0.05, 0.95, D)).astype(np.uint8)
SMALL = {"hidden_sizes": (8, 5), "max_epochs": 2, "random_state": 0, "n_threads": 1}
KINDS = {
    "one mask": {"n_masks": 1},
    "natural": {"n_masks": 1, "ordering": "natural"},
    "several": {"n_masks": 3, "direct_connections": "all"},
    "fresh": {"n_masks": None, "connectivity_weights": True},
    "best": {"n_masks": 2, "validation_fraction": 0.3},
}


WAYS = {
    "fitted": lambda made, _: made.model_,
    "pickled": lambda made, _: pickle.loads(pickle.dumps(made)).model_,
    "its model pickled": lambda made, _: pickle.loads(pickle.dumps(made.model_)),
    "copied": lambda made, _: copy.deepcopy(made).model_,
    "loaded": lambda made, folder: made.save(folder / "model") or load(folder / "model"),
    "mapped": lambda made, folder: made.save(folder / "model") or load(folder / "model", mmap=True),
}


def arrays_of(value):
    """Yield every array that is in sight."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from arrays_of(part)
    elif isinstance(value, Connectivity | MaskSet | MaskRule | Network | Shared | MADEModel | MixtureModel):
        for name, part in vars(value).items():
            if name not in ("layout", "_given", "_net", "_record"):  # tables of the kernels; what a trainer goes on with
                yield from arrays_of(part)


def handed_out(model):
    """Yield what a model of one member hands out."""
    yield model
    for k in range(model.n_masks):
        yield model.member(k)
        yield model.masks[k]
    observed = np.arange(D) < 5
    yield model.member_for(observed)
    yield model.member(model.member_for(observed))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_model_hands_out_is_read_only(kind, way, tmp_path):
    model = WAYS[way](MADE(**SMALL, **KINDS[kind]).fit(X), tmp_path)
    model.score_samples(X, n_threads=1)  # members are packed and kept
    found = [array for thing in handed_out(model) for array in arrays_of(thing)]
    assert len(found) > 10
    assert not any(array.flags.writeable for array in found)
    with pytest.raises(ValueError, match="read-only"):
        model.member_for(np.arange(D) < 5).ordering.sort()


@pytest.mark.parametrize("kind", KINDS)
def test_plain_arrays_are_copies(kind):
    made = MADE(**SMALL, **KINDS[kind]).fit(X)
    before, scores = pickle.dumps(made.to_dense(mask=0)), made.score_samples(X)
    for value in made.to_dense(mask=0).values():
        for array in arrays_of(value):
            array[...] = 0
    assert pickle.dumps(made.to_dense(mask=0)) == before
    assert (made.score_samples(X) == scores).all()


@pytest.mark.parametrize("way", ["fitted", "pickled", "copied"])
def test_a_mixture_is_read_only(way):
    made = WAYS[way](ensemble := MADEEnsemble(2, **SMALL).fit(X), None)
    assert not any(array.flags.writeable for array in arrays_of(made))
    assert not ensemble.weights_.flags.writeable
    assert isinstance(made.members, tuple)


def test_the_users_own_arrays_stay_writable():
    own = draw_connectivity(4, (3,), "random", "uniform", np.random.default_rng(0))
    ordering, degrees = own.ordering.copy(), own.degrees[0].copy()
    connectivity = Connectivity(ordering, (degrees,))
    masks = MaskSet(ordering[None], (degrees[None],))
    assert ordering.flags.writeable
    assert degrees.flags.writeable
    assert not any(array.flags.writeable for array in arrays_of((connectivity, masks, masks[0], MaskSet.of([connectivity]))))
    assert np.shares_memory(connectivity.ordering, ordering)
