"""Mutated model files: what the C library says of them, under sanitizers, beside what Python says.

The C side is a process (``verdicts.c``) that is compiled with AddressSanitizer and UndefinedBehaviorSanitizer. The promises:
it never crashes; where Python refuses a file, or finds that arithmetic overflows, so does C; where Python answers, C answers
bitwise the same, or says that it does not open such models. Mutants are those of ``robustness/fuzz.py``.

    python tests/embedded/verdicts.py --n 100000
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import made_fast
from made_fast import kernels

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from embedded.building import SANITIZERS, build
from robustness import fuzz
from robustness.common import Report, command_line, new_folder

DRAWS, SEED = 6, 3  # as in verdicts.c
UNSUPPORTED, OVERFLOW = 3, 6
MOST_AT_ONCE = 128  # megabytes of one allocation: files are of kilobytes, networks that are kept of up to 64 MB
TOO_DEEP = "nested too deep"  # C counts to 512, Python gives up at a depth that depends on its caller's


class Judge:
    """The process on the C side."""

    def __init__(self, program: Path) -> None:
        env = {**os.environ, "ASAN_OPTIONS": f"max_allocation_size_mb={MOST_AT_ONCE}"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([program], env=env, **pipes)

    def ask(self, raw: bytes) -> str:
        """Return what it says of a file; RuntimeError if it has crashed."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        line = b""
        with contextlib.suppress(BrokenPipeError):
            stdin.write(len(raw).to_bytes(8, "little") + raw)
            stdin.flush()
            line = stdout.readline()
        if not line.endswith(b"\n"):
            raise RuntimeError(self.end())
        return line.decode(errors="replace").rstrip("\n")

    def end(self) -> str:
        """Let it end; return what it says then: of memory that was not freed, say."""
        said = self.process.communicate()[1].decode(errors="replace")
        return said if self.process.returncode else ""


@contextmanager
def judge(folder: Path) -> Iterator[Judge]:
    """Compile the C side in a folder, and start it; Python runs the same kernels. RuntimeError if it does not end well."""
    flags = f"-O1 -g {SANITIZERS} -DPLAIN_SHA256"
    program = build(folder, CFLAGS=flags, LEVELS="baseline", programs=[Path(__file__).with_suffix(".c")])
    native = kernels.load("native")
    before = native.level()
    native.select_level("baseline")
    try:
        found = Judge(program / "verdicts")
        yield found
        if wrong := found.end():
            raise RuntimeError(wrong)
    finally:
        native.select_level(before)


def expected(raw: bytes) -> str | None:
    """Return what Python says, in the form of ``verdicts.c``; None if it refuses the file."""
    try:
        model: Any = made_fast.load(raw)
    except made_fast.ModelFileError:
        return None
    first = model.members[0] if hasattr(model, "members") else model
    if hasattr(model, "encoder") or first.architecture.variables is not None:
        return "unsupported"
    D = model.n_features_in
    few = D <= fuzz.FEW_INPUTS
    X = fuzz.ALL_ROWS[: 2**D, :D] if few else np.repeat(np.array([[0], [1]], np.uint8), D, axis=1)
    try:
        log_p = model.score_samples(X, n_threads=1)
        rows = model.sample(DRAWS, SEED, n_threads=1)
    except FloatingPointError:
        return "overflow"
    hexadecimal = "".join(f"{bits:016x}" for bits in log_p.view(np.uint64).tolist())
    return f"0 {D} {hexadecimal} {''.join(map(str, rows.ravel().tolist()))}"


def verdict(said: str, python: str | None) -> tuple[str, bool]:
    """Return the name to count, and whether both agree."""
    status = int(said.partition(" ")[0])
    if python is None:
        return "refused by both", status != 0
    if python == "unsupported":
        return "columns, refused by C alone", status == UNSUPPORTED
    if python == "overflow":
        return "overflow in both", status == OVERFLOW
    if TOO_DEEP in said:
        return "nested too deep for C", True
    return "the same bits", said == python


def run(n: int, folder: Path, *, seed: int = 0, first: int = 0) -> Report:
    """Ask both sides about n mutants; those on which they differ are kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    report, seeds, counts = Report("verdicts"), fuzz.make_seeds(), Counter[str]()
    with judge(folder) as c:
        for number in range(first, first + n):
            mutant = fuzz.make_mutant(seeds, seed, number)
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                python = expected(mutant.raw)
            said = c.ask(mutant.raw)
            name, agree = verdict(said, python)
            counts[name] += 1
            if not agree:
                (folder / f"{number}.safetensors").write_bytes(mutant.raw)
                report.check(False, f"mutant {number} of {mutant.seed.name}: Python {str(python)[:60]}; C {said[:200]}")
    report.figures += counts
    return report.end()


def main() -> int:
    args = command_line(
        __doc__,
        n=(20_000, "mutants"),
        seed=(0, "of the mutants"),
        first=(0, "the number of the first"),
        folder=("", "where to keep culprits"),
    )
    if args.folder:
        return run(args.n, Path(args.folder), seed=args.seed, first=args.first).show()
    with new_folder() as folder:
        return run(args.n, folder, seed=args.seed, first=args.first).show()


if __name__ == "__main__":
    sys.exit(main())
