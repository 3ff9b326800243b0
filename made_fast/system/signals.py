"""Signals that end a command: SIGTERM and SIGHUP (a closed terminal) raise, as Ctrl-C does, and wait while a file is written.

A disposition that is not the default, by ``nohup`` say, stays. Not here: what an ended command saves (``cli``).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "code_of", "held", "raised"]

DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}

SAME = 2.0  # seconds within which another signal is ignored: a closed terminal sends SIGHUP twice


class Stopped(KeyboardInterrupt):
    """A signal has asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    holders = 0  # blocks of ``held`` that signals wait for
    came: int | None = None
    last = -SAME  # when a signal was raised


def code_of(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a command that a signal has ended: 128 + its number."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


@contextmanager
def raised() -> Iterator[None]:
    """Raise :class:`Stopped` when such a signal comes. Only the main thread gets signals; elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mine = {number: default for number, default in DEFAULTS.items() if signal.getsignal(number) == default}
    _State.holders, _State.came, _State.last = 0, None, -SAME
    try:
        for number in mine:
            signal.signal(number, _handle)
        yield
    finally:
        for number, default in mine.items():
            signal.signal(number, default)


@contextmanager
def held(*, drop: bool = False) -> Iterator[None]:
    """Let signals wait until the end of the block, which is short; with ``drop`` they are ignored: the command ends anyway."""
    _State.holders += 1
    try:
        yield
    finally:
        _State.holders -= 1
        came, _State.came = _State.came, None
    if came is not None and not drop:
        _raise(came)


def _handle(number: int, _: FrameType | None) -> None:
    if _State.holders:
        _State.came = number
    elif time.monotonic() - _State.last >= SAME:
        _raise(number)


def _raise(number: int) -> None:
    _State.last = time.monotonic()
    raise Stopped(number)
