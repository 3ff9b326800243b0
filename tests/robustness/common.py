"""Code that the programs of this folder share: states of fits, forks, limits of memory, command lines and reports.

Not here: rows, quick fits, digests and fresh processes (``helpers.py``), operations of models (``operations.py``).
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import select
import shlex
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# States of fits


def parameters_of(model: Any) -> NDArray[Any]:
    values: NDArray[Any] = model.source.vector
    return values


def fit_state(made: Any) -> dict[str, Any]:
    """Return all that a fit has made, by name, but for the times that it took."""
    told = [(record["epoch"], record["train_nll"], record["validation_nll"]) for record in made.history_]
    return {
        "parameters of the model": parameters_of(made.model_),
        "parameters of the trainer": made._fit_state.trainer.parameters.vector,
        "optimiser": made._fit_state.trainer.state,
        "history": (told, made.best_epoch_, made._fit_state.trainer.step),
        "samples": made.sample(10, random_state=0),
    }


# Processes


class Child:
    """A fork of this process that does ``work()`` and hands back its result as JSON, if it lives to the end."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._pipe, theirs = os.pipe()
        self._received = b""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.write(theirs, b"!")  # begun
                answer = json.dumps({"result": work()})
            except BaseException:
                answer = json.dumps({"error": traceback.format_exc()})
            os.write(theirs, answer.encode())
            os._exit(0)
        os.close(theirs)
        if os.read(self._pipe, 1) != b"!":
            raise RuntimeError("a child ended before it began")

    def ends_within(self, seconds: float) -> bool:
        """Wait; return whether the child has ended by itself."""
        deadline = time.monotonic() + seconds
        while select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            received = os.read(self._pipe, 1 << 16)
            self._received += received
            if not received:
                return True
        return False

    def kill(self, first: signal.Signals | None = None) -> int:
        """Kill it, after a ``first`` signal that lets it say where it is; return its exit code when it is gone."""
        if first is not None:
            os.kill(self.pid, first)
            time.sleep(0.3)
        os.kill(self.pid, signal.SIGKILL)
        return self.exit_code()

    def exit_code(self) -> int:
        """Return the exit code of a child that ends; a negative one is the signal that killed it."""
        os.close(self._pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def answer(self, seconds: float, first: signal.Signals | None = None) -> Any:
        """Return ``result()``; ``kill(first)`` and RuntimeError if it does not end within these seconds."""
        if not self.ends_within(seconds):
            self.kill(first)
            raise RuntimeError("hangs")
        return self.result()

    def result(self) -> Any:
        """Return the result of ``work`` when the child has ended; RuntimeError if it raised or died."""
        code = self.exit_code()
        answer = json.loads(self._received or json.dumps({"error": f"a child died: exit code {code}"}))
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


def shared_counts(n: int) -> Any:
    """Return n counters (int64, 0) that this process and its forks share."""
    return np.frombuffer(mmap.mmap(-1, 8 * n), np.int64)


def memory(resident: bool) -> int:
    """Return the bytes of memory that this process has: resident, or of its address space."""
    return int(Path("/proc/self/statm").read_text().split()[resident]) * os.sysconf("SC_PAGESIZE")


def compiler() -> list[str]:
    """Return the command of the C compiler."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Limit the memory of this process to this many bytes more than it has; no limit where there is no /proc."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory(resident=False) + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# Command lines and reports


def command_line(doc: str | None, **options: Any) -> argparse.Namespace:
    """Parse the command line of a program; each option is a pair: its default, and help or None."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    for name, (default, text) in options.items():
        if isinstance(default, tuple | list):  # choices of a positional argument: of a tuple one, of a list any number
            parser.add_argument(name, choices=default, help=text, nargs="*" if isinstance(default, list) else None)
        elif default is False:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        else:
            shown = argparse.SUPPRESS if text is None else f"{text} (default: {default})"
            parser.add_argument(f"--{name}", type=type(default), default=default, help=shown)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # forks are the point
    return parser.parse_args()


def show_all(*parts: Callable[[Path], Report]) -> int:
    """Make reports, each in a new folder, and show them; return the exit status."""
    bad = 0
    for part in parts:
        with new_folder() as folder:
            bad |= part(folder).show()
    return bad


class Report:
    """Figures of a run by name, and broken promises with their counts."""

    def __init__(self, title: str, **figures: Any) -> None:
        self.title, self.begin = title, time.monotonic()
        self.figures: Counter[str] = Counter(figures)
        self.wrong: Counter[str] = Counter()

    def check(self, good: bool, what: str) -> None:
        if not good:
            self.wrong[what] += 1

    def highest(self, name: str, value: float) -> None:
        self.figures[name] = max(self.figures[name], value)  # type: ignore[assignment]

    def end(self) -> Report:
        """Note how many seconds the run took."""
        self.figures["seconds"] = round(time.monotonic() - self.begin, 1)  # type: ignore[assignment]
        return self

    def show(self) -> int:
        """Print a line a figure; return the exit status: 1 if a promise was broken."""
        for name, value in self.figures.items():
            print(f"{self.title}: {name}: {value:.3f}" if isinstance(value, float) else f"{self.title}: {name}: {value}")
        print(f"{self.title}: promises broken: {self.wrong.total()}", flush=True)
        for what, times in self.wrong.most_common(5):
            print(f"{self.title}: {times} times: {what}", file=sys.stderr)
        return 1 if self.wrong else 0
