"""Coverage guided fuzzing of model files: https://github.com/google/atheris drives ``made_fast.load``.

``pip install atheris``, then ``python tests/robustness/atheris_model_file.py -max_total_time=60``; options are libFuzzer's. It
starts from the files of ``fuzz.py``, and a mutator of its own puts the checksums right, without which nothing gets past them.
It checks the promises of ``fuzz.py`` in one process: it ends with the first file that breaks one, and keeps that.

Not here: checkpoints, millions of mutants (``fuzz.py``). The tests do not need atheris.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
DATA_SEAL = re.compile(rb'"data_sha256":"[^"]*"')


def repair(raw: bytes) -> bytes:
    """Return a file with the length of its header and both checksums put right, if there is anything like a header."""
    from robustness.mutations import seal

    end = 8 + int.from_bytes(raw[:8], "little")
    if end > len(raw):
        end = raw.rfind(b"}") + 1
    text, data = raw[8:end].rstrip(b" "), raw[end:]
    text = DATA_SEAL.sub(b'"data_sha256":"' + hashlib.sha256(data).hexdigest().encode() + b'"', text)
    return seal(text, data)


def main() -> None:
    import atheris
    import numpy as np

    with atheris.instrument_imports(include=["made_fast"]):
        importlib.import_module("made_fast.inference.mixture")  # the home of load
    from robustness import fuzz

    np.seterr(all="ignore")
    door, seeds = fuzz.Door(), fuzz.make_seeds()

    def one(raw: bytes) -> None:
        verdict = door.check(fuzz.Mutant(0, "", seeds[0], raw, False, False))
        assert verdict.outcome in fuzz.OUTCOMES, verdict

    def mutate(raw: bytes, max_size: int, seed: int) -> bytes:
        mutated: bytes = atheris.Mutate(raw, max_size)
        return repair(mutated)[:max_size]

    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            (Path(folder) / seed.name.replace(" ", "-")).write_bytes(seed.raw)
        atheris.Setup([sys.argv[0], "-timeout=1", "-max_len=16384", *sys.argv[1:], folder], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
