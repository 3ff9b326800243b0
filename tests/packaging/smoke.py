"""Does an installed package work: ``python smoke.py native``, away from the checkout. It needs the package alone, no pytest.

It fits, scores, draws, saves and loads, compares with dense NumPy, and looks at what a server imports. The argument is the
implementation of the kernels that must be at work: a wheel without its extension would install, and be slow. With ``jit`` it
only looks whether that is so, and said.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

SERVE = """
import sys, numpy
import made_fast
print(repr(float(made_fast.load(sys.argv[1]).score_samples(numpy.zeros((1, 64)))[0])))
print(*sorted({"numba", "scipy", "sklearn", "joblib", "tqdm", "PIL"} & set(sys.modules)))
"""


def main(implementation: str) -> None:
    """Raise AssertionError where something is not as it should be."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from made_fast import kernels
    told = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert kernels.implementation == implementation, (
        f"the kernels must be {implementation}, got {kernels.implementation}: {told}"
    )
    assert bool(told) == (implementation == "jit"), f"only an installation without the extension warns, got {told}"
    if implementation == "jit":  # to compile these kernels takes a minute, and the tests do
        print(f"made_fast runs on Numba's kernels, and says: {told[0]}")
        return

    import numpy as np
    from sklearn.datasets import load_digits

    import made_fast
    from made_fast import MADE

    here = Path(made_fast.__file__).parent
    assert (here / "py.typed").exists(), "type checkers need py.typed"
    X = (load_digits().data > 7).astype(np.uint8)
    made = MADE((100,), max_epochs=3, random_state=0).fit(X)
    net, x = made.to_dense(), X[:50].astype(np.float64)
    h = np.maximum(x @ net["weights"][0].T + net["biases"][0], 0)
    a = h @ net["weights"][1].T + net["biases"][1] + x @ net["direct"][1].T
    expected = (x * a - np.logaddexp(0, a)).sum(axis=1)
    assert np.allclose(made.score_samples(X[:50]), expected, atol=1e-3), "scores must be those of dense NumPy"
    assert made.sample(5, random_state=0).shape == (5, 64)
    table = MADE((20,), max_epochs=2, n_masks=None, n_eval_masks=2, random_state=0)
    table.fit({"age": np.arange(200.0) % 60, "sex": np.array(["m", "f"] * 100, dtype=object)})
    assert 0 < table.probability("age > 30 and sex = 'f'") < 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        made.save(path)
        served = subprocess.run([sys.executable, "-c", SERVE, path], capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )
    assert float(served[0]) == made.score_samples(np.zeros((1, 64)))[0], "a loaded model must give the same bits"
    assert not served[1], f"a server must import NumPy and the kernels alone, got {served[1]}"
    print(f"made_fast {made_fast.__version__} works in {here}, kernels: {implementation}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "native")
