"""The bench at a tiny size: every case by every implementation is right, a wrong result is seen, the report is written."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bench import layers, machine, plot, report, whole
from bench.cases import CASES, Run
from bench.implementations import DENSE, missing, one_blas_thread
from bench.layers import KERNELS
from bench.nets import TINY, Layer
from bench.plan import GROUPS, TARGETS, Figures, Target

FIRST, LAST = Layer(16, 50, 0), Layer(50, 16, 1)
NETS = ("numpy", "torch", "jax", "jit", "native", "native-2")  # torch-compile takes too long
LACKS = {"fresh": ("torch",), "mixture": DENSE[1:], "apart": DENSE[1:]}


def runs():
    for case in CASES:
        if case not in KERNELS:
            more = ["numpy-incremental"] * case.startswith("sample")
            yield from (Run(case, TINY, name) for name in (*NETS, *more) if name not in LACKS.get(case, ()))
        else:
            places = [layer for layer in (FIRST, LAST) if any(layer.l == timed.l for timed in KERNELS[case])]
            yield from (Run(case, layer, name) for layer in places for name in layers.implementations(case))


HERE = [run for run in runs() if not missing(run.implementation)]
FASTEST = "jit" if missing("native") else "native"


@pytest.fixture(autouse=True)
def _one_blas_thread():
    with one_blas_thread():
        yield


@pytest.mark.parametrize("run", HERE, ids=lambda run: "-".join(map(str, run)))
def test_every_case_is_right(run):
    run.build().warm_up()


@pytest.mark.parametrize("case", [case for case in CASES if case not in KERNELS])
def test_a_wrong_result_is_seen(case):
    work = Run(case, TINY, FASTEST).build()
    right = work.run()
    work.check(right)
    wrong = 1 - right if isinstance(right, np.ndarray) and right.dtype == np.uint8 else 1.001 * np.asarray(right)
    with pytest.raises(AssertionError):
        work.check(wrong)


@pytest.mark.parametrize("case", ["step", "fresh", "epoch"])
def test_wrong_parameters_are_seen(case):
    work = Run(case, TINY, FASTEST).build()
    nll = work.run()
    work.run()  # trains on
    with pytest.raises(AssertionError, match="off by"):
        work.check(nll)


@pytest.mark.skipif(bool(missing("native")), reason="only native has building blocks beside the truth")
@pytest.mark.parametrize("name", KERNELS)
def test_a_wrong_kernel_is_seen(name, monkeypatch):
    layer = LAST if name == layers.BACKWARD_INPUT else FIRST
    work, right = Run(name, layer, "native").build(), layers.truth(name, layer)
    monkeypatch.setattr(layers, "truth", lambda *_: 1.001 * right)
    with pytest.raises(AssertionError, match="off by"):
        work.warm_up()


def test_the_report_is_written(tmp_path, capsys):
    out = tmp_path / "new" / "report.md"
    report.main(["--only", "D=16", "--seconds", "0", "--out", str(out)])
    text = out.read_text()
    assert text.startswith(f"# {machine.cpu()}")
    assert text.index("## Targets") < text.index("## Training step") < text.index("## Score") < text.index("## Sample")
    assert f"| training step, {TINY} | " in text
    assert all(line in capsys.readouterr().out + text for line in text.splitlines())
    assert "## Kernels" not in text


def test_cpu_time_leaves_two_threads_out(capsys):
    report.main(["--only", "step, D=16", "--seconds", "0", "--cpu-time"])
    assert "native-2 |" not in capsys.readouterr().out


def everything_takes_a_second():
    figures = Figures()
    figures.rows = [dict.fromkeys(row, 1.0) for rows in GROUPS.values() for row in rows]
    figures.whole = {target.what: 1.0 for target in TARGETS}
    return figures


def test_every_target_is_measured():
    found = everything_takes_a_second()
    assert [target.what for target in TARGETS if target.value(found) is None] == []
    assert {target.value(Figures()) for target in TARGETS} == {None}


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [
        (2.9, False, "**no**"),
        (3, False, "yes"),
        (4, False, "yes, and the aim"),
        (5, True, "**no**"),
        (None, False, "not measured"),
    ],
)
def test_verdicts(value, at_most, verdict):
    assert Target("", lambda _: value, 3.0, 4.0 if not at_most else 2.0, at_most=at_most).verdict(value) == verdict


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not here")
def test_the_plot_of_scaling_is_drawn(tmp_path):
    assert plot.scaling(everything_takes_a_second(), tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert not plot.scaling(Figures(), tmp_path / "none.png")


@pytest.mark.skipif(find_spec("matplotlib") is None or machine.peaks() is None, reason="no matplotlib, or no compiler")
def test_the_roofs_are_drawn(tmp_path):
    assert plot.roofline(everything_takes_a_second(), tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    assert not plot.roofline(Figures(), tmp_path / "none.png")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a process's memory")
def test_memory_of_a_fit():
    taken, needed = whole.fresh(whole.MEMORY, str(whole.ROOT), "32", "16", "50")
    assert 0 <= taken < 50e6
    assert needed > 4 * 32 * (16 + 2 * (50 + 16))


def test_without_a_compiler_there_are_no_peaks(monkeypatch, capsys):
    monkeypatch.setattr(machine, "_library", lambda: None)
    machine.peaks.cache_clear()
    assert machine.multiply_adds(1e6) is None
    report.add_machine(report.Report())
    assert "were not measured" in capsys.readouterr().out
    machine.peaks.cache_clear()


def test_slug():
    assert machine.slug("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz") == "intel-xeon-platinum-8481c"
    assert machine.slug("AMD EPYC 9R14") == "amd-epyc-9r14"


@pytest.mark.parametrize("how", [["-c"], ["-P", "-c"]], ids=["from the root", "without a current folder"])
def test_an_installed_package_is_taken_before_the_checkout(tmp_path, how):
    (tmp_path / "made_fast").mkdir()
    for path in [*(whole.ROOT / "made_fast").iterdir(), whole.ROOT / "kernels"]:  # as it is installed: kernels and all
        (tmp_path / "made_fast" / path.name).symlink_to(path)
    code = "import bench; from made_fast import kernels; print(kernels.__file__)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [whole.ROOT] * ("-P" in how) + [tmp_path]))}
    done = subprocess.run([sys.executable, *how, code], capture_output=True, text=True, check=True, env=env, cwd=whole.ROOT)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def test_a_fresh_process_takes_the_installed_package(monkeypatch):
    monkeypatch.chdir(whole.ROOT)
    (places,) = whole.fresh("import sys; print(sum(path in ('', sys.argv[1]) for path in sys.path))", str(whole.ROOT))
    assert places == 0
