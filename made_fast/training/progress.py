"""The progress of a fit on standard error: a bar, or lines. tqdm is imported only when a bar is drawn."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from made_fast.system.console import Stream, is_of_stream, is_terminal, say
from made_fast.training.state import EpochRecord

__all__ = ["Progress"]

INTERVAL = 60.0
"""Fewest seconds between two lines where there is no terminal: the log of a day stays small."""


class Progress:
    """Shows epochs as they end, on standard error.

    Nothing (verbose 0), one bar (1), or a line an epoch (2 and more). A log gets a line now and then in place of the bar: for
    the first epoch, for the last one, and every ``INTERVAL`` between them.
    """

    def __init__(self, verbose: int, max_epochs: int) -> None:
        self._verbose = verbose
        self._bar = _bar(max_epochs) if verbose == 1 else None
        self._untold = ""
        self._due = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            _unless_broken(self._bar.close)
        elif self._untold:
            say(self._untold)

    def show(self, record: EpochRecord, best_epoch: int) -> None:
        """Show the record of an epoch and which epoch is the best so far."""
        if self._verbose == 0:
            return
        text = f"train {record['train_nll']:.3f}"
        if record["validation_nll"] is not None:
            text += f", validation {record['validation_nll']:.3f} (best: epoch {best_epoch})"
        text += f", {record['rows_per_second']:,.0f} rows/s"
        if self._bar is not None:
            _unless_broken(self._bar.set_postfix_str, text, refresh=False)
            _unless_broken(self._bar.update)
            return
        self._untold = f"epoch {record['epoch']}: {text}"
        if self._verbose > 1 or time.monotonic() >= self._due:
            say(self._untold)
            self._untold = ""
            self._due = time.monotonic() + INTERVAL


def _bar(max_epochs: int) -> Any:
    """Return a bar where one can be seen: in a terminal, in a notebook."""
    if not is_terminal() and "ipykernel" not in sys.modules:
        return None

    def draw() -> Any:
        from tqdm.auto import tqdm

        file = Stream(sys.stderr)
        return tqdm(total=max_epochs, unit="epoch", desc="fit", dynamic_ncols=file.has_size(), file=file)

    return _unless_broken(draw)


def _unless_broken(do: Any, *arguments: Any, **options: Any) -> Any:
    """Return what a call of tqdm returns, or None if tqdm is missing or does not work here."""
    try:
        return do(*arguments, **options)
    except Exception as error:
        if not (is_of_stream(error) or isinstance(error, ImportError | NameError | SyntaxError | Warning)):
            raise
        return None
