"""The short way of requests to the doors, beside the framework's own.

Not here: what the doors answer (``test_doors.py``, ``test_protocol.py``).
"""

from __future__ import annotations

import asyncio
import json

import pytest

from made_fast.serving.app import create_app
from made_fast.serving.guard import Guard
from made_fast.serving.metrics import Metrics
from made_fast.serving.models import load_all
from made_fast.serving.settings import Settings


@pytest.fixture(scope="module")
def guard(folder, models):
    return create_app(load_all({"bits": folder / "bits.safetensors"}), Settings(threads=1), Metrics())


def ask(app, path, body=b"", method="POST", headers=()):
    """Return the status and the body of the answer of an ASGI application, and the error that it raised."""
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
             "headers": [(name.encode(), value.encode()) for name, value in headers], "http_version": "1.1"}  # fmt: skip
    told, error = [], None

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        told.append(message)

    async def answer():
        nonlocal error
        try:
            await app(scope, receive, send)
        except Exception as raised:
            error = raised

    asyncio.run(answer())
    return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:]), error


ROW = json.dumps({"rows": [[0, 1] * 6]}).encode()
INFER = json.dumps({"inputs": [{"name": "rows", "shape": [1, 12], "datatype": "UINT8", "data": [0, 1] * 6}]}).encode()


@pytest.mark.parametrize(
    ("path", "body", "method", "status"),
    [
        ("/models/bits/sample", b'{"n": 2, "random_state": 0}', "POST", 200),
        ("/models/bits/score", ROW, "POST", 200),
        ("/models/bits/score", b"{", "POST", 400),
        ("/models/none/score", ROW, "POST", 404),
        ("/models//score", ROW, "POST", 404),
        ("/nothing/bits/score", ROW, "POST", 404),
        ("/models/bits/score/", ROW, "POST", 404),
        ("/models/bits/score", b"", "GET", 405),
        ("/v2/models/bits/infer", INFER, "POST", 200),
        ("/v2/models/bits/versions/1/infer", INFER, "POST", 200),
        ("/v2/models/bits/versions/2/infer", INFER, "POST", 404),
        ("/v2/models/bits/versions//infer", INFER, "POST", 404),
        ("/v2/nothing/bits/infer", INFER, "POST", 404),
    ],
)
def test_both_ways_lead_to_the_same_answer(guard, path, body, method, status):
    short, whole = ask(guard, path, body, method), ask(guard.app, path, body, method)
    assert short == whole
    assert short[2] is None
    assert short[0] == status


def test_an_error_of_our_own_is_told_as_such_and_raised(guard):
    app = guard.app
    broken = Guard(app, None, Metrics(), {})
    route, _ = broken.doors[4, "score"]
    answer, route.endpoint = route.endpoint, lambda request: 1 / 0
    try:
        status, body, error = ask(broken, "/models/bits/score", ROW)
    finally:
        route.endpoint = answer
    assert status == 500
    assert "an error of the server" in json.loads(body)["error"]
    assert isinstance(error, ZeroDivisionError)


def test_the_short_way_asks_for_the_token_and_is_counted(guard):
    metrics = Metrics()
    closed = Guard(guard.app, "secret", metrics, guard.models)
    for headers, status in (((), 401), ((("authorization", "Bearer secret"),), 200)):
        assert ask(closed, "/models/bits/sample", b'{"n": 1}', headers=headers)[0] == status
    page = metrics.page()[0].decode()
    assert 'made_fast_requests_total{door="/models/{name}/sample",model="bits",status="200"} 1.0' in page
    assert 'status="401"' in page
