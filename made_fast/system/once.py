"""A property that is computed once, safe with threads and with a fork at any time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["once"]

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801
    """A property that is computed on first use and kept. A class with such properties is pickled without them.

    Two threads may compute the same value, as there is no lock, unlike in ``functools.cached_property`` of Python 3.11: a
    child forked while another thread holds the lock would wait forever.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.__doc__ = compute.__doc__
        self._compute = compute

    def __get__(self, instance: Any, owner: Any = None) -> T:
        value = self._compute(instance)
        instance.__dict__[self._compute.__name__] = value  # from now on Python finds it there
        return value
