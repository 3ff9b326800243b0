"""What the server costs beside the bare kernels: ``python -m bench.http``, from the root of the repository; a minute or so.

It needs ``made_fast[serve]`` and wrk. For a model of 784 0/1 inputs and one of a table of twelve columns it prints the rows a
second and the time of ``score_samples`` in this process, on one thread; and of a server of one worker, under requests of 1,000
rows and of one row, as tensors of the Open Inference Protocol and as plain JSON: rows a second at full load, and how long
requests take at half of that load. ``--cpus A B`` binds the server, and the kernel, to CPU A and wrk to CPU B.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from bench import machine
from made_fast import MADE, load

__all__ = ["main"]

SECONDS = 4
SCRIPT = """
wrk.method = "POST"
wrk.headers["Inference-Header-Content-Length"] = {head}
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
function delay() return {delay} == 0 and 0 or math.floor(-math.log(1 - math.random()) * {delay} + 0.5) end
function done(summary, latency)
  io.write(string.format("FOUND %d %d %d %d %f %f\\n", summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def make_models(folder: Path) -> None:
    """Save a model of 784 inputs and 500 units, and one of a table of four texts and eight numbers."""
    rng = np.random.default_rng(0)
    X = (rng.random((1000, 784)) < 0.2).astype(np.uint8)
    MADE((500,), max_epochs=1, random_state=0).fit(X).save(folder / "pixels.safetensors")
    frame: dict[str, Any] = {
        f"text{j}": rng.choice(np.array([f"value {i}" for i in range(5 + j)], object), 5000) for j in range(4)
    }
    frame |= {f"number{j}": rng.normal(size=5000).round(2) for j in range(8)}
    MADE((500,), max_epochs=1, random_state=0).fit(frame).save(folder / "table.safetensors")


def rows_of(name: str, n: int) -> Any:
    """Return n rows for a model."""
    rng = np.random.default_rng(1)
    if name == "pixels":
        return (rng.random((n, 784)) < 0.2).astype(np.uint8)
    found: dict[str, Any] = {
        f"text{j}": rng.choice(np.array([f"value {i}" for i in range(5 + j)], object), n) for j in range(4)
    }
    return found | {f"number{j}": rng.normal(size=n).round(2) for j in range(8)}


def tensors(name: str, X: Any) -> tuple[bytes, int]:
    """Return a body of binary tensors, and the length of its JSON."""
    inputs, parts = [], []
    for label, values in {"rows": X}.items() if name == "pixels" else X.items():
        if values.dtype == object:
            raw = b"".join(len(text).to_bytes(4, "little") + text.encode() for text in values)
            kind = "BYTES"
        else:
            raw, kind = values.tobytes(), "UINT8" if values.dtype == np.uint8 else "FP64"
        parts.append(raw)
        size = {"binary_data_size": len(raw)}
        inputs.append({"name": label, "shape": list(values.shape), "datatype": kind, "parameters": size})
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return b"".join([head, *parts]), len(head)


def plain(name: str, X: Any) -> bytes:
    """Return a body of plain JSON."""
    rows = X.tolist() if name == "pixels" else {label: values.tolist() for label, values in X.items()}
    return json.dumps({"rows": rows}).encode()


@contextmanager
def server(folder: Path, cpu: list[str]) -> Iterator[tuple[str, int]]:
    """Run a server of one worker; yield its address, and the number of its process."""
    command = [*cpu, sys.executable, "-m", "made_fast", "serve", *map(str, sorted(folder.glob("*.safetensors")))]
    process = subprocess.Popen([*command, "--port", "0", "--threads", "1"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"http://\S+:\d+", process.stderr.readline())
        if found is None:
            raise RuntimeError("the server did not come up")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        yield found[0], int(children.read_text().split()[0]) if children.exists() else 0
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used; NaN where the system does not tell."""
    path = Path(f"/proc/{pid}/stat")
    if not path.exists():
        return float("nan")
    return sum(map(int, path.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def wrk(
    url: str, body: bytes, head: int | None, n: int, delay: float, cpu: list[str], seconds: float = SECONDS
) -> tuple[float, float, float]:
    """Return requests a second, and the median and the 99 % quantile of their seconds; n connections, ms of delay between."""
    with tempfile.TemporaryDirectory() as folder:
        script, content = Path(folder) / "post.lua", Path(folder) / "body"
        content.write_bytes(body)
        header = "nil" if head is None else f'"{head}"'
        script.write_text(SCRIPT.format(head=header, body=content, delay=delay))
        command = [*cpu, "wrk", "-t1", f"-c{n}", f"-d{seconds:g}s", "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"FOUND (\d+) (\d+) (\d+) (\d+) (\S+) (\S+)", done.stdout)
    if found is None or int(found[3]) or int(found[4]):
        raise RuntimeError(f"requests failed: {done.stdout}")
    return 1e6 * int(found[1]) / int(found[2]), float(found[5]) / 1e6, float(found[6]) / 1e6


def kernel(model: Any, X: Any, seconds: float = 2.0) -> tuple[list[float], float]:
    """Return the times of calls of ``score_samples``, and the CPU time of one."""
    model.score_samples(X, n_threads=1)
    times: list[float] = []
    begun, until = process_time(), perf_counter() + seconds
    while perf_counter() < until:
        start = perf_counter()
        model.score_samples(X, n_threads=1)
        times.append(perf_counter() - start)
    return times, (process_time() - begun) / len(times)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cpus", nargs=2, type=int, metavar=("A", "B"))
    args = options.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    ours, theirs = ([f"taskset -c {cpu}".split() for cpu in args.cpus]) if args.cpus else ([], [])
    if args.cpus:
        os.sched_setaffinity(0, {args.cpus[0]})
    print(f"{machine.cpu()}, Python {sys.version.split()[0]}, NumPy {np.__version__}; one worker, one thread\n")
    print(
        f"{'':29}{'rows/s':>10}{'of kernel':>11}{'CPU of a request':>18}{'of kernel':>11}"
        f"{'at half load: p50':>20}{'p99':>11}{'beyond':>11}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder)
        with server(folder, ours) as (url, pid):
            for model_name in ("pixels", "table"):
                model = load(folder / f"{model_name}.safetensors")
                for n in (1000, 1):
                    X = rows_of(model_name, n)
                    times, cpu = kernel(model, X)
                    bare, median, late = n * len(times) / sum(times), *np.quantile(times, [0.5, 0.99])
                    what = f"{model_name}, {n} row{'s' if n > 1 else ''}: kernel"
                    print(
                        f"{what:29}{bare:10,.0f}{'':11}{1e3 * cpu:15.3f} ms{'':11}{1e3 * median:17.2f} ms{1e3 * late:8.2f} ms"
                    )
                    binary, head = tensors(model_name, X)
                    ways = {
                        "tensors": (f"{url}/v2/models/{model_name}/infer", binary, head),
                        "JSON": (f"{url}/models/{model_name}/score", plain(model_name, X), None),
                    }
                    connections = 4 if n > 1 else 16
                    for way, (where, body, end) in ways.items():
                        before = cpu_seconds(pid)
                        most, _, _ = wrk(where, body, end, connections, 0, theirs)
                        used = (cpu_seconds(pid) - before) / (most * SECONDS)
                        _, half, slow = wrk(where, body, end, connections, 1e3 * connections / (most / 2), theirs)
                        print(
                            f"{'    ' + way:29}{n * most:10,.0f}{n * most / bare:11.0%}{1e3 * used:15.3f} ms{cpu / used:11.0%}"
                            f"{1e3 * half:17.2f} ms{1e3 * slow:8.2f} ms{1e3 * (slow - late):8.2f} ms",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
