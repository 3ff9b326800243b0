"""The optimisers the kernels know: codes, state vectors, constants, sources.

Each updates elementwise, ``(w, g, state, t) -> (w, state)``, as written out below; ``t`` counts the updates from 1. Not here:
the arithmetic, which stands in each implementation.

``Update.constants`` are ``[lr, a, b, eps, decay, clip]``. ``lr`` is the learning rate. ``decay``: before every update, weights
(not biases) are multiplied by ``1 - lr decay``, apart from the gradient (Loshchilov and Hutter 2019; for sgd the same as an L2
penalty). ``clip``: where the norm of the whole gradient is larger, the gradient is scaled down to it (Pascanu, Mikolov, Bengio
2013); 0 is no clipping.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GRADIENT", "OPTIMIZERS", "Optimizer"]

GRADIENT, SGD, MOMENTUM, ADAGRAD, ADADELTA, RMSPROP, ADAM = range(7)
"""Codes. ``GRADIENT`` updates nothing and writes the gradient to ``state[0]``."""

LR, COEF_A, COEF_B, EPS, DECAY, CLIP = range(6)
"""Entries of ``Update.constants``; ``native.h`` repeats these and the codes."""


class Optimizer(NamedTuple):
    """An optimiser.

    Attributes
    ----------
    code : int
        What the kernels take as ``optimizer``.
    n_state : int
        How many vectors of the length of theta it keeps, all starting at 0.
    constants : (lr, a, b, eps)
        Defaults.
    names : tuple of 4 str
        What users call the four; "" is one that the optimiser does not have.
    """

    code: int
    n_state: int
    constants: tuple[float, float, float, float]
    names: tuple[str, str, str, str]


OPTIMIZERS: dict[str, Optimizer] = {
    # w -= lr / (1 + a (t - 1)) g                                        Robbins and Monro 1951; a = c of 1 / (1 + c t)
    "sgd": Optimizer(SGD, 0, (0.1, 0.0, 0.0, 0.0), ("learning_rate", "lr_decay", "", "")),
    # s = b s - lr / (1 + a (t - 1)) g;  w += s                          Polyak 1964
    "momentum": Optimizer(MOMENTUM, 1, (0.01, 0.0, 0.9, 0.0), ("learning_rate", "lr_decay", "momentum", "")),
    # s += g^2;  w -= lr g / sqrt(s + eps)                               Duchi, Hazan, Singer 2011
    "adagrad": Optimizer(ADAGRAD, 1, (0.01, 0.0, 0.0, 1e-6), ("learning_rate", "", "", "eps")),
    # s = a s + (1-a) g^2;  d = sqrt(r + eps) / sqrt(s + eps) g;  r = a r + (1-a) d^2;  w -= lr d          Zeiler 2012
    "adadelta": Optimizer(ADADELTA, 2, (1.0, 0.95, 0.0, 1e-6), ("learning_rate", "rho", "", "eps")),
    # s = a s + (1-a) g^2;  w -= lr g / (sqrt(s) + eps)                  Tieleman and Hinton 2012
    "rmsprop": Optimizer(RMSPROP, 1, (1e-3, 0.9, 0.0, 1e-8), ("learning_rate", "rho", "", "eps")),
    # m = a m + (1-a) g;  v = b v + (1-b) g^2;  w -= lr m/(1-a^t) / (sqrt(v/(1-b^t)) + eps)      Kingma and Ba 2015
    "adam": Optimizer(ADAM, 2, (2e-3, 0.9, 0.999, 1e-8), ("learning_rate", "beta_1", "beta_2", "eps")),
}
