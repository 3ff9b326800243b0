"""
Missing values
==============

Train on rows that miss something, score what is there, and fill in what is not.
"""

# %%
# Any inputs, given any others
# ----------------------------
# A model that is trained under ever fresh orderings (``n_masks=None``) can put whatever is observed first. It then answers
# exactly, in one pass: the marginal of the observed inputs, or a draw of the missing ones.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits, load_wine
from sklearn.impute import SimpleImputer

from made_fast import MADE, MADEImputer

X = np.random.default_rng(0).permutation((load_digits().data > 7).astype(np.uint8))
X_train, X_test = X[:1500], X[1500:]
made = MADE(
    n_masks=None,
    n_eval_masks=8,
    max_epochs=150,
    validation_fraction=0.1,
    random_state=0,
).fit(X_train)

# %%
# NaN marks what is missing. Here it is the lower half of some test digits.

whole = X_test[:10]
gaps = whole.astype(float)
gaps[:, 32:] = np.nan
print("log p(upper half):", made.log_marginal(gaps).round(1))

# %%
# ``sample_conditional`` draws the lower half, given the upper one; ``impute`` gives one answer: the likelier value of each
# entry, its expected value, or a draw.

rows = {
    "test rows": whole,
    "what is given": np.where(np.isnan(gaps), 0.4, gaps),
    "a draw": made.sample_conditional(gaps, 1, random_state=0)[0],
    "another draw": made.sample_conditional(gaps, 1, random_state=1)[0],
    'impute(..., "mean")': made.impute(gaps, "mean"),
}
figure, axes = plt.subplots(len(rows), 1, figsize=(6.4, 4.6), layout="constrained")
for axis, (title, images) in zip(axes, rows.items(), strict=True):
    axis.imshow(
        images.reshape(10, 8, 8).transpose(1, 0, 2).reshape(8, 80),
        cmap="gray_r",
        vmin=0,
        vmax=1,
    )
    axis.set_title(title, fontsize=9)
    axis.axis("off")
plt.show()

# %%
# One input, given all others that are there: ``conditional``. Each row may miss
# something else.

made.conditional(gaps, target=60).round(2)

# %%
# Training rows with gaps
# -----------------------
# The rows of training may miss entries, too. A row is then trained under orderings that have its missing inputs last, and
# only what is observed counts.

rng = np.random.default_rng(1)
X_gaps = X_train.astype(float)
X_gaps[rng.random(X_gaps.shape) < 0.3] = np.nan
also = MADE(n_masks=None, n_eval_masks=8, max_epochs=30, random_state=0).fit(X_gaps)
same = MADE(n_masks=None, n_eval_masks=8, max_epochs=30, random_state=0).fit(
    X_train
)
print(
    f"30 epochs of whole rows:           {same.score(X_test):.2f} nats a test row"
)
print(f"30 epochs of 70 % of the entries:  {also.score(X_test):.2f}")

# %%
# In a pipeline, for tables of any columns
# ----------------------------------------
# ``MADEImputer`` is a scikit-learn transformer. It takes tables with columns of any kind and gives back a table like that of
# ``fit``. A fifth of the entries of the wine data are hidden here; ``cultivar`` is a column of text.

frame = load_wine(as_frame=True).frame
frame["cultivar"] = frame.pop("target").map({0: "first", 1: "second", 2: "third"})
hidden = rng.random(frame.shape) < 0.2
holed = frame.mask(hidden)
imputer = MADEImputer(
    MADE(
        (200,),
        n_masks=None,
        n_eval_masks=8,
        n_bins=12,
        max_epochs=60,
        random_state=0,
    ),
    method="mean",
)
filled = imputer.fit_transform(holed)
holed.iloc[:4, [0, 1, 6, 12, 13]]

# %%

filled.iloc[:4, [0, 1, 6, 12, 13]].round(2)

# %%
# How good is it? The error of the numbers in standard deviations of their columns, and the share of cultivars that are right;
# beside them the mean, and the most frequent category.

numbers = list(frame.columns[:-1])
simple = pd.DataFrame(
    SimpleImputer(strategy="mean").fit_transform(holed[numbers]), columns=numbers
)
simple["cultivar"] = holed["cultivar"].mode()[0]
for name, found in ("MADEImputer", filled), ("mean and mode", simple):
    off = ((found[numbers] - frame[numbers]) / frame[numbers].std()).to_numpy()[
        hidden[:, :-1]
    ]
    right = (found["cultivar"] == frame["cultivar"])[hidden[:, -1]].mean()
    print(
        f"{name:14}  error {np.sqrt((off**2).mean()):.2f}   cultivars {right:.2f}"
    )
