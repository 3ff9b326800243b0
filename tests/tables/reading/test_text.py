"""Tables in text as other programs write them: what is read, what is left out with a remark, what is refused and how."""

from __future__ import annotations

import csv
import gzip
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_fast.cli import main
from made_fast.tables.reading import datasets

X = [[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]]
NAN = np.nan


def load(tmp_path, text, name="x.csv", **options):
    path = tmp_path / name
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return datasets.load(path, missing=True, **options)


def rows(table, separator=","):
    return "".join(separator.join(map(str, row)) + "\n" for row in table)


def same(found, expected):
    return np.array_equal(found.train, expected, equal_nan=True)


# Cells and lines


@pytest.mark.parametrize(
    "text",
    [
        rows(X).replace("1", "True").replace("0", "False"),
        rows(X).replace("1", "TRUE").replace("0", "false"),
        rows(X).replace("1", '"1"').replace("0", '"0"'),
        rows(X).replace("1", '"True" ').replace("0", ' "0"'),
        rows(X, ";"),
        rows(X, "\t"),
        rows(X, " ; "),
        rows(X, ", "),
        rows(X, ",\t"),
        "\ufeff" + rows(X).replace("\n", "\r\n\r\n"),
        rows(X).replace("\n", "\r"),
        "# made by hand\n\n  \n" + rows(X).replace("\n", ' # with "care\n'),
        rows(X).replace("1", "1.0").replace("0", "0e0"),
        rows(X).rstrip(),
    ],
)
@pytest.mark.parametrize("header", ["", "a,b,c\n", "\n#\n\na,b,c\n"])
@pytest.mark.parametrize("name", ["x.csv", "x.data.gz"])
def test_a_table_may_look_like(tmp_path, text, header, name):
    separator = next((s for s in ";\t" if s in text and "," not in text), ",")
    line = header.replace(",", separator)
    found = load(tmp_path, "\ufeff" + line + text.removeprefix("\ufeff"), name)
    assert same(found, X)
    assert found.feature_names == (("a", "b", "c") if header else None)
    assert found.notes == ()


@pytest.mark.parametrize("marker", ["", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "<NA>", "?", '""', '"NA"'])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_markers_of_missing_entries(tmp_path, marker, separator):
    text = rows([["a", "b"], [marker, 0], [1, marker], [0, "True"]], separator)
    assert same(load(tmp_path, text), [[NAN, 0], [1, NAN], [0, 1]])
    if separator == "\t":
        assert same(load(tmp_path, text, "x.tsv"), [[NAN, 0], [1, NAN], [0, 1]])


def test_a_lone_quoted_nothing_is_a_row(tmp_path):
    assert same(load(tmp_path, pd.DataFrame({"a": [1, None, 0]}).to_csv(index=False)), [[1], [NAN], [0]])


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt"])
def test_names_may_hold_anything_in_quotes(tmp_path, name):
    separator = {"x.csv": ",", "x.tsv": "\t", "x.txt": " "}[name]
    names = (f"one{separator}two", 'say "so"', "number #1", "two\nlines", "größe", "a;b,c d")
    line = io.StringIO()
    csv.writer(line, delimiter=separator, quoting=csv.QUOTE_ALL).writerow(names)
    found = load(tmp_path, line.getvalue() + rows([[0, 1] * 3, [1, 1] * 3], separator), name)
    assert found.feature_names == names
    assert same(found, [[0, 1] * 3, [1, 1] * 3])


@given(
    st.lists(st.lists(st.sampled_from(["0", "1", "True", "", "NA", '"1"']), min_size=3, max_size=3), min_size=1, max_size=30),
    st.sampled_from(";,\t"),
)
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, cells, separator):
    path = tmp_path_factory.mktemp("any") / "x.csv"
    path.write_text(rows([["a", "b", "c"], *cells], separator))
    values = {"0": 0, "1": 1, "True": 1, '"1"': 1, "": NAN, "NA": NAN}
    expected = [[values[cell] for cell in row] for row in cells]
    if np.isnan(expected).all():
        with pytest.raises(ValueError, match="must have an entry that is not missing"):
            datasets.load(path, missing=True)
    else:
        assert same(datasets.load(path, missing=True), expected)


def test_a_long_table_of_words(tmp_path):
    table = (np.random.default_rng(0).random((5000, 120)) < 0.3).astype(int)
    frame = pd.DataFrame(table, columns=[f"x{d}" for d in range(120)])
    frame.astype(bool).to_csv(tmp_path / "p.csv")
    found = datasets.load(tmp_path / "p.csv")
    assert found.train.dtype == np.uint8
    assert (found.train == table).all()
    assert found.feature_names == tuple(frame.columns)


# Separators


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Size, cm;b\n0;1\n1;1\n", ("Size, cm", "b")),
        ("a;b,c\n0,1\n1,1\n", ("a;b", "c")),
        ('"a;b";"c,d"\n0;1\n1;1\n', ("a;b", "c,d")),
        ("a,b\tc\n0\t1\n1\t1\n", ("a,b", "c")),
        ("0;1\n1;1\n", None),
        (' a , "b"\n0,1\n1,1\n', ("a", "b")),
        ('a"b,"c"d\n0,1\n1,1\n', ('a"b', '"c"d')),
        ("\ufeffsep=;\r\na;b\n0;1\n1;1\n", ("a", "b")),
        ("sep=;\n0;1\n1;1\n", None),
    ],
)
def test_the_separator_cuts_all_lines_alike(tmp_path, text, names):
    found = load(tmp_path, text)
    assert same(found, [[0, 1], [1, 1]])
    assert found.feature_names == names


def test_decimal_commas_are_refused(tmp_path):
    for text in ("a;b\n0,0;1,0\n", "a\tb\n0,0\t1,0\n"):
        with pytest.raises(ValueError, match=r"'0,0' to a number at line 2 .*, column 'a' .*Decimal commas are not read"):
            load(tmp_path, text, threshold=0.5)


# Headers


@pytest.mark.parametrize("line", ["0,1,2", "1,2,3", "2020,2021,2022", '"7","8","9"', "a,b,NA", "None,x,null"])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_line_without_values_or_of_numbers_that_count_on_is_a_header(tmp_path, line, threshold):
    found = load(tmp_path, f"{line}\n{rows(X)}", threshold=threshold)
    assert same(found, X)
    assert found.feature_names == tuple(line.replace('"', "").split(","))
    told = any("--header no makes it a row" in note for note in found.notes)
    assert told == (threshold is not None and line[-1] in '0123456789"')


@pytest.mark.parametrize("line", ["NA,NA,NA", "True,False,True", ",,1", "1,0,?", "1,1,1"])
def test_a_line_of_values_is_a_row(tmp_path, line):
    found = load(tmp_path, f"{line}\n{rows(X)}")
    assert len(found.train) == 5
    assert found.feature_names is None


@pytest.mark.parametrize("line", ["2020,2022,2024", "10,20,30", "5,3,1", "400.5,410.5,420.5"])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_other_numbers_above_a_table_of_0_and_1_are_asked_about(tmp_path, line, threshold):
    text = f"{line}\n{rows(X)}"
    with pytest.raises(ValueError, match=r"the first line, .*, looks like a header of numbers.*--header yes") as caught:
        load(tmp_path, text, threshold=threshold)
    assert "threshold" not in str(caught.value)
    found = load(tmp_path, text, threshold=threshold, header="yes")
    assert same(found, X)
    assert found.feature_names == tuple(line.split(","))
    if threshold is not None:
        assert len(load(tmp_path, text, threshold=threshold, header="no").train) == 5


def test_the_header_that_an_option_tells(tmp_path):
    found = load(tmp_path, "1,2,3\n4,0,6\n", threshold=2.5, header="no")
    assert same(found, [[0, 0, 1], [1, 0, 1]])
    assert found.feature_names is None
    with pytest.raises(ValueError, match=r"'id' to a number at line 1 .*If the line holds names, give --header yes"):
        load(tmp_path, "id,2020,2021\n0,1,0\n")
    assert load(tmp_path, "id,2020,2021\n0,1,0\n", header="yes").feature_names == ("id", "2020", "2021")


def test_columns_of_one_name_are_told(tmp_path):
    found = load(tmp_path, "a,a,b\n0,1,1\n1,0,1\n")
    assert found.feature_names == ("a", "a", "b")
    assert found.notes == (f"{tmp_path / 'x.csv'}: several columns are called 'a'; only their places tell them apart",)
    with pytest.raises(ValueError, match="--drop a names the columns 0, 1; give their numbers"):
        load(tmp_path, "a,a,b\n0,1,1\n1,0,1\n", drop=["a"])
    assert load(tmp_path, "a,a,b\n0,1,1\n1,0,1\n", drop=["0"]).feature_names == ("a", "b")


# Columns that are no data


@pytest.mark.parametrize("columns", [["a", "b", "c"], None])
@pytest.mark.parametrize("begin", [0, 1])
@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_an_index_without_a_name_is_left_out(tmp_path, columns, begin, threshold, separator):
    table = np.tile(X, (100, 1))
    frame = pd.DataFrame(table, columns=columns, index=range(begin, begin + 400))
    for kind, D in ((int, 3), (float, 3), (bool, 3), (int, 1), (int, 2)):
        found = load(tmp_path, frame.astype(kind).iloc[:, :D].to_csv(sep=separator), threshold=threshold)
        assert (found.train == table[:, :D]).all()
        assert found.feature_names == tuple(columns or ("0", "1", "2"))[:D]
        assert "x.csv: the first column has no name and counts the rows; it is left out" in found.notes[0]


def test_names_of_rows_as_r_writes_them(tmp_path):
    text = '"V1" "V 2" "V3"\n' + "".join(f'"{i}" {row}' for i, row in enumerate(rows(X, " ").splitlines(keepends=True), 1))
    found = load(tmp_path, text, "x.txt")
    assert same(found, X)
    assert found.feature_names == ("V1", "V 2", "V3")
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    "index", [(7, 3, 9, 12), ("w", "x", "y", "z"), (1, 0, 0, 1), (1, 2, 3, 5), ("", 1, 2, 3), (0.0, 1.0, 2.0, 3.0)]
)
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_another_first_column_without_a_name_is_asked_about(tmp_path, index, threshold):
    text = ",a,b,c\n" + rows([[i, *row] for i, row in zip(index, X, strict=True)])
    with pytest.raises(
        ValueError, match=r"the first column has no name, as an index has none, .*--drop 0 leaves it out"
    ) as caught:
        load(tmp_path, text, threshold=threshold)
    assert "threshold" not in str(caught.value)
    assert same(load(tmp_path, text, threshold=threshold, drop=["0"]), X)


@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("begin", [0, 1])
def test_a_column_that_counts_the_rows_is_asked_about(tmp_path, threshold, begin):
    table = [[row[0], begin + i, *row[1:]] for i, row in enumerate(X)]
    for header, called, drop in (("a,id,b,c\n", "column 'id' .1, counted", "id"), ("", "column 1 .counted", "1")):
        with pytest.raises(ValueError, match=f"{called} from 0. looks like an index.*--drop {drop} leaves it out") as caught:
            load(tmp_path, header + rows(table), threshold=threshold)
        assert "threshold" not in str(caught.value)
        assert same(load(tmp_path, header + rows(table), threshold=threshold, drop=[drop]), X)


def test_whole_numbers_that_are_all_different_are_an_index_unless_there_is_a_threshold(tmp_path):
    table = [[number, *row] for number, row in zip((1017, 4, 23, 8), X, strict=True)]
    text = "my id,b,c,d\n" + rows(table)
    with pytest.raises(ValueError, match=r"'my id' .* looks like an index.*--drop 'my id' leaves it out"):
        load(tmp_path, text)
    assert same(load(tmp_path, text, threshold=0.5), [[1, *row] for row in X])
    many = [[3 * i, i % 7, *X[i % 4]] for i in range(200)]
    with pytest.raises(ValueError, match=r"'my id' .* looks like an index"):
        load(tmp_path, "my id,week,b,c,d\n" + rows(many))


def test_a_value_that_is_neither_0_nor_1_is_named_by_its_column(tmp_path):
    with pytest.raises(ValueError, match=r"only 0 and 1, got 2 at row 1, column 1 'b' \(counted from 0\)\. Set a threshold"):
        load(tmp_path, ",a,b,c\n0,1,1,0\n1,0,2,0\n2,1,2,0\n")


@pytest.mark.parametrize("text", [rows(X, ",").replace("\n", ",\n"), "a,b,c,\n" + rows(X).replace("\n", ",\n")])
def test_a_separator_at_the_end_of_every_line_makes_no_column(tmp_path, text):
    found = load(tmp_path, text)
    assert same(found, X)
    assert found.train.dtype == np.uint8
    assert "the last column has neither a name nor a value" in found.notes[0]
    assert same(load(tmp_path, "a,b,c\n" + rows(X).replace("\n", ",\n")), X)


def test_an_empty_last_column_stays_where_it_is_one(tmp_path):
    text = rows(X).replace("\n", ",\n")
    gap = [[*row, NAN] for row in X]
    assert same(load(tmp_path, text, n_features=4), gap)
    assert same(load(tmp_path, rows([["a", "b", "c", "d"]]) + text), gap)
    assert same(load(tmp_path, rows([[*row, "NA"] for row in X])), gap)
    late = "0,1,0,\n" * 20 + "0,1,0,1\n"
    assert load(tmp_path, late).train.shape == (21, 4)
    found = load(tmp_path, ",a,b,c,\n" + "".join(f"{i},{row}" for i, row in enumerate(text.splitlines(keepends=True))))
    assert same(found, X)
    assert len(found.notes) == 2


# What is refused

MARKERS = r"A missing entry is an empty cell, NA, N/A, NaN, null, None, <NA> or \?"

WRONG = {
    "a cell": ("a,b\n0,1\n\n0,y\n", rf"'y' .* line 4 \(row 1\), column 'b' \(1, counted .*\. {MARKERS}\. --drop b "),
    "text": ("sex,a,who\nmale,1,x\nfemale,0,y\n", r"'male' .*column 'sex' .*--drop sex --drop who leaves out what is text"),
    "all text": ("a,b\nx,y\n", rf"'x' to a number at line 2 .*\. {MARKERS}\. A .csv file"),
    "underscore": ("0,1_0\n", "could not convert string '1_0'"),
    "digits of another script": ("0,٣\n", "could not convert string '٣'"),
    "ragged": ("a,b\n0,1\n# x\n1\n", "number of columns changed from 2 to 1 at line 4"),
    "names too few": ("a,b\n0,1,1,1\n0,1,1,1\n", "number of columns changed from 2 to 4 at line 2"),
    "names too many": ("a,b,c\n\n0,1\n", "number of columns changed from 3 to 2 at line 3"),
    "names and a comment": ("a,#b,c\n1,0,1\n", "changed from 2 to 3 at line 2.*outside quotes a # starts a comment"),
    "late": ("0,1\n" * 3000 + "True,False,True\n", "number of columns changed from 2 to 3 at line 3001"),
    "open quote": ('"a","b\n0,1\n', "line 1 opens a quote that is never closed"),
    "open quote far": ('a,b\n"0,1\n' + "0,1\n" * 1000, "line 2 opens a quote that is never closed"),
    "only names": ("a,b\n", "it holds no data below its names"),
    "nothing": ("\n# \n\n", "it holds no data"),
    "nothing but gaps": ("a,b\n,\nNA,?\n", "must have an entry that is not missing"),
    "UTF-16": ("a,b\n0,1\n".encode("utf-16"), "it is no text in UTF-8"),
    "another encoding": ("größe,b\n0,1\n".encode("cp1252"), "it is no text in UTF-8. Save it as CSV in UTF-8"),
    "zero byte": ("a,b\n0,\0\n", r"'\\x00' to a number"),
    "long": (f"a,b\n0,{'x' * 1000}\n", r"string 'x{37}\.\.\.' to a number"),
    "infinite": ("0,inf\n1,0\n", "only 0 and 1, got inf at row 0, column 1"),
    "nearly": ("0.9999999999,1\n0,1\n", "only 0 and 1, got 0.9999999999 at row 0, column 0"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_text(tmp_path, what):
    text, match = WRONG[what]
    with pytest.raises(ValueError, match=match) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


# Through the command line

QUICK = ["--hidden", "4", "--max-epochs", "1", "--seed", "0", "--quiet", "--valid-fraction", "0", "--test-fraction", "0"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*args):
        code = main(list(map(str, args)))
        return code, *capsys.readouterr()

    return run


def test_remarks_are_printed_on_standard_error(tmp_path, run):
    pd.DataFrame(X, columns=["a", "b", "c"]).to_csv(tmp_path / "p.csv")
    code, out, err = run("train", "p.csv", *QUICK)
    assert code == 0
    assert "p: 3 inputs; 4 train rows" in out
    assert err == "made-fast: note: p.csv: the first column has no name and counts the rows; it is left out\n"


def test_options_of_data(tmp_path, run):
    (tmp_path / "p.csv").write_text(
        "7,5,3,9\n" + "".join(f"x{i},{row}" for i, row in enumerate(rows(X).splitlines(keepends=True)))
    )
    code, _, err = run("train", "p.csv", "--kind", "binary", *QUICK)
    assert code == 2
    assert "--drop 0" in err
    code, out, _ = run("train", "p.csv", "--drop", "7", "--header", "yes", *QUICK)
    assert code == 0
    assert "p: 3 inputs; 4 train rows" in out
    code, _, err = run("evaluate", "model.safetensors", "p.csv", "--header", "yes", "--drop", "7", "--drop", "9")
    assert code == 2
    assert "must have 3 columns, got 2" in err


@pytest.mark.parametrize("content", [b"a;b;c\r\n0;1;\r\n1;;0\r\n", b"\xef\xbb\xbf0,1,NA\n1,,0"])
def test_standard_input_is_read_as_csv(tmp_path, monkeypatch, run, content):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="latin-1"))
    code, out, _ = run("train", "-", *QUICK)
    assert code == 0
    assert "stdin: 3 inputs; 2 train rows; 2 entries" in out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert same(datasets.load("-", missing=True), [[0, 1, NAN], [1, NAN, 0]])


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\0", b"PK\x03\x04\0\0", b"0,1\n\0", b"", b"a,b\n", None])
def test_standard_input_that_is_no_text(monkeypatch, run, content):
    monkeypatch.setattr("sys.stdin", None if content is None else io.TextIOWrapper(io.BytesIO(content)))
    code, out, err = run("train", "-", *QUICK)
    assert (code, out) == (2, "")
    assert err.startswith("made-fast: error: standard input cannot be read: it ")
    assert err.count("\n") == 1


def test_a_model_of_a_file_whose_name_is_no_text_is_saved(tmp_path, run):
    (tmp_path / "caf\udce9.csv").write_text(rows(X))
    assert run("train", "caf\udce9.csv", *QUICK)[0] == 0
    assert "caf" in run("info", "model.safetensors")[1]
