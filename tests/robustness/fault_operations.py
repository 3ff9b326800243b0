"""Operations of made_fast that ``faults.py`` runs while calls fail, and checks of their files afterwards."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import digest, rows, small, with_missing
from robustness.common import fit_state
from robustness.operations import ask

FILES = "wocsnukli"
"""Kinds of calls of a save."""


@dataclass
class Operation:
    """Something that made_fast does."""

    run: Callable[[], Any]  # its result must always have the same digest
    kinds: str = "at"  # of calls that may fail here
    reset: Callable[[], None] = lambda: None  # puts files as they were before
    check: Callable[[bool], list[str]] = lambda done: []  # returns the promises that the files break afterwards
    path: Path | None = None  # of the file that it writes, alone in its folder
    new: bytes = b""  # content of that file afterwards, if known

    def has_changed(self) -> bool:
        return bool(self.new) and self.path is not None and self.path.exists() and self.path.read_bytes() == self.new

    def broken(self, done: bool, killed: bool = False) -> list[str]:
        """Return the promises that were broken; a temporary file may be left if it was killed."""
        others = [name for name in os.listdir(self.path.parent) if name != self.path.name] if self.path else []
        return self.check(done) + [f"left over: {others}"] * bool(others and not killed)


def writing(path: Path, old: bytes | None, **more: Any) -> Operation:
    """Return an operation that writes to ``path``, in a folder of its own, where ``old`` was before."""

    def reset() -> None:
        for other in path.parent.iterdir():
            other.unlink()
        if old is not None:
            path.write_bytes(old)

    path.parent.mkdir(exist_ok=True)
    return Operation(kinds=FILES + "da", reset=reset, path=path, **more)


def prepare(folder: Path) -> dict[str, Operation]:
    """Return the operations, by name; files go to ``folder``."""
    from made_fast import MADE, load

    X, larger, sources = rows(120, 24), rows(400, 60), folder / "sources"
    params = {"hidden_sizes": (20,), "batch_size": 40, "max_epochs": 2, "n_eval_masks": 3}
    models = {"one": small(**params).fit(X).model_, "fresh": small(**params, n_masks=None, random_state=1).fit(X).model_}
    scores = {name: digest(model.score_samples(X, n_threads=1)) for name, model in models.items()}
    sources.mkdir()
    for name, model in models.items():
        model.save(sources / name)
    raw = {name: (sources / name).read_bytes() for name in models}
    found: dict[str, Operation] = {}

    def save(place: str, old: str, new: str) -> Operation:
        path = folder / place / "model"

        def check(done: bool) -> list[str]:
            now = path.read_bytes() if path.exists() else None
            if now not in ([raw[new]] if done else [raw.get(old), raw[new]]):
                return ["the file is gone" if now is None else "the file is not as promised"]
            of = {content: name for name, content in raw.items()}.get(now)
            same = of is None or digest(load(path).score_samples(X, n_threads=1)) == scores[of]
            return [] if same else ["the file holds another model"]

        do = functools.partial(models[new].save, path)
        return writing(path, raw.get(old), run=do, check=check, new=raw[new])

    found["save over another model"] = save("over", "one", "fresh")
    found["save to a new file"] = save("new", "", "one")

    checkpoint = folder / "fit" / "checkpoint"
    checkpoint.parent.mkdir()
    small(**params, random_state=6).fit(X, checkpoint=checkpoint)
    old_checkpoint = checkpoint.read_bytes()

    def fit_with_checkpoints(**more: Any) -> Any:
        made = small(**params | {"n_masks": 2, "random_state": 5} | more)
        return fit_state(made.fit(X, X_val=X[:50], checkpoint=checkpoint))

    def check_checkpoint(done: bool) -> list[str]:
        if checkpoint.read_bytes() == old_checkpoint:
            return ["no checkpoint was written"] * done
        made, broken = MADE.resume(checkpoint), []
        if digest(fit_state(made)) not in ((last,) if done else (first, last)):
            broken.append("the checkpoint is of another state")
        if digest(fit_state(made.set_params(max_epochs=2).fit(X, X_val=X[:50]))) != last:
            broken.append("a fit resumed ends with other bits")
        return broken

    first, last = digest(fit_with_checkpoints(max_epochs=1)), digest(fit_with_checkpoints())
    (sources / "checkpoint").write_bytes(checkpoint.read_bytes())
    found["fit with checkpoints"] = writing(checkpoint, old_checkpoint, run=fit_with_checkpoints, check=check_checkpoint)
    reads = {
        "load": lambda: load(sources / "fresh").score_samples(X, n_threads=1),
        "load as a map": lambda: load(sources / "fresh", mmap=True).score_samples(X, n_threads=1),
        "resume": lambda: fit_state(MADE.resume(sources / "checkpoint")),
    }
    found |= {name: Operation(read, "rocima") for name, read in reads.items()}

    models["big"] = small(hidden_sizes=(200,), batch_size=100).fit(larger).model_
    many, gaps = rows(4000, 60, 1), with_missing(30, 24, 0.2, 30)
    asked = {
        "score": ("big", "score_samples", many),
        "score a mixture": ("fresh", "score_samples", X),
        "conditionals": ("big", "conditional_proba", many),
        "sample": ("fresh", "sample", 200),
        "impute": ("fresh", "impute, mode", gaps),
        "log_marginal": ("fresh", "log_marginal", gaps),
    }

    def fit(n_threads: int, **more: Any) -> Any:
        made = small(hidden_sizes=(250,), batch_size=100, n_threads=n_threads, random_state=4, n_eval_masks=2, **more)
        return fit_state(made.fit(larger))

    for n in (1, 2):
        by = f", {n} thread{'s' * (n > 1)}"
        for name, (kind, operation, given) in asked.items():
            found[name + by] = Operation(functools.partial(ask, operation, models[kind], given, n_threads=n))
        found["fit" + by] = Operation(functools.partial(fit, n))
        found["fit under fresh masks" + by] = Operation(functools.partial(fit, n, n_masks=None, dropout=0.2))
    return found
