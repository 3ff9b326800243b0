"""Hostile requests: what the OpenAPI text allows, broken bodies and heads, heads without end, connections that idle.

Not here: a campaign of many (``tests/robustness/hostile_requests.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from robustness.hostile_requests import attack
from served import read_answer, request

schemathesis = pytest.importorskip("schemathesis")

CASES = 5
"""Requests to each door that schemathesis makes."""


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_dict(server.ask("/openapi.json").json)


def test_no_request_that_the_openapi_text_allows_or_not_is_an_error_of_the_server(server, schema):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as conform

    checks = [not_a_server_error, conform.status_code_conformance, conform.content_type_conformance]
    statuses = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=CASES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate], derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
        def ask(case):
            if "name" in case.path_parameters:
                case.path_parameters["name"] = "mixed"
            answer = case.call(base_url=server.url)
            case.validate_response(answer, checks=checks)
            statuses.add(answer.status_code)

        ask()
    assert {200, 400, 422} <= statuses


def test_broken_requests_are_refused_and_break_nothing(server):
    statuses, wrong = attack(server, 600, 3)
    assert wrong == []
    assert sum(statuses.values()) == 600
    assert len(statuses) >= 8


def test_heads_have_a_bound_and_so_have_those_of_the_next_request(server):
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(request("/models/bits/score", b'{"rows": [[0]]}', X="a" * 60_000))
            assert read_answer(connection).status == 422
        connection.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for _ in range(3000):  # more than the buffers of a connection hold
                connection.sendall(b"X: " + b"a" * 10_000 + b"\r\n")
        except OSError:
            pass
        else:
            pytest.fail("it takes heads of 30 MB")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000)
        time.sleep(0.1)
        with contextlib.suppress(ConnectionResetError):  # closed while there were bytes to read
            connection.sendall(b"a" * 1000)
            assert read_answer(connection).status == 431


def test_pipelined_requests_are_answered_in_order(server):
    good, bad = request("/v2/health/live", method="GET"), request("/models/bits/score", b'{"rows": 3}')
    with server.connect() as connection:
        connection.sendall(good + bad + good)
        found = b""
        while found.count(b"HTTP/1.1") < 3 or not found.endswith(b"}"):
            found += connection.recv(1 << 16)
    assert [part[1:4] for part in found.split(b"HTTP/1.1")[1:]] == [b"200", b"422", b"200"]


def test_a_connection_that_says_nothing_is_closed(folder, models, monkeypatch):
    """In a server whose patience is short; the one of ten seconds is the same code."""
    from made_fast.serving import wire

    monkeypatch.setattr(wire.Wire._begin_head, "__defaults__", (0.05,))

    async def main():
        closed = []

        class Transport(asyncio.Transport):
            def get_extra_info(self, name, default=None):
                return default

            def close(self):
                closed.append(1)

        protocol = made(wire.Wire)
        protocol.connection_made(Transport())
        protocol.data_received(b"GET / HTTP/1.1\r\nX:")
        await asyncio.sleep(0.2)
        first = len(closed)
        quick = made(wire.Wire)
        quick.connection_made(Transport())
        quick.data_received(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.2)
        return first, len(closed)

    assert asyncio.run(main()) == (1, 1)


def made(protocol):
    """Return a protocol of an application that does not answer."""
    import uvicorn
    from uvicorn.server import ServerState

    async def silent(scope, receive, send):
        await asyncio.sleep(1)

    config = uvicorn.Config(silent, log_config=None, ws="none")
    config.load()
    return protocol(config=config, server_state=ServerState(), app_state={})
