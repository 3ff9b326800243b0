"""Raw tables in text files: what is read of every dialect, what is refused at which line, and what is written reads back."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_fast.tables.columns.learn import learn
from made_fast.tables.reading import csvtable
from made_fast.tables.reading.csvtable import read_table, write_table

TABLES = Path(__file__).resolve().parents[4] / "shared" / "tables"
NAN = float("nan")


def table(tmp_path, content, name="t.csv", **kwargs):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, **kwargs)


def same(found, expected):
    """Compare columns with lists, missing values with NaN or None."""
    assert list(found) == list(expected)
    for name, column in found.items():
        wanted = expected[name]
        assert len(column) == len(wanted)
        for a, b in zip(column.tolist(), wanted, strict=True):
            assert type(a) is type(b)
            assert a == b or (a != a and b != b)


READ = {
    "plain": ("a,b\n1,x\n2,y\n", {"a": [1, 2], "b": ["x", "y"]}),
    "no names": ("1,x,0.5\n2,y,1\n", {"x0": [1, 2], "x1": ["x", "y"], "x2": [0.5, 1.0]}),
    "text, names": ("c,d\nx,p\ny,q\nx,p\n", {"c": ["x", "y", "x"], "d": ["p", "q", "p"]}),
    "text, no names": ("x,p\ny,q\nx,p\n", {"x0": ["x", "y", "x"], "x1": ["p", "q", "p"]}),
    "semicolons": ("a;b\n1;x,y\n2;z\n", {"a": [1, 2], "b": ["x,y", "z"]}),
    "decimal commas": ("a;b\n1,5;x\n2;y\n", {"a": [1.5, 2.0], "b": ["x", "y"]}),
    "tabs": ("a\tb\n1\t\n\t4\n", {"a": [1.0, NAN], "b": [NAN, 4.0]}),
    "bars": ("a|b\n1|x y\n2|z\n", {"a": [1, 2], "b": ["x y", "z"]}),
    "sep=": ("sep=;\na;b\n1;2\n", {"a": [1], "b": [2]}),
    "byte order mark, CRLF": (b"\xef\xbb\xbfa,b\r\n1,x\r\n2,y\r\n", {"a": [1, 2], "b": ["x", "y"]}),
    "CR": ("a,b\r1,x\r2,y\r", {"a": [1, 2], "b": ["x", "y"]}),
    "gzip": (gzip.compress(b"a,b\n1,x\n", mtime=0), {"a": [1], "b": ["x"]}),
    "blanks": ("39, State-gov ,0\n50, Private, 1\n", {"x0": [39, 50], "x1": ["State-gov", "Private"], "x2": [0, 1]}),
    "blank lines": ("\na,b\n\n1,2\n\n", {"a": [1], "b": [2]}),
    "quotes": ('"a, b","c"\n"x ""y"" , z",1\n" q",2\n', {"a, b": ['x "y" , z', " q"], "c": [1, 2]}),
    "line in quotes": ('a,b\n"x\ny",1\n', {"a": ["x\ny"], "b": [1]}),
    "single quotes": (
        "'40-49','a, b',3\n'50-59',nan,2\n'40-49','c',3\n",
        {"x0": ["40-49", "50-59", "40-49"], "x1": ["a, b", None, "c"], "x2": [3, 2, 3]},
    ),
    "all in quotes": ('"a","b"\n"1","x"\n"2",""\n', {"a": [1, 2], "b": ["x", None]}),
    "some in quotes": (
        'a,b,c\n"1","NA",1\n"2",NA,2\n"3",x,3\n',
        {"a": ["1", "2", "3"], "b": ["NA", None, "x"], "c": [1, 2, 3]},
    ),
    "missing": ("a,b\n1,?\nNA,x\nNaN,null\n,\n<NA>,None\n", {"a": [1.0] + [NAN] * 4, "b": [None, "x"] + [None] * 3}),
    "words that mean missing beside numbers only": ("a,b\nnone,none\n1,x\n", {"a": [NAN, 1.0], "b": ["none", "x"]}),
    "codes": ("zip,n\n01234,1\n99999,2\n", {"zip": ["01234", "99999"], "n": [1, 2]}),
    "signs and exponents": ("a,b\n-1,+2\n0,1e3\n", {"a": [-1, 0], "b": [2.0, 1000.0]}),
    "infinite": ("a,b\ninf,1\n-Inf,2\n", {"a": [float("inf"), -float("inf")], "b": [1, 2]}),
    "python's own numbers": ("a,b\n1_000,1\nx,2\n", {"a": ["1_000", "x"], "b": [1, 2]}),
    "large": ("a,b\n9007199254740993,1\n1,99999999999999999999\n", {"a": [9007199254740993, 1], "b": [1.0, 1e20]}),
    "booleans": ("a,b\nTrue,1\nFalse,2\n", {"a": ["True", "False"], "b": [1, 2]}),
    "an index of R": ('"a","b"\n"r1",1,2\n"r2",3,4\n', {"x0": ["r1", "r2"], "a": [1, 3], "b": [2, 4]}),
    "an index of pandas": (",a\n0,x\n1,y\n", {"x0": [0, 1], "a": ["x", "y"]}),
    "names that count": (",0,1\n0,0.5,x\n1,1.5,y\n", {"x0": [0, 1], "0": [0.5, 1.5], "1": ["x", "y"]}),
    "ends with separators": ("a,b,\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}),
    "only rows end so": ("a,b\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}),
    "one column": ("a\n1\n2\n", {"a": [1, 2]}),
    "hash": ("a,b\nC#,1\n#1,2\n", {"a": ["C#", "#1"], "b": [1, 2]}),
}


@pytest.mark.parametrize("name", READ)
def test_every_dialect_is_read(name, tmp_path):
    content, expected = READ[name]
    same(table(tmp_path, content), expected)


def test_the_caller_says_whether_there_are_names(tmp_path):
    same(table(tmp_path, "a,b\nx,y\n", header="no"), {"x0": ["a", "x"], "x1": ["b", "y"]})
    same(table(tmp_path, "1,2\n3,4\n", header="yes"), {"1": [3], "2": [4]})
    with pytest.raises(ValueError, match="header must be one of"):
        table(tmp_path, "1,2\n", header="maybe")


def test_text_after_many_numbers_makes_all_of_them_text(tmp_path, monkeypatch):
    monkeypatch.setattr(csvtable, "CHUNK", 8)
    rows = [f"{i},{i}," for i in range(20)]
    rows[11] = "x,0.5,7"
    found = table(tmp_path, "\n".join(["a,b,c", *rows]))
    assert found["a"].tolist() == [*map(str, range(11)), "x", *map(str, range(12, 20))]
    assert found["b"].dtype == np.float64
    assert found["c"][11] == 7
    rows[15] = "1,2,late"
    assert table(tmp_path, "\n".join(["a,b,c", *rows]))["c"][[0, 11, 15]].tolist() == [None, "7", "late"]


REFUSED = [
    ("", "t.csv must be a table, rows of cells: it holds no data"),
    ("\n \n", "it holds no data"),
    ("a,b\n", "it holds no data below its names"),
    ("a,b\n1,2\n3\n", "the number of cells changes from 2 to 1 in line 3"),
    ("1,2\n\n3,4,5\n", "the number of cells changes from 2 to 3 in line 3"),
    ("a,b,c\n1,2\n3,4\n", "line 2 has 2 cells, but there are 3 names in line 1|changes"),
    ("a,a\n1,2\n", "two columns are called 'a'"),
    ('a,b\n"x,1\ny,2\n', "line 2 opens a quote that is never closed"),
    ("a,b\n1,\0\n", "line 2 holds a zero byte"),
    (b"a,b\n1,\xff\n", "must be text in UTF-8"),
    (gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-12], "must be a whole gzip file"),
    (b"\x1f\x8bjunk", "must be a whole gzip file"),
]


@pytest.mark.parametrize(("content", "match"), REFUSED)
def test_what_is_no_table_is_refused_with_its_line(content, match, tmp_path):
    with pytest.raises(ValueError, match=match) as caught:
        table(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")


CELLS = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    st.sampled_from(csvtable.GAPS),
)
NUMBERS = [st.integers(-(2**62), 2**62), st.floats(), st.floats(width=32)]


@st.composite
def columns(draw):
    n = draw(st.integers(1, 8))
    made = [np.arange(n)]  # which is never in quotes
    for kind in draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)):
        if kind == 3:
            values = draw(st.lists(CELLS, min_size=n, max_size=n))
            made.append(
                np.array([*values, "word"], object)[:n] if any(v is not None for v in values) else np.full(n, "word", object)
            )
        else:
            listed = draw(st.lists(NUMBERS[kind], min_size=n, max_size=n))
            made.append(np.array(listed, (np.int64, np.float64, np.float32)[kind]))
    names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6),
                          min_size=len(made), max_size=len(made), unique=True))  # fmt: skip
    return made, names


@settings(max_examples=300, deadline=None)
@given(columns())
def test_what_is_written_reads_back(tmp_path_factory, made):
    arrays, names = made
    path = tmp_path_factory.mktemp("written") / "t.csv"
    write_table(path, arrays, names)
    found = read_table(path, header="yes")
    assert list(found) == names
    for array, back in zip(arrays, found.values(), strict=True):
        if array.dtype == object:
            assert back.tolist() == array.tolist()
        else:
            assert np.array_equal(back.astype(array.dtype), array, equal_nan=array.dtype.kind == "f")
    text = io.StringIO()
    write_table(text, arrays, names)
    assert text.getvalue() == path.read_bytes().decode()


def test_one_column_and_what_cannot_be_written(tmp_path):
    write_table(tmp_path / "t.csv", [np.array([1.5, NAN])], ["x"])
    same(read_table(tmp_path / "t.csv"), {"x": [1.5, NAN]})
    with pytest.raises(ValueError, match="names one for each, got 1 and 0"):
        write_table(tmp_path / "t.csv", [np.zeros(2)], [])


@pytest.mark.skipif(not TABLES.is_dir(), reason="the tables are not on this machine")
@pytest.mark.parametrize(
    ("name", "shape", "first", "n_missing"),
    [
        ("abalone", (4177, 9), {"x0": "M", "x1": 0.455, "x8": 15}, 0),
        ("adult-train", (32561, 15), {"x0": 39, "x1": "State-gov", "x14": "<=50K"}, 4262),
        ("adult-test", (16281, 15), {"x0": 25, "x3": "11th"}, 2203),
        ("auto_imports", (201, 26), {"x2": "alfa-romero", "x9": 88.6, "x25": 13495}, 51),
        ("breast-cancer", (286, 10), {"x0": "40-49", "x5": 3, "x7": "left_up"}, 9),
        ("diamonds", (53940, 10), {"carat": 0.23, "cut": "Ideal", "price": 326}, 0),
        ("german", (1000, 21), {"x0": "A11", "x1": 6, "x20": 1}, 0),
        ("titanic", (891, 15), {"sex": "male", "age": 22.0, "adult_male": "True", "deck": None}, 869),
    ],
)
def test_real_tables_need_no_preparation(name, shape, first, n_missing):
    found = read_table(TABLES / f"{name}.csv.gz")
    assert (len(next(iter(found.values()))), len(found)) == shape
    assert {key: found[key][0] for key in first} == first
    gone = [np.isnan(c) if c.dtype.kind == "f" else np.array([v is None for v in c]) for c in found.values()]
    assert sum(int(each.sum()) for each in gone) == n_missing
    learned = learn(found)
    codes, log_density = learned.encode(found, density=True)
    assert int((codes < 0).sum()) == n_missing
    assert np.isfinite(log_density).all()
    sample = learned.decode(codes, np.random.default_rng(0).random(codes.shape))
    assert (learned.encode(dict(zip(learned.names, sample, strict=True))).codes == codes).all()
