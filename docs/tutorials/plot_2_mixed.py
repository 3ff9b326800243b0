"""
A table of mixed columns, from a CSV file
=========================================

Numbers, categories and whole numbers side by side: fit, score, draw rows, ask for the distribution of a column, and ask how
probable a condition is.
"""

# %%
# The table
# ---------
# Any data frame will do. Here it is a CSV file, which the first lines write: 442 patients with diabetes, their age, sex, body
# mass index, blood pressure and blood values, and ``progress``, a measure of the disease one year later.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

from made_fast import MADE

raw = load_diabetes(as_frame=True, scaled=False).frame
table = raw[["age", "bmi", "bp", "s5", "s6"]].rename(
    columns={"s5": "log_triglycerides", "s6": "glucose"}
)
table.insert(1, "sex", raw["sex"].map({1.0: "A", 2.0: "B"}))
table["progress"] = raw["target"]
table.to_csv("diabetes.csv", index=False)

frame = pd.read_csv("diabetes.csv")
frame.head()

# %%
# Fit
# ---
# Columns are learned from their values: text is categorical, numbers are cut into levels at quantiles. ``n_masks=None`` trains
# under an ordering that is drawn afresh for every mini-batch, so that the model answers questions about any column, given any
# others.

train, test = frame[:342], frame[342:]
made = MADE(
    (200,), n_masks=None, n_eval_masks=16, validation_fraction=0.15, random_state=0
).fit(train)
made.model_

# %%
# The scores are true log-densities, in nats of the units of the columns. They can be compared with those of any other density
# of the same table: a normal distribution of the numbers, say, within each sex.

numbers = [name for name in frame if name != "sex"]


def normal(rows):
    """Return log p of rows under a normal distribution for each sex."""
    out = np.empty(len(rows))
    for sex, share in train["sex"].value_counts(normalize=True).items():
        known, asked = (
            train.loc[train["sex"] == sex, numbers],
            (rows["sex"] == sex).to_numpy(),
        )
        inverse = np.linalg.inv(known.cov())
        off = (rows.loc[asked, numbers] - known.mean()).to_numpy()
        log_det = np.linalg.slogdet(2 * np.pi * known.cov().to_numpy())[1]
        out[asked] = np.log(share) - 0.5 * (
            log_det + np.einsum("ij,jk,ik->i", off, inverse, off)
        )
    return out


print(f"made_fast:              {made.score(test):.2f} nats a row")
print(f"a normal for each sex:  {normal(test).mean():.2f} nats a row")

# %%
# (A strong rival: these are measurements of a few hundred people, and close to normal.)
#
# Rows that nobody has seen
# -------------------------
# ``sample`` gives a frame of the same columns and dtypes.

drawn = made.sample(400, random_state=0)
drawn.head()

# %%

figure, axes = plt.subplots(
    1, 2, figsize=(7.2, 3.2), sharey=True, layout="constrained"
)
for axis, rows, title in zip(
    axes, (frame, drawn), ("the table", "drawn rows"), strict=True
):
    for sex, colour in ("A", "tab:blue"), ("B", "tab:orange"):
        own = rows[rows["sex"] == sex]
        axis.scatter(
            own["bmi"],
            own["progress"],
            s=8,
            color=colour,
            alpha=0.6,
            label=f"sex {sex}",
        )
    axis.set(title=title, xlabel="bmi")
axes[0].set_ylabel("progress")
axes[0].legend()
plt.show()

# %%
# The distribution of a column
# ----------------------------
# ``conditional`` returns p(progress | all other columns) of each row: a regression with its whole distribution. The column
# itself is not looked at, and any other column may be missing.

found = made.conditional(test, "progress")
actual = test["progress"].to_numpy()
low, high = found.quantile(0.1), found.quantile(0.9)
print(
    f"mean absolute error of the mean: {np.abs(found.mean() - actual).mean():.1f}"
)
print(
    f"of the mean of all patients:     {np.abs(train['progress'].mean() - actual).mean():.1f}"
)
print(
    f"share between the 10 % and the 90 % quantile: {((low <= actual) & (actual <= high)).mean():.2f}"
)

# %%
# Of a categorical column, it is a classifier.

sex = made.conditional(test.drop(columns="sex"), "sex")
print(sex.values, sex.mode()[:3])
print(sex.proba[:3].round(2))

# %%
# Queries
# -------
# How many patients satisfy a condition? The model answers, beside it is the count in all rows of the table.

counted = {
    "bmi > 30": frame["bmi"] > 30,
    "bmi > 30 and progress > 200": (frame["bmi"] > 30) & (frame["progress"] > 200),
    "sex = 'A' and age between 40 and 60": (frame["sex"] == "A")
    & frame["age"].between(40, 60),
    "glucose > 110 and bp < 90": (frame["glucose"] > 110) & (frame["bp"] < 90),
}
for query, rows in counted.items():
    print(
        f"{query:36} model {made.probability(query):.3f}   table {rows.mean():.3f}"
    )
