"""Processes of a server: what it imports, tokens, signals, reloads, workers that die; and the command line of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import python, random_model
from served import D, bits, mixed_frame, read_answer, records, request, running

from made_fast.cli import main

ROWS = {"rows": bits(2).tolist()}

IMPORTS = """
import sys
from made_fast.serving import metrics, workers
from made_fast.serving.app import create_app
from made_fast.serving.doors import DOORS, question
from made_fast.serving.models import load_all
from made_fast.serving.settings import Settings
models, settings = load_all({"m": sys.argv[1]}), Settings(threads=1)
create_app(models, settings, metrics.Metrics())
rows = DOORS["sample"].answer(question(models["m"], DOORS["sample"], {"n": 3, "random_state": 0}, settings))["rows"]
for name, door in DOORS.items():
    if door.answer is None:
        continue
    body = {"rows": rows} if door.takes_rows else {}
    body |= {"query": {"query": "age > 30"}, "conditional": {"target": "age"}}.get(name, {})
    assert door.answer(question(models["m"], door, body, settings)), name
served = models["m"]
asked = question(served, DOORS["score"], {"rows": rows}, settings)
assert served.score_together([served.prepare(asked.rows)], 1).shape == (3,)
print(*sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[2:])))
print(*sorted(name for name in sys.modules if name.split(".")[1:2] in (["training"], ["estimators"], ["cli"])))
"""


def test_a_server_imports_inference_and_below_only(folder, models):
    heavy = ["sklearn", "scipy", "numba", "llvmlite", "joblib", "tqdm", "PIL", "matplotlib", "pandas", "pyarrow", "narwhals"]
    assert python("-c", IMPORTS, folder / "mixed.safetensors", *heavy, seconds=60) == ""


@pytest.fixture(scope="module")
def two(folder, models, tmp_path_factory):
    """A server of two workers with a token, and a folder with its file."""
    own = tmp_path_factory.mktemp("two")
    shutil.copy(folder / "bits.safetensors", own / "bits.safetensors")
    (own / "token").write_text("a-secret\n")
    options = ("--workers", 2, "--token-file", own / "token", "--max-body", 1, "--queue", 3, "--timeout", 2)
    with running(own / "bits.safetensors", f"more={folder / 'mixed.safetensors'}", *options) as found:
        yield found, own


def ask(server, path, body=None, token="Bearer a-secret", **options):
    return server.ask(path, body, Authorization=token, **options)


def test_a_token_is_demanded_but_for_health_and_the_page(two):
    server, _ = two
    for path in ("/", "/v2/health/live", "/v2/health/ready"):
        assert server.ask(path).status == 200
    for path in ("/models", "/metrics", "/openapi.json", "/v2", "/v2/models/bits", "/nothing"):
        for token in ("", "a-secret", "Bearer", "Bearer A-secret", "Bearer a-secret2", "Basic a-secret", "Bearer ä"):
            found = ask(server, path, token=token)
            assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer")
    assert ask(server, "/models").json == {"models": ["bits", "more"]}
    assert ask(server, "/models/bits/score", ROWS).status == 200
    assert server.ask("/models/bits/score", ROWS).status == 401


def test_figures_are_of_all_workers(two):
    server, _ = two
    before = figures(server)
    for _ in range(12):
        assert ask(server, "/models/bits/score", ROWS).status == 200
    assert ask(server, "/models/bits/score", {}).status == 422
    assert ask(server, "/models/nobody/score", {}).status == 404
    after = {name: value - before.get(name, 0) for name, value in figures(server).items()}
    label = 'made_fast_requests_total{door="/models/{name}/score",model="%s",status="%s"}'
    assert (after[label % ("bits", 200)], after[label % ("bits", 422)], after[label % ("", 404)]) == (12, 1, 1)
    assert after['made_fast_rows_total{door="score",model="bits"}'] == 24
    assert after['made_fast_batch_rows_sum{model="bits"}'] == 24


def figures(server):
    found = ask(server, "/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    lines = [line.rpartition(" ") for line in found.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_bounds_of_a_worker(two):
    server, _ = two
    found = ask(server, "/models/bits/score", b" " * ((1 << 20) + 1))
    assert found.status == 413
    assert "at most 1,048,576 bytes" in found.error
    chunks = request("/models/bits/score", Authorization="Bearer a-secret", Transfer_Encoding="chunked")
    chunks = chunks.replace(b"Content-Length: 0\r\n", b"")
    with server.connect() as connection:  # of no length, and without end
        connection.sendall(chunks)
        for _ in range(20):
            try:
                connection.sendall(b"20000\r\n" + b" " * 0x20000 + b"\r\n")
            except OSError:
                break
        assert read_answer(connection).status == 413
    held = [server.connect() for _ in range(12)]  # bodies that do not come take all the places there are
    try:
        for connection in held:
            connection.sendall(request("/models/bits/score", Authorization="Bearer a-secret", Content_Length="9"))
        answers = [read_answer(connection) for connection in held]
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {408, 429}
        assert 3 <= statuses.count(408) <= 6
        assert {answer.headers.get("retry-after") for answer in answers if answer.status == 429} == {"1"}
    finally:
        for connection in held:
            connection.close()
    assert ask(server, "/models/bits/score", ROWS).status == 200


def test_sighup_loads_the_files_again_and_a_broken_one_leaves_the_old_in_service(two):
    server, own = two
    path, other = own / "bits.safetensors", random_model(D, (9,), seed=5)
    old, before = ask(server, "/models/bits/score", ROWS).json, server.workers
    (own / "broken").write_bytes(path.read_bytes()[:-100])
    os.replace(own / "broken", path)
    server.process.send_signal(signal.SIGHUP)
    assert "bits.safetensors" in server.says("the old ones stay in service")
    assert (ask(server, "/models/bits/score", ROWS).json, server.workers) == (old, before)
    other.save(path)
    server.process.send_signal(signal.SIGHUP)
    server.says("loaded bits, more again")
    wait_for(lambda: len(server.workers) == 2 and not set(server.workers) & set(before))
    for _ in range(6):
        assert ask(server, "/models/bits/score", ROWS).json["log_p"] == other.score_samples(bits(2)).tolist()
    found = figures(server)
    assert (found['made_fast_reloads_total{outcome="done"}'], found['made_fast_reloads_total{outcome="failed"}']) == (1, 1)


def test_a_reload_loses_no_request(two):
    server, _ = two
    server.process.send_signal(signal.SIGHUP)
    statuses = []
    while not any("again" in line for line in server.said):
        statuses.append(ask(server, "/models/bits/score", ROWS).status)
        with contextlib.suppress(RuntimeError):
            server.says("nothing like this", 0.001)
        assert len(statuses) < 10_000
    server.said.clear()
    statuses += [ask(server, "/models/bits/score", ROWS).status for _ in range(20)]
    assert set(statuses) == {200}


def test_a_worker_that_dies_has_a_successor(two):
    server, _ = two
    wait_for(lambda: len(server.workers) == 2)
    killed = server.workers[0]
    os.kill(killed, signal.SIGKILL)
    server.says(f"worker {killed} has died")
    wait_for(lambda: len(server.workers) == 2 and killed not in server.workers)
    assert ask(server, "/models/bits/score", ROWS).status == 200


LAME = """
import os
from made_fast.serving import workers
work, flag = workers._work, {flag!r}
def lame(*args):
    if os.path.exists(flag):
        raise SystemExit(3)
    work(*args)
workers._work = lame
"""


def test_new_workers_that_do_not_come_up_leave_the_old_in_service(folder, models, tmp_path):
    path, flag, other = tmp_path / "bits.safetensors", tmp_path / "flag", random_model(D, (9,), seed=5)
    shutil.copy(folder / "bits.safetensors", path)
    with running(path, "--workers", 2, first=LAME.format(flag=str(flag))) as server:
        old, before = server.ask("/models/bits/score", ROWS).json, server.workers
        other.save(path)
        flag.touch()
        server.process.send_signal(signal.SIGHUP)
        server.says("the old ones stay in service: no new worker came up")
        wait_for(lambda: sorted(server.workers) == sorted(before))
        assert [server.ask("/models/bits/score", ROWS).json for _ in range(4)] == 4 * [old]
        flag.unlink()
        server.process.send_signal(signal.SIGHUP)
        server.says("loaded bits again")
        wait_for(lambda: len(server.workers) == 2 and not set(server.workers) & set(before))
        assert server.ask("/models/bits/score", ROWS).json["log_p"] == other.score_samples(bits(2)).tolist()


FULL = """
import errno, os
fork, flag = os.fork, {flag!r}
def full():
    if os.path.exists(flag):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = full
"""


def test_without_a_process_for_a_successor_the_others_serve_on(folder, models, tmp_path):
    flag = tmp_path / "flag"
    with running(folder / "bits.safetensors", "--workers", 2, first=FULL.format(flag=str(flag))) as server:
        flag.touch()
        (killed, other) = server.workers
        os.kill(killed, signal.SIGKILL)
        server.says("there is no process for its successor")
        assert [server.ask("/models/bits/score", ROWS).status for _ in range(4)] == 4 * [200]
        server.process.send_signal(signal.SIGHUP)
        server.says("the old ones stay in service")
        assert server.workers == [other]
        flag.unlink()
        wait_for(lambda: len(server.workers) == 2 and killed not in server.workers and other in server.workers)
        server.process.terminate()
        assert server.process.wait(30) == 0


def test_sigterm_finishes_what_has_begun(folder, models):
    body = json.dumps(ROWS).encode()
    with running(folder / "bits.safetensors") as server, server.connect() as connection, server.connect() as new:
        connection.sendall(request("/models/bits/score", body[:5], Content_Length=str(len(body))))
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        server.says("stopping")
        wait_for(lambda: refuses(server))
        new.sendall(request("/models/bits/score", body))  # on a connection that was made before
        answer = read_answer(new)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        connection.sendall(body[5:])
        answer = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert server.process.wait(30) == 0


def test_workers_end_with_the_first_process(folder, models):
    with running(folder / "bits.safetensors", "--workers", 2) as server:
        workers = server.workers
        server.process.kill()
        server.process.wait(30)
        wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def refuses(server):
    try:
        server.connect(1).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was made, and nobody takes it any more
        return False
    return False


def test_workers_share_one_mapped_model(tmp_path):
    path = tmp_path / "large.safetensors"
    random_model(600, (6000,), dtype="float32").save(path)
    with running(path, "--workers", 3) as server:
        for _ in range(12):
            server.ask("/models/large/score", {"rows": [[0] * 600]})
        size = path.stat().st_size
        for worker in server.workers:
            lines = Path(f"/proc/{worker}/smaps").read_text()
            maps = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", lines)
            (mapped,) = [each for each in maps if "large.safetensors" in each.split("\n")[0]]
            assert int(re.search(r"Size: +(\d+) kB", mapped)[1]) * 1024 >= size
            assert re.search(r"Private_Dirty: +0 kB", mapped)


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.02)


def refusal(capsys, *options):
    assert main(["serve", *map(str, options)]) == 2
    return capsys.readouterr().err


def test_refusals_of_the_command_line(folder, models, tmp_path, capsys, monkeypatch):
    path = folder / "bits.safetensors"
    assert "No such file" in refusal(capsys, tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no model")
    assert "broken.safetensors" in refusal(capsys, path, tmp_path / "broken.safetensors")
    assert "different names" in refusal(capsys, path, path)
    assert "--port: must be a port" in refusal(capsys, path, "--port", 70_000)
    assert "--timeout: must be in 0 < S" in refusal(capsys, path, "--timeout", 0)
    (tmp_path / "token").write_text(" \n")
    assert "printable ASCII" in refusal(capsys, path, "--token-file", tmp_path / "token")
    assert "No such file" in refusal(capsys, path, "--token-file", tmp_path / "none")
    monkeypatch.setenv("MADE_FAST_TOKEN", "two words")
    assert "$MADE_FAST_TOKEN does not hold" in refusal(capsys, path)
    monkeypatch.delenv("MADE_FAST_TOKEN")
    said = refusal(capsys, path, "--host", "203.0.113.1")
    assert "whoever reaches 203.0.113.1 may ask" in said
    assert "Cannot assign requested address" in said


def test_an_address_in_use_is_one_line(server, folder, capsys):
    assert "in use" in refusal(capsys, folder / "bits.safetensors", "--port", server.port)


def test_without_the_extra_one_line_says_what_to_install(folder, models):
    code = """
import sys
class Missing:
    def find_spec(self, name, *rest):
        if name == "fastapi":
            raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")
sys.meta_path.insert(0, Missing())
from made_fast.cli import main
sys.exit(main(["serve", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "bits.safetensors")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    said = "made-fast: error: serve needs fastapi, which is not installed. Run: pip install 'made_fast[serve]'.\n"
    assert done.stderr == said


def test_the_token_is_seen_in_no_list_of_processes(two):
    server, _ = two
    for pid in (server.process.pid, *server.workers):
        assert b"a-secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_row_of_a_table_goes_through_two_workers(two):
    server, _ = two
    found = {ask(server, "/models/more/score", {"rows": records(mixed_frame(1))}).body for _ in range(20)}
    assert len(found) == 1
