"""What others have published, in nats of mean test NLL, to stand beside what is measured here. Not here: ours."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEBD", "MNIST", "OTHERS", "TABLE_4", "Published"]


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

DEBD = {
    "msnbc": 6.06,
    "kdd": 2.07,
    "baudio": 38.95,
    "bnetflix": 55.16,
    "accidents": 26.42,
    "tretail": 10.81,
    "dna": 82.77,
    "msweb": 9.59,
    "book": 33.95,
    "tmovie": 48.70,
    "cwebkb": 149.59,
    "cr52": 82.80,
    "c20ng": 153.18,
    "bbc": 242.40,
    "ad": 13.65,
}
"""Peharz et al., Random Sum-Product Networks, UAI 2019, column MADE, by the names of the files (audio is ``baudio``)."""
