"""Two ranks on a slow network: ``python -m bench.link -- --hidden 2000 2000 --epochs 3 --batch 400 --average-every 50``.

What follows ``--`` is for ``bench.distributed``, of which each rank runs in a network namespace, and on a core, of its own;
the link between them (``link.c``) has ``--bits`` a second and ``--delay`` microseconds each way. It needs root, Linux, a C
compiler and Open MPI, and takes a share of the two cores: true links leave more of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["main"]

SPACES = ("link-a", "link-b")
CHOICES = {"pml": "ob1", "btl": "tcp,self", "btl_tcp_if_include": "10.77.0.0/24", "mpi_yield_when_idle": "1"}
"""Of Open MPI: TCP over that link, and nothing else."""


@contextmanager
def link(folder: Path, bits: float, delay: float) -> Iterator[None]:
    """Make two namespaces and the link between them."""
    program = folder / "link"
    subprocess.run(["cc", "-O2", "-o", program, Path(__file__).with_name("link.c")], check=True)
    made: list[str] = []
    try:
        for name in SPACES:
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
        command = [program, *SPACES, f"{bits:.0f}", f"{delay:.0f}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != "up\n":
                    raise RuntimeError("the link did not come up")
                os.setpriority(os.PRIO_PROCESS, process.pid, -10)  # ranks that wait keep a core busy
                yield
            finally:
                process.kill()
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


def write(path: Path, text: str) -> Path:
    """Write a script that may be run."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def main() -> int:
    """Do what the command line says; return the exit code of mpiexec."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=float, default=1e9, help="a second, each way (default 1e9)")
    parser.add_argument("--delay", type=float, default=1000, help="in microseconds, each way (default 1000)")
    parser.add_argument("arguments", nargs="*", help="of bench.distributed, after --")
    args = parser.parse_args()
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec"
    with tempfile.TemporaryDirectory(prefix="link-") as name:
        folder = Path(name)
        other = folder / "other"
        other.mkdir()
        hosts = folder / "hosts"
        hosts.write_text("10.77.0.1 slots=1\n10.77.0.2 slots=1\n")
        agent = write(  # in place of ssh: its first argument is the host
            folder / "agent",
            f'shift; exec ip netns exec {SPACES[1]} unshare -u sh -c "hostname {SPACES[1]}; export TMPDIR={other} '
            f'PMIX_SYSTEM_TMPDIR={other}; $*"',
        )
        rank = write(folder / "rank", f'exec taskset -c $OMPI_COMM_WORLD_RANK {sys.executable} -m bench.distributed "$@"')
        start = write(folder / "start", f'hostname {SPACES[0]}; exec "$@"')
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        env |= {f"{who}_ALLOW_RUN_AS_ROOT{more}": "1" for who in ("OMPI", "PRTE") for more in ("", "_CONFIRM")}
        with link(folder, args.bits, args.delay):
            command = ["unshare", "-u", "ip", "netns", "exec", SPACES[0], start, mpiexec, "--hostfile", hosts]
            command += ["--prtemca", "plm_ssh_agent", agent, "--bind-to", "none"]
            command += [word for choice in CHOICES.items() for word in ("--mca", *choice)]
            command += ["-n", "2", rank, *args.arguments]
            return subprocess.run(command, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
