"""What every request passes: the token, errors as JSON, the counters; and a short way to the doors.

Not here: what is behind the doors (``app.py``).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from time import perf_counter
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute

from made_fast.serving.bodies import RefusedError, dumps
from made_fast.serving.metrics import Metrics
from made_fast.serving.models import Served

__all__ = ["Guard", "broken", "error_of", "refused"]

OPEN = ("/", "/v2/health/live", "/v2/health/ready")
"""Addresses that need no token: the page has nothing of the models, and asks for the token."""

Send = Callable[[Any], Awaitable[None]]


class Guard:
    """What every request passes.

    A POST to a door goes from here to the function of its route: the framework's layers between them cost twice as much as a
    score. All else goes through the framework, which knows the same routes.
    """

    def __init__(self, app: FastAPI, token: str | None, metrics: Metrics, models: Mapping[str, Served]) -> None:
        self.app, self.models = app, models
        self.expected = None if token is None else f"Bearer {token}".encode()
        self.requests, self.seconds = cache(metrics.requests.labels), cache(metrics.seconds.labels)
        self.doors: dict[tuple[int, str], tuple[APIRoute, list[str]]] = {}
        for route in app.routes:
            if isinstance(route, APIRoute) and "POST" in (route.methods or ()):
                parts = route.path.split("/")
                self.doors[len(parts), parts[-1]] = route, parts

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, counted = perf_counter(), False

        async def told(message: Any) -> None:
            nonlocal counted
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], start)  # before it leaves: who has the answer finds it counted
                counted = True
            await send(message)

        try:
            if not self._may(scope):
                text = "the request must have the header Authorization: Bearer TOKEN, with the token of this server."
                await error_of(401, text, {"WWW-Authenticate": "Bearer"})(scope, receive, told)
            elif (route := self._door(scope)) is not None:
                await _answer(route, scope, receive, told)
            else:
                await self.app(scope, receive, told)
        finally:
            if not counted:
                self._count(scope, 500, start)

    def _count(self, scope: Any, status: int, start: float) -> None:
        path = getattr(scope.get("route"), "path", "none")
        name = scope.get("path_params", {}).get("name", "")
        self.requests(name if name in self.models else "", path, status).inc()
        self.seconds(path).observe(perf_counter() - start)

    def _may(self, scope: Any) -> bool:
        if self.expected is None or scope["path"] in OPEN:
            return True
        found = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(found) == 1 and hmac.compare_digest(found[0], self.expected)

    def _door(self, scope: Any) -> APIRoute | None:
        """Return the route of a POST to a door, and leave it and its parameters in the scope, as the framework does."""
        parts = scope["path"].split("/")
        found = self.doors.get((len(parts), parts[-1])) if scope["method"] == "POST" else None
        if found is None:
            return None
        route, names = found
        params = {}
        for part, name in zip(parts, names, strict=True):
            if name.startswith("{") and part:
                params[name[1:-1]] = part
            elif name != part:
                return None
        scope["route"], scope["path_params"] = route, params
        return route


async def _answer(route: APIRoute, scope: Any, receive: Any, send: Send) -> None:
    """Answer by the function of a route."""
    try:
        response = await route.endpoint(Request(scope, receive))
    except RefusedError as error:
        response = refused(error)
    except Exception:
        await broken()(scope, receive, send)
        raise  # uvicorn writes it to standard error
    await response(scope, receive, send)


def error_of(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as JSON."""
    return Response(dumps({"error": text}), status, headers, "application/json")


def refused(error: RefusedError) -> Response:
    """Return a refusal."""
    return error_of(error.status, str(error), error.headers)


def broken() -> Response:
    """Return what is said of an error of our own."""
    return error_of(500, "an error of the server, which it writes to its standard error.")
