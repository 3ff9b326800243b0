"""Set the machine up for the bench: one BLAS thread, and what the figures depend on in the output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench import cases


@pytest.fixture(scope="session", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    with cases.one_blas_thread():
        yield


def pytest_report_header() -> str:
    return "bench: " + ", ".join(f"{name} {value}" for name, value in cases.machine().items())


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["made_fast"] = cases.machine()


@pytest.fixture
def clock(benchmark: Any) -> Any:
    """Return a function that checks a case on the arrays that it then times."""

    def run(name: str, size: cases.Size, implementation: str) -> None:
        if not cases.available(implementation):
            pytest.skip(f"{implementation} is not here")
        case = cases.CASES[name]
        work = case.build(size, implementation)
        work.warm_up()
        benchmark.group = f"{case.title}, {size}" + (f" (times are of {work.units})" if work.units > 1 else "")
        benchmark.extra_info.update(data=size.source, units=work.units, threads=1)
        with cases.using(implementation):
            benchmark(work.run)

    return run
