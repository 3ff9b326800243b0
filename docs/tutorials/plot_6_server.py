"""
In a server
===========

Load a model where it serves: few imports, one copy for all processes, any number of threads, microseconds a row.
"""

# %%
# A model to serve
# ----------------

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from made_fast import MADE, ModelFileError, load

X = (load_digits().data > 7).astype(np.uint8)
MADE(max_epochs=30, random_state=0).fit(X).save("model.safetensors")

# %%
# What is imported
# ----------------
# A process that only loads and scores imports NumPy and the compiled kernels: no scikit-learn, no SciPy, no Numba.

code = """
import sys, time
import numpy
begin = time.perf_counter()
import made_fast
model = made_fast.load("model.safetensors")
model.score_samples(numpy.zeros((1, 64)))
print(f"{1000 * (time.perf_counter() - begin):.0f} ms after NumPy")
heavy = {"numba", "scipy", "sklearn", "joblib", "matplotlib"}
print("heavy imports:", sorted(heavy & set(sys.modules)))
"""
print(
    subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
)

# %%
# One copy for all processes
# --------------------------
# ``mmap=True`` leaves the parameters in the file, and the processes of a server share its pages.

model = load("model.safetensors", mmap=True)
model

# %%
# A model may also come as bytes, from a database or a bucket.

with open("model.safetensors", "rb") as file:
    content = file.read()
bool((load(content).score_samples(X) == model.score_samples(X)).all())

# %%
# Calls
# -----
# A small call runs on the thread of its caller. ``n_threads=1`` keeps a large one there, too.


def microseconds(call, n=2000):
    """Return the mean time of a call."""
    call()
    begin = time.perf_counter()
    for _ in range(n):
        call()
    return 1e6 * (time.perf_counter() - begin) / n


print(f"score one row: {microseconds(lambda: model.score_samples(X[:1])):.0f} µs")
print(
    f"draw one row:  {microseconds(lambda: model.sample(1, random_state=0)):.0f} µs"
)

# %%
# Rows that come together cost less, each. (The machine that builds these pages does other things beside.)

sizes = [1, 4, 16, 64, 256, 1024]
times = [
    microseconds(lambda n=n: model.score_samples(X[:n], n_threads=1), 200) / n
    for n in sizes
]
plt.figure(figsize=(6.4, 3), layout="constrained")
plt.plot(sizes, times, marker="o")
plt.xscale("log", base=2)
plt.xlabel("rows of a call")
plt.ylabel("µs a row")
plt.ylim(bottom=0)
plt.show()

# %%
# Models never change, so that any number of threads may call one at the same time, without a lock. The bits of a row do not
# depend on the threads, nor on the rows beside it.

expected = model.score_samples(X)
with ThreadPoolExecutor(8) as pool:
    answers = pool.map(
        lambda i: model.score_samples(X[i : i + 1], n_threads=1)[0], range(500)
    )
    same = [answer == expected[i] for i, answer in enumerate(answers)]
all(same)

# %%
# A file that is not what it should be
# ------------------------------------
# A model file is data, and it is checked before anything is made of it. A damaged one raises an error that says what is wrong.

damaged = bytearray(content)
damaged[5000] ^= 1
try:
    load(damaged)
except ModelFileError as error:
    print(error)
