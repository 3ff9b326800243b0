"""What a long fit shows while it runs. tqdm is imported only when a bar is drawn."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """Shows epochs as they end: nothing (verbose 0), one bar (1), or a line an epoch (2 and more), on standard error."""

    def __init__(self, verbose: int, max_epochs: int) -> None:
        self._bar = None
        self._lines = verbose >= 2
        if verbose == 1:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=max_epochs, unit="epoch", desc="fit", dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, record: Any, best_epoch: int) -> None:
        """Show one ``EpochRecord`` and which epoch is the best so far."""
        text = f"train {record['train_nll']:.3f}"
        if record["validation_nll"] is not None:
            text += f", validation {record['validation_nll']:.3f} (best: epoch {best_epoch})"
        text += f", {record['rows_per_second']:,.0f} rows/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        elif self._lines:
            print(f"epoch {record['epoch']}: {text}", file=sys.stderr, flush=True)
