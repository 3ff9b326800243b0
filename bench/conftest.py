"""Set the machine up for the bench: one BLAS thread, what the figures depend on in the output, and the clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench import machine
from bench.cases import CASES, Run
from bench.implementations import missing, n_threads, one_blas_thread, using


@pytest.fixture(scope="session", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    with one_blas_thread():
        yield


def pytest_report_header() -> str:
    return "bench: " + ", ".join(f"{name} {value}" for name, value in machine.facts().items())


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["made_fast"] = machine.facts()


@pytest.fixture
def clock(benchmark: Any) -> Any:
    """Return a function that checks a case on the arrays that it then times."""

    def time(group: str, run: Run) -> None:
        if reason := missing(run.implementation):
            pytest.skip(reason)
        work = run.build()
        work.warm_up()
        benchmark.group = f"{group}: {CASES[run.case].title}, {run.size}" + f" (times are of {work.units})" * (work.units > 1)
        benchmark.extra_info.update(data=run.size.source, units=work.units, threads=n_threads(run.implementation))
        with using(run.implementation):
            benchmark(work.run)

    return time
