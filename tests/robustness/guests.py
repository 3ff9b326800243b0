"""made_fast beside libraries with thread pools: OpenMP in scikit-learn, LightGBM and PyTorch, BLAS in NumPy.

``beside``: a fresh process imports and uses such a library before made_fast or after it, uses both in turn on two threads, and
forks a child that uses made_fast alone. The bits are those of a process without guests, nothing hangs, and no thread of
made_fast starts before there is work. Subnormal numbers are checked throughout: the kernels flush them to 0, for speed, and
must restore the mode of every thread; a library linked with -ffast-math breaks them for the whole process.

``counts``: the number of threads of a call by default, with fewer CPUs (affinity) or OMP_NUM_THREADS; quotas of control groups
are in ``tests/system/test_threads.py``.

    python tests/robustness/guests.py --n 3
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from helpers import python
from robustness.common import Report, command_line

PATIENCE = 120.0
"""Seconds after which a process counts as one that hangs."""

GUESTS = {
    "numpy": "A = np.ones((700, 700)); A @ A; np.linalg.svd(A[:300, :300])",
    "sklearn": """
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier
HistGradientBoostingClassifier(max_iter=3).fit(Z, y)
KMeans(8, n_init=1, max_iter=5).fit(Z)
""",
    "lightgbm": """
import lightgbm
lightgbm.train({"objective": "binary", "num_threads": 2, "verbose": -1}, lightgbm.Dataset(Z, y), 5)
""",
    "torch": """
import torch
torch.set_num_threads(2)
W = torch.randn(400, 400, requires_grad=True)
(W @ W).relu().sum().backward()
""",
}
"""Code that uses the thread pool of each library; ``Z`` (n, d) and ``y`` (n,) are there."""

COMMON = """
import hashlib, json, os, signal, sys, threading, warnings
import numpy as np

rng = np.random.default_rng(0)
Z, y = rng.normal(size=(3000, 20)), rng.integers(0, 2, 3000)
X = (rng.random((3000, 90)) < 0.3).astype(np.uint8)

def subnormals():
    '''Say whether they work on this thread: as results, as operands, one by one and in vectors.'''
    good = True
    for kind, small, tiny in ((np.float32, 1e-38, 1e-40), (np.float64, 1e-307, 1e-310)):
        for n in (1, 100):
            good &= bool((np.full(n, small, kind) * kind(0.01) > 0).all() and (np.full(n, tiny, kind) * kind(1000) > 0).all())
        good &= bool(np.finfo(kind).tiny / kind(2) > 0)
    return good

def on_a_new_thread(ask):
    found = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()
    thread.join()
    return found[0]

def tasks():
    return len(os.listdir("/proc/self/task"))

def ours(n_threads):
    '''Fit, score, sample, impute on so many threads; return what stands for the bits.'''
    from made_fast import MADE
    made = MADE(hidden_sizes=(500,), max_epochs=1, n_threads=n_threads, random_state=0).fit(X[:400])
    digest = hashlib.sha256(made.score_samples(X).tobytes())
    digest.update(made.sample(500, 1).tobytes())
    missing = X[:50].astype(np.float32)
    missing[:, :5] = np.nan
    digest.update(made.impute(missing, "sample", random_state=0).tobytes())
    return digest.hexdigest()

def on_our_threads(ask):
    '''Ask on the caller's thread and on those that help it.'''
    from made_fast.system import threads
    found, barrier = set(), threading.Barrier(3, timeout=60)
    def work(rank):
        barrier.wait()
        found.add(ask())
    threads.run(work, 3)
    return found == {True}
"""

BESIDE = """
expected, guest, order = sys.argv[1:4]
wrong = []

def check(good, what):
    if not good:
        wrong.append(what)

def use_guest():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(guest, globals())

def all_well(when):
    check(ours(2) == expected, f"other bits {when}")
    check(subnormals(), f"no subnormals on the main thread {when}")
    check(on_a_new_thread(subnormals), f"no subnormals on a new thread {when}")
    check(on_our_threads(subnormals), f"no subnormals on our threads {when}")

check(subnormals(), "no subnormals to begin with")
if order == "before":
    use_guest()
before = tasks()
import made_fast
check(tasks() == before, "the import started threads")
check(subnormals(), "no subnormals after the import")
all_well("at first")
use_guest()
all_well("after the guest's turn")
check(on_a_new_thread(lambda: ours(2)) == expected, "other bits on a thread of the user's")
use_guest()

child = os.fork()
if child == 0:  # uses made_fast, and nothing else that has threads
    signal.alarm(60)  # ends it if it hangs
    wrong.clear()
    all_well("in a child")
    print(*wrong, sep="\\n", file=sys.stderr, flush=True)
    os._exit(len(wrong))
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
check(code == 0, "a child hangs" if code == -signal.SIGALRM else "things are wrong in a child")
all_well("after a fork")
use_guest()
print(json.dumps(wrong))
"""

COUNTS = """
from made_fast.system import threads
if sys.argv[1]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
ours(None)
print(threads.available(), sum(thread.name == "made_fast" for thread in threading.enumerate()))
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    """Run code in a fresh process, without OMP_NUM_THREADS unless it is given."""
    return python("-c", COMMON + code, *arguments, seconds=PATIENCE, **{"OMP_NUM_THREADS": None, **environment})


def installed(guest: str) -> bool:
    return find_spec(guest) is not None


def beside(guest: str, n: int = 1) -> Report:
    """Put made_fast beside a guest that is imported before it and after it, n times."""
    report, expected = Report(f"beside {guest}"), run("print(ours(1))")
    for order in ("before", "after") * n:
        report.figures["processes"] += 1
        try:
            wrong = json.loads(run(BESIDE, expected, GUESTS[guest], order))
        except RuntimeError as error:
            wrong = [str(error)]
        report.check(not wrong, f"imported {order}: {wrong}")
    return report.end()


def counts() -> Report:
    """Count the threads that there are by default, and the helpers that a call has started."""
    report = Report("counts")
    for name, cpus, environment in [
        ("all CPUs", "", {}),
        ("one CPU", "1", {}),
        ("OMP_NUM_THREADS=1", "", {"OMP_NUM_THREADS": "1"}),
        ("OMP_NUM_THREADS=1,4", "", {"OMP_NUM_THREADS": "1,4"}),
    ]:
        available, helpers = map(int, run(COUNTS, cpus, **environment).split())
        report.figures[f"threads by default, {name}"], report.figures[f"helpers, {name}"] = available, helpers
        report.check(helpers < available, f"{name}: too many helpers")
        report.check(name == "all CPUs" or available == 1, f"{name}: more than one thread")
    return report.end()


def main() -> int:
    args = command_line(__doc__, n=(1, "processes for each guest and order"))
    bad = 0
    for guest in GUESTS:
        if installed(guest):
            bad |= beside(guest, args.n).show()
        else:
            print(f"beside {guest}: not installed")
    return bad | counts().show()


if __name__ == "__main__":
    sys.exit(main())
