"""Hostile requests to a real server: ``python tests/robustness/hostile_requests.py --n 1000000 --seed 1``.

Bodies of all doors, and of the Open Inference Protocol, are broken as JSON, as values, as bytes and as tensors, the heads of
requests as HTTP, and connections are cut. Promises: no answer has a status from 500 on, but 503 and 504, of the limits;
every answer is one of HTTP and, if it says so, strict JSON; the server lives, its workers are the same, and their memory does
not grow. Prints figures; the exit code is 1 if a promise is broken.

Not here: what a request should say (``tests/serving``).
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script

from served import Answer, Running, bits, mixed_frame, read_answer, records, request, running, save_models

FINE = (503, 504)
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308,
    1e-320, "", "0", "NaN", "inf", "null", "x" * 3000,
    "\0", "\u202e", "💥", "ß", "' or 1=1 --", "../../etc/passwd", "<script>", [], {}, [[]], [{}],
    {"": None}, [None], [1, [2, [3]]], {"a": {"b": []}},
    [1e308] * 30, ["a", 1], list(range(300)),
)  # fmt: skip
LITERALS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 400, b"1" + b"0" * 5000,
    b"[" * 3000, b'"\\ud800"', b"\xff\xfe",
            b"{}", b'{"a":1,"a":2}', b"\0", b"-", b"01", b"'a'", b"/*", b"\xef\xbb\xbf", b"tru",
            b"1.", b".5", b"0x1")  # fmt: skip
HEADS = (
    "Content-Length: -1", "Content-Length: 5, 5", "Content-Length: 1e3",
    "Content-Length: 99999999999999999999", "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip", "Content-Encoding: gzip", "Expect: 100-continue",
    "Upgrade: websocket\r\nConnection: upgrade", "Upgrade: h2c",
    "Inference-Header-Content-Length: 5", "Inference-Header-Content-Length: -5",
    "Inference-Header-Content-Length: x", "X: \x00", "Host: ", "Host: a\r\nHost: b",
    "Range: bytes=0-1", "Content-Type: text/xml", "Accept: image/png", "X-Forwarded-For: 1.2.3.4",
    "Connection: close", "Authorization: Bearer x", "A" * 300 + ": b",
)  # fmt: skip
PATHS = (
    "/", "//", "/%", "/%00", "/%ff", "/models", "/models/", "/models//score",
    "/models/%2e%2e/score", "/models/mixed/score/", "/models/mixed/../../x", "/v2",
    "/v2/", "/v2/models", "/v2/models/mixed/versions/-1/infer", "/v2/models/mixed/versions//infer",
    "/metrics?x=%00", "/openapi.json", "/v2/health/live",
    "*", "http://x/v2", "/" + "a" * 5000, "/models/" + "%41" * 1000, "/?" + "a=b&" * 900,
    "/v2/models/bits/ready", "/favicon.ico", "/models/mi\u00dfed",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get", "G\x00T")


def good_bodies() -> list[tuple[str, Any]]:
    """Return requests that are answered, by path."""
    X, rows = mixed_frame(4, 1), bits(3).tolist()
    table, gaps = records(X), records(X)
    gaps[0]["age"] = gaps[1]["sex"] = gaps[2]["income"] = None
    columns = {name: X[name].tolist() for name in X}
    found: list[tuple[str, Any]] = []
    for name, given in (("mixed", table), ("mixed", gaps), ("mixed", columns), ("bits", rows), ("masks", rows)):
        more: dict[str, Any] = {"n_walks": 5, "n_members": 1, "random_state": 0}
        found += [
            (f"/models/{name}/score", {"rows": given} | more),
            (f"/models/{name}/explain", {"rows": given, "n_walks": 5, "relative": False}),
            (f"/models/{name}/impute", {"rows": given, "method": "mode"} | more),
            (f"/models/{name}/conditional", {"rows": given, "target": 1, "proba": True} | more),
            (f"/models/{name}/sample", {"n": 2, "random_state": 1, "form": "columns"}),
            (f"/models/{name}/query", {"query": "age > 40 and sex in (male, 'female') and income between 1 and 50"} | more),
        ]
    datatypes = {"age": "INT64", "income": "FP64", "flag": "BOOL", "sex": "BYTES", "a town": "BYTES"}
    inputs = [{"name": c, "shape": [4], "datatype": kind, "data": X[c].tolist()} for c, kind in datatypes.items()]
    found.append(("/v2/models/mixed/infer", {"inputs": inputs, "outputs": [{"name": "log_p"}], "id": "1"}))
    found.append(
        ("/v2/models/bits/infer", {"inputs": [{"name": "rows", "shape": [3, 12], "datatype": "UINT8", "data": rows}]})
    )
    return found


class Fuzzer:
    """Requests that are broken in random ways."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.good = good_bodies()
        self.kinds: tuple[Callable[[], bytes], ...] = (
            self.values,
            self.values,
            self.values,
            self.bytes,
            self.tensors,
            self.head,
            self.query,
        )

    def pick(self, among: Any) -> Any:
        return deepcopy(among[int(self.rng.integers(len(among)))])

    def next(self) -> tuple[str, bytes]:
        """Return a kind, and the bytes of a request."""
        make = self.kinds[int(self.rng.integers(len(self.kinds)))]
        return make.__name__, make()

    def values(self) -> bytes:
        """A value somewhere in a body is another one, or gone, or twice."""
        path, body = self.pick(self.good)
        for _ in range(int(self.rng.integers(1, 4))):
            body = self.mutated(body)
        return request(path, json.dumps(body, ensure_ascii=bool(self.rng.integers(2))).encode(errors="surrogatepass"))

    def mutated(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, dict | list) and value and self.rng.random() < 0.85:
            if isinstance(value, list):
                i = int(self.rng.integers(len(value)))
                what = self.rng.random()
                if what < 0.7:
                    value[i] = self.mutated(value[i], depth + 1)
                elif what < 0.85:
                    del value[i]
                else:
                    value.insert(i, self.pick(ODD))
                return value
            name = self.pick(list(value))
            what = self.rng.random()
            if what < 0.8:
                value[name] = self.mutated(value[name], depth + 1)
            elif what < 0.9:
                del value[name]
            else:
                value[str(self.pick(ODD))[:50]] = self.pick(ODD)
            return value
        return self.pick(ODD)

    def bytes(self) -> bytes:
        """Bytes of a body are others: a literal that is no JSON, a flip, a cut."""
        path, body = self.pick(self.good)
        raw = bytearray(json.dumps(body).encode())
        for _ in range(int(self.rng.integers(1, 4))):
            at = int(self.rng.integers(len(raw) + 1))
            what = self.rng.integers(4)
            if what == 0:
                raw[at:at] = self.pick(LITERALS)
            elif what == 1 and at < len(raw):
                raw[at] = int(self.rng.integers(256))
            elif what == 2:
                del raw[at:]
            else:
                raw[at : at + int(self.rng.integers(20))] = self.pick(LITERALS)
        return request(path, bytes(raw))

    def tensors(self) -> bytes:
        """A request of binary tensors whose lengths, shapes, types or bytes are wrong."""
        X = mixed_frame(3, int(self.rng.integers(5)))
        if self.rng.random() < 0.5:
            name, given = "bits", [("rows", "UINT8", [3, 12], bits(3).tobytes())]
        else:
            name, kinds = "mixed", {"age": ("INT64", "<i8"), "income": ("FP64", "<f8"), "flag": ("BOOL", "?")}
            given = [(c, kind, [3], X[c].to_numpy().astype(dtype).tobytes()) for c, (kind, dtype) in kinds.items()]
            for c in ("sex", "a town"):
                given.append((c, "BYTES", [3], b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in X[c])))
        inputs, tail = [], bytearray()
        for label, kind, shape, raw in given:
            size: Any = len(raw)
            if self.rng.random() < 0.15:
                size = self.pick((0, -1, size + 1, size - 1, 2**40, None, "5"))
            if self.rng.random() < 0.15:
                shape = self.pick(([3, 1], [0], [-3], [2**40], [], [1, 1, 1, 3], [2**31, 2**31], ["3"], None, 3, [3, 0]))
            if self.rng.random() < 0.15:
                kind = self.pick(("BOOL", "UINT8", "FP16", "FP64", "BYTES", "INT64", "BF16", "", None))
            inputs.append({"name": label, "shape": shape, "datatype": kind, "parameters": {"binary_data_size": size}})
            tail += raw
        for _ in range(int(self.rng.integers(3))):
            if tail:
                tail[int(self.rng.integers(len(tail)))] = int(self.rng.integers(256))
        if self.rng.random() < 0.1:
            del tail[int(self.rng.integers(len(tail) + 1)) :]
        body: Any = {"inputs": inputs, "parameters": {"binary_data_output": True}}
        if self.rng.random() < 0.2:
            body = self.mutated(body)
        head = json.dumps(body).encode()
        length = len(head) if self.rng.random() < 0.85 else self.pick((0, -1, len(head) - 1, len(head) + len(tail) + 1, 2**60))
        return request(f"/v2/models/{name}/infer", head + bytes(tail), Inference_Header_Content_Length=str(length))

    def query(self) -> bytes:
        """A query whose text is cut, joined and quoted at random."""
        words = [
            "age",
            "sex",
            "and",
            "in",
            "(",
            ")",
            ",",
            "=",
            "!=",
            "<",
            "between",
            "is",
            "not",
            "null",
            "'male'",
            '"a town"',
            "40",
            "-1e9",
            "'",
            "`x`",
            "💥",
            "nan",
        ]
        text = " ".join(self.pick(words) for _ in range(int(self.rng.integers(1, 14))))
        return request("/models/mixed/query", json.dumps({"query": text, "n_walks": 3}).encode())

    def head(self) -> bytes:
        """A head that is no good HTTP, or asks for odd things."""
        path, body = self.pick(self.good)
        content = json.dumps(body).encode() if self.rng.random() < 0.5 else b""
        path = path if self.rng.random() < 0.3 else self.pick(PATHS)
        raw = request(path.encode().decode("latin-1"), content, self.pick(METHODS))
        extra = "\r\n".join(self.pick(HEADS) for _ in range(int(self.rng.integers(3))))
        first, rest = raw.split(b"\r\n", 1)
        raw = first + b"\r\n" + (extra.encode("latin-1") + b"\r\n" if extra else b"") + rest
        if self.rng.random() < 0.1:
            raw = raw[: int(self.rng.integers(len(raw)))]
        return raw


class Attack:
    """A connection that sends hostile requests, one after the other, and what came of it."""

    def __init__(self, server: Running, seed: int) -> None:
        self.server, self.fuzzer = server, Fuzzer(seed)
        self.rng = np.random.default_rng(seed + 1)
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.connection: socket.socket | None = None

    def one(self) -> None:
        kind, raw = self.fuzzer.next()
        fresh = self.connection is None
        if self.connection is None:
            self.connection = self.server.connect(30)
        try:
            self.connection.sendall(raw)
            if kind == "head":  # it may promise a body that does not come
                self.connection.shutdown(socket.SHUT_WR)
            answer = read_answer(self.connection, head_only=raw.startswith(b"HEAD "))
        except TimeoutError:
            self.wrong.append(f"no answer: {raw[:300]!r}")
            self.close()
        except (ConnectionError, OSError):
            self.statuses[f"{kind}: connection closed"] += 1
            if fresh and kind != "head":
                self.wrong.append(f"closed without an answer: {raw[:300]!r}")
            self.close()
        else:
            self.check(kind, raw, answer)
            if kind == "head" or answer.headers.get("connection") == "close":
                self.close()

    def check(self, kind: str, raw: bytes, answer: Answer) -> None:
        self.statuses[f"{kind}: {answer.status}"] += 1
        if answer.status >= 500 and answer.status not in FINE:
            self.wrong.append(f"{answer.status}: {raw[:3000]!r}")
        elif answer.headers.get("content-type", "").startswith("application/json") and answer.body:
            try:
                if answer.status >= 400 and not isinstance(answer.error, str):
                    raise ValueError("no error")
                assert answer.json is not None
            except (AssertionError, ValueError, KeyError) as error:
                self.wrong.append(f"{error!r} in {answer.body[:300]!r}: {raw[:1000]!r}")

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def memory(workers: list[int]) -> float:
    """Return the MB that are the workers' own."""
    found = 0
    for pid in workers:
        lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
        found += sum(int(words[1]) for words in lines if words[0].startswith("Private_"))
    return found / 1024


def attack(server: Running, n: int, seed: int, told: int = 0) -> tuple[Counter[str], list[str]]:
    """Send n requests; return the statuses that came, and the promises that were broken."""
    one = Attack(server, seed)
    before, start = server.workers, perf_counter()
    early = 0.0
    for i in range(n):
        one.one()
        if i == min(n // 5, 20_000):
            early = memory(before)
        if told and (i + 1) % told == 0:
            print(f"{i + 1:,} requests in {perf_counter() - start:.0f} s, {memory(before):.1f} MB", flush=True)
        if len(one.wrong) > 20:
            break
    one.close()
    if server.workers != before:
        one.wrong.append("a worker has died")
    elif n >= 100_000 and (late := memory(before)) > early + 16:
        one.wrong.append(f"memory grew from {early:.1f} MB to {late:.1f} MB")
    if 'status="500"' in server.ask("/metrics").body.decode():
        one.wrong.append("an answer that nobody has read was of the status 500")
    if any("Traceback" in line for line in server.rest()):
        one.wrong.append("there is a traceback on standard error")
    if server.ask("/models/bits/score", {"rows": bits(1).tolist()}).status != 200:
        one.wrong.append("a good request is not answered any more")
    return one.statuses, one.wrong


def main() -> int:
    """Attack, and print what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--n", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--workers", type=int, default=1)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = save_models(folder)
        with running(*(folder / f"{model}.safetensors" for model in models), "--workers", args.workers) as server:
            statuses, wrong = attack(server, args.n, args.seed, told=max(args.n // 20, 1))
    for status, count in sorted(statuses.items()):
        print(f"{status:30}{count:10,}")
    print(f"{sum(statuses.values()):,} requests, broken promises: {len(wrong)}")
    for text in wrong:
        print(text)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
