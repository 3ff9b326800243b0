"""The processes of a server: one that loads models and watches, and workers that it forks, which serve them.

The first process binds the address and loads the models, mapped, so that all workers share one copy. It has no thread and no
event loop: a fork is safe. SIGTERM and Ctrl-C end the workers, which finish what they have begun. SIGHUP loads the files
again: new workers take over when they are ready, and the old ones finish what they have begun; if a file is broken or a
worker does not come up, the old ones stay. A worker that dies is forked again, from what is loaded, as soon as the system
has a process for it.

Not here: what a worker answers (``app.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from made_fast.serving import metrics
from made_fast.serving.app import create_app
from made_fast.serving.doors import hear_estimates
from made_fast.serving.models import Served, load_all
from made_fast.serving.settings import Settings
from made_fast.serving.wire import Wire
from made_fast.system import threads
from made_fast.system.console import say

__all__ = ["serve"]

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
UP = 60.0
"""Seconds that workers have to come up."""
PAUSE = 1.0
"""Seconds between the death of a worker and its successor."""


def serve(paths: Mapping[str, str], settings: Settings) -> int:
    """Serve models until a signal ends it; return the exit code. Raises OSError or ValueError before it has begun."""
    shared = max(1, threads.available() // settings.workers)
    settings = replace(settings, threads=settings.threads or shared)
    with tempfile.TemporaryDirectory(prefix="made_fast-") as folder:
        metrics.share(Path(folder))
        models = load_all(paths)
        with socket.create_server(
            (settings.host, settings.port), family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET, backlog=2048
        ) as listening:
            return _Watch(paths, models, settings, listening).run()


class _Worker:
    """A forked worker, seen from the first process."""

    def __init__(self, pid: int, ready: int) -> None:
        self.pid, self.ready, self.begun = pid, ready, time.monotonic()
        self.gone = False  # its end is known
        self.missed = False  # there was no process for its successor

    def is_dead(self) -> bool:
        if not self.gone and os.waitpid(self.pid, os.WNOHANG)[0]:
            os.close(self.ready)
            self.gone = True
        return self.gone


class _Watch:
    """The first process."""

    def __init__(
        self, paths: Mapping[str, str], models: Mapping[str, Served], settings: Settings, listening: socket.socket
    ) -> None:
        self.paths, self.models, self.settings, self.listening = paths, models, settings, listening
        self.metrics = metrics.Metrics()
        self.workers: list[_Worker] = []
        self.leaving: list[_Worker] = []  # old ones, which finish what they have begun
        self.alive = os.pipe()  # workers see its end when this process is gone

    def run(self) -> int:
        with _signals() as came:
            self.workers = [self._fork() for _ in range(self.settings.workers)]
            if not self._up(self.workers):
                self._end(self.workers, came)
                say("made-fast: error: no worker came up.")
                return 1
            host, port = self.listening.getsockname()[:2]
            where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            n = self.settings.workers
            say(f"made-fast: serving {', '.join(self.models)} at {where}, {n} worker{'s' if n > 1 else ''}")
            while True:
                for number in came(PAUSE if any(worker.gone for worker in self.workers) else None):
                    if number in (signal.SIGTERM, signal.SIGINT):
                        say("made-fast: stopping; requests in flight are finished")
                        self.listening.close()  # who comes now is refused at once
                        self._end([*self.workers, *self.leaving], came)
                        return 0
                    if number == signal.SIGHUP:
                        self._reload()
                self._replace_the_dead()

    def _fork(self) -> _Worker:
        ready, tell = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)  # none may come between the fork and the worker's own handlers
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            os.close(ready)
            os.close(tell)
            raise
        if pid == 0:
            code = 1
            try:
                os.close(ready)
                os.close(self.alive[1])
                _work(self.models, self.settings, self.metrics, self.listening, tell, self.alive[0])
                code = 0
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stderr.flush()
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        os.close(tell)
        return _Worker(pid, ready)

    def _up(self, workers: list[_Worker]) -> bool:
        """Wait for workers to come up; say whether all did."""
        until = time.monotonic() + UP
        for worker in workers:
            left = max(0.0, until - time.monotonic())
            found, _, _ = select.select([worker.ready], [], [], left)
            if not found or os.read(worker.ready, 1) != b"1":
                return False
        return True

    def _reload(self) -> None:
        old, new, why = self.models, list[_Worker](), "no new worker came up"
        try:
            self.models = load_all(self.paths)
            for _ in self.workers:
                new.append(self._fork())
            up = self._up(new)
        except Exception as error:  # whatever is wrong with a file, the old models serve on
            up, why = False, str(error)
        self.metrics.reloads.labels("done" if up else "failed").inc()
        if not up:
            self.models = old
            for worker in new:
                _kill(worker, signal.SIGKILL)
            self.leaving += new
            say(f"made-fast: the models are not loaded again, the old ones stay in service: {why}")
            return
        for worker in self.workers:
            _kill(worker, signal.SIGTERM)
        self.leaving += self.workers
        self.workers = new
        say(f"made-fast: loaded {', '.join(self.models)} again")

    def _replace_the_dead(self) -> None:
        self.leaving = [worker for worker in self.leaving if not worker.is_dead()]
        for i, worker in enumerate(self.workers):
            known = worker.gone
            if not worker.is_dead():
                continue
            if not known:
                say(f"made-fast: worker {worker.pid} has died; another one takes its place")
            if time.monotonic() - worker.begun < PAUSE:
                time.sleep(PAUSE)
            try:
                self.workers[i] = self._fork()
            except OSError as error:  # the others serve on, and it may pass
                if not worker.missed:
                    say(f"made-fast: there is no process for its successor: {error}; trying again every {PAUSE:g} s")
                worker.missed = True

    def _end(self, workers: list[_Worker], came: Any) -> None:
        """End workers: let them finish, and kill those that do not within their time, or all of them at a second signal."""
        for worker in workers:
            _kill(worker, signal.SIGTERM)
        until = time.monotonic() + self.settings.grace + 5
        while workers := [worker for worker in workers if not worker.is_dead()]:
            again = came(max(0.0, until - time.monotonic()))
            if time.monotonic() > until or signal.SIGTERM in again or signal.SIGINT in again:
                for worker in workers:
                    _kill(worker, signal.SIGKILL)


@contextlib.contextmanager
def _signals() -> Iterator[Any]:
    """Yield a function that waits for signals, so many seconds or for ever, and returns those that have come."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in WATCHED}
    wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)

    def came(seconds: float | None) -> list[int]:
        found, _, _ = select.select([reading], [], [], seconds)
        return list(reading.recv(4096)) if found else []

    try:
        yield came
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        reading.close()
        writing.close()


def _kill(worker: _Worker, number: int) -> None:
    if not worker.gone:  # another process may have its number
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, number)


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it is up, and ends when the first process is gone."""

    def __init__(self, config: uvicorn.Config, tell: int, alive: int) -> None:
        super().__init__(config)
        self.tell, self.alive = tell, alive

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        os.write(self.tell, b"1")
        os.close(self.tell)
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(self.alive)
            self.should_exit = True

        loop.add_reader(self.alive, gone)


def _work(
    models: Mapping[str, Served],
    settings: Settings,
    counters: metrics.Metrics,
    listening: socket.socket,
    tell: int,
    alive: int,
) -> None:
    """Serve, in a worker."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # for the first process, also where the whole group gets it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    hear_estimates()
    config = uvicorn.Config(
        create_app(models, settings, counters),
        http=Wire,
        ws="none",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections,
        backlog=2048,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=math.ceil(settings.grace),
    )
    _Server(config, tell, alive).run([listening])
