"""Children forked at any time score with threads of their own: none hangs, none finds other bits.

``stress``: a process whose threads score, sample, load models and fit all the while forks children, one after the other, from
its main thread and from another one. Each child finds the parent's models, loads one of its own, asks them on two threads,
fits one, compares, forks a grandchild now and then, and ends.

``early``: the fork comes before anything has been computed. ``pools``: workers of multiprocessing (fork, forkserver, spawn)
and of joblib (loky). ``servers``: a web server that loads the model, uses it, and then forks workers (gunicorn with --preload,
or the same done by hand), under requests from several clients.

Children that other libraries make hang (OpenMP after fork) are in ``guests.py``. Not here: Ctrl-C, speed.

    python tests/robustness/fork_stress.py --n 1000
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import http.client
import importlib.util
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from made_fast import MADEModel, MixtureModel, load

PATIENCE = 20.0
"""Seconds after which a child that should have ended counts as one that hangs; an idle machine needs some 0.05."""

N_INPUTS = 90
WORKERS = 2

Model = MADEModel | MixtureModel


def rows(n: int, seed: int = 0) -> np.ndarray:
    """Return rows of 0/1."""
    return (np.random.default_rng(seed).random((n, N_INPUTS)) < 0.3).astype(np.uint8)


X = rows(800)


def make_models(folder: Path) -> None:
    """Fit a model of each kind, for an epoch, and save them."""
    from made_fast import MADE  # not above: workers of pools need no scikit-learn

    common: dict[str, Any] = {"max_epochs": 1, "n_threads": 1, "random_state": 0, "learning_rate": 0.01}
    one = MADE(hidden_sizes=(500,), **common).fit(rows(300)).model_
    several = MADE(hidden_sizes=(70,), n_masks=4, **common).fit(rows(300)).model_
    one.save(folder / "one")
    several.save(folder / "several")
    MixtureModel([one, several]).save(folder / "mixture")


def load_models(folder: Path) -> dict[str, Model]:
    """Load all models; those of even number are mapped."""
    return {path.name: load(path, mmap=i % 2 == 0) for i, path in enumerate(sorted(folder.iterdir()))}


def fit(n_threads: int) -> np.ndarray:
    """Fit a model large enough for two threads to share the steps; return what it says of a few rows."""
    from made_fast import MADE

    made = MADE(hidden_sizes=(500,), max_epochs=1, n_threads=n_threads, random_state=1)
    return np.asarray(made.fit(X[:200]).model_.score_samples(X[:50], n_threads=1))


def answers(models: dict[str, Model], n_threads: int, *, with_fit: bool) -> dict[str, str]:
    """Ask every model for scores and samples; return what stands for the bits."""
    found = {}
    for name, model in models.items():
        found[f"score, {name}"] = digest(model.score_samples(X, n_threads=n_threads))
        found[f"sample, {name}"] = digest(model.sample(300, 3, n_threads=n_threads))
    if with_fit:
        found["fit"] = digest(fit(n_threads))
    return found


def digest(values: np.ndarray) -> str:
    """Return what stands for the bits of an array."""
    return hashlib.sha256(values.tobytes()).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------------
# Stress
# ---------------------------------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What a run of ``stress`` found."""

    ends: Counter[str] = field(default_factory=Counter)
    """How the children ended: "same bits", or what went wrong."""
    times: list[float] = field(default_factory=list)
    """Seconds of each child's life."""
    grandchildren: int = 0
    calls: int = 0
    """Calls of the parent's threads meanwhile."""
    wrong: list[str] = field(default_factory=list)
    """What the parent's threads met."""
    seconds: float = 0.0

    def broken(self) -> bool:
        """Say whether a promise was broken."""
        return bool(self.wrong) or self.ends.total() != self.ends["same bits"]


def in_child(work: Callable[[], bool]) -> tuple[str, float]:
    """Fork a child that does ``work()``, which says whether all is well; return how it ended, and after how many seconds."""
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if work() else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    while time.monotonic() - begin < PATIENCE:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return {0: "same bits", 1: "other bits"}.get(code, f"exit {code}"), time.monotonic() - begin
        time.sleep(0.001)
    os.kill(child, signal.SIGUSR1)  # to say where
    time.sleep(0.5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs", time.monotonic() - begin


def stress(folder: Path, n: int) -> Figures:
    """Fork n children in the midst of everything."""
    make_models(folder)
    models = load_models(folder)
    expected = answers(models, 1, with_fit=True)
    figures, over = Figures(), threading.Event()

    def child(number: int, *, leaf: bool = False) -> bool:
        own = {**models, "one": load(folder / "one")} if number % 3 else models
        good = answers(own, 2, with_fit=number % 2 == 0).items() <= expected.items()
        if not leaf and number % 8 == 0:
            end, _ = in_child(lambda: child(number + 1, leaf=True))
            good &= end == "same bits"
        return good

    def noise(work: Callable[[], bool]) -> None:
        while not over.is_set():
            try:
                if not work():
                    figures.wrong.append("other bits in the parent")
            except Exception:
                figures.wrong.append(traceback.format_exc())
            figures.calls += 1

    def fork(numbers: range) -> None:
        for number in numbers:
            end, seconds = in_child(lambda number=number: child(number))  # type: ignore[misc]
            figures.ends[end] += 1
            figures.times.append(seconds)
            figures.grandchildren += number % 8 == 0

    def asked() -> bool:
        return answers(models, 2, with_fit=False).items() <= expected.items()

    def fitted() -> bool:
        return digest(fit(2)) == expected["fit"]

    def loaded() -> bool:  # what is made on first use, and under which lock
        return answers(load_models(folder), 1, with_fit=False).items() <= expected.items()

    threads = [threading.Thread(target=noise, args=(work,), daemon=True) for work in (asked, fitted, loaded)]
    begin = time.monotonic()
    faulthandler.register(signal.SIGUSR1, sys.__stderr__)
    for thread in threads:
        thread.start()
    try:
        fork(range(0, n, 2))
        other = threading.Thread(target=fork, args=(range(1, n, 2),))
        other.start()
        other.join()
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
        faulthandler.unregister(signal.SIGUSR1)
    figures.wrong += ["a thread of the parent hangs" for thread in threads if thread.is_alive()]
    figures.seconds = time.monotonic() - begin
    return figures


def print_stress(figures: Figures) -> None:
    """Print one line a figure."""
    f = figures
    ends = ", ".join(f"{end}: {number}" for end, number in f.ends.most_common())
    times = sorted(f.times)
    print(f"stress: {f.ends.total()} children in {f.seconds:.1f} s; {ends}")
    print(f"stress: hanging: {f.ends['hangs']}; {f.grandchildren} forked a child of their own")
    print(f"stress: a child took {times[len(times) // 2]:.3f} s (median), {times[-1]:.3f} s (worst)")
    print(f"stress: the parent's threads made {f.calls} calls meanwhile; wrong: {len(f.wrong)}")
    for what in f.wrong[:3]:
        print(what, file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------------------------
# Before first use
# ---------------------------------------------------------------------------------------------------------------------------


EARLY = """
import hashlib, os, sys
import numpy as np
import made_fast
model, X = made_fast.load(sys.argv[1]), np.load(sys.argv[2])
child = os.fork()
os.write(1, f"{hashlib.sha256(model.score_samples(X, n_threads=2).tobytes()).hexdigest()} ".encode())
if child == 0:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def early(folder: Path, n: int) -> list[str]:
    """Fork before first use, in n fresh processes for each model; return what went wrong."""
    make_models(folder)
    np.save(folder / "rows.npy", X)
    wrong = []
    for path in sorted(folder.glob("[!r]*")):
        expected = digest(load(path).score_samples(X, n_threads=1))
        for _ in range(n):
            command = [sys.executable, "-c", EARLY, str(path), str(folder / "rows.npy")]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                wrong.append(f"{path.name}: hangs")
                continue
            if done.returncode or done.stdout.split() != [expected] * 2:
                wrong.append(f"{path.name}: {done.stdout} {done.stderr}")
    return wrong


# ---------------------------------------------------------------------------------------------------------------------------
# Pools of processes
# ---------------------------------------------------------------------------------------------------------------------------


def score(path: str, n_threads: int) -> str:
    """Do what a worker is asked for: load, score, sample."""
    return str(answers({"model": load(path, mmap=True)}, n_threads, with_fit=False))


def pools(folder: Path, methods: list[str]) -> dict[str, str]:
    """Use workers of each kind, after use of threads here; return how that went: "same bits", or what was wrong."""
    make_models(folder)
    path = str(folder / "mixture")
    expected, went = score(path, 2), {}
    for method in methods:
        if method == "loky":
            import joblib

            found = joblib.Parallel(n_jobs=WORKERS, backend="loky", timeout=6 * PATIENCE)(
                joblib.delayed(score)(path, 2) for _ in range(6)
            )
            joblib.externals.loky.get_reusable_executor().shutdown()
        else:
            with multiprocessing.get_context(method).Pool(WORKERS) as pool:
                found = pool.starmap_async(score, [(path, 2)] * 6, chunksize=1).get(6 * PATIENCE)
        went[method] = "same bits" if set(found) == {expected} else "other bits"
    return went


# ---------------------------------------------------------------------------------------------------------------------------
# Pre-forking servers
# ---------------------------------------------------------------------------------------------------------------------------


APP = """
import hashlib, os
import numpy as np
import made_fast

model, X = made_fast.load("mixture", mmap=True), np.load("rows.npy")
model.score_samples(X, n_threads=2)  # in the process that forks: it has threads then

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    scores = model.score_samples(X, n_threads=2)
    return [f"{hashlib.sha256(scores.tobytes()).hexdigest()} {os.getpid()}".encode()]
"""

OWN_SERVER = """
import os, signal, socket, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from app import app

class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass

workers = []
for _ in range(int(sys.argv[2])):
    workers.append(os.fork())
    if workers[-1] == 0:
        server = WSGIServer(("127.0.0.1", 0), Quiet, bind_and_activate=False)
        server.socket.close()
        server.socket = socket.socket(fileno=int(sys.argv[1]))
        server.server_name, server.server_port = "localhost", 0
        server.setup_environ()
        server.set_app(app)
        server.serve_forever()
signal.signal(signal.SIGTERM, lambda *_: [os.kill(worker, signal.SIGKILL) for worker in workers])
for worker in workers:
    os.waitpid(worker, 0)
"""

SERVERS = ("gunicorn", "gunicorn, threads", "by hand")


def missing(server: str) -> bool:
    """Say whether a server is not installed."""
    return server.startswith("gunicorn") and importlib.util.find_spec("gunicorn") is None


def serve(folder: Path, server: str, n_requests: int) -> tuple[int, list[str]]:
    """Start a server, ask it from four threads at once, and end it; return how many workers answered, and what was wrong."""
    make_models(folder)
    np.save(folder / "rows.npy", X)
    (folder / "app.py").write_text(APP)
    (folder / "server.py").write_text(OWN_SERVER)
    expected = digest(load(folder / "mixture").score_samples(X, n_threads=1))
    workers, wrong = Counter[str](), []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port, handle = listening.getsockname()[1], listening.fileno()
        command = [sys.executable, "server.py", str(handle), str(WORKERS)]
        if server.startswith("gunicorn"):
            command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--bind", f"fd://{handle}"]
            command += [*(["--threads", "4"] if "threads" in server else []), "--log-level", "error", "app:app"]
        process = subprocess.Popen(command, cwd=folder, pass_fds=[handle])

    def client(n: int) -> None:
        for _ in range(n):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                connection.request("GET", "/")
                found, worker = connection.getresponse().read().decode().split()
                connection.close()
                workers[worker] += 1
                if found != expected:
                    wrong.append("other bits")
            except Exception as error:
                wrong.append(repr(error))

    try:
        clients = [threading.Thread(target=client, args=(n_requests // 4,)) for _ in range(4)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        if process.poll() is not None:
            wrong.append(f"the server has ended, with {process.returncode}")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            wrong.append("the server does not end")
            process.kill()
            process.wait()
    return len(workers), wrong


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=1000, help="children")
    parser.add_argument("--requests", type=int, default=400, help="to each server")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # forks are the point
    bad = False
    with tempfile.TemporaryDirectory() as name:
        figures = stress(Path(name), args.n)
        print_stress(figures)
        bad |= figures.broken()
    with tempfile.TemporaryDirectory() as name:
        n = max(1, args.n // 100)
        wrong = early(Path(name), n)
        print(f"early: {3 * n} processes forked before first use; wrong: {len(wrong)} {wrong[:3] or ''}")
        bad |= bool(wrong)
    with tempfile.TemporaryDirectory() as name:
        went = pools(Path(name), ["fork", "forkserver", "spawn", "loky"])
        print(f"pools: {', '.join(f'{method}: {end}' for method, end in went.items())}")
        bad |= set(went.values()) != {"same bits"}
    for server in SERVERS:
        if missing(server):
            print(f"servers: {server}: not installed")
            continue
        with tempfile.TemporaryDirectory() as name:
            workers, wrong = serve(Path(name), server, args.requests)
            print(f"servers: {server}: {args.requests} requests, {workers} workers; wrong: {len(wrong)} {wrong[:3] or ''}")
            bad |= bool(wrong) or workers != WORKERS
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
