"""What it takes to embed a model in a server: ``python -m bench.serving``, from the root of the repository; a minute or so.

Prints the time that ``import made_fast`` takes beyond ``import numpy``, the same with a model loaded and a row scored; the
sizes of the files that loading and scoring use; and the memory of eight processes that score with one model of 200 MB, each
with a copy of its own, and mapped. Memory is Linux's: shared pages count in every process in RSS, once in PSS, not in USS.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from bench import machine
from bench.whole import IMPORT, PYTHON, SERVE, fresh
from made_fast import MADE

__all__ = ["main", "memory_of_processes", "serving_core"]

PROCESSES = 8
HIDDEN = 64_000
"""Units that make a model of 784 inputs one of 200 MB."""

CORE = """
import sys, numpy, made_fast
made_fast.load(sys.argv[1]).score_samples(numpy.zeros((1, 16), numpy.uint8))
for name, module in sorted(sys.modules.items()):
    if name.partition(".")[0] == "made_fast":
        print(module.__file__)
"""

SERVER = """
import sys, numpy, made_fast
model = made_fast.load(sys.argv[1], mmap=sys.argv[2] == "mapped")
print("loaded", flush=True)
sys.stdin.readline()
model.score_samples(numpy.ones((100, 784), numpy.uint8), n_threads=1)
print("scored", flush=True)
sys.stdin.readline()
"""


def make_model(path: Path, n_inputs: int, hidden_sizes: tuple[int, ...]) -> None:
    """Save a model that has seen a few rows."""
    X = (np.random.default_rng(0).random((100, n_inputs)) < 0.2).astype(np.uint8)
    MADE(hidden_sizes, optimizer="sgd", direct_connections="none", max_epochs=1, random_state=0).fit(X).save(path)


def serving_core(model: Path) -> tuple[int, int]:
    """Return the bytes of the Python files and of the extension that loading and scoring import."""
    done = subprocess.run([*PYTHON, CORE, str(model)], capture_output=True, text=True, check=True)
    files = [Path(line) for line in done.stdout.split()]
    extension = sum(path.stat().st_size for path in files if path.suffix == ".so")
    return sum(path.stat().st_size for path in files) - extension, extension


def memory_of_processes(model: Path, how: str, n: int = PROCESSES) -> dict[str, tuple[float, float, float]]:
    """Return RSS, PSS and USS, in MB and added up, of n processes that have loaded a model, and that have scored with it."""
    command = [*PYTHON, SERVER, str(model), how]
    servers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    found = {}
    try:
        for state in ("loaded", "scored"):
            for server in servers:
                assert server.stdout is not None
                if server.stdout.readline().strip() != state:
                    raise RuntimeError(f"a process ended before it had {state}")
            found[state] = tuple(
                sum(column) / 1e6 for column in zip(*(_memory(server.pid) for server in servers), strict=True)
            )
            for server in servers:
                assert server.stdin is not None
                server.stdin.write("\n")
                server.stdin.flush()
    finally:
        for server in servers:
            server.communicate()
    return found  # type: ignore[return-value]


def _memory(pid: int) -> tuple[int, int, int]:
    """Return the bytes of RSS, PSS and USS of a process."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    sizes = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}
    return sizes["Rss"], sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"]


def main() -> None:
    """Measure and print."""
    print(f"{machine.cpu()}, Python {sys.version.split()[0]}, NumPy {np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.safetensors", Path(folder) / "large.safetensors"
        make_model(small, 16, (32,))
        times = [(fresh(IMPORT)[0], fresh(SERVE, str(small))[0]) for _ in range(15)]
        for what, seconds in zip(("import made_fast", "import, load, score a row"), zip(*times, strict=True), strict=True):
            print(f"{what}, beyond import numpy: {1e3 * median(seconds):.0f} ms (median of {len(seconds)} processes)")
        python, extension = serving_core(small)
        print(
            f"files of the serving core: {python / 1e3:.0f} kB of Python, {extension / 1e3:.0f} kB extension (four CPU levels)"
        )
        if not Path("/proc/self/smaps_rollup").exists():
            print("memory of processes: on Linux only")
            return
        make_model(large, 784, (HIDDEN,))
        print(f"{PROCESSES} processes with one model of {large.stat().st_size / 1e6:.0f} MB, MB in all:")
        for how in ("copied", "mapped"):
            for state, (rss, pss, uss) in memory_of_processes(large, how).items():
                print(f"  {how}, {state}: RSS {rss:.0f}, PSS {pss:.0f}, USS {uss:.0f}")


if __name__ == "__main__":
    main()
