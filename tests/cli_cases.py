"""What tests of the command line share: commands that succeed, their output as tables, data, fits that are cut short."""

from __future__ import annotations

import contextlib
import io
import re

import numpy as np

from made_fast.cli import main
from made_fast.training.run import FitRun

QUICK = ["--hidden", "64", "--max-epochs", "40", "--learning-rate", "0.003", "--quiet"]
TINY = ["--hidden", "32", "--max-epochs", "30", "--learning-rate", "0.01", "--quiet", "--seed", "0"]
SCRIPT = "import sys; from made_fast.cli import main; sys.exit(main())"


def train(*args: object, data: object = "digits") -> str:
    """Train quickly and return what was printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["train", str(data), *QUICK, *map(str, args)]) == 0
    return out.getvalue()


def run(command, capsys):
    """Run a command that succeeds; return what it prints, and says on standard error."""
    assert main(command.split()) == 0
    return capsys.readouterr()


def table(text, title):
    """Return the rows below the line that starts with the title, as cells by the first of them."""
    lines = text[text.index(f"\n{title}") + 1 :].split("\n\n")[0].splitlines()[1:]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line.strip()) for line in lines)}


def scores(text):
    """Return the table of scores: for each split its cells."""
    return table(text, "log-marginal NLL in nats" if "log-marginal NLL" in text else "NLL in nats")


def shown(nll):
    return f"{nll.mean():.3f} ± {1.96 * nll.std(ddof=1) / len(nll) ** 0.5:.3f}"


def rows_of_twelve(n, seed):
    """Draw rows of 12 inputs, 3 x 4: six coins, and the same six again but for one in ten."""
    rng = np.random.default_rng(seed)
    half = rng.random((n, 6)) < np.linspace(0.3, 0.7, 6)
    return np.hstack([half, half ^ (rng.random((n, 6)) < 0.1)]).astype(np.uint8)


def with_gaps(X):
    """Return X with a quarter of its entries missing, in one of six patterns."""
    rng = np.random.default_rng(0)
    return np.where((rng.random((6, X.shape[1])) < 0.25)[rng.integers(6, size=len(X))], np.nan, X)


def stop_after(n_epochs, error, monkeypatch):
    epoch = FitRun.epoch

    def run(self, good):
        if self.state.epoch >= n_epochs:
            raise error
        return epoch(self, good)

    monkeypatch.setattr(FitRun, "epoch", run)
