"""What a fit shows while it runs: never a reason to fail, and never more than a log can bear."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import types
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers import raising

from made_fast import MADE, MADEEnsemble
from made_fast.system import console
from made_fast.training import run as progress


def fit(verbose=1, max_epochs=3, **options):
    return MADE((4,), max_epochs=max_epochs, verbose=verbose, n_threads=1, random_state=0, **options).fit(np.eye(9))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class OfBytes:
    encoding = 3
    write = raising(TypeError("a bytes-like object is required, not 'str'"))


def failing(method: str, error: Exception) -> io.StringIO:
    stream = Terminal()
    setattr(stream, method, raising(error))
    return stream


def closed(stream: Any, how: str = "close") -> Any:
    getattr(stream, how)()
    return stream


def ascii_only() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", line_buffering=True)


STREAMS = [
    lambda: None,
    lambda: closed(Terminal()),
    Terminal,
    lambda: failing("write", OSError(28, "No space left on device")),
    lambda: failing("flush", BrokenPipeError(32, "Broken pipe")),
    OfBytes,
    object,
    lambda: closed(io.TextIOWrapper(io.BytesIO()), "detach"),
    partial(open, __file__),
    ascii_only,
]
if os.path.exists("/dev/full"):
    STREAMS.append(partial(open, "/dev/full", "w", buffering=1))


@contextlib.contextmanager
def standard_error(make):
    stream, before = make(), sys.stderr
    sys.stderr = stream
    try:
        yield stream
    finally:
        sys.stderr = before
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.close()


@pytest.mark.parametrize("make", STREAMS)
@pytest.mark.parametrize("verbose", [1, 2])
def test_no_stream_is_a_reason_to_fail(make, verbose, capfd):
    with standard_error(make):
        made = fit(verbose)
        console.say("caf\udce9")
    assert len(made.history_) == 3
    assert capfd.readouterr().out == ""


def test_members_of_an_ensemble_need_no_stream_either(capsys):
    with standard_error(lambda: None):
        made = MADEEnsemble(2, hidden_sizes=(4,), max_epochs=2, verbose=1, n_jobs=2, random_state=0).fit(np.eye(9))
    assert made.model_.n_members == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [TimeoutError("time is up"), KeyboardInterrupt(), RuntimeError("mine"), SystemExit(3)])
@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_hosts_signal_handler_raises_goes_through(error, terminal):
    class Interrupted(Terminal if terminal else io.StringIO):
        def write(self, text: str) -> int:
            if "train" in text:
                raise error
            return len(text)

    with standard_error(Interrupted), pytest.raises(type(error)) as found:
        fit()
    assert found.value is error


def test_a_terminal_gets_a_bar():
    with standard_error(Terminal) as stream:
        fit()
        text = stream.getvalue()
    assert "3/3" in text
    assert text.count("\r") > 1


def test_a_log_gets_the_first_and_the_last_epoch_and_one_a_minute_between(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    record = {"train_nll": 3.0, "validation_nll": 4.0, "rows_per_second": 5.0}
    with progress.Progress(1, 1000) as shown:
        for epoch in range(1, 1001):
            now[0] += 0.5
            shown.show({**record, "epoch": epoch}, epoch)
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split(":")[0].split()[1]) for line in lines] == [1, *range(121, 1000, 120), 1000]
    assert lines[0] == "epoch 1: train 3.000, validation 4.000 (best: epoch 1), 5 rows/s"


def test_the_last_epoch_of_a_fit_cut_short_is_told(capsys):
    with contextlib.suppress(KeyboardInterrupt), progress.Progress(1, 9) as shown:
        for epoch in range(1, 4):
            shown.show({"epoch": epoch, "train_nll": 3.0, "validation_nll": None, "rows_per_second": 5.0}, epoch)
        raise KeyboardInterrupt
    assert [line[:8] for line in capsys.readouterr().err.splitlines()] == ["epoch 1:", "epoch 3:"]


@pytest.mark.parametrize("broken", [None, types.ModuleType("tqdm.auto")])
def test_without_tqdm_a_terminal_gets_lines(broken, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", broken)
    with standard_error(Terminal) as stream:
        assert len(fit().history_) == 3
        assert stream.getvalue().startswith("epoch 1: ")


def test_a_notebook_keeps_the_bar_of_its_own(monkeypatch):
    bars = []

    class Widget:
        def __init__(self, **options):
            bars.append(options["total"])
            self.n = 0

        def set_postfix_str(self, text, refresh):
            assert "train" in text

        def update(self):
            bars.append("update")

        def close(self):
            bars.append("close")

    module = types.ModuleType("tqdm.auto")
    module.tqdm = Widget
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    fit()
    assert bars == [3, "update", "update", "update", "close"]


@pytest.mark.parametrize("how", ["2>/dev/full", "2>&-", "2> >(true)"])
def test_the_process_ends_as_if_there_were_no_bar(how):
    if "full" in how and not os.path.exists("/dev/full"):
        pytest.skip("Linux only")
    code = "import numpy as np, made_fast; made_fast.MADE((4,), max_epochs=9, verbose=2).fit(np.eye(9))"
    assert subprocess.run(["bash", "-c", f"{sys.executable} -c '{code}' {how}"], check=False).returncode == 0


def test_say_escapes_what_cannot_be_encoded():
    with standard_error(ascii_only) as stream:
        console.say("caf\xe9 \udce9")
        assert stream.buffer.getvalue() == b"caf\\xe9 \\udce9\n"
