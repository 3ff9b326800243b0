"""``bench.paper`` on small made-up sets: runs are kept, resumed, and chosen without the test rows; mistakes are one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import machine
from bench.paper import __main__ as paper
from bench.paper import best, ideas, page, published, recipes, rivals, runs, tables
from bench.paper.runs import Place
from made_fast import MADE
from made_fast.tables.reading import datasets


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a small ``dna_made``, and nothing else."""
    rng = np.random.default_rng(0)
    X = rng.random((260, 9)) < rng.random(9)
    np.savez(tmp_path / "dna_made.npz", train=X[:160], valid=X[160:200], test=X[200:])
    return tmp_path


def run(folder, *arguments):
    places = ["--data", folder, "--work", folder / "work", "--results", folder / "results"]
    return paper.main([*map(str, [*arguments, *places]), "--quick", "--jobs", "1"])


def results(folder, name="table4"):
    """Return the rows of a table in the results."""
    return json.loads((folder / "results" / f"{name}.json").read_text())["rows"]


def test_a_table_is_made_once_and_kept(folder, capsys):
    assert run(folder, "table4") == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(folder / "results" / "README.md")
    assert err.count("validation") == 6 + 8 + 5
    rows = results(folder)
    assert [row["variant"] for row in rows] == ["one mask", "mask sampling", "our recipe"]
    assert [row["published"] for row in rows] == [83.63, 79.66, 79.66]
    assert [row["n_runs"] for row in rows] == [6, 8, 5]
    text = (folder / "results" / "README.md").read_text()
    for row in rows:
        assert f"| dna_made | {row['variant']} | {row['nll']:.2f} ± {row['interval']:.2f} |" in text
    assert "quick" in text
    assert run(folder, "table4") == 0
    assert "validation" not in capsys.readouterr().err
    assert results(folder) == rows


def test_rows_that_are_not_made_anew_stay_where_they_are(folder):
    with np.load(folder / "dna_made.npz") as file:
        np.savez(folder / "adult.npz", **file)
    path = folder / "results" / "table4.json"
    assert run(folder, "table4") == 0
    both = json.loads(path.read_text())
    assert [row["data_set"] for row in both["rows"]] == ["adult"] * 3 + ["dna_made"] * 3
    both["rows"][0]["nll"] = both["rows"][3]["nll"] = -1.0
    both["machine"] = "another CPU"
    path.write_text(json.dumps(both))
    assert run(folder, "table4", "--sets", "adult") == 0
    rows = results(folder)
    assert [row["nll"] for row in rows] == [rows[0]["nll"], *(row["nll"] for row in both["rows"][1:])]
    assert rows[0]["nll"] > 0
    assert json.loads(path.read_text())["machine"] == f"another CPU and {machine.cpu()}"
    path.write_text(json.dumps({**both, "quick": False}))  # those of whole runs do not mix with these
    assert run(folder, "table4", "--sets", "adult") == 0
    assert [row["data_set"] for row in results(folder)] == ["adult"] * 3


def test_a_run_is_what_it_says_and_its_score_that_of_the_saved_model(folder):
    place = Place(folder, folder / "work", 1, quick=True)
    record = runs.train("dna_made", {**recipes.PAPER, "n_masks": 8}, place, lambda _: None)
    assert (record["params"]["hidden_sizes"], record["epochs"], record["n_masks"]) == ((16,), 3, 8)
    model = runs.load(place.work / f"{record['key']}.safetensors")
    rows = datasets.load(folder / "dna_made.npz")
    assert record["validation_nll"] == -np.mean(model.score_samples(rows.valid))
    log_p = model.score_samples(rows.test)
    score = runs.evaluate(record, place)
    assert score == {"nll": -log_p.mean(), "interval": pytest.approx(1.96 * log_p.std(ddof=1) / 60**0.5), "n_rows": 60}


def test_the_test_rows_decide_nothing(folder, tmp_path):
    assert run(folder, "table4") == 0
    other = tmp_path / "other"
    other.mkdir()
    with np.load(folder / "dna_made.npz") as file:
        np.savez(other / "dna_made.npz", train=file["train"], valid=file["valid"], test=~file["test"])
    runs.data_set.cache_clear()
    assert run(other, "table4") == 0
    one, two = results(folder), results(other)
    assert [row["params"] for row in one] == [row["params"] for row in two]
    assert all(a["nll"] != b["nll"] for a, b in zip(one, two, strict=True))


def test_what_is_best_on_the_validation_rows_is_chosen_factor_by_factor():
    values = {(0, 0): 5.0, (1, 0): 4.0, (2, 0): None, (1, 1): 4.5, (1, 2): 3.0}
    seen = []

    def train(params):
        seen.append((params["a"], params["b"]))
        return {"validation_nll": values[seen[-1]], "key": seen[-1]}

    choice = recipes.walk({"a": 0, "b": 0}, [[{"a": 1}, {"a": 2}], [{"b": 1}, {"b": 2}]], train)
    assert seen == list(values)
    assert choice.params == {"a": 1, "b": 2}
    assert choice.record["key"] == (1, 2)
    assert len(choice.runs) == 5


def test_a_run_is_found_that_was_kept_before_biases_had_a_choice():
    assert (recipes.PAPER["bias_init"], recipes.OURS["bias_init"]) == ("zeros", "marginals")
    params = recipes.mnist(8000, 2, 1)
    before = {option: value for option, value in params.items() if option != "bias_init"}
    assert runs.key_of("binarized_mnist", before, False) == "binarized_mnist-fb8fa2f1613041d0"
    keys = {how: runs.key_of("binarized_mnist", {**params, "bias_init": how}, False) for how in ("zeros", "marginals")}
    assert (keys["zeros"], keys["marginals"] == keys["zeros"]) == ("binarized_mnist-fb8fa2f1613041d0", False)


@pytest.mark.parametrize("when", [1, 2])
def test_an_interrupted_run_goes_on_to_the_bit(folder, monkeypatch, capsys, when):
    assert run(folder, "table4") == 0
    whole = results(folder)
    for path in (folder / "work").iterdir():
        path.unlink()
    monkeypatch.setattr(runs, "CHECKPOINT_WORK", 1)
    fit, calls = runs.MADE.fit, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            self.set_params(max_epochs=when)
            fit(self, *args, **kwargs)
            raise KeyboardInterrupt
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(runs.MADE, "fit", interrupted)
    assert run(folder, "table4") == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted; what was done is kept")
    assert len(list((folder / "work").glob("*.checkpoint"))) == 1
    # the checkpoint remembers the epochs it was cut down to
    resume = runs.MADE.resume
    monkeypatch.setattr(runs.MADE, "resume", lambda path: resume(path).set_params(max_epochs=3))
    assert run(folder, "table4") == 0
    assert not list((folder / "work").glob("*.checkpoint"))
    rows = results(folder)
    times = {"seconds": 0, "cpu_seconds": 0, "all_cpu_seconds": 0}
    assert [{**row, **times} for row in rows] == [{**row, **times} for row in whole]


def test_a_run_that_diverges_is_never_chosen(folder):
    place, lines = Place(folder, folder / "work", 1, quick=True), []
    explosive = {**recipes.MNIST, "learning_rate": 1e38, "optimizer": "sgd", "optimizer_params": None}
    record = runs.train("dna_made", explosive, place, lines.append)
    assert record["validation_nll"] is None
    assert lines[0].startswith("dna_made: a run diverged and is out of the choice (epoch 1: ")
    fine = {**record, "validation_nll": 1.0}
    assert recipes.walk({}, [[{"a": 1}]], lambda params: fine if params else record).record is fine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table4", "--sets", "digits"], "table4 knows no set digits; it knows adult, connect4"),
        (["table4", "--sets", "adult"], "adult: no such file in"),
        (["best", "--sets", "bbc"], "bbc: no such file in"),
        (["table6"], "binarized_mnist: no such data set in"),
        (["figure3"], "make table6 first"),
        (["table4", "--sets", "rcv1"], "rcv1.npz must have rows of train, valid and test; test are missing"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, arguments, message):
    X = np.zeros((5, 3), bool)
    np.savez(folder / "rcv1.npz", train=X, valid=X, test=X[:0])
    assert run(folder, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bench.paper: ")
    assert message in err
    assert err.count("\n") == 1


def test_the_page_says_where_a_run_falls_short(tmp_path):
    row = dict.fromkeys(tables.Row.__annotations__, 0) | {"data_set": "adult", "variant": "one mask", "params": recipes.PAPER}
    row |= {"nll": 13.5, "interval": 0.1, "published": 13.12}
    fine = {**row, "variant": "our recipe", "nll": 13.2}
    result = {"machine": "a CPU", "quick": False, "rows": [row, fine]}
    (tmp_path / "table4.json").write_text(json.dumps(result))
    text = page.write(tmp_path).read_text()
    assert "| adult | one mask | 13.50 ± 0.10 | 13.12 | no |" in text
    assert "| adult | our recipe | 13.20 ± 0.10 | 13.12 | yes |" in text
    assert text.count("short by") == 1
    assert "- adult, one mask: short by 0.280 nats; at most 14 settings" in text


def test_the_pages_say_what_the_results_say():
    results = Path(paper.HERE / "results")
    told = (Path(paper.HERE).parents[1] / "docs" / "results" / "likelihoods.md").read_text()
    for name in ("table4", "table6", "best"):
        result = json.loads((results / f"{name}.json").read_text())
        assert not result["quick"]
        for row in result["rows"]:
            shown = row['preset="best"'] if name == "best" else f"{row['nll']:.2f} ± {row['interval']:.2f}"
            assert shown in told, (name, row)


def test_the_page_shows_tables_that_have_columns_of_their_own(tmp_path):
    row = {"set": "binarized_mnist", "model": "NADE", "published": "88.33", "training, s": 1234.5, "R": None}
    result = {"machine": "a CPU", "quick": False, "rows": [row]}
    (tmp_path / "baselines.json").write_text(json.dumps(result))
    lines = page.write(tmp_path).read_text().splitlines()
    assert any("`python -m bench.paper baselines --sets binarized_mnist`" in line for line in lines)
    assert "| set | model | published | training, s | R |" in lines
    assert "| binarized_mnist | NADE | 88.33 | 1,234 | - |" in lines


def test_published_figures():
    assert published.TABLE_4["adult"] == (13.12, None)
    assert published.MNIST[2, 32] == 86.64
    assert len(published.DEBD) == 20
    assert published.DEBD["jester"] == (52.23, 51.29)
    assert {name: published.DEBD[name].best for name in ("baudio", "kosarek", "cr52")} == {
        "baudio": 38.95, "kosarek": 10.52, "cr52": 81.17
    }  # fmt: skip
    assert published.BEST["ocr_letters"] == 26.43


def test_the_best_fit_stands_beside_the_best_known(folder, capsys):
    assert run(folder, "best") == 0
    (row,) = results(folder, "best")
    assert (row["set"], row["MADE, published"], row["best known"]) == ("dna_made", "79.66", "79.52")
    nll = float(row['preset="best"'].split()[0])
    assert (row["at or below"], row["difference"]) == ("yes", f"{nll - 79.52:+.2f}")
    data, path = datasets.load(folder / "dna_made.npz"), next((folder / "work").glob("dna_made-best-*.safetensors"))
    assert -runs.load(path).score_samples(data.test).mean() == pytest.approx(nll, abs=0.005)
    assert "At or below the best known: 1 of 1." in (folder / "results" / "README.md").read_text()
    assert "dropout" in capsys.readouterr().err
    assert run(folder, "best") == 0
    assert "validation" not in capsys.readouterr().err
    assert results(folder, "best") == [row]


def test_validation_rows_that_are_put_back_stand_in_a_table_apart(folder, capsys):
    assert run(folder, "refit") == 0
    (row,) = results(folder, "refit")
    assert row["set"] == "dna_made"
    assert 1 <= row["trained again"] <= row["members"]
    data, path = datasets.load(folder / "dna_made.npz"), next((folder / "work").glob("dna_made-refit-*.safetensors"))
    nll = -runs.load(path).score_samples(data.test).mean()
    assert row["refit=True"].startswith(f"{nll:.2f} ± ")
    assert f"| dna_made | {row['refit=True']} | 79.52 |" in (folder / "results" / "README.md").read_text()
    assert "members trained again on all rows" in capsys.readouterr().err
    assert run(folder, "refit") == 0
    assert "validation" not in capsys.readouterr().err


def test_a_stated_ensemble_stands_in_place_of_the_search(folder, monkeypatch):
    monkeypatch.setitem(best.STATED, "dna_made", {"n_members": 2, "averaging": 0.8})
    assert run(folder, "best") == 0
    (row,) = results(folder, "best")
    assert (row["members"], row["chosen"]) == (2, "stated: n_members 2, averaging 0.8")


def test_rows_of_table_6_can_be_asked_for_by_themselves(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(tables, "_one_run", lambda name, params, variant, value, place: asked.append((variant, value)))
    options = ["--widths", "8000", "--layers", "2", "--masks", "1"]
    for arguments in (options, options[:4], ["--widths", "500"]):
        place, given = Place(folder, folder / "work", 1, quick=True), paper.parse(["table6", *arguments])
        list(paper.rows(given, place, 1))
    two = ("2 layers of 8000, one mask", 89.59)
    assert asked[:3] == [two, two, ("2 layers of 8000, 32 masks", 86.64)]
    assert len(asked[3:]) == 4


def test_columns_of_table_4_can_be_asked_for_by_themselves(folder, capsys):
    assert run(folder, "table4", "--variants", "mask sampling") == 0
    assert [row["variant"] for row in results(folder)] == ["mask sampling"]
    assert capsys.readouterr().err.count("validation") == 8


@pytest.mark.parametrize("table", ["table4", "table6", "figure2"])
def test_another_number_of_epochs_can_be_asked_for(folder, monkeypatch, table):
    def train(name, params, place, say):
        raise LookupError(params["max_epochs"])

    monkeypatch.setattr(tables, "train", train)
    given = paper.parse([table, "--max-epochs", "7", "--data", str(folder)])
    with pytest.raises(LookupError, match=r"^7$"):
        list(paper.rows(given, Place(folder, folder / "work", 1, quick=False), 1))


def test_other_models_stand_beside_with_what_their_likelihood_is(folder, capsys):
    assert run(folder, "baselines") == 0
    rows = results(folder, "baselines")
    assert {row["likelihood"].split(":")[0] for row in rows} == {
        "exact",
        "lower bound",
        "not a density",
    }  # so few inputs: log Z of an RBM is exact
    assert all(0 < float(row["test NLL"].split()[0]) < 20 for row in rows)
    text = (folder / "results" / "README.md").read_text()
    assert all(f"| dna_made | {row['model']} | {row['test NLL']} | {row['likelihood']} |" in text for row in rows)
    capsys.readouterr()
    assert run(folder, "baselines") == 0
    assert capsys.readouterr().err == ""


def test_ideas_have_a_row_of_gains(folder):
    assert run(folder, "ideas") == 0
    (row,) = results(folder, "ideas")
    assert list(row) == ["set", *ideas.IDEAS]
    assert all("±" in row[idea] for idea in ideas.IDEAS[:3])
    assert "## Ideas that are not in the engine" in (folder / "results" / "README.md").read_text()


def test_epochs_by_conditional_are_chosen_on_one_half_and_scored_on_the_other(monkeypatch):
    """Input 0 is best after the first epoch, input 1 after the second, in both halves; the second half has twice the loss."""
    epochs = iter([[[1.0, 4.0], [2.0, 8.0]] * 3, [[2.0, 1.0], [4.0, 2.0]] * 3])
    made = MADE(max_epochs=2, patience=5)

    class Model:
        def explain(self, X):
            return np.array(next(epochs))

    monkeypatch.setattr(MADE, "partial_fit", lambda self, X: setattr(self, "model_", Model()))
    np.testing.assert_allclose(ideas.by_conditional(made, np.zeros((2, 2)), np.zeros((6, 2))), [1, 2] * 3)


def test_an_ordering_by_information_goes_along_a_chain():
    rng = np.random.default_rng(0)
    X = np.empty((4000, 5), np.uint8)
    X[:, 0] = rng.random(4000) < 0.5
    for d in range(1, 5):
        X[:, d] = X[:, d - 1] ^ (rng.random(4000) < (0.05, 0.1, 0.2, 0.3)[d - 1])
    order = ideas.by_information(X)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order == [1, 0, 2, 3, 4]


@pytest.mark.parametrize("how", [{}, {"n_layers": 2}, {"n_layers": 2, "residual": True}, {"l1": 0.1, "l2": 1.0}])
def test_the_dense_network_of_ideas_is_a_distribution(how):
    pytest.importorskip("torch")
    every = ((np.arange(64)[:, None] >> np.arange(6)) & 1).astype(np.uint8)
    log_p = ideas.dense(every[::3], every, hidden=9, max_epochs=3, seed=0, **how)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-5)


def test_rivals_are_compared_row_by_row_and_scored_once(folder, capsys):
    assert run(folder, "rivals") == 0
    rows = results(folder, "rivals")
    assert [row["model"] for row in rows] == [*rivals.OURS, *rivals.RIVALS]
    assert rows[0]["above ours"] is None
    kept = {path: json.loads(path.read_text()) for path in (folder / "work").glob("rival-*.json")}
    assert len(kept) == len(rivals.RIVALS)
    place = Place(folder, folder / "work", 1, quick=True)
    recipe, test = rivals.one_recipe("dna_made", place), datasets.load(folder / "dna_made.npz").test
    paths = [path for path in (folder / "work").glob("dna_made-*.safetensors") if "-best-" not in path.name]
    tests = [runs.load(path).score_samples(test) for path in paths]
    np.testing.assert_allclose(recipe["log_p"], np.log(np.mean(np.exp(tests), axis=0)))
    assert len(paths) == rivals.MEMBERS
    (path,) = (folder / "work").glob("dna_made-best-*.safetensors")
    ours = runs.load(path).score_samples(test)
    assert rows[0]["test NLL"].startswith(f"{-ours.mean():.2f} ± ")
    shown = {row["above ours"] for row in rows[1:]}
    for scored in [recipe, *kept.values()]:
        above = ours - scored["log_p"]
        assert f"{above.mean():+.2f} ± {1.96 * above.std(ddof=1) / 60**0.5:.2f}" in shown
    err = capsys.readouterr().err
    settings = [len(rival.settings) for rival in rivals.RIVALS.values()]
    searched = sum(" s  " in line for line in err.splitlines())
    assert err.count("validation") == sum(settings) + rivals.MEMBERS + searched
    assert run(folder, "rivals") == 0
    assert "validation" not in capsys.readouterr().err
    assert results(folder, "rivals") == rows
    text = (folder / "results" / "README.md").read_text()
    assert f"| dna_made | NADE | {rows[5]['test NLL']} | {rows[5]['above ours']} |" in text


def test_boosted_trees_are_a_distribution_and_know_where_to_stop():
    X, X_val = (np.random.default_rng(seed).random((300, 6)) < 0.5 for seed in (0, 1))
    for rows in (X, X_val):
        rows[:, 3], rows[:, 5] = rows[:, 0] ^ rows[:, 1], True
    made = rivals.BoostedTrees(20, 0.3, 4).fit(X.astype(np.uint8), X_val.astype(np.uint8))
    every = ((np.arange(64)[:, None] >> np.arange(6)) & 1).astype(np.uint8)
    assert np.exp(made.score_samples(every)).sum() == pytest.approx(1, abs=1e-9)
    assert [n > 0 for _, n in made.trees] == [False, False, False, True, False, False]
    assert -made.score_samples(X_val.astype(np.uint8)).mean() == pytest.approx(4 * np.log(2), abs=0.1)
    never = every[every[:, 3] != every[:, 0] ^ every[:, 1]]
    least = np.log([0.4 / 301, 1 / 302]).sum() + 4 * np.log(0.4)  # of the trees, of the last column, of coins
    assert made.score_samples(never).min() > least


def test_boosted_trees_are_left_out_where_they_take_too_long(folder, monkeypatch):
    monkeypatch.setattr(rivals, "BOOSTED_WORK", 160 * 9**2 - 1)
    monkeypatch.setattr(rivals, "RIVALS", {"boosted trees": rivals.RIVALS["boosted trees"]})
    assert run(folder, "rivals") == 0
    assert [row["model"] for row in results(folder, "rivals")] == [*rivals.OURS]
