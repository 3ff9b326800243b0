"""The columns of a table: from values to codes and back, as text that is kept in a model file and read from there.

A code is the number of a level of its column, -1 where an entry is missing and to be summed out. How likely a value is within
its level is known here, how likely the level is, to the model.

Not here: the two sorts of columns (``categories.py``, ``numeric.py``), how they are learned (``learn.py``), their form in a
file (``stored.py``), conditions (``query.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.arguments import shown
from made_fast.tables.columns import frames
from made_fast.tables.columns.categories import Categories
from made_fast.tables.columns.frames import Frame
from made_fast.tables.columns.numeric import Numeric
from made_fast.tables.columns.rebuild import NativeColumn, rebuild
from made_fast.tables.columns.values import Values, column_number, known

__all__ = ["Column", "Columns", "Encoded"]

Column: TypeAlias = Categories | Numeric


class Encoded(NamedTuple):
    """A table as codes (n, V), the smallest int that holds all levels, and the log-density within them.

    That is (n, V), or (n,) of whole rows, in nats.
    """

    codes: NDArray[np.signedinteger[Any]]
    log_density: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a table.

    Parameters
    ----------
    columns
        One for each variable.
    named
        Whether the table of training had names: others are then matched by name, and otherwise by place.
    kind, dtype
        Of that table: which library's, and the dtype of an array.
    natives
        What its library needs to know of each column to make it again.
    """

    columns: tuple[Column, ...]
    named: bool = True
    kind: str = "dict"
    dtype: np.dtype[Any] | None = None
    natives: tuple[NativeColumn, ...] = field(default=(), repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, "x0", "x1" and so on where the table had none."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def n_levels(self) -> NDArray[np.int32]:
        """The number of levels of each column, (V,)."""
        return np.array([column.n_levels for column in self.columns], np.int32)

    @cached_property
    def widths(self) -> NDArray[np.int32]:
        """The number of indicators of each column, (V,): none for one level, 1 for two, otherwise one a level."""
        return np.where(self.n_levels == 1, 0, np.where(self.n_levels == 2, 1, self.n_levels)).astype(np.int32)

    @cached_property
    def n_ordered(self) -> NDArray[np.int32]:
        """The number of levels of each column, from the first on, that are in order, (V,); 0 where there is none."""
        return np.array([column.n_ordered for column in self.columns], np.int32)

    @cached_property
    def ordered(self) -> NDArray[np.bool_]:
        """Whether the levels of each column have an order, (V,)."""
        return self.n_ordered > 0

    @cached_property
    def missing_levels(self) -> NDArray[np.int32]:
        """The level of missing values of each column, (V,), -1 where there is none and missing ones are summed out."""
        return np.array([column.n_levels - 1 if column.missing else -1 for column in self.columns], np.int32)

    @cached_property
    def code_dtype(self) -> np.dtype[np.signedinteger[Any]]:
        """The smallest dtype that holds all codes."""
        most = int(self.n_levels.max(initial=1))
        return np.dtype(np.int8 if most <= 2**7 else np.int16 if most <= 2**15 else np.int32)

    def __len__(self) -> int:
        return len(self.columns)

    def encode(
        self,
        X: Any,
        *,
        name: str = "X",
        density: bool | str = False,
        per_column: bool = True,
        skip: int | None = None,
        min_rows: int = 1,
    ) -> Encoded:
        """Return the codes of a table's entries, and the log-density of each within its level, or that of each row.

        ``X`` is any table (see :func:`made_fast.tables.columns.frames.read`). Its columns are matched by name if both sides
        have names, otherwise by place. Raises TypeError or ValueError, which names the column, for what does not fit.

        Column ``skip`` may be anything, or not be there: it is missing in every row.

        ``density="relative"`` is no density, but free of units: 0 in what is as wide as a typical bin of its column, or
        narrower, and below 0 in what is wider. A value is then not likely because it is often repeated: for anomalies.
        """
        frame = frames.read(X, name, min_rows)
        n, V = frame.shape[0], len(self.columns)
        codes = np.full((n, V), -1, self.code_dtype)
        log_density = np.zeros((n, V) if per_column else n) if density else None
        for v, values in self._matched(frame, skip):
            levels, within = self.columns[v].encode(values, name, density)
            codes[:, v] = levels
            if log_density is None or within is None:
                continue
            if per_column:
                log_density[:, v] = within
            else:
                log_density += within
        return Encoded(codes, log_density)

    def _matched(self, frame: Frame, skip: int | None = None) -> Iterator[tuple[int, Values]]:
        """Yield the columns of a table, by their numbers here, but for one to skip."""
        asked = [v for v in range(len(self.columns)) if v != skip]
        if self.named and frame.names is not None:
            self._check_names(frame.names, frame.name, None if skip is None else self.names[skip])
            at = {label: j for j, label in enumerate(frame.names)}
            return ((v, frame.column(at[self.names[v]])) for v in asked)
        if skip is not None and frame.shape[1] == len(asked):
            return ((v, frame.column(j)) for j, v in enumerate(asked))
        if frame.shape[1] != len(self.columns):
            raise ValueError(
                f"{frame.name} must have {len(self.columns)} columns, got shape {frame.shape}: {frame.name} has "
                f"{frame.shape[1]} features, but MADE is expecting {len(self.columns)} features as input. "
                "Pass the columns of training."
            )
        return ((v, frame.column(v)) for v in asked)

    def _check_names(self, found: Sequence[str], name: str, but: str | None = None) -> None:
        ours, theirs = set(self.names), set(found)
        missing, unknown = [c for c in self.names if c not in theirs and c != but], [c for c in found if c not in ours]
        twice = [c for j, c in enumerate(found) if c in found[:j]]
        listed = (("lacks", missing), ("has beside them", unknown), ("has more than once", twice))
        words = [
            f"it {what} {', '.join(map(shown, which[:5]))}{' ...' if which[5:] else ''}" for what, which in listed if which
        ]
        if words:
            hint = f" {known(unknown[0], missing)}" if missing and unknown else ""
            raise ValueError(
                "The feature names should match those that were passed during fit. "
                f"{name} must have the columns of training, in any order: {'; '.join(words)}.{hint} Rename or select them."
            )

    def decode(self, codes: NDArray[np.integer[Any]], uniforms: NDArray[np.float64]) -> list[NDArray[Any]]:
        """Return the columns (n,) of a table of these codes (n, V), in the dtypes of training.

        ``uniforms`` (n, V), from 0 to below 1, say where in a bin a number lies (inverse CDF). -1 gives None or NaN.
        """
        return [column.decode(codes[:, v], uniforms[:, v]) for v, column in enumerate(self.columns)]

    def level_values(self, v: int) -> NDArray[Any]:
        """Return a value that stands for each level of column v, in the dtype of training: a category, or a bin's median."""
        return self.columns[v].level_values()

    def level_means(self, v: int) -> NDArray[np.float64]:
        """Return the mean of the values of each level of column v. Raises TypeError, which names the column, for text."""
        return self.columns[v].level_means()

    def frame(self, arrays: Sequence[NDArray[Any]], index: Any = None) -> Any:
        """Return columns (n,) as a table of the kind of training, with its dtypes where those have room for what is missing.

        Where its library is not there, it is a dict of names and arrays. ``index`` is for pandas.
        """
        return rebuild(self.kind, self.dtype, self.names if self.named else None, self.natives, arrays, index)

    def completed(self, X: Any, arrays: Sequence[NDArray[Any]], *, name: str = "X") -> Any:
        """Return a table like that of training with the entries of ``X`` and, where these are missing, of columns (n,)."""
        frame = frames.read(X, name)
        filled = []
        for (_, values), array in zip(self._matched(frame), arrays, strict=True):
            out, there = array.copy(), ~values.null
            given = values.values[there]
            if out.dtype.kind in "iu" and given.dtype.kind == "f" and (np.abs(given) >= 2.0 ** (8 * out.itemsize - 1)).any():
                out = out.astype(np.float64)  # no int of training's has room for it, and what is there stays as it is
            out[there] = given.astype(out.dtype)
            filled.append(out)
        return self.frame(filled, X.index if frame.kind == "pandas" else None)

    def number(self, label: Any, what: str) -> int:
        """Return the number of a column; TypeError or ValueError, which calls its source ``what``, for what is none."""
        return column_number(label, self.names, what)

    @property
    def kinds(self) -> str:
        """How many columns are of each kind, in words."""
        found = [column.kind for column in self.columns]
        return ", ".join(f"{found.count(kind)} {kind}" for kind in dict.fromkeys(found))

    def describe(self) -> list[str]:
        """Return a line on each column: its name, kind and levels, and how much of it was missing."""
        lines = []
        for column in self.columns:
            line = f"{column.name}: {column.kind}, {column.describe()}"
            if column.missing_share:
                line += f"; {100 * column.missing_share:.3g} % missing" + (", a level of its own" if column.missing else "")
            lines.append(line)
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return all this as dicts, lists, numbers and text."""
        from made_fast.tables.columns import stored

        return stored.to_json(self)

    @staticmethod
    def from_json(found: Any) -> Columns:
        """Return columns from what :meth:`to_json` gave, which anybody may have changed since. Raises ValueError."""
        from made_fast.tables.columns import stored

        return stored.from_json(found)
