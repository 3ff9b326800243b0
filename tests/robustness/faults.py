"""Calls that fail: disk full, I/O errors, no memory, no thread, and kills between any two system calls.

The C library's functions are taken over by a small shared library (``faults.c``), which is compiled here and preloaded into a
Python process of its own. That process prepares some operations of made_fast, and does each of them in forks of itself, with
the first, the second, the third ... call of a kind failing. What is promised: a clean exception of the right kind, or success;
never a crash, a hang, a broken or lost file, a temporary file or a descriptor that stays behind; and after the fault the
operation gives the bits that it always gives.

Where memory is refused, NumPy 2.4, OpenSSL and Python 3.11 do not always keep such promises themselves: they crash (a casting
ufunc without memory for its buffer, ``__array_interface__``), hang (``Thread.start``) or raise SystemError. That is counted
apart, as foreign: by the innermost C functions of a crash, or by the exception.

Not here: kills at random moments (``kill.py``), faults that come in pairs, files that are damaged.

    python tests/robustness/faults.py
    python tests/robustness/faults.py --only 'save' --most 1000
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import faulthandler
import functools
import gc
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HANG = 10.0
"""Seconds after which an operation of some milliseconds hangs."""

KINDS = "wrocsnuklidmat"
"""write read open close (f)sync rename unlink fchmod flock stat scandir mmap malloc pthread_create; as in faults.c."""

FILES = "wocsnukli"
"""What a save may call."""

FAIL, PART, NOTHING, KILL, TEAR, AFTER = range(6)
FOREIGN, FOREIGN_HANG = "crash of NumPy or Python", "hang of Thread.start"
BIG = 4096
FOREVER = 2**62


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes
    ----------
    kinds : str
        Letters of KINDS: which calls.
    how, error
        As in faults.c.
    onwards : bool
        All further calls fail too.
    ends : {"", "OSError", "MemoryError", "RuntimeError", "ModelFileError", "killed"}
        What may come of it besides success. OSError must be of that error number. Memory may also be short when a file or a
        thread is opened, and those say it in their way.
    least : int
        Requests for less memory than this are granted.
    """

    kinds: str
    how: int = FAIL
    error: int = 0
    onwards: bool = False
    ends: str = "OSError"
    least: int = 0

    @property
    def bits(self) -> int:
        """Return the set of kinds as C knows it."""
        return sum(1 << KINDS.index(kind) for kind in self.kinds)


FAULTS = {
    "write: disk full": Fault("w", error=errno.ENOSPC),
    "write: disk full from then on": Fault("w", error=errno.ENOSPC, onwards=True),
    "write: I/O error": Fault("w", error=errno.EIO),
    "write: interrupted": Fault("w", error=errno.EINTR, ends=""),
    "write: half of it": Fault("w", PART, ends=""),
    "write: half of it from then on": Fault("w", PART, onwards=True, ends=""),
    "fsync: I/O error": Fault("s", error=errno.EIO),
    "fsync: disk full": Fault("s", error=errno.ENOSPC),
    "rename: I/O error": Fault("n", error=errno.EIO),
    "rename: disk full": Fault("n", error=errno.ENOSPC),
    "open: too many files": Fault("o", error=errno.EMFILE),
    "open: disk full": Fault("o", error=errno.ENOSPC),
    "open: interrupted": Fault("o", error=errno.EINTR, ends=""),
    "close: I/O error": Fault("c", AFTER, error=errno.EIO),
    "fchmod: not permitted": Fault("k", error=errno.EPERM),
    "flock: no locks": Fault("l", error=errno.ENOLCK, ends=""),
    "stat: I/O error": Fault("i", error=errno.EIO),
    "scandir: too many files": Fault("d", error=errno.EMFILE),
    "killed before a call": Fault(FILES, KILL, ends="killed"),
    "killed amid a write": Fault("w", TEAR, ends="killed"),
    "read: I/O error": Fault("r", error=errno.EIO),
    "read: interrupted": Fault("r", error=errno.EINTR, ends=""),
    "read: half of it": Fault("r", PART, ends=""),
    "read: half of it from then on": Fault("r", PART, onwards=True, ends=""),
    "read: early end of the file": Fault("r", NOTHING, ends="ModelFileError"),
    "mmap: no memory": Fault("m", error=errno.ENOMEM, ends="MemoryError"),
    "thread: none to be had": Fault("t", error=errno.EAGAIN, ends="RuntimeError"),
    "thread: none from then on": Fault("t", error=errno.EAGAIN, onwards=True, ends="RuntimeError"),
    "malloc: no big memory": Fault("a", error=errno.ENOMEM, ends="MemoryError", least=BIG),
    "malloc: no big memory from then on": Fault("a", error=errno.ENOMEM, onwards=True, ends="MemoryError", least=BIG),
    "malloc: no memory": Fault("a", error=errno.ENOMEM, ends="MemoryError"),
}

EVERY_MALLOC = "malloc: no memory"
"""The one that needs a process in which Python takes every little object from malloc."""


@dataclass
class Cell:
    """What came of an operation under a fault.

    ``calls``: made when nothing fails; ``ends``: how tries ended; ``broken``: promises, in words; ``foreign``: what NumPy or
    Python did that they should not do without memory, crashes among it; ``order``: letters of the calls.
    """

    operation: str
    fault: str
    calls: int = 0
    tries: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    hangs: int = 0
    foreign_crashes: int = 0
    foreign_hangs: int = 0
    broken: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    order: str = ""

    def line(self) -> str:
        """Return the line of the table."""
        ends = ", ".join(f"{name} {n}" for name, n in sorted(self.ends.items()))
        return (
            f"{self.operation:30} {self.fault:36} calls {self.calls:6}  tries {self.tries:5}  crashes {self.crashes}  "
            f"hangs {self.hangs}  broken {len(self.broken)}  foreign {len(self.foreign)}  {ends}"
        )


# ---------------------------------------------------------------------------------------------------------------------------
# Outside: compile, start the process, read its table
# ---------------------------------------------------------------------------------------------------------------------------


def compiler() -> str | None:
    """Return a C compiler, if there is one."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def build(folder: Path) -> Path:
    """Compile the shared library into ``folder``."""
    made = folder / "faults.so"
    command = [
        compiler() or "cc",
        "-O1",
        "-shared",
        "-fPIC",
        str(Path(__file__).with_name("faults.c")),
        "-o",
        str(made),
        "-ldl",
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return made


def run(operations: str, faults: str, most: int, *, seed: int = 0, calls: str = "") -> Iterator[Cell]:
    """Try operations and faults whose names match the regular expressions at every call that an operation makes.

    Of the calls for memory, which may be thousands, at up to ``most``, spread over all; or at these ``calls``: "FIRST-LAST",
    or one number.
    """
    chosen = [name for name in FAULTS if re.search(faults, name)]
    groups = [[name for name in chosen if name != EVERY_MALLOC], [name for name in chosen if name == EVERY_MALLOC]]
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        for names in filter(None, groups):
            env = {**os.environ, "LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1"}
            env["MALLOC_PERTURB_"] = "165"  # fresh memory holds rubbish, not what the last try has left there
            if names == [EVERY_MALLOC]:
                env["PYTHONMALLOC"] = "malloc"
            options = {"inside": folder, "only": operations, "most": most, "seed": seed, "calls": calls}
            options["faults"] = "|".join(f"^{re.escape(name)}$" for name in names)
            command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in options.items())]
            with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    cell = json.loads(line)
                    yield Cell(**{**cell, "ends": Counter(cell["ends"])})
            if process.returncode:
                raise RuntimeError(f"the process with the faults ended with {process.returncode}")


# ---------------------------------------------------------------------------------------------------------------------------
# Inside: operations
# ---------------------------------------------------------------------------------------------------------------------------


@dataclass
class Operation:
    """Something that made_fast does.

    Attributes
    ----------
    run : () -> tuple
        Do it; return what came out, arrays and things with a repr.
    kinds : str
        Kinds of calls that may fail here.
    reset : () -> None
        Put files as they shall be before.
    check : (done, killed) -> list of str
        Look at the files after it; return the promises that were broken. ``killed``: a temporary file may be there.
    has_changed : () -> bool
        Whether the new file is in its place.
    """

    run: Callable[[], tuple[Any, ...]]
    kinds: str = "at"
    reset: Callable[[], None] = lambda: None
    check: Callable[[bool, bool], list[str]] = lambda done, killed: []
    has_changed: Callable[[], bool] = lambda: False


def digest(*things: Any) -> str:
    """Return a digest of arrays and of whatever has a repr."""
    sha = hashlib.sha256()
    for thing in things:
        sha.update(thing.tobytes() if isinstance(thing, np.ndarray) else repr(thing).encode())
    return sha.hexdigest()


def binary(n: int, n_inputs: int, seed: int = 0) -> Any:
    """Return random rows."""
    return (np.random.default_rng(seed).random((n, n_inputs)) < 0.3).astype(np.uint8)


def prepare(folder: Path) -> dict[str, Operation]:
    """Return the operations, by name; files go to ``folder``."""
    from made_fast import MADE, load

    X, wide = binary(120, 24), binary(400, 60)
    small = {"hidden_sizes": (20,), "batch_size": 40, "max_epochs": 2, "n_threads": 1, "n_eval_masks": 3}
    one = MADE(**small, random_state=0).fit(X).model_
    fresh = MADE(**small, n_masks=None, random_state=1).fit(X).model_
    (folder / "sources").mkdir()
    one.save(folder / "sources" / "one")
    fresh.save(folder / "sources" / "fresh")
    raw = {name: (folder / "sources" / name).read_bytes() for name in ("one", "fresh")}
    found: dict[str, Operation] = {}

    def save(name: str, old: bytes | None, new: str) -> Operation:
        path = folder / name / "model"
        path.parent.mkdir()

        def check(done: bool, killed: bool) -> list[str]:
            now = path.read_bytes() if path.exists() else None
            others = [other for other in os.listdir(path.parent) if other != "model"]
            broken = []
            if now not in ((raw[new],) if done else (old, raw[new])):
                broken.append("the file is gone" if now is None else "the file is not as promised")
            elif now is not None and digest(load(path).score_samples(X, n_threads=1)) != scores[now == raw["fresh"]]:
                broken.append("the file holds another model")
            if others and not killed:
                broken.append(f"left over: {others}")
            return broken

        def reset() -> None:
            for other in path.parent.iterdir():
                other.unlink()
            if old is not None:
                path.write_bytes(old)

        def do() -> tuple[Any, ...]:
            model.save(path)
            return ()

        model = {"one": one, "fresh": fresh}[new]

        def has_changed() -> bool:
            return path.exists() and path.read_bytes() == raw[new]

        return Operation(do, FILES + "da", reset, check, has_changed)

    scores = [digest(model.score_samples(X, n_threads=1)) for model in (one, fresh)]
    found["save over another model"] = save("over", raw["one"], "fresh")
    found["save to a new file"] = save("new", None, "one")

    checkpoint = folder / "fit" / "checkpoint"
    checkpoint.parent.mkdir()

    def stands(made: Any) -> tuple[Any, ...]:
        told = [(r["epoch"], r["train_nll"], r["validation_nll"]) for r in made.history_]
        trainer = made._fit_state.trainer
        return trainer.parameters.vector, trainer.state, trainer.step, told, made.sample(10, random_state=0)

    def fit_with_checkpoints() -> tuple[Any, ...]:
        return stands(MADE(**small, n_masks=2, random_state=5).fit(X, X_val=X[:50], checkpoint=checkpoint))

    MADE(**small, random_state=6).fit(X, checkpoint=checkpoint)
    old_checkpoint = checkpoint.read_bytes()
    first = digest(*stands(MADE(**small | {"max_epochs": 1}, n_masks=2, random_state=5).fit(X, X_val=X[:50])))

    def check_checkpoint(done: bool, killed: bool) -> list[str]:
        broken = []
        others = [other for other in os.listdir(checkpoint.parent) if other != "checkpoint"]
        if others and not killed:
            broken.append(f"left over: {others}")
        if checkpoint.read_bytes() == old_checkpoint:
            return [*broken, *["no checkpoint was written"] * done]
        made = MADE.resume(checkpoint)
        if digest(*stands(made)) not in ((last,) if done else (first, last)):
            broken.append("the checkpoint is of another state")
        if digest(*stands(made.set_params(n_threads=1).fit(X, X_val=X[:50]))) != last:
            broken.append("a fit resumed ends with other bits")
        return broken

    def reset_checkpoint() -> None:
        for other in checkpoint.parent.iterdir():
            other.unlink()
        checkpoint.write_bytes(old_checkpoint)

    last = digest(*fit_with_checkpoints())
    found["fit with checkpoints"] = Operation(fit_with_checkpoints, FILES + "da", reset_checkpoint, check_checkpoint)
    (folder / "sources" / "checkpoint").write_bytes(checkpoint.read_bytes())

    def reading(do: Callable[[], tuple[Any, ...]]) -> Operation:
        return Operation(do, "rocima")

    def loaded(mmap: bool) -> tuple[Any, ...]:
        return (load(folder / "sources" / "fresh", mmap=mmap).score_samples(X, n_threads=1),)

    found["load"] = reading(lambda: loaded(False))
    found["load as a map"] = reading(lambda: loaded(True))
    found["resume"] = reading(lambda: stands(MADE.resume(folder / "sources" / "checkpoint")))

    big = MADE(hidden_sizes=(200,), max_epochs=1, n_threads=1, random_state=0, batch_size=100).fit(wide).model_
    many = binary(4000, 60, seed=1)
    gaps = X.astype(np.float32)
    gaps[np.random.default_rng(2).random(gaps.shape) < 0.2] = np.nan
    for n in (1, 2):
        by = f", {n} thread{'s' * (n > 1)}"

        def fit(n: int = n, **params: Any) -> tuple[Any, ...]:
            made = MADE(
                hidden_sizes=(250,), batch_size=100, max_epochs=1, n_threads=n, random_state=4, n_eval_masks=2, **params
            )
            return stands(made.fit(wide))

        found["score" + by] = Operation(lambda n=n: (big.score_samples(many, n_threads=n),))
        found["score a mixture" + by] = Operation(lambda n=n: (fresh.score_samples(X, n_threads=n),))
        found["conditionals" + by] = Operation(lambda n=n: (big.conditional_proba(many, n_threads=n),))
        found["sample" + by] = Operation(lambda n=n: (fresh.sample(200, random_state=0, n_threads=n),))
        found["impute" + by] = Operation(lambda n=n: (fresh.impute(gaps[:30], n_threads=n),))
        found["log_marginal" + by] = Operation(lambda n=n: (fresh.log_marginal(gaps[:30], n_threads=n),))
        found["fit" + by] = Operation(fit)
        found["fit under fresh masks" + by] = Operation(functools.partial(fit, n_masks=None, dropout=0.2))
    return found


# ---------------------------------------------------------------------------------------------------------------------------
# Inside: tries
# ---------------------------------------------------------------------------------------------------------------------------


class Library:
    """The preloaded functions."""

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
        """Do ``work`` while the n-th call of the fault's kind fails; return what it returned or raised."""
        result, error = None, None
        last = FOREVER if fault.onwards else n
        try:
            self._arm(fault.bits, n, last, fault.how, fault.error, fault.least)
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
    """Say whether an exception is the right one."""
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


def descriptors() -> set[str]:
    """Return what is open, but for the one that it takes to look."""
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


def attempt(library: Library, operation: Operation, expected: str, fault: Fault, n: int) -> dict[str, Any]:
    """Do an operation under a fault in this process; return how it ended and which promises were broken."""
    operation.reset()
    before = descriptors()
    result, error = library.do(operation.run, fault, n)
    counted, struck, order = library.counted()
    end, broken, foreign = "success", [], []
    if error is None:
        if digest(*result) != expected:
            broken.append("other bits")
    else:
        end = type(error).__name__
        if operation.has_changed():
            end += " after the file was replaced"
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
    broken += operation.check(end == "success", False)
    if digest(*operation.run()) != expected:
        broken.append("other bits after the fault")
    broken += operation.check(True, False)
    return {"end": end, "broken": broken, "foreign": foreign, "calls": counted, "struck": struck, "order": order}


def watch(work: Callable[[], dict[str, Any]], notes: Path) -> dict[str, Any]:
    """Do ``work`` in a fork and return what it says, or how the fork died."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 2)
            ctypes.CDLL(None).faults_tell()
            faulthandler.enable(file=2)
            os.write(theirs, json.dumps(work()).encode())
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)
    os.close(theirs)
    answer, deadline = b"", time.monotonic() + HANG
    while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(ours, 1 << 16)
        answer += part
        if not part:
            break
    else:
        os.kill(pid, signal.SIGABRT)  # faulthandler says where it hangs
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ours)
        text, foreign = told(notes)
        return {"end": FOREIGN_HANG if foreign else "hang", "told": text, "struck": 1}
    os.close(ours)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        answered: dict[str, Any] = json.loads(answer)
        return answered
    if code == -signal.SIGKILL:
        return {"end": "killed", "told": "killed", "struck": 1}
    text, foreign = told(notes)
    return {"end": FOREIGN if foreign else "crash", "told": text, "struck": 1}


def try_call(library: Library, operation: Operation, expected: str, fault: Fault, notes: Path, n: int) -> dict[str, Any]:
    """Do ``attempt`` in a fork."""
    return watch(lambda: attempt(library, operation, expected, fault, n), notes)


def told(notes: Path) -> tuple[str, bool]:
    """Return what a fork that died has told, in short, and whether NumPy or Python did it, not code of made_fast.

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


def fill(cell: Cell, try_once: Callable[[int], dict[str, Any]], operation: Operation, args: argparse.Namespace) -> None:
    """Try the operation with the n-th call failing, for every n up to the number of calls, or for some of them."""
    fault, most = FAULTS[cell.fault], args.most
    numbers: Sequence[int] = range(1, cell.calls + 1)
    if fault.kinds == "a" and len(numbers) > most:  # one from each of as many equal parts
        rng = random.Random(f"{args.seed} {cell.operation} {cell.fault}")
        numbers = [int((i + rng.random()) * cell.calls / most) + 1 for i in range(most)]
    if args.calls:
        first, _, last = args.calls.partition("-")
        numbers = range(int(first), int(last or first) + 1)
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
            broken += operation.check(False, True)
            operation.run()
            broken += operation.check(True, False)
        foreign = [got["told"]] if end in (FOREIGN, FOREIGN_HANG) else got.get("foreign", [])
        cell.tries += 1
        cell.ends[end] += 1
        cell.crashes += end == "crash" or end == "killed" != fault.ends
        cell.hangs += end == "hang"
        cell.foreign_crashes += end == FOREIGN
        cell.foreign_hangs += end == FOREIGN_HANG
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
            expected = digest(*operation.run())  # whatever is imported on first use is imported now
            gc.collect()
            gc.freeze()  # forks look for garbage among their own objects alone: else they would copy every page
            known: dict[tuple[str, int], tuple[int, str]] = {}
            for fault_name, fault in FAULTS.items():
                if not re.search(args.faults, fault_name) or not set(fault.kinds) & set(operation.kinds):
                    continue
                try_once = functools.partial(try_call, library, operation, expected, fault, notes)
                if (fault.kinds, fault.least) not in known:
                    nothing = try_once(FOREVER)
                    if nothing["end"] != "success" or nothing["broken"]:
                        raise RuntimeError(f"{name} without a fault: {nothing}")
                    known[fault.kinds, fault.least] = nothing["calls"], nothing["order"]
                calls, order = known[fault.kinds, fault.least]
                cell = Cell(name, fault_name, calls, order=order)
                fill(cell, try_once, operation, args)
                print(json.dumps(vars(cell)), flush=True)
    return 0


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="regular expression: operations")
    parser.add_argument("--faults", default="", help="regular expression: faults")
    parser.add_argument("--most", type=int, default=150, help="most calls for memory that fail in an operation")
    parser.add_argument("--seed", type=int, default=0, help="which calls are chosen if there are more")
    parser.add_argument("--calls", default="", help="try these calls: FIRST-LAST, or one number")
    parser.add_argument("--verbose", action="store_true", help="show all that was broken, not three of an operation and fault")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # forks are the point
    if args.inside:
        return inside(args)
    begin, cells = time.monotonic(), []
    for cell in run(args.only, args.faults, args.most, seed=args.seed, calls=args.calls):
        if cell.calls:
            cells.append(cell)
            print(cell.line(), flush=True)
            for texts, mark in ((cell.broken, "BROKEN"), (cell.foreign, "foreign")):
                for text in texts if args.verbose else texts[:3]:
                    print(f"    {mark}: " + text.replace("\n", "\n        "))
    names = ("tries", "crashes", "hangs", "foreign_crashes", "foreign_hangs")
    tries, crashes, hangs, foreign_crashes, foreign_hangs = (sum(getattr(cell, name) for cell in cells) for name in names)
    broken, foreign = sum(len(cell.broken) for cell in cells), sum(len(cell.foreign) for cell in cells)
    seconds = time.monotonic() - begin
    print(f"faults: {tries} tries in {seconds:.0f} s: crashes {crashes}, hangs {hangs}, promises broken {broken}")
    others = foreign - foreign_crashes - foreign_hangs
    print(
        f"faults: without memory, NumPy, OpenSSL and Python: crashes {foreign_crashes}, hangs {foreign_hangs}, others {others}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
