"""Compiles the native kernels; all metadata is in pyproject.toml.

``unit.c`` is compiled once per CPU level and type of number, and all units go into one extension, which picks the best level
at import. Without a working C compiler the install goes on without the extension, and ``made_fast`` runs on its Numba kernels.

``MADE_FAST_DEBUG=1`` builds with little optimisation, and does not go on without the extension.
``tests/robustness/sanitize.py`` adds sanitizers to that, by ``CFLAGS`` and ``LDFLAGS``.
"""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("MADE_FAST_DEBUG") == "1"
X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
FOLDER = "kernels/native"

# No contraction: the kernels write fused multiply-adds where they mean them, so that every loop rounds alike.
FLAGS = ["-O1", "-g"] if DEBUG else ["-O3", "-g0"]
FLAGS += ["-std=gnu11", "-fno-math-errno", "-ffp-contract=off", "-Wno-psabi"]
LEVELS = {"baseline": []}
if X86:
    LEVELS |= {level: [f"-march=x86-64-{level}"] for level in ("v2", "v3", "v4")}
    LEVELS["v4"].append("-mprefer-vector-width=512")


class BuildUnits(build_ext):
    """Compiles the units before the rest of the extension, all at once; each has flags of its own."""

    def build_extension(self, ext: Extension) -> None:
        """Compile as usual, and link the units too."""

        def compile_unit(level: str, bits: str) -> list[str]:
            return self.compiler.compile(
                [f"{FOLDER}/unit.c"],
                output_dir=f"{self.build_temp}/{level}-{bits}",
                macros=[("LEVEL", level), ("BITS", bits)],
                extra_postargs=FLAGS + LEVELS[level],
                depends=ext.depends,
            )

        units = [(level, bits) for level in LEVELS for bits in ("32", "64")]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = [obj for objs in pool.map(compile_unit, *zip(*units, strict=True)) for obj in objs]
        super().build_extension(ext)


native = Extension(
    "made_fast.kernels.native._native",
    sources=[f"{FOLDER}/_native.pyx", f"{FOLDER}/native.c"],
    depends=[f"{FOLDER}/unit.c", f"{FOLDER}/native.pxi", *(header.as_posix() for header in sorted(Path(FOLDER).glob("*.h")))],
    include_dirs=[FOLDER, numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=FLAGS,
    optional=not DEBUG,
)

DIRECTIVES = {"language_level": 3, "cdivision": True, "warn.multiple_declarators": False}
setup(
    ext_modules=[native],
    cmdclass={"build_ext": BuildUnits},
    options={"build_ext": {"cython_c_in_temp": True, "cython_directives": DIRECTIVES}},
)
