"""Compiles the native kernels; all metadata is in pyproject.toml.

The C kernels are compiled once per CPU level and all levels go into one extension, which picks the best at import. Without
a working C compiler the install goes on without the extension, and ``made_fast`` runs on its Numba kernels.

``MADE_FAST_DEBUG=1`` builds with little optimisation, with bounds checks in the Cython part, and does not go on without the
extension. ``tests/robustness/sanitize.py`` adds sanitizers to that, by ``CFLAGS`` and ``LDFLAGS``.
"""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("MADE_FAST_DEBUG") == "1"
X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
LEVELS = ["baseline", "v2", "v3", "v4"] if X86 else ["baseline"]

# No contraction: the kernels write fused multiply-adds where they mean them, so that every loop rounds alike.
FLAGS = ["-O1", "-g"] if DEBUG else ["-O3", "-g0"]
FLAGS += ["-std=gnu11", "-fno-math-errno", "-ffp-contract=off", "-Wno-psabi"]
LEVEL_FLAGS = {
    f"level_{level}.c": [f"-march=x86-64-{level}"] + (["-mprefer-vector-width=512"] if level == "v4" else [])
    for level in LEVELS[1:]
}
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
}


class BuildLevels(build_ext):
    """Gives each CPU level's source its own flags, and compiles all sources at once; setuptools has no word for either."""

    def build_extension(self, ext: Extension) -> None:
        """Compile as usual, with ``-march`` added for the sources named in ``LEVEL_FLAGS``."""
        compile_all, compile_one = self.compiler.compile, self.compiler._compile

        def compile_level(obj, src, suffix, cc_args, extra, pp_opts):  # type: ignore[no-untyped-def]
            flags = [*extra, *LEVEL_FLAGS.get(Path(src).name, [])]
            return compile_one(obj, src, suffix, cc_args, flags, pp_opts)

        def compile_at_once(sources, **options):  # type: ignore[no-untyped-def]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [obj for objs in pool.map(lambda source: compile_all([source], **options), sources) for obj in objs]

        self.compiler.compile, self.compiler._compile = compile_at_once, compile_level
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile, self.compiler._compile = compile_all, compile_one


native = Extension(
    "made_fast.kernels._native",
    sources=["kernels/_native.pyx", "kernels/native.c", *(f"kernels/level_{level}.c" for level in LEVELS)],
    depends=[header.as_posix() for header in sorted(Path("kernels").glob("*.h"))],
    include_dirs=["kernels"],
    extra_compile_args=FLAGS,
    optional=not DEBUG,
)

setup(
    ext_modules=[native],
    cmdclass={"build_ext": BuildLevels},
    options={"build_ext": {"cython_c_in_temp": True, "cython_directives": DIRECTIVES}},
)
