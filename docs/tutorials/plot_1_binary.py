"""
A binary table
==============

Fit a density to rows of 0 and 1, score new rows, draw rows, and keep the model in a file.
"""

# %%
# The table
# ---------
# scikit-learn comes with 1797 handwritten digits of 8 x 8 pixels. A pixel above 7 of 16 counts as ink. So a row has 64 inputs
# that are 0 or 1, and the order of the rows is shuffled once.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from made_fast import MADE, load

X = (load_digits().data > 7).astype(np.uint8)
X = np.random.default_rng(0).permutation(X)
X_train, X_val, X_test = X[:1400], X[1400:1600], X[1600:]
print(X_train.shape, f"{X_train.mean():.0%} ones")

# %%
# Fit
# ---
# Rows of validation decide when training stops: after ``patience`` epochs without a better score on them. The model keeps the
# parameters of the best epoch. With an int as ``random_state``, the run repeats bit for bit.

made = MADE(hidden_sizes=(500,), random_state=0).fit(X_train, X_val=X_val)
made.model_

# %%
# ``history_`` has a record of every epoch.

epochs = [record["epoch"] for record in made.history_]
plt.figure(figsize=(6.4, 3.2), layout="constrained")
plt.plot(
    epochs, [record["train_nll"] for record in made.history_], label="training"
)
plt.plot(
    epochs,
    [record["validation_nll"] for record in made.history_],
    label="validation",
)
plt.axvline(made.best_epoch_, color="grey", lw=0.8, ls="--", label="best epoch")
plt.xlabel("epoch")
plt.ylabel("negative log-likelihood, nats")
plt.legend()
plt.show()

# %%
# (With dropout, which is on by default, the curve of training is above what the same rows score after training.)
#
# Score
# -----
# ``score_samples`` returns log p(x) of each row, in nats. It is exact, not a bound. Independent pixels are the model that any
# other should beat.

p = (X_train.sum(axis=0) + 1) / (len(X_train) + 2)
independent = np.where(X_test, np.log(p), np.log1p(-p)).sum(axis=1)
print(f"independent pixels: {-independent.mean():.2f} nats a row")
print(f"MADE:               {-made.score_samples(X_test).mean():.2f} nats a row")

# %%
# Sample
# ------
# A sample is drawn in one walk along the ordering of the inputs. It costs about as much as scoring a row.


def show(rows, title):
    """Draw rows of 64 pixels, ten a line."""
    lines = len(rows) // 10
    grid = (
        rows.reshape(lines, 10, 8, 8).transpose(0, 2, 1, 3).reshape(8 * lines, 80)
    )
    plt.figure(figsize=(6.4, 0.72 * lines), layout="constrained")
    plt.imshow(grid, cmap="gray_r")
    plt.title(title)
    plt.axis("off")
    plt.show()


show(X_test[:20], "test rows")
show(made.sample(20, random_state=0), "rows drawn from the model")

# %%
# Every conditional
# -----------------
# ``conditional_proba`` has p(pixel is 1 | the pixels before it), for all 64 pixels at once. Their product is p(x).

proba = made.conditional_proba(X_test[:1])[0]
log_p = np.log(np.where(X_test[0], proba, 1 - proba)).sum()
print(f"{log_p:.4f} = {made.score_samples(X_test[:1])[0]:.4f}")

# %%
# Keep it
# -------
# A model is one file. What reads it back needs NumPy alone, and gives the same bits.

made.save("digits.safetensors")
model = load("digits.safetensors")
bool((model.score_samples(X_test) == made.score_samples(X_test)).all())
