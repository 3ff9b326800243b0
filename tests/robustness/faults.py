"""Calls that fail: disk full, I/O errors, no memory, no thread, and kills between any two system calls.

A shared library (``faults.c``), compiled here, replaces functions of the C library in a Python process. That process does each
operation of made_fast in forks, with the first, the second, the third ... call of a kind failing. The promise is success or
an exception of the right kind; no crash, no hang, no broken or lost file, no temporary file or descriptor left open; and the
same bits when the operation is done again.

Without memory, NumPy 2.4, OpenSSL and Python 3.11 break such promises themselves: they crash (a casting ufunc without memory
for its buffer, ``__array_interface__``), hang (``Thread.start``) or raise SystemError. These are counted apart, as foreign: by
the innermost C functions of a crash, or by the exception.

Not here: the operations (``fault_operations.py``), kills at random moments (``kill.py``), two faults at once.

    python tests/robustness/faults.py --only 'save' --most 1000
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import faulthandler
import gc
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from helpers import descriptors, digest
from robustness.common import Child, Report, command_line, compiler
from robustness.fault_operations import FILES, Operation, prepare

HANG = 10.0
"""Seconds after which an operation of some milliseconds hangs."""

CALLS = {
    "write": "w", "read": "r", "open": "o", "close": "c", "fsync": "s", "rename": "n", "unlink": "u", "fchmod": "k",
    "flock": "l", "stat": "i", "scandir": "d", "mmap": "m", "malloc": "a", "thread": "t",
}  # fmt: skip
KINDS = "".join(CALLS.values())
"""Letters of calls, in the order of faults.c."""

FAIL, PART, NOTHING, KILL, TEAR, AFTER = range(6)
FOREIGN, FOREIGN_HANG = "crash of NumPy or Python", "hang of Thread.start"
BIG = 4096
FOREVER = 2**62


@dataclass(frozen=True)
class Fault:
    """A fault. OSError must be of ``error``; memory may also be short when a file or a thread is opened."""

    kinds: str  # letters of KINDS: which calls
    how: int = FAIL  # as in faults.c, and so is error
    error: int = 0
    onwards: bool = False  # all further calls fail too
    ends: str = "OSError"  # how the operation may end besides success
    least: int = 0  # requests for less memory than this are granted


def each(calls: str, what: str, *how: int, **more: Any) -> dict[str, Fault]:
    return {f"{call}: {what}": Fault(CALLS[call], *how, **more) for call in calls.split()}


FAULTS = {
    **each("write fsync rename open", "disk full", error=errno.ENOSPC),
    **each("write", "disk full from then on", error=errno.ENOSPC, onwards=True),
    **each("write read fsync rename stat", "I/O error", error=errno.EIO),
    **each("close", "I/O error", AFTER, error=errno.EIO),
    **each("write read open", "interrupted", error=errno.EINTR, ends=""),
    **each("write read", "half of it", PART, ends=""),
    **each("write read", "half of it from then on", PART, onwards=True, ends=""),
    **each("read", "early end of the file", NOTHING, ends="ModelFileError"),
    **each("open scandir", "too many files", error=errno.EMFILE),
    **each("fchmod", "not permitted", error=errno.EPERM),
    **each("flock", "no locks", error=errno.ENOLCK, ends=""),
    "killed before a call": Fault(FILES, KILL, ends="killed"),
    "killed amid a write": Fault("w", TEAR, ends="killed"),
    **each("mmap", "no memory", error=errno.ENOMEM, ends="MemoryError"),
    **each("thread", "none to be had", error=errno.EAGAIN, ends="RuntimeError"),
    **each("thread", "none from then on", error=errno.EAGAIN, onwards=True, ends="RuntimeError"),
    **each("malloc", "no big memory", error=errno.ENOMEM, ends="MemoryError", least=BIG),
    **each("malloc", "no big memory from then on", error=errno.ENOMEM, onwards=True, ends="MemoryError", least=BIG),
    **each("malloc", "no memory", error=errno.ENOMEM, ends="MemoryError"),
}

EVERY_MALLOC = "malloc: no memory"
"""The one that needs a process in which Python takes every little object from malloc."""


@dataclass
class Cell:
    """The results of an operation under a fault.

    ``calls``: made when nothing fails; ``order``: their letters; ``ends``: how tries ended; ``broken``: promises, in words;
    ``foreign``: what NumPy or Python did wrong without memory.
    """

    operation: str
    fault: str
    calls: int = 0
    order: str = ""
    ends: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def show(self) -> None:
        """Print the line of the table, and the first things that are broken or foreign."""
        ends = ", ".join(f"{name} {n}" for name, n in sorted(self.ends.items()))
        print(
            f"{self.operation:30} {self.fault:36} calls {self.calls:6}  tries {self.ends.total():5}  "
            f"broken {len(self.broken)}  foreign {len(self.foreign)}  {ends}",
            flush=True,
        )
        for texts, mark in ((self.broken, "BROKEN"), (self.foreign, "foreign")):
            for text in texts[:3]:
                print(f"    {mark}: " + text.replace("\n", "\n        "))


# Outside: compile, start the process, read its table


def run(operations: str, faults: str, most: int) -> Iterator[Cell]:
    """Try operations and faults whose names match the regular expressions at every call that an operation makes.

    Of the calls for memory, which may be thousands, at up to ``most``, spread over all.
    """
    chosen = [name for name in FAULTS if re.search(faults, name)]
    with tempfile.TemporaryDirectory() as folder:
        library, source = f"{folder}/faults.so", str(Path(__file__).with_name("faults.c"))
        command = [*compiler(), "-O1", "-shared", "-fPIC", source, "-o", library, "-ldl"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        for names in ([name for name in chosen if (name == EVERY_MALLOC) == every] for every in (False, True)):
            if not names:
                continue
            env = os.environ | {"LD_PRELOAD": library, "OPENBLAS_NUM_THREADS": "1"}
            env["MALLOC_PERTURB_"] = "165"  # fresh memory holds rubbish, not the numbers of the last try
            if names == [EVERY_MALLOC]:
                env["PYTHONMALLOC"] = "malloc"
            options = {"inside": folder, "only": operations, "most": most}
            options["faults"] = "|".join(f"^{re.escape(name)}$" for name in names)
            command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in options.items())]
            with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    cell = json.loads(line)
                    yield Cell(**{**cell, "ends": Counter(cell["ends"])})
            if process.returncode:
                raise RuntimeError(f"the process with the faults ended with {process.returncode}")


# Inside: tries


class Library:
    def __init__(self) -> None:
        names = ctypes.CDLL(None)
        self._arm, self._disarm, self._struck, self._order = (
            getattr(names, f"faults_{name}") for name in ("arm", "disarm", "struck", "order")
        )
        self._arm.argtypes = [ctypes.c_uint, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_size_t]
        self._arm.restype = None
        self._disarm.restype = self._struck.restype = ctypes.c_long
        self._order.restype = ctypes.c_char_p

    def do(self, work: Callable[[], Any], fault: Fault, n: int) -> tuple[Any, BaseException | None]:
        """Do ``work`` while the n-th call of the fault's kind fails; return its result and its error."""
        result, error = None, None
        last = FOREVER if fault.onwards else n
        try:
            self._arm(sum(1 << KINDS.index(kind) for kind in fault.kinds), n, last, fault.how, fault.error, fault.least)
            result = work()
        except BaseException as raised:
            error = raised
        while True:
            try:
                self._disarm()
                return result, error
            except MemoryError:  # the fault was still to come
                pass

    def counted(self) -> tuple[int, int, str]:
        """Return calls counted, calls that failed, the calls in order."""
        return self._disarm(), self._struck(), self._order().decode()


def may_end_so(fault: Fault, error: BaseException) -> bool:
    from made_fast import ModelFileError

    if fault.ends == "OSError":
        return isinstance(error, OSError) and error.errno == fault.error
    if fault.ends == "MemoryError":
        no_thread = isinstance(error, RuntimeError) and str(error).startswith(("can't start", "can't allocate"))
        return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM) or no_thread
    if fault.ends == "RuntimeError":
        return isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    return fault.ends == "ModelFileError" and isinstance(error, ModelFileError)


def is_foreign(error: BaseException) -> bool:
    """Say whether an exception is one that NumPy, OpenSSL or Python raise where they mean to say that memory is short."""
    words = {
        SystemError: "",
        ValueError: "[digital envelope routines]",
        TypeError: "expected str, bytes or os.PathLike object",
    }
    return any(isinstance(error, kind) and text in str(error) for kind, text in words.items())


def attempt(library: Library, operation: Operation, expected: str, fault: Fault, n: int) -> dict[str, Any]:
    """Do an operation under a fault in this process; return how it ended and which promises were broken."""
    operation.reset()
    before = descriptors()
    result, error = library.do(operation.run, fault, n)
    counted, struck, order = library.counted()
    end, broken, foreign = "success", [], []
    if error is None:
        if digest(result) != expected:
            broken.append("other bits")
    else:
        end = type(error).__name__ + " after the file was replaced" * operation.has_changed()
        if not may_end_so(fault, error):
            its_own = fault.ends == "MemoryError" and is_foreign(error)
            (foreign if its_own else broken).append("".join(traceback.format_exception(error)[3:]))
    place = traceback.extract_tb(error.__traceback__)[-1] if error is not None else ""
    result = error = None
    gc.collect()
    if left := descriptors() - before:
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in left]
        # Python 3.11 loses count of a reference when it has no memory for a frame; if that was to a map, the map stays.
        its_own = fault.ends == "MemoryError" and all(name in Path("/proc/self/maps").read_text() for name in names)
        (foreign if its_own else broken).append(f"descriptors stay open after {place}: {names}")
    broken += operation.broken(end == "success")
    if digest(operation.run()) != expected:
        broken.append("other bits after the fault")
    broken += operation.broken(True)
    return {"end": end, "broken": broken, "foreign": foreign, "calls": counted, "struck": struck, "order": order}


def watch(notes: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do ``work`` in a fork and return its answer, or how the fork died."""

    def inside() -> dict[str, Any]:
        os.dup2(os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        ctypes.CDLL(None).faults_tell()
        faulthandler.enable(file=2)
        return work()

    child, hangs = Child(inside), False
    if not child.ends_within(HANG):
        child.kill(signal.SIGABRT)  # faulthandler says where it hangs
        hangs = True
    else:
        try:
            answer: dict[str, Any] = child.result()
            return answer
        except RuntimeError as error:
            if f"exit code {-signal.SIGKILL}" in str(error):
                return {"end": "killed", "told": "killed", "struck": 1}
            if "exit code" not in str(error):
                return {"end": "crash", "told": str(error), "struck": 1}
    text, foreign = told(notes)
    end = (FOREIGN_HANG if foreign else "hang") if hangs else (FOREIGN if foreign else "crash")
    return {"end": end, "told": text, "struck": 1}


def told(notes: Path) -> tuple[str, bool]:
    """Return the last words of a fork that died, in short, and whether NumPy or Python is to blame.

    First stands what it said before, then the innermost lines of Python of each thread, then the C functions below the signal
    down to the interpreter. If a new thread finds no memory to say that it has begun, ``Thread.start`` waits for that for
    ever: Python's doing.
    """
    text = notes.read_text(errors="replace")
    lines = [line for line in text.splitlines() if not line.startswith("Extension modules")]
    said = lines[: next((i + 1 for i, line in enumerate(lines) if line.startswith("Fatal Python error")), 20)][-20:]
    python = [line for i, line in enumerate(lines) if "most recent call first" in "".join(lines[max(0, i - 4) : i])]
    frames = [re.sub(r"\[0x.*", "", line.split("/")[-1]) for line in lines if re.search(r"\[0x[0-9a-f]+\]$", line)]
    below = [i for i, frame in enumerate(frames) if frame.startswith("libc.so")]  # raise, between two signals
    frames = frames[below[2] + 1 :] if len(below) > 2 else frames
    depth = next((i for i, frame in enumerate(frames) if "_PyEval" in frame), len(frames))
    foreign = bool(frames[:depth]) and not any("_native" in frame for frame in frames[:depth])
    if "Fatal Python error: Aborted" in text:
        foreign = re.search(r'threading.py", line [0-9]+ in start$', "\n".join(python), re.MULTILINE) is not None
    return "\n".join([*said, *python, *frames[:depth]]), foreign


def fill(cell: Cell, try_once: Callable[[int], dict[str, Any]], operation: Operation, most: int) -> None:
    """Try the operation with the n-th call failing, for every n up to the number of calls, or for some of them."""
    fault = FAULTS[cell.fault]
    numbers: Sequence[int] = range(1, cell.calls + 1)
    if fault.kinds == "a" and len(numbers) > most:  # one from each of as many equal parts
        rng = random.Random(f"0 {cell.operation} {cell.fault}")
        numbers = [int((i + rng.random()) * cell.calls / most) + 1 for i in range(most)]
    for n in numbers:
        got = try_once(n)
        if not got["struck"]:  # with several threads the number of calls varies a little
            continue
        end, broken = got["end"], got.get("broken", [])
        if fault.ends != "MemoryError":  # others have no excuse
            end = {FOREIGN: "crash", FOREIGN_HANG: "hang"}.get(end, end)
        if "told" in got:  # it died
            if end not in (FOREIGN, FOREIGN_HANG, fault.ends):
                broken.append(f"{end}: {got['told']}")
            broken += operation.broken(False, killed=True)
            operation.run()
            broken += operation.broken(True)
        foreign = [got["told"]] if end in (FOREIGN, FOREIGN_HANG) else got.get("foreign", [])
        cell.ends[end] += 1
        cell.broken += [f"call {n}: {text}" for text in broken]
        cell.foreign += [f"call {n}: {text}" for text in foreign]


def inside(args: argparse.Namespace) -> int:
    """Fill the table in a process that has the library; a line of JSON for each of its cells goes to stdout."""
    library, notes = Library(), Path(args.inside) / "notes"
    with tempfile.TemporaryDirectory(dir=args.inside) as folder:
        for name, operation in prepare(Path(folder)).items():
            if not re.search(args.only, name):
                continue
            operation.reset()
            expected = digest(operation.run())  # imports all modules of first use
            gc.collect()
            gc.freeze()  # forks look for garbage among their own objects alone: else they would copy every page
            known: dict[tuple[str, int], tuple[int, str]] = {}
            for fault_name, fault in FAULTS.items():
                if not re.search(args.faults, fault_name) or not set(fault.kinds) & set(operation.kinds):
                    continue

                def try_once(n: int, operation: Operation = operation, fault: Fault = fault, bits: str = expected) -> Any:
                    return watch(notes, lambda: attempt(library, operation, bits, fault, n))

                if (fault.kinds, fault.least) not in known:
                    nothing = try_once(FOREVER)
                    if nothing["end"] != "success" or nothing["broken"]:
                        raise RuntimeError(f"{name} without a fault: {nothing}")
                    known[fault.kinds, fault.least] = nothing["calls"], nothing["order"]
                cell = Cell(name, fault_name, *known[fault.kinds, fault.least])
                fill(cell, try_once, operation, args.most)
                print(json.dumps(vars(cell)), flush=True)
    return 0


def main() -> int:
    args = command_line(
        __doc__,
        only=("", "regular expression: operations"),
        faults=("", "regular expression: faults"),
        most=(150, "most calls for memory that fail in an operation"),
        inside=("", None),
    )
    if args.inside:
        return inside(args)
    report = Report("faults")
    for cell in run(args.only, args.faults, args.most):
        if cell.calls:
            cell.show()
            report.figures += cell.ends
            report.figures["without memory, faults of NumPy, OpenSSL and Python"] += len(cell.foreign)
            report.wrong += Counter(f"{cell.operation}, {cell.fault}: {text}" for text in cell.broken)
    return report.end().show()


if __name__ == "__main__":
    sys.exit(main())
