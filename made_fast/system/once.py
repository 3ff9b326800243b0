"""A property that is computed once; it may be asked for from many threads, and amid a fork."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["once"]

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801
    """A property that is computed on first use and kept.

    It takes no lock, unlike ``functools.cached_property`` of Python 3.11: a child forked while another thread holds that would
    wait for ever. Threads that come first together compute the same. A class that has some is pickled without them: the
    instance's dictionary may grow at any time.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.__doc__ = compute.__doc__
        self._compute = compute

    def __get__(self, instance: Any, owner: Any = None) -> T:
        value = self._compute(instance)
        instance.__dict__[self._compute.__name__] = value  # found there before this is asked again
        return value
