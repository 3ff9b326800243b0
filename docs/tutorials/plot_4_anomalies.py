"""
Odd rows, and why they are odd
==============================

Find rows that are unlike the others, and the columns that make them so.
"""

# %%
# Nobody says which rows are odd
# ------------------------------
# Cell nuclei of 569 tumours, 30 numbers each. The detector gets the 357 benign ones and 20 malignant ones, and is not told which
# is which.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from made_fast import MADEOutlierDetector

data = load_breast_cancer(as_frame=True)
frame, malignant = data.data, (data.target == 0).to_numpy()
some = np.flatnonzero(malignant)[:20]
kept = np.sort(np.concatenate([np.flatnonzero(~malignant), some]))
frame, malignant = frame.iloc[kept].reset_index(drop=True), malignant[kept]

detector = MADEOutlierDetector(contamination=0.05, random_state=0).fit(frame)
odd = detector.labels_ == 1
print(f"{odd.sum()} rows called odd, of which {malignant[odd].sum()} are malignant")
print(f"ROC AUC {roc_auc_score(malignant, detector.decision_scores_):.3f}")

# %%
# ``decision_scores_`` are negative log-likelihoods, in nats, in which numbers count beside those of training: no unit matters.

plt.figure(figsize=(6.4, 3), layout="constrained")
bins = np.linspace(
    detector.decision_scores_.min(),
    np.quantile(detector.decision_scores_, 0.995),
    40,
)
plt.hist(
    [detector.decision_scores_[~malignant], detector.decision_scores_[malignant]],
    bins,
    stacked=True,
    label=["benign", "malignant"],
)
plt.axvline(detector.threshold_, color="grey", ls="--", lw=1, label="threshold_")
plt.xlabel("how odd, nats")
plt.ylabel("rows")
plt.legend()
plt.show()

# %%
# Why is it odd?
# --------------
# ``explain`` says what each column adds to the score of a row. The columns add up to it.

worst = int(np.argmax(np.where(malignant, detector.decision_scores_, -np.inf)))
added = detector.explain(frame.iloc[[worst]])[0]
print(
    f"sum over columns {added.sum():.3f}, decision score {detector.decision_scores_[worst]:.3f}"
)
top = np.argsort(-added)[:8]
plt.figure(figsize=(6.4, 3.2), layout="constrained")
plt.barh([frame.columns[j] for j in top], added[top])
plt.gca().invert_yaxis()
plt.xlabel(f"what the column adds to the oddity of row {worst}, nats")
plt.show()

# %%
# A slip of the pen
# -----------------
# Good rows may become odd by one wrong cell: a decimal point that has slipped, or a value that is usual by itself but not
# beside the others. Here the smallest of the benign nuclei gets a
# radius of 20, which is no rare radius, but does not go with its perimeter and its area.

benign = np.flatnonzero(~malignant)
slim = benign[np.argmin(frame["mean radius"].to_numpy()[benign])]
row = frame.loc[[slim]].copy()
row["mean radius"] = 20.0
added = detector.explain(row)[0]
print(
    "before:",
    -detector.score_samples(frame.loc[[slim]])[0].round(1),
    " after:",
    -detector.score_samples(row)[0].round(1),
)
print("threshold:", round(detector.threshold_, 1))
print(
    "columns that add most:",
    [str(frame.columns[j]) for j in np.argsort(-added)[:3]],
)

# %%
# New rows
# --------
# The same detector serves for rows that come later. ``predict`` gives -1 for odd rows and 1 for others, as scikit-learn does;
# ``p_values`` tell how many rows of training are at least as odd.

late = data.data.iloc[np.flatnonzero(data.target == 0)[20:]]
print(
    f"malignant tumours that were not there before: {(detector.predict(late) == -1).mean():.0%} called odd"
)
print("p-values of five of them:", detector.p_values(late.iloc[:5]).round(4))
