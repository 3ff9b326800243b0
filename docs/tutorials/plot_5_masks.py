"""
Many masks
==========

One set of weights, trained under many orderings and connectivities: a mixture of as many models as you like.
"""

# %%
# Three kinds of models
# ---------------------
# ``n_masks=1`` has one ordering and one set of hidden degrees. ``n_masks=8`` trains under eight, one a mini-batch in turn; the
# model is their mixture. ``n_masks=None`` draws fresh ones for every mini-batch, and mixes ``n_eval_masks`` further ones.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from made_fast import MADE

X = np.random.default_rng(0).permutation((load_digits().data > 7).astype(np.uint8))
X_train, X_val, X_test = X[:1400], X[1400:1600], X[1600:]

models = {}
for n_masks in (1, 8, None):
    made = MADE(n_masks=n_masks, n_eval_masks=64, max_epochs=400, random_state=0)
    models[n_masks] = made.fit(X_train, X_val=X_val)
    of = made.model_.n_masks
    print(f"n_masks={n_masks}: {-made.score(X_test):.2f} nats, a mixture over {of}")

# %%
# One network under eight orderings is a better model than under one. Fresh masks ask more of the same weights, which have to
# serve every ordering there is: they want more epochs, and more units. What they give for it comes below.
#
# What a mixture brings
# ---------------------
# The mixture is one of joint probabilities, ``log p(x) = logsumexp_k(log p_k(x)) - log K``. ``score_parts`` yields the score
# of the mixture over the first 1, 2, 3, ... masks.

fresh = models[None]
parts = [-log_p.mean() for log_p in fresh.model_.score_parts(X_test)]
plt.figure(figsize=(6.4, 3.2), layout="constrained")
plt.plot(np.arange(1, len(parts) + 1), parts)
plt.xscale("log", base=2)
plt.xlabel("masks in the mixture")
plt.ylabel("NLL of the test rows, nats")
plt.show()

# %%
# One mask alone is a model, too: ``mask=k`` asks it. All of them share the weights, and each factors the inputs in an order of
# its own.

for k in range(3):
    places = fresh.model_.masks[k].ordering
    nll = -fresh.score_samples(X_test, mask=k).mean()
    print(f"mask {k}: {nll:.2f} nats, first pixels {np.argsort(places)[:6]}")

# %%
# Any ordering
# ------------
# A model of fresh masks is not bound to those of its mixture: it answers a question under the ordering that suits it.
# ``member_for`` shows which: the observed inputs come first.

observed = np.arange(64) < 32
connectivity = fresh.member_for(observed)
places = connectivity.ordering
print(
    f"places of the observed inputs: {places[observed].min()} to {places[observed].max()}"
)
print(
    f"places of the missing inputs:  {places[~observed].min()} to {places[~observed].max()}"
)

# %%
# So each of these costs one pass, whatever is observed.

gaps = np.where(observed, X_test[:5].astype(float), np.nan)
print("upper halves, fresh masks:", fresh.log_marginal(gaps).round(2))

# %%
# A model of one ordering has to estimate such answers where much is missing before the last observed input; it then tells the
# standard error, or warns.

log_p, std = models[1].log_marginal(
    np.where(~observed, X_test[:5].astype(float), np.nan), return_std=True
)
print("lower halves, one mask:", log_p.round(2), "±", std.round(2))
