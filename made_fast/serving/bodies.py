"""Bodies of requests and answers: strict JSON in, JSON out, and refusals with a status of HTTP.

JSON of a request must be plain: a name that stands twice in an object, NaN and infinity, and halves of surrogate pairs are
refused, not read somehow. In answers, NaN and infinity are null.

Not here: what bodies mean (``doors.py``, ``v2.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import orjson

from made_fast.tables.arguments import shown

__all__ = ["RefusedError", "dumps", "loads", "refusing"]


class RefusedError(Exception):
    """A request that is refused, with a status of HTTP and a text for its author."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers or {}


@contextmanager
def refusing() -> Iterator[None]:
    """Turn the errors of a model's own checks into refusals. Keep the block small: others are bugs."""
    try:
        yield
    except (TypeError, ValueError, FloatingPointError) as error:
        raise RefusedError(422, str(error)) from error
    except MemoryError as error:
        raise RefusedError(413, "the answer does not fit into memory. Send fewer rows at a time.") from error


def loads(body: bytes | memoryview) -> Any:
    """Return the value of a JSON text; RefusedError (400) for what is none."""
    try:
        text = str(body, "utf-8")
        found = _decoder.decode(text)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()  # fails for halves of surrogate pairs
    except RecursionError as error:
        raise RefusedError(400, "the body must be JSON, got one that is nested too deeply.") from error
    except UnicodeEncodeError as error:
        raise RefusedError(400, "the body must be JSON of whole characters, got half of a surrogate pair.") from error
    except ValueError as error:  # of the decoder, of UTF-8, and our own
        raise RefusedError(400, f"the body must be JSON: {error}.") from error
    return found


def dumps(answer: Any) -> bytes:
    """Return JSON; NaN and infinity are null."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} stands twice in an object")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON; a missing value is null")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
