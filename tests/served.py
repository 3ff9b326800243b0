"""What tests of the server share: small models, a real server of them in processes of its own, a client of plain sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from helpers import random_model, rows
from table_cases import model_of

from made_fast import MADE

D = 12


def mixed_frame(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Return rows of two texts, one of them with odd names of values, a boolean, whole and other numbers."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, n)
    return pd.DataFrame(
        {
            "sex": rng.choice(["male", "female"], n),
            "a town": rng.choice(["Köln", 'say "hi"', "New, York"], n),
            "flag": rng.random(n) < 0.3,
            "age": age,
            "income": (age * rng.lognormal(size=n)).round(3),
        }
    )


def save_models(folder: Path) -> dict[str, Any]:
    """Save models of 0/1 rows and of tables, and return them by name."""
    frame = mixed_frame()
    options: Any = {"hidden_sizes": (8,), "max_epochs": 3, "random_state": 0}
    fresh = MADE(n_masks=None, n_eval_masks=2, columns={"a town": "categorical"}, handle_unknown="rare", **options).fit(frame)
    found = {
        "bits": random_model(D, (9,)),
        "wide": random_model(24, (9,)),
        "masks": random_model(D, (9,), n_masks=None),
        "mixed": fresh.model_,
        "levels": model_of("one mask"),
        "given": model_of("fresh", context=True),
    }
    for name, model in found.items():
        model.save(folder / f"{name}.safetensors")
    return found


class Answer(NamedTuple):
    """An answer of HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=lambda name: pytest_fail(f"{name} is no JSON"))

    @property
    def error(self) -> str:
        found: str = self.json["error"]
        return found


def pytest_fail(text: str) -> None:
    raise AssertionError(text)


class Running:
    """A server in processes of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, said: list[str]) -> None:
        self.process, self.port, self.said = process, port, said
        self.url = f"http://127.0.0.1:{port}"

    @property
    def workers(self) -> list[int]:
        """The numbers of its workers."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return sorted(map(int, text.split()))

    def says(self, text: str, seconds: float = 30) -> str:
        """Wait for a line on standard error, and return it."""
        until = time.monotonic() + seconds
        while True:
            for line in self.said:
                if text in line:
                    self.said.remove(line)
                    return line
            self.said.append(_line(self.process, until))

    def rest(self) -> list[str]:
        """Return the lines that it has said until now."""
        with contextlib.suppress(RuntimeError):
            while True:
                self.said.append(_line(self.process, time.monotonic() + 0.01))
        return self.said

    def connect(self, seconds: float = 30) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> Answer:
        """Ask for a path; a body that is no bytes goes as JSON."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        with self.connect() as connection:
            connection.sendall(request(path, content, method or ("GET" if body is None else "POST"), **headers))
            return read_answer(connection)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def request(path: str, content: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """Return the bytes of a request."""
    given = {"Host": "test", "Content-Length": str(len(content))} | {k.replace("_", "-"): v for k, v in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def read_answer(connection: socket.socket, head_only: bool = False) -> Answer:
    """Read one answer, without a body if only the head was asked for; ConnectionError if it does not come to its end."""
    found = b""
    while b"\r\n\r\n" not in found:
        part = connection.recv(1 << 16)
        if not part:
            raise ConnectionError(f"the connection ended after {found[:100]!r}")
        found += part
    head, _, body = found.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        raise AssertionError("answers have a length")
    if int(first.split()[1]) == 100:  # it goes on
        return read_answer(connection, head_only)
    while not head_only and len(body) < int(headers.get("content-length", 0)):
        part = connection.recv(1 << 16)
        if not part:
            raise ConnectionError("the connection ended within an answer")
        body += part
    return Answer(int(first.split()[1]), headers, body)


@contextmanager
def running(*options: object, first: str = "", **environment: str) -> Iterator[Running]:
    """Run ``made-fast serve`` with options on a port of its own, in a process that does ``first`` before."""
    code = f"{first}\nfrom made_fast.cli import main\nraise SystemExit(main())"
    command = [sys.executable, "-W", "error", "-c", code, "serve", "--port", "0", *map(str, options)]
    env = {name: value for name, value in os.environ.items() if name != "MADE_FAST_TOKEN"} | environment
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=env)
    try:
        said = []
        until = time.monotonic() + 60
        while not (said and (found := re.search(r"http://[^:]+:(\d+)", said[-1]))):
            said.append(_line(process, until))
        yield Running(process, int(found[1]), said)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _line(process: subprocess.Popen[bytes], until: float) -> str:
    """Return the next line of standard error."""
    assert process.stderr is not None
    found = b""
    while not found.endswith(b"\n"):
        left = until - time.monotonic()
        if left <= 0 or not select.select([process.stderr], [], [], left)[0]:
            raise RuntimeError(f"the server says nothing more, after {found!r}")
        part = os.read(process.stderr.fileno(), 1)
        if not part:
            raise RuntimeError(f"the server has ended, after {found!r}, with code {process.wait()}")
        found += part
    return found.decode().rstrip()


def records(frame: Any) -> list[dict[str, Any]]:
    """Return a frame as a list of objects."""
    return json.loads(frame.to_json(orient="records"))


def bits(n: int, seed: int = 0) -> Any:
    return rows(n, D, seed)
