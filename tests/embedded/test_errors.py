"""What the C library refuses, with which status and text: files, arguments, rows, overflow.

Not here: mutated files (``test_verdicts.py``).
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from helpers import random_latent, random_model, rows
from model_files import compact, forge, seal, split

import made_fast
from made_fast import MADE, MixtureModel
from made_fast.network.network import Network

CANNOT_READ, BAD_FILE, UNSUPPORTED, BAD_ARGUMENT, BAD_VALUE, OVERFLOW = range(1, 7)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model"
    random_model(6, (4,), dtype="float32").save(path)
    return path


def refuse(library, source, status, match, **options):
    with pytest.raises(Exception, match=match) as caught:
        library.open(str(source) if not isinstance(source, bytes) else source, **options)
    text = str(caught.value)
    assert (type(caught.value).__name__, caught.value.status) == ("MadeFastError", status)
    assert text.startswith(f"{source}: " if not isinstance(source, bytes) else "bytes: ")
    assert text.endswith(".")
    assert "\n" not in text


def test_what_is_no_file(library, tmp_path, path):
    refuse(library, tmp_path / "none", CANNOT_READ, "cannot be opened: No such file")
    refuse(library, tmp_path, BAD_FILE, "must be a regular file")
    os.mkfifo(tmp_path / "pipe")
    refuse(library, tmp_path / "pipe", BAD_FILE, "must be a regular file")  # and nothing waits for its writer
    if os.geteuid():
        path.chmod(0)
        refuse(library, path, CANNOT_READ, "Permission denied")


@pytest.mark.parametrize("mmap", [False, True])
def test_files_that_are_cut_changed_or_foreign(library, path, mmap):
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")

    def changed(at):
        return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]

    for content, match in [
        (b"", "length of the header .* got 0"),
        (raw[:7], "length of the header"),
        (raw[:100], "length of the header"),
        (b"\xff" * 200, "length of the header"),
        (raw[:end], "must be up to 8 counts and fit into the file"),
        (raw[:-4], "announces .* bytes of data|fit into the file|in the file"),
        (raw + b"\0", "announces .* bytes of data"),
        (changed(end + 5), "SHA-256 in the metadata must be that of the data"),
        (changed(end - 1), "strict JSON|SHA-256"),
        (changed(raw.index(b'"hyper"') + 3), "SHA-256 in the metadata must be that of the header"),
        (seal(b'{"__metadata__":{"format":"pt"}}'), "format in its metadata must be 'made_fast', got 'pt'"),
        ((64 - 8).to_bytes(8, "little") + b"{}".ljust(56), "__metadata__"),
        (os.urandom(4000), "made_fast model"),
    ]:
        path.write_bytes(content)
        with pytest.raises(made_fast.ModelFileError):
            made_fast.load(path)
        refuse(library, path, BAD_FILE, match, mmap=mmap)
        refuse(library, content, BAD_FILE, match)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("kind", "ensemble", "weights must be a vector"),
        ("kind", "cake", "kind of the file must be 'model' or 'ensemble', got 'cake'"),
        ("kind", "checkpoint", "kind of the file must be 'model', got 'checkpoint'. Finish"),
        ("activation", "identity", "activation must be one that this version knows, got 'identity'"),
        ("hyper", '{"a":1,"a":2}', "hyper must be strict JSON, got a name twice"),
        ("hyper", '{"a":NaN}', "no value"),
        ("hyper", '{"a":1e999}', "not finite"),
        ("hyper", '{"a":"\\ud800"}', "surrogate"),
        ("hyper", '{"binarize":true}', "binarize must be None or a finite number"),
        ("hyper", '{"binarize":1' + "0" * 400 + "}", "binarize must be None or a finite number"),
        ("hyper", '{"a":[1,2}', "does not end"),
        ("hyper", "[]", "hyper must be a JSON object"),
        ("points", "0", "points must be a number in 1..256"),
        ("points", "2", "there must be .* parameters"),
        ("format_version", "2", "version of the format must be '1', got '2'"),
        ("connectivity_weights", "true", "connectivity weights need"),
    ],
)
def test_metadata_that_are_wrong(library, path, name, text, match):
    header, data = split(path.read_bytes())
    header["__metadata__"][name] = text
    path.write_bytes(forge(header, data))
    with pytest.raises(made_fast.ModelFileError):
        made_fast.load(path)
    refuse(library, path, BAD_FILE, match)


def test_numbers_do_not_depend_on_the_locale_of_the_process(library, path):
    import locale

    header, data = split(path.read_bytes())
    header["__metadata__"]["hyper"] = '{"binarize":0.5}'
    before = locale.setlocale(locale.LC_NUMERIC)
    for name in ("de_DE.UTF-8", "de_DE.utf8", "C"):
        try:
            locale.setlocale(locale.LC_NUMERIC, name)
        except locale.Error:
            continue
        assert library.open(forge(header, data)).binarize == 0.5
    locale.setlocale(locale.LC_NUMERIC, before)


def test_tensors_that_are_wrong(library, path):
    header, data = split(path.read_bytes())

    def with_tensor(name, values):
        begin, end = header[name]["data_offsets"]
        return forge(json.loads(compact(header)), data[:begin] + values.tobytes() + data[end:])

    for content, match in [
        (with_tensor("ordering", np.array([1, 2, 3, 4, 5, 5], np.int32)), "hold each place 1..6 once"),
        (with_tensor("ordering", np.array([1, 2, 3, 4, 5, 7], np.int32)), "hold each place 1..6 once"),
        (with_tensor("degrees.0", np.array([1, 2, 3, 6], np.int32)), "must be in 1..5, got 6"),
        (with_tensor("degrees.0", np.array([1, 2, 3, 0], np.int32)), "must be in 1..5, got 0"),
    ]:
        refuse(library, content, BAD_FILE, match)
    _, end = header["parameters"]["data_offsets"]
    last = np.frombuffer(data[:end], np.float32).copy()
    last[-1] = 1  # a unit that fills up the last panel
    refuse(library, with_tensor("parameters", last), BAD_FILE, "dead weights and fill-up units must be 0")
    last[-1] = np.nan
    refuse(library, with_tensor("parameters", last), BAD_FILE, "must be finite")


def test_models_of_columns_are_refused_by_name(library, tmp_path):
    table = {"a": ["x", "y", "z"] * 8, "b": np.arange(24.0)}
    MADE(hidden_sizes=(3,), max_epochs=1, random_state=0, n_bins=3).fit(table).save(tmp_path / "table")
    refuse(library, tmp_path / "table", UNSUPPORTED, "holds a model of columns; this library opens models of 0/1 rows")


def test_rows_that_are_wrong(library, path):
    model, X = library.open(str(path)), rows(300, 6)
    X[201, 3] = 2
    with pytest.raises(Exception, match="only 0 and 1, got 2 at row 201, column 3") as caught:
        model.score_samples(X)
    assert caught.value.status == BAD_VALUE
    for ask in (model.score_samples, model.conditional_proba):
        with pytest.raises(Exception, match="must have the model's 6 columns, got 7") as caught:
            ask(rows(3, 7))
        assert caught.value.status == BAD_ARGUMENT
    assert len(model.score_samples(X[:0])) == 0
    assert model.sample(0, 0).shape == (0, 6)


def test_conditionals_need_one_network(library, tmp_path):
    random_latent(6, (4,), 3).save(tmp_path / "model")
    with pytest.raises(Exception, match="need a model of one network, which has one ordering, got 3") as caught:
        library.open(str(tmp_path / "model")).conditional_proba(rows(2, 6))
    assert caught.value.status == UNSUPPORTED


def test_null_pointers_and_callers_without_an_error(library, path):
    c, model = library.c, library.open(str(path))
    assert c.made_fast_score(None, None, 1, 6, None, None) == BAD_ARGUMENT
    assert c.made_fast_score(model.handle, None, 1, 6, None, None) == BAD_ARGUMENT
    assert c.made_fast_sample(model.handle, 1, 6, 0, None, None) == BAD_ARGUMENT
    assert c.made_fast_open(None, None) is None
    assert c.made_fast_open(b"/nowhere", None) is None
    assert (c.made_fast_n_inputs(None), c.made_fast_n_networks(None), c.made_fast_cpu(None)) == (0, 0, None)
    assert c.made_fast_has_threshold(model.handle, None) == 0
    assert c.made_fast_column_name(model.handle, 0) is None
    c.made_fast_close(None)
    X, log_p = rows(1, 6), np.empty(1)
    assert c.made_fast_score(model.handle, X.ctypes.data, 1, 6, log_p.ctypes.data, None) == 0
    assert log_p[0] == made_fast.load(path).score_samples(X)[0]


def test_an_unknown_cpu_level(library, path, monkeypatch):
    monkeypatch.setenv("MADE_FAST_CPU", "x86-64-v9")
    refuse(library, path, BAD_ARGUMENT, "CPU level must be one that this machine runs, got 'x86-64-v9'. Unset")


def huge(n_masks=1, n_points=1, scale=1e25):
    """Return a model whose logits are beyond float32."""
    shape = {"dtype": "float32", "direct": "output"}
    model = random_latent(8, (6,), n_points, **shape) if n_points > 1 else random_model(8, (6,), n_masks=n_masks, **shape)
    source = model.source.with_vector(model.source.vector * np.float32(scale))
    return type(model)(source) if n_points > 1 or isinstance(source, Network) else type(model)(source, model.masks)


@pytest.mark.parametrize("model", [huge(), huge(3), huge(n_points=3), MixtureModel([huge(), huge(2)])], ids=str)
def test_overflow_is_told(library, tmp_path, model):
    model.save(tmp_path / "model")
    found = library.open(str(tmp_path / "model"))
    with pytest.raises(FloatingPointError):
        made_fast.load(tmp_path / "model").score_samples(rows(5, 8))
    for ask in (lambda: found.score_samples(rows(5, 8)), lambda: found.sample(5, 0)):
        with pytest.raises(Exception, match="arithmetic overflows") as caught:
            ask()
        assert caught.value.status == OVERFLOW


def test_large_weights_that_do_not_overflow_are_fine(library, tmp_path):
    huge(scale=1e17).save(tmp_path / "model")  # beyond the coarse bound, so that answers are checked
    model = made_fast.load(tmp_path / "model")
    assert model.source.guarded
    X = rows(50, 8)
    np.testing.assert_array_equal(library.open(str(tmp_path / "model")).score_samples(X), model.score_samples(X))
