"""What others have published, in nats of mean test NLL, to stand beside what is measured here. Not here: ours."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BEST", "DEBD", "KNOWN", "MNIST", "OTHERS", "TABLE_4", "Published", "Tractable"]


class Published(NamedTuple):
    """MADE of Table 4: one mask, and mask sampling where the paper has a better value with it (None: not quoted)."""

    one_mask: float
    mask_sampling: float | None


TABLE_4 = {
    "adult": Published(13.12, None),
    "connect4": Published(11.90, None),
    "dna_made": Published(83.63, 79.66),
    "mushrooms": Published(9.68, None),
    "nips": Published(280.25, 277.28),
    "ocr_letters": Published(28.34, None),
    "rcv1": Published(47.10, 46.74),
    "web": Published(28.53, 28.25),
}
"""Germain, Gregor, Murray, Larochelle 2015, Table 4; ``dna_made`` is their split of dna."""

MNIST = {(1, 1): 88.40, (2, 1): 89.59, (1, 32): 88.04, (2, 32): 86.64}
"""The same, Table 6, binarized MNIST by (hidden layers, masks). Their layers have 8000 units."""

OTHERS = {
    "NADE": 88.33,
    "EoNADE, 1 layer": 87.71,
    "EoNADE, 2 layers": 85.10,
    "mixture of Bernoullis, K=10": 168.95,
    "mixture of Bernoullis, K=500": 137.64,
    "RBM, 500 hidden units": 86.34,
    "DARN, 500 hidden units": 84.71,
    "DBN": 84.55,
    "DBM": 84.62,
}
"""The same, Table 6, other models of binarized MNIST; EoNADE of 128 orderings. From the RBM on they are approximate."""

BEST = {
    "adult": 13.09,
    "connect4": 11.68,
    "dna_made": 79.52,
    "ocr_letters": 26.43,
    "binarized_mnist": 84.68,
}
"""The best published figure known, of any model, of sets of Table 4; of binarized MNIST that of fully connected networks,
EoNADE-5."""


class Tractable(NamedTuple):
    """MADE as others trained it (None: not quoted); the best of ID-SPN, HCLT, continuous mixtures, MoAT, LearnPSDD, MADE."""

    made: float | None
    others: float

    @property
    def best(self) -> float:
        """The lower of both."""
        return self.others if self.made is None else min(self.made, self.others)


DEBD = {
    "nltcs": Tractable(6.04, 5.99),
    "msnbc": Tractable(6.06, 6.04),
    "kdd": Tractable(2.07, 2.07),  # MADE's; the next best is 2.11
    "plants": Tractable(12.32, 12.26),
    "baudio": Tractable(38.95, 39.02),
    "jester": Tractable(52.23, 51.29),
    "bnetflix": Tractable(55.16, 55.31),
    "accidents": Tractable(26.42, 26.42),
    "tretail": Tractable(10.81, 10.72),
    "pumsb_star": Tractable(22.30, 22.30),
    "dna": Tractable(82.77, 79.05),
    "kosarek": Tractable(None, 10.52),
    "msweb": Tractable(9.59, 9.59),
    "book": Tractable(33.95, 33.46),
    "tmovie": Tractable(48.70, 48.69),
    "cwebkb": Tractable(149.59, 147.70),
    "cr52": Tractable(82.80, 81.17),
    "c20ng": Tractable(153.18, 148.17),
    "bbc": Tractable(242.40, 240.19),
    "ad": Tractable(13.65, 13.65),
}
"""The 20 sets by the names of the files (audio is ``baudio``). MADE: Peharz et al., Random Sum-Product Networks, UAI 2019,
column MADE."""

KNOWN = {
    **DEBD,
    **{name: Tractable(min(x for x in TABLE_4[name] if x), BEST[name]) for name in BEST if name in TABLE_4},
    "binarized_mnist": Tractable(min(MNIST.values()), BEST["binarized_mnist"]),
}
"""The DEBD sets, and those of the paper's tables with its better figure beside ``BEST``."""
