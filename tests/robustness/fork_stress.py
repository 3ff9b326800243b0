"""Children that are forked at any time score on threads of their own, with the same bits, and do not hang.

``stress``: a process whose threads score, sample, load and fit forks children from two threads. A child asks the parent's
models and one that it loads, fits one, and sometimes forks a grandchild. ``early``: the fork comes before any computation.
``pools``: workers of multiprocessing and of joblib. ``serve``: a web server loads and uses the model and then forks workers
(gunicorn with --preload, or by hand), under requests from several clients.

Not here: children that other libraries make hang, such as OpenMP (``guests.py``); Ctrl-C; speed.

    python tests/robustness/fork_stress.py --n 1000
"""

from __future__ import annotations

import faulthandler
import http.client
import importlib.util
import multiprocessing
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from made_fast import load

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from helpers import digest, python, rows, small
from robustness.common import Child, Report, command_line, show_all
from robustness.operations import N_INPUTS, ask, load_models, make_models

PATIENCE = 20.0
"""Seconds after which a child that should have ended counts as one that hangs; an idle machine needs some 0.05."""

WORKERS = 2

X = rows(800, N_INPUTS)


def answers(models: dict[str, Any], n_threads: int, *, with_fit: bool = False) -> dict[str, str]:
    """Ask every model for scores and samples; return digests of the results."""
    calls = {"score_samples": X, "sample": 300}
    found = {
        f"{call}, {name}": digest(ask(call, model, given, n_threads=n_threads))
        for name, model in models.items()
        for call, given in calls.items()
    }
    if with_fit:  # a model large enough for two threads to share the steps
        made = small(hidden_sizes=(500,), n_threads=n_threads, random_state=1).fit(X[:200])
        found["fit"] = digest(made.score_samples(X[:50]))
    return found


def prepare(folder: Path) -> None:
    """Save models, the rows that they are asked about, and the digest of the mixture's scores."""
    make_models(folder, "wide", "one", "several")
    np.save(folder / "rows.npy", X)


def _score(path: Path, n_threads: int = 1) -> str:
    return digest(load(path, mmap=True).score_samples(X, n_threads=n_threads))


def in_child(work: Callable[[], bool]) -> str:
    """Fork a child that does ``work()``, which says whether all bits are right; return how it ended."""
    try:
        return "same bits" if Child(work).answer(PATIENCE, signal.SIGUSR1) else "other bits"
    except RuntimeError as error:
        return str(error)


def stress(folder: Path, n: int) -> Report:
    prepare(folder)
    models = load_models(folder)
    expected = answers(models, 1, with_fit=True)
    report, over = Report("stress"), threading.Event()

    def child(number: int, *, leaf: bool = False) -> bool:
        own = {**models, "one": load(folder / "one")} if number % 3 else models
        good = answers(own, 2, with_fit=number % 2 == 0).items() <= expected.items()
        if not leaf and number % 8 == 0:
            good &= in_child(lambda: child(number + 1, leaf=True)) == "same bits"
        return good

    def noise(work: Callable[[], dict[str, str]]) -> None:
        while not over.is_set():
            try:
                report.check(work().items() <= expected.items(), "other bits in the parent")
            except Exception:
                report.check(False, f"in the parent: {traceback.format_exc()}")
            report.figures["calls of the parent meanwhile"] += 1

    def fork(numbers: range) -> None:
        for number in numbers:
            begin = time.monotonic()
            end = in_child(lambda number=number: child(number))  # type: ignore[misc]
            report.figures["children"] += 1
            report.figures["grandchildren"] += number % 8 == 0
            report.highest("the longest life of a child, in seconds", time.monotonic() - begin)
            report.check(end == "same bits", f"a child: {end}")

    busy = [
        lambda: answers(models, 2),
        lambda: answers({}, 2, with_fit=True),
        lambda: answers(load_models(folder), 1),  # objects made on first use, and their locks
    ]
    threads = [threading.Thread(target=noise, args=(work,), daemon=True) for work in busy]
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
    report.check(not any(thread.is_alive() for thread in threads), "a thread of the parent hangs")
    return report.end()


EARLY = """
import os, sys
import numpy as np
import made_fast
model, X = made_fast.load(sys.argv[1]), np.load(sys.argv[2])
child = os.fork()
os.write(1, model.score_samples(X, n_threads=2).tobytes().hex().encode() + b"\\n")
if child == 0:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def early(folder: Path, n: int) -> Report:
    prepare(folder)
    report = Report("early")
    for path in [path for path in sorted(folder.iterdir()) if path.suffix != ".npy"]:
        expected = load(path).score_samples(X, n_threads=1).tobytes().hex()
        for _ in range(n):
            report.figures["processes"] += 1
            try:
                told = python("-c", EARLY, path, folder / "rows.npy", seconds=PATIENCE).split()
                report.check(told == [expected] * 2, f"{path.name}: other bits")
            except RuntimeError as error:
                report.check(False, f"{path.name}: {error}")
    return report.end()


def pools(folder: Path, *methods: str) -> Report:
    prepare(folder)
    report, path = Report("pools"), folder / "mixture"
    expected = _score(path, 2)
    for method in methods:
        if method == "loky":
            import joblib

            parallel = joblib.Parallel(n_jobs=WORKERS, backend="loky", timeout=6 * PATIENCE)
            found = parallel(joblib.delayed(_score)(path, 2) for _ in range(6))
            joblib.externals.loky.get_reusable_executor().shutdown()
        else:
            with multiprocessing.get_context(method).Pool(WORKERS) as pool:
                found = pool.starmap_async(_score, [(path, 2)] * 6, chunksize=1).get(6 * PATIENCE)
        report.figures[f"calls, {method}"] = len(found)
        report.check(set(found) == {expected}, f"{method}: other bits")
    return report.end()


APP = """
import os
import numpy as np
import made_fast

model, X = made_fast.load("mixture", mmap=True), np.load("rows.npy")
model.score_samples(X, n_threads=2)  # in the process that forks: it has threads then

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{model.score_samples(X, n_threads=2).tobytes().hex()} {os.getpid()}".encode()]
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
    return server.startswith("gunicorn") and importlib.util.find_spec("gunicorn") is None


def serve(folder: Path, server: str, n_requests: int) -> Report:
    """Start a server, ask it from four threads at once, and end it."""
    prepare(folder)
    (folder / "app.py").write_text(APP)
    (folder / "server.py").write_text(OWN_SERVER)
    expected = load(folder / "mixture").score_samples(X, n_threads=1).tobytes().hex()
    report, workers = Report(f"server, {server}"), set[str]()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port, handle = listening.getsockname()[1], listening.fileno()
        command = [sys.executable, "server.py", str(handle), str(WORKERS)]
        if server.startswith("gunicorn"):
            command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--bind", f"fd://{handle}"]
            command += [*(["--threads", "4"] if "threads" in server else []), "--log-level", "error", "app:app"]
        process = subprocess.Popen(command, cwd=folder, pass_fds=[handle])

    def client() -> None:
        for _ in range(n_requests // 4):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                connection.request("GET", "/")
                found, worker = connection.getresponse().read().decode().split()
                connection.close()
                workers.add(worker)
                report.check(found == expected, "other bits")
            except Exception as error:
                report.check(False, repr(error))
            report.figures["requests"] += 1

    clients = [threading.Thread(target=client) for _ in range(4)]
    try:
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        report.check(process.poll() is None, "the server has ended")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            report.check(False, "the server does not end")
            process.kill()
            process.wait()
    report.figures["workers that answered"] = len(workers)
    report.check(len(workers) == WORKERS, "a worker has not answered")
    return report.end()


def main() -> int:
    args = command_line(__doc__, n=(1000, "children"), requests=(400, "to each server"))
    return show_all(
        partial(stress, n=args.n),
        partial(early, n=max(1, args.n // 100)),
        lambda folder: pools(folder, "fork", "forkserver", "spawn", "loky"),
        *(partial(serve, server=server, n_requests=args.requests) for server in SERVERS if not missing(server)),
    )


if __name__ == "__main__":
    sys.exit(main())
