"""The tests of the kernels on extensions compiled with sanitizers: overruns, undefined behaviour, races.

``memory``: AddressSanitizer and UndefinedBehaviorSanitizer; arrays end where their memory ends (``exact_arrays.py``), so that
a read of one number too many is found. ``threads``: ThreadSanitizer on the tests with several threads; it knows the memory
model, so that it finds a missing order that this CPU would hide. Python and NumPy are not watched.

Both run at every CPU level of this machine; ``memory --quick`` leaves v2 out. Every build must find faults that are made on
purpose before its tests count. All happens on a copy in a temporary folder. Not here: overruns outside the kernels, reads of
uninitialised memory.

    python tests/robustness/sanitize.py memory --quick --jobs 2

Exit status: 0 if nothing was found, 1 if something was, 77 if GCC's sanitizers are missing and nothing was found.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from robustness.common import command_line, compiler, new_folder

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "kernels", "made_fast")
NO_SANITIZERS = 77

KERNELS = ("tests/kernels",)
MODELS = ("tests/inference", "tests/training")

FAULTS = """
import sys, threading
import numpy as np
from made_fast.kernels.native import _native

print(_native.__file__, *_native.levels())
sys.stdout.flush()

def pack(n_rows, room):  # two threads may share an output; without room there is an overrun
    x, place = np.ones((n_rows, 64), np.uint8), np.zeros(64, np.int32)
    return x, np.arange(64), place, np.zeros((room, 1), np.uint64), np.zeros(1, np.uint8)

def overrun():
    _native.pack_bits(*pack(2, 1))

def overflow():  # a block of so many rows; none are read
    net = np.zeros(0), np.array([[0, 0, 0, 0, 0, 0, 0, 0, 0]]), np.zeros(0, np.int32), np.zeros(0, np.int64)
    net += (np.zeros((0, 2), np.int32),)
    net[1][0, :3] = 64, 64, 1
    _native.score(net, np.zeros((0, 1), np.uint64), 1, 2 ** 62, (np.zeros(1), np.zeros(1, np.int32)), np.zeros(0))

def race():  # two threads, one output
    arrays = pack(9999, 9999)
    work = lambda: [_native.pack_bits(*arrays) for _ in range(20)]
    crew = [threading.Thread(target=work) for _ in range(2)]
    [thread.start() for thread in crew]
    [thread.join() for thread in crew]

globals().get(sys.argv[1], int)()
"""


@dataclass(frozen=True)
class Check:
    """A way to compile the extension, and the tests to run on it."""

    title: str
    sanitizers: str  # as in -fsanitize
    libraries: tuple[str, ...]  # that have to be there before Python is
    options: dict[str, str]
    faults: dict[str, str]  # function of FAULTS -> text that is printed when it is found
    tests: tuple[tuple[str, ...], str]  # files, and which of their tests, as in pytest -k
    quick: tuple[tuple[str, ...], str]


MEMORY = Check(
    "AddressSanitizer, UndefinedBehaviorSanitizer",
    "address,undefined,float-cast-overflow",
    ("libasan.so", "libubsan.so"),
    # Python does not free all at its end. A test that asks for too much memory wants its MemoryError.
    {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
    {"overrun": "heap-buffer-overflow", "overflow": "runtime error: "},
    ((*KERNELS, *MODELS), "not jit and not reference"),
    (KERNELS, "native and v3 and float32"),  # all levels are of one source; v3 is on every machine that tests
)
THREADS = Check(
    "ThreadSanitizer",
    "thread",
    ("libtsan.so",),
    {"TSAN_OPTIONS": "halt_on_error=1:die_after_fork=0:report_signal_unsafe=0"},
    {"race": "ThreadSanitizer: data race"},
    ((*KERNELS, *MODELS), "thread and not memory"),
    ((*KERNELS, *MODELS[:1]), "thread"),
)


def find(check: Check) -> list[str] | str:
    """Return the paths of the compiler's libraries, or why they will not do."""
    found = []
    for name in check.libraries:
        try:
            done = subprocess.run([*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return str(error)
        if not os.path.isabs(done.stdout.strip()):
            return f"{shlex.join(compiler())} has no {name}"
        found.append(done.stdout.strip())
    env = preloaded(found, **check.options)
    done = subprocess.run([sys.executable, "-c", ""], env=env, capture_output=True, text=True, check=False)
    return f"Python does not start with {', '.join(found)}: {done.stderr.strip()}" if done.returncode else found


def preloaded(libraries: list[str], **more: str) -> dict[str, str]:
    """Return the environment with these libraries loaded before all others."""
    return {**os.environ, "LD_PRELOAD": " ".join(libraries), **more}


def build(check: Check, folder: Path) -> Path:
    """Compile and install a copy of the checkout; return where to import it from."""
    source, site = folder / "source", folder / "site"
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "_native.c")
    source.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=unwanted)
        else:
            shutil.copy(ROOT / name, source)
    switch = f"-fsanitize={check.sanitizers}"
    flags = {"CFLAGS": f"{switch} -fno-sanitize-recover=all -fno-omit-frame-pointer", "LDFLAGS": switch}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    subprocess.run(command, env={**os.environ, "MADE_FAST_DEBUG": "1", **flags}, check=True)
    return site


def sees_faults(check: Check, site: Path, libraries: list[str]) -> bool:
    """Say whether the extension runs as it should and finds every fault of its kind."""
    env, fine = preloaded(libraries, PYTHONPATH=str(site), **check.options), True
    for fault, said in {"none": "", **check.faults}.items():
        command = [sys.executable, "-c", FAULTS, fault]
        done = subprocess.run(command, env=env, cwd=site, capture_output=True, text=True, check=False)
        found, ours = done.returncode != 0, done.stdout.startswith(str(site))
        if not ours or found != bool(said) or said not in done.stderr:
            print(f"   fault {fault!r} ended with status {done.returncode} and said:\n{done.stdout}{done.stderr}")
            fine = False
        elif fault == "none":
            print(f"   CPU levels: {', '.join(done.stdout.split()[1:])}")
        else:
            print(f"   a fault made on purpose is found: {fault}")
    return fine


def run_tests(check: Check, folder: Path, site: Path, libraries: list[str], quick: bool, jobs: int) -> bool:
    """Run the tests; say whether all passed, to their end: a report ends the process that it is about."""
    tests, only = check.quick if quick else check.tests
    work = folder / "work"
    # Where made_fast/ does not lie beside the tests, or it would be imported in place of the one that was compiled.
    shutil.copytree(ROOT / "tests", work / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", work)
    more = {
        "PYTHONPATH": os.pathsep.join([str(site), str(work / "tests")]),
        "PYTEST_PLUGINS": "robustness.exact_arrays",
        "MADE_FAST_KERNELS": "native",
    }
    # A sanitizer ends the process after its report, which pytest must not capture.
    options = ["-q", "-x", "-p", "no:cacheprovider", "--capture=sys", *(["-n", str(jobs)] if jobs > 1 else [])]
    print(f"   pytest {' '.join(tests)} -k {only!r}", flush=True)
    command = [sys.executable, "-m", "pytest", *options, *tests, "-k", only]
    return not subprocess.run(command, env=preloaded(libraries, **more, **check.options), cwd=work, check=False).returncode


def main() -> int:
    args = command_line(
        __doc__,
        checks=(["memory", "threads"], "by default both"),
        quick=(False, "the kernels of one CPU level in float32: two minutes"),
        jobs=(1, "processes to run the tests in, by pytest-xdist"),
    )
    failed, missing = [], False
    for name in args.checks or ["memory", "threads"]:
        check, begin = {"memory": MEMORY, "threads": THREADS}[name], time.monotonic()
        libraries = find(check)
        if isinstance(libraries, str):
            missing = True
            print(f"== {check.title}: not here. {libraries}", flush=True)
            continue
        print(f"== {check.title}: compiling", flush=True)
        with new_folder() as folder:
            site = build(check, folder)
            print(f"   compiled in {time.monotonic() - begin:.0f} s", flush=True)
            fine = sees_faults(check, site, libraries) and run_tests(check, folder, site, libraries, args.quick, args.jobs)
        if not fine:
            failed.append(check.title)
        print(f"== {check.title}: {'all well' if fine else 'FAILED'} after {time.monotonic() - begin:.0f} s", flush=True)
    return 1 if failed else NO_SANITIZERS if missing else 0


if __name__ == "__main__":
    sys.exit(main())
