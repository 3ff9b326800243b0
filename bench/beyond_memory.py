"""What tables beyond memory take: peak memory and rows a second of a fit to chunks, beside the fit to the table in memory.

    python -m bench.beyond_memory binary --rows 100000000        # drawn chunk by chunk, 50 columns of 0/1
    python -m bench.beyond_memory mixed --rows 10000000          # a Parquet file of 20 columns of all kinds, in --folder
    python -m bench.beyond_memory binary --rows 5000000 --both   # the fit in memory, too, and whether its bits are the same

Each fit makes one epoch in a process of its own, whose peak is ``VmHWM``; so it runs on Linux only. "Rows packed" are what the
fit keeps of the rows: bits, where entries are missing, and log-densities within levels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine

CHUNK = 1 << 17
"""Rows that are drawn at a time."""


def binary(n_rows: int, n_columns: int = 50) -> Iterator[Any]:
    """Draw chunks of rows of 0/1, of which each column depends on the one before."""
    for start in range(0, n_rows, CHUNK):
        rng = np.random.default_rng(start)
        X = (rng.random((min(CHUNK, n_rows - start), n_columns), np.float32) < 0.2).view(np.uint8)
        X[:, 1:] ^= X[:, :-1]
        yield X


def write_mixed(path: Path, n_rows: int) -> None:
    """Write a Parquet file of 20 columns: floats with all their digits and with two, ints, texts, booleans."""
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    for start in range(0, n_rows, CHUNK):
        rng, n = np.random.default_rng(start), min(CHUNK, n_rows - start)
        z = rng.normal(size=(n, 3)).astype(np.float32)
        columns: dict[str, Any] = {f"float{j}": z @ rng.random(3) + rng.normal(size=n) for j in range(4)}
        columns |= {f"price{j}": np.round(np.exp(z[:, j % 3] + rng.normal(size=n) / 4), 2) for j in range(4)}
        columns |= {f"count{j}": rng.poisson(np.exp(1 + z[:, j % 3] / 2)) for j in range(4)}
        for j in range(6):
            names = pa.array([f"name {k}" for k in range(3 + 8 * j)])
            codes = pa.array(np.clip(np.abs(z[:, j % 3]) * (1 + 3 * j), 0, 2 + 8 * j).astype(np.int32))
            columns[f"text{j}"] = names.take(codes)
        columns |= {f"flag{j}": z[:, j] > 0.5 for j in range(2)}
        table = pa.table(columns)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def fit(case: str, how: str, n_rows: int, path: str, hidden: int, seconds: int) -> dict[str, Any]:
    """Fit one epoch, or for some seconds, in this process and return what it took."""
    from made_fast import MADE, Chunks

    made = MADE(hidden_sizes=(hidden,), max_epochs=1, n_threads=1, random_state=0, batch_size=200, direct_connections="none")
    if how == "memory":
        X: Any = np.concatenate(list(binary(n_rows))) if case == "binary" else _whole(path)
    else:
        X = Chunks(lambda: binary(n_rows)) if case == "binary" else Chunks(path)
    packed: list[Any] = []
    begin, kept = memory("VmRSS"), made._begin

    def begun(table: Any, state: Any, rows: Any) -> None:
        packed.extend((sum(each.nbytes for each in (rows.bits, rows.missing, rows.within) if each is not None), time.time()))
        packed.append(memory("VmHWM"))
        kept(table, state, rows)
        packed.append(time.time())
        signal.alarm(seconds)

    made._begin = begun  # type: ignore[method-assign]  # the rows are not to be had otherwise
    start = time.time()
    if seconds:  # a part of the epoch
        signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        made.fit(X)
        rate = made.history_[0]["rows_per_second"]
    except KeyboardInterrupt:
        rate = made._fit_state.trainer.step * made.batch_size / (time.time() - packed[3])
    return {
        "packed": packed[0],
        "base": begin,
        "peak_reading": packed[2] - begin,
        "peak": memory("VmHWM") - begin,
        "parameters": made.model_.n_parameters,
        "reading": packed[1] - start,
        "rows_per_second": rate,
        "digest": hashlib.sha256(made._fit_state.trainer.parameters.vector.tobytes()).hexdigest()[:16],
    }


def _whole(path: str) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)


def memory(what: str) -> int:
    """Return a figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("binary", "mixed"))
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--hidden", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=0, help="train for so long; by default for one epoch")
    parser.add_argument("--folder", type=Path, help="for the Parquet file; by default a temporary one")
    parser.add_argument("--both", action="store_true", help="fit the table in memory, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        how, _, path = args.one.partition(":")
        print(json.dumps(fit(args.case, how, args.rows, path, args.hidden, args.seconds)))
        return
    print(machine.cpu())
    with tempfile.TemporaryDirectory() as temporary:
        path = (args.folder or Path(temporary)) / f"mixed_{args.rows}.parquet"
        if args.case == "mixed" and not path.exists():
            write_mixed(path, args.rows)
        found = {}
        for how in ("chunks", "memory") if args.both else ("chunks",):
            command = [sys.executable, "-m", "bench.beyond_memory", args.case, "--rows", str(args.rows)]
            command += ["--hidden", str(args.hidden), "--seconds", str(args.seconds), "--one", f"{how}:{path}"]
            found[how] = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
    for how, took in found.items():
        packed = took["packed"]
        print(f"{args.case}, {args.rows:,} rows, {how}:")
        print(f"  rows packed                 {packed / 1e6:10,.0f} MB, {packed / args.rows:.0f} bytes a row")
        print(f"  peak above start, reading   {took['peak_reading'] / 1e6:10,.0f} MB, {took['peak_reading'] / packed:.2f} x")
        print(f"  peak above start, in all    {took['peak'] / 1e6:10,.0f} MB, {took['peak'] / packed:.2f} x")
        print(f"  process at start            {took['base'] / 1e6:10,.0f} MB; the model has {took['parameters']:,} parameters")
        print(f"  reading and packing         {took['reading']:10,.1f} s, {args.rows / took['reading']:,.0f} rows a second")
        print(f"  training                    {took['rows_per_second']:10,.0f} rows a second")
    if args.both:
        same = found["chunks"]["digest"] == found["memory"]["digest"]
        print(f"parameters, bit for bit: {'the same' if same else 'NOT the same'}")


if __name__ == "__main__":
    main()
