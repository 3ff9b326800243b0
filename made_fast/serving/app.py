"""The application: addresses, limits, and the way of a request from its body to its answer.

Not here: who may ask (``guard.py``), what a question means (``doors.py``, ``v2.py``), who computes when (``work.py``),
processes (``workers.py``).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from made_fast import __version__
from made_fast.serving import v2
from made_fast.serving.bodies import RefusedError, dumps, loads, refusing
from made_fast.serving.doors import DOORS, ESTIMATES, Door, Question, check_walks, heard, question
from made_fast.serving.guard import Guard, broken, error_of, refused
from made_fast.serving.metrics import Metrics
from made_fast.serving.models import Prepared, Served
from made_fast.serving.settings import Settings
from made_fast.serving.work import Batcher, Crew, Gate, Reader

__all__ = ["create_app"]

BODIES = 8
"""Bodies of the largest size that a worker holds at a time."""

AT_ONCE = 1 << 16
"""Bytes of a body that the event loop takes apart itself; more of them would hold up the others."""

CLOSE = {"Connection": "close"}

Json = dict[str, Any]

PROBLEMS = {
    400: "The body is not of the form that is asked for.",
    401: "The token is not there, or another one.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The request is too large.",
    415: "The body is compressed.",
    422: "The model refuses the rows or the options; the text says why.",
    429: "Too many requests are in work.",
    503: "Nobody was free in time.",
    504: "The answer took too long.",
}
ERROR: Json = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_text: Json = {"type": "string"}
NAME: Json = {"name": "name", "in": "path", "required": True, "schema": _text, "description": "Name of a model."}
PATH = {"model": [NAME], "version": [NAME, {"name": "version", "in": "path", "required": True, "schema": _text}]}
LENGTH_HEADER: Json = {
    "name": v2.LENGTH,
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "Length of the JSON in the body, if binary tensors follow it.",
}


def content(schema: Json) -> Json:
    """Return the content of a body of JSON, as OpenAPI has it."""
    return {"application/json": {"schema": schema}}


class Server:
    """The models of a worker, and all that their doors share."""

    def __init__(self, models: Mapping[str, Served], settings: Settings, metrics: Metrics) -> None:
        self.models, self.settings, self.metrics = models, settings, metrics
        self.gate = Gate(settings.queue, BODIES * (settings.max_body << 20))
        self.crew = Crew(settings.timeout)
        self.readers = {name: Reader(served) for name, served in models.items()}
        self.batchers = {
            name: Batcher(served, settings.threads, settings.max_rows, settings.timeout, metrics.batches.labels(name).observe)
            for name, served in models.items()
        }

    def model(self, name: str, version: str | None = None) -> Served:
        """Return a model by its name; RefusedError (404) for one that is not here. Nothing is loaded for a request."""
        if name not in self.models:
            raise RefusedError(404, f"there is no model {name[:100]!r}; GET /models lists those there are.")
        if version not in (None, v2.VERSION):
            raise RefusedError(404, f"model {name!r} has the version {v2.VERSION} alone, got {str(version)[:100]!r}.")
        return self.models[name]

    async def asked(self, request: Request, work: Callable[[bytes], Awaitable[Response]]) -> Response:
        """Let a request in, read its body in time, and answer."""
        with self.gate.entered() as take:
            try:
                async with asyncio.timeout(self.settings.timeout):
                    body = await self._body(request, take)
            except TimeoutError as error:
                raise RefusedError(408, f"the body must come within {self.settings.timeout:g} seconds.", CLOSE) from error
            except ClientDisconnect as error:  # nobody reads this, but it is counted
                raise RefusedError(400, "the body must come whole.") from error
            return await work(body)

    async def _body(self, request: Request, take: Callable[[int], None]) -> bytes:
        most = self.settings.max_body << 20
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "the body must not be compressed.")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 19:
            self._check_size(int(announced), most)
        parts, n = [], 0
        async for part in request.stream():
            n += len(part)
            self._check_size(n, most)
            take(len(part))  # what has come, not what is announced: who sends slowly takes no room from others
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check_size(self, n: int, most: int) -> None:
        if n > most:
            raise RefusedError(413, f"the body must be of at most {most:,} bytes, got {n:,}. Send the rows in parts.", CLOSE)

    async def door(self, name: str, door: str, body: bytes) -> Response:
        """Answer at a door of plain JSON."""
        served, way = self.model(name), DOORS[door]

        def prepared() -> tuple[Question, Prepared]:
            asked = question(served, way, loads(body), self.settings)
            with refusing():
                return asked, served.prepare(asked.rows, asked.context)

        def answered(by: Callable[[Question], Json]) -> tuple[Question, bytes]:
            asked = question(served, way, loads(body), self.settings)
            with refusing(), heard() as notes:
                found = by(asked)
            return asked, dumps(found | ({"notes": notes} if notes else {}))

        if way.answer is None:
            asked, rows = prepared() if len(body) <= AT_ONCE else await self.crew.do(prepared)
            log_p, std = await self._scores(served, rows, {name: asked.options[name] for name in ESTIMATES})
            answer = dumps({"log_p": log_p, "std": std})
        else:
            asked, answer = await self.crew.do(partial(answered, way.answer))
        self.metrics.rows.labels(name, door).inc(asked.n_rows)
        return Response(answer, media_type="application/json")

    async def infer(self, name: str, version: str | None, length: str | None, body: bytes) -> Response:
        """Answer at the door of the Open Inference Protocol."""
        served = self.model(name, version)

        def prepared() -> tuple[v2.Infer, Prepared]:
            asked = v2.infer(served, body, length, self.settings)
            with refusing():
                return asked, served.prepare(asked.X, asked.context)

        if len(body) <= AT_ONCE:
            asked = v2.infer(served, body, length, self.settings)
            with refusing():
                rows = await self.readers[name].read(asked.X, asked.context)
        else:
            asked, rows = await self.crew.do(prepared)
        log_p, std = await self._scores(served, rows, asked.options)
        self.metrics.rows.labels(name, "infer").inc(len(rows))
        answer, head = v2.answer(served, asked, log_p, std)
        if head is None:
            return Response(answer, media_type="application/json")
        return Response(answer, media_type="application/octet-stream", headers={v2.LENGTH: str(head)})

    async def _scores(self, served: Served, rows: Prepared, options: Json) -> tuple[Any, Any]:
        """Return log p and standard errors of checked rows: complete ones together with those of others."""
        with refusing():
            if not rows.n_gaps:
                return await self.batchers[served.name].score(rows), rows.exact
            check_walks(rows.n_gaps, options)
            return await self.crew.do(partial(served.log_p, rows, self.settings.threads, **options))


def create_app(models: Mapping[str, Served], settings: Settings, metrics: Metrics) -> Guard:
    """Return the application that serves models by their names."""
    server, page = Server(models, settings, metrics), _Page()
    app = FastAPI(
        title="made_fast",
        version=__version__,
        description="Exact densities of tables: log-likelihoods in nats, draws, and answers about incomplete rows.",
        docs_url=None,  # these pages would fetch their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(Exception, _broken)
    problems = {code: {"description": text, "content": content(ERROR)} for code, text in PROBLEMS.items()}
    route: Json = {"response_model": None, "responses": problems}

    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):  # first, for they are found first
        _add_v2(app, prefix, server, route)
    for name, door in DOORS.items():
        _add_door(app, name, door, server, route)

    @app.get("/", include_in_schema=False)
    async def people() -> Response:
        return page.response()

    @app.get("/metrics", response_model=None, response_class=PlainTextResponse, responses={401: problems[401]})
    async def metrics_page() -> Response:
        """Figures for Prometheus."""
        text, kind = metrics.page()
        return Response(text, media_type=kind)

    @app.get("/models", response_model=None, responses={401: problems[401]})
    async def list_models() -> Response:
        """Return the names of the models."""
        return _json({"models": list(models)})

    @app.get("/models/{name}", openapi_extra={"parameters": PATH["model"]}, **_without_body(route))
    async def describe_model(request: Request) -> Response:
        """Return the columns of a model."""
        return _json(server.model(**request.path_params).describe())

    @app.get("/v2", response_model=None, responses={401: problems[401]})
    async def server_metadata() -> Response:
        """Metadata of the server."""
        return _json({"name": "made_fast", "version": __version__, "extensions": list(v2.EXTENSIONS)})

    @app.get("/v2/health/live", response_model=None)
    async def live() -> Response:
        """Whether the server lives."""
        return _json({"live": True})

    @app.get("/v2/health/ready", response_model=None)
    async def ready() -> Response:
        """Whether all models are loaded; they are, before a worker listens."""
        return _json({"ready": True})

    return Guard(app, settings.token, metrics, models)


def _without_body(route: Json) -> Json:
    """Return what a route without a body may answer."""
    return route | {"responses": {code: route["responses"][code] for code in (401, 404)}}


def _add_v2(app: FastAPI, prefix: str, server: Server, route: Json) -> None:
    """Add the addresses of the Open Inference Protocol for one model."""
    which = "version" if "version" in prefix else "model"

    async def model_metadata(request: Request) -> Response:
        """Metadata of a model: its tensors."""
        return _json(v2.metadata(server.model(**request.path_params)))

    async def model_ready(request: Request) -> Response:
        """Whether a model is ready: it is, if it is here."""
        return _json({"name": server.model(**request.path_params).name, "ready": True})

    async def infer(request: Request) -> Response:
        """Log-likelihoods of rows, as tensors."""
        name, version = request.path_params["name"], request.path_params.get("version")
        return await server.asked(request, partial(server.infer, name, version, request.headers.get(v2.LENGTH)))

    extra = {"parameters": PATH[which]}
    body = {"required": True, "content": content(v2.REQUEST) | {"application/octet-stream": {}}}
    infer_extra = {"parameters": [*PATH[which], LENGTH_HEADER], "requestBody": body}
    both = {200: {"content": content({}) | {"application/octet-stream": {}}}}
    answers = route | {"responses": route["responses"] | both}
    app.post(f"{prefix}/infer", operation_id=f"{which}_infer", openapi_extra=infer_extra, **answers)(infer)
    app.get(prefix, operation_id=f"{which}_metadata", openapi_extra=extra, **_without_body(route))(model_metadata)
    app.get(f"{prefix}/ready", operation_id=f"{which}_ready", openapi_extra=extra, **_without_body(route))(model_ready)


def _add_door(app: FastAPI, name: str, door: Door, server: Server, route: Json) -> None:
    """Add a door of plain JSON."""

    async def ask(request: Request) -> Response:
        return await server.asked(request, partial(server.door, request.path_params["name"], name))

    body = {"required": True, "content": content(door.schema())}
    extra = {"parameters": PATH["model"], "requestBody": body}
    app.post(f"/models/{{name}}/{name}", operation_id=name, summary=door.title, openapi_extra=extra, **route)(ask)


class _Page:
    """The page of people, with the rules by which browsers load nothing else."""

    def __init__(self) -> None:
        text = (Path(__file__).parent / "page.html").read_text("utf-8")
        allowed = {}
        for kind in ("script", "style"):
            (found,) = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.S)
            allowed[kind] = base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()
        rules = [f"{kind}-src 'sha256-{digest}'" for kind, digest in allowed.items()]
        rules += ["default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
        self.content = text.encode()
        self.headers = {
            "Content-Security-Policy": "; ".join([*rules, "frame-ancestors 'none'"]),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    def response(self) -> Response:
        return Response(self.content, media_type="text/html", headers=self.headers)


def _json(found: Any) -> Response:
    return Response(dumps(found), media_type="application/json")


async def _refused(request: Request, error: Any) -> Response:
    return refused(error)


async def _not_found(request: Request, error: Any) -> Response:
    return error_of(error.status_code, f"{error.detail}; /openapi.json has the addresses there are.", error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    return broken()
