"""State files of ours of another shape: each fault is one line that names the file."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from DDA import files, ledger, shapes
from DDA.model_adapt import fitted, results, summary, tables
from DDA.model_adapt.paired import Cell
from DDA.model_adapt.report import main as report
from DDA.model_adapt.settings import Facts
from DDA.studies import stages as running
from DDA.training.loop import State
from DDA.training.run import RESUME, resume
from DistilledClassifier import verify
from DistilledClassifier.experiments import run as runs

DEEP = "[" * 100_000 + "]" * 100_000
# texts that are no JSON object of ours, whatever is expected
NO_OBJECTS = ["", "{", "[]", "5", "null", '"a"', "[1e999]", '{"a": ' + DEEP + "}", "9" * 5000]


def one_line(fault, path):
    """Check a message: one plain line, with the file, an expectation and a remedy."""
    text = str(fault)
    assert text.isprintable() and str(path) in text and ";" in text, text
    assert "Errno" not in text and len(text) < 600
    return text


READERS = {
    "settings.json": ledger.read_settings,
    "manifest.json": lambda folder: ledger.read_manifest(folder / "manifest.json"),
    "made.json": lambda folder: list(verify.read_manifests(folder)),
    "summary.json": summary.read,
    "pipeline.json": running._State,
    "finished": runs._read_result,
    "x.fitted.json": lambda folder: fitted.read_gate(folder / "x.fitted.json", folder / "x"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", NO_OBJECTS, ids=range(len(NO_OBJECTS)))
def test_a_file_that_is_no_json_object_is_named(tmp_path, name, text):
    if name == "finished" and not text:
        return  # an empty file is that of a run that did not end
    (tmp_path / name).write_text(text)
    with pytest.raises(files.BadFile) as fault:
        READERS[name](tmp_path)
    one_line(fault.value, tmp_path / name)


MADE = {
    "folder": "fog/1",
    "state": "complete",
    "settings": {},
    "images": {"fog/1/a.png": {"sha256": "0"}},
    "failures": {},
    "source_sha256": {},
}
WRONG = [
    ("manifest.json", {"source_sha256": ["a"]}, "source_sha256 is ['a'], but it should be a group"),
    ("manifest.json", {"failures": {"a": 5}}, "failures.a is 5, but it should be text"),
    ("manifest.json", {"state": []}, "state is [], but it should be text"),
    ("manifest.json", {"cell": None}, "cell is None, but it should be text"),
    ("made.json", {**MADE, "images": []}, "images is [], but it should be a group of entries"),
    ("made.json", {**MADE, "images": {"a": 5}}, "images.a is 5, but it should be a group"),
    ("made.json", {**MADE, "images": {"a": {}}}, "images.a.sha256 is missing"),
    ("made.json", {**MADE, "images": {"a\nb": {}}}, "images.'a\\nb'.sha256 is missing"),
    ("made.json", {**MADE, "folder": 3}, "folder is 3, but it should be text"),
    ("made.json", {"folder": "a"}, "the entry failures is missing"),
    ("pipeline.json", {"finished": []}, "finished is [], but it should be a group of entries"),
    ("pipeline.json", {"finished": {"a": 1}}, "finished.a is 1, but it should be text"),
    ("pipeline.json", {"made": "make_data.py"}, "made is 'make_data.py', but it should be a list"),
    ("pipeline.json", {"made": [3]}, "made.0 is 3, but it should be text"),
    ("finished", {"top1": "high", "epochs": 1.0, "steps": 1}, "top1 is 'high', but it should be a"),
    ("finished", {"top1": 1.0, "epochs": 1.0, "steps": 10**400}, "steps is 1000"),
    ("finished", {"top1": float("nan"), "epochs": 1.0, "steps": 1}, "top1 is nan, but it should"),
    ("finished", {"top1": 1.0}, "the entry epochs is missing"),
]


@pytest.mark.parametrize(("name", "content", "words"), WRONG)
def test_an_entry_of_another_shape_is_named_with_what_was_expected(tmp_path, name, content, words):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(files.BadFile) as fault:
        READERS[name](tmp_path)
    assert words in one_line(fault.value, tmp_path / name)


def test_entries_of_other_versions_pass_and_those_of_ours_are_read(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"later": [1], "cell": "a"}))
    assert ledger.read_manifest(tmp_path / "manifest.json")["cell"] == "a"
    (tmp_path / "made.json").write_text(json.dumps(MADE))
    assert [manifest for _, manifest in verify.read_manifests(tmp_path)] == [MADE]


def test_a_shape_is_a_type_hint():
    shape = dict[str, list[int | None]]
    assert shapes.fault_of({"a": [1, None], "b": []}, shape) is None
    assert shapes.fault_of({"a": [True]}, shape) == (
        "the entry a.0 is True, but it should be a whole number or nothing"
    )
    pair = tuple[shapes.Share, shapes.Share]
    assert shapes.fault_of([0, 1.0], pair) is None
    for value in ([0], [0, 1, 2], [0, 1.5], [0, float("nan")], "ab", {}, [0, -1e-9]):
        assert "it should be" in shapes.fault_of(value, pair)
    assert shapes.fault_of({"scores": 5}, Facts).startswith("the entry scores is 5, but it should")
    assert shapes.fault_of({}, Facts) is None  # every fact has a default


# ------------------------------------------------------------------------------- an evaluation


@pytest.fixture
def out(tmp_path):
    """Return the folder of an evaluation of two cells, with a gate and flips."""
    rng = np.random.default_rng(0)
    params = {"weight": 0.5, "temperatures": [1, 1], "threshold": 0.9}
    for name in ("fog/1", "fog/2"):
        keys, labels = tuple(f"{name}/{i}" for i in range(4)), np.arange(4) % 3
        columns = {
            column: rng.normal(size=(4, 3)).astype(np.float32) for column in ("first", "second")
        }
        results.write(tmp_path, Cell(name, keys, labels, (), ()), columns)
    facts = Facts(
        ensemble="sum",
        beside=["gate"],
        params={"gate": params},
        metrics=["accuracy", "flips", "calibration"],
        classes=["a", "b", "c"],
        cells=["fog/1", "fog/2"],
    )
    tables.summarise(tmp_path, facts)
    return tmp_path


def changed(content, name, value):
    """Return a copy of entries with one set, or removed where the value is ``...``."""
    content = json.loads(json.dumps(content))
    *above, last = name.split("|")
    place = content
    for key in above:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


SUMMARY = [
    ("facts", [], "the entry facts is [], but it should be a group of entries"),
    ("facts", ..., "the entry facts is missing"),
    ("facts|beside", "gate", "facts.beside is 'gate', but it should be a list"),
    ("facts|beside", ["maximum"], "facts: `rules`: 'maximum' is unknown"),
    ("facts|ensemble", {}, "facts.ensemble is {}, but it should be text"),
    ("facts|scores", "votes", "`scores`: 'votes' is unknown"),
    ("facts|metrics", ["luck"], "`metrics`: 'luck' is unknown"),
    ("facts|params", {}, "`params` does not tell weight, temperatures, threshold, which"),
    ("facts|params|gate", 5, "facts.params.gate is 5, but it should be a group of entries"),
    ("facts|params|gate|weight", 7, "`params.weight` must be a number from 0 to 1, not 7"),
    (
        "facts|params|gate|temperatures",
        [1],
        "`params.temperatures` must be two numbers above 0, not [1]",
    ),
    ("facts|params|gate|temperatures", [0, 1], "`params.temperatures` must be two numbers above 0"),
    ("facts|classes", [1], "facts.classes.0 is 1, but it should be text"),
    ("cells", {}, "the entry cells has no columns"),
    ("cells|fog/2", [], "cells.fog/2 is [], but it should be a group of entries"),
    ("cells|fog/1|N", 0, "cells.fog/1.N is 0, but it should be a whole number from 1"),
    ("cells|fog/2|gate", ..., "the entry cells.fog/2.gate is missing"),
    ("cells|fog/2|gate|top1", 1e308, "cells.fog/2.gate.top1 is 1e+308, but it should be a number"),
    ("cells|fog/2|first|ECE", ..., "the entry cells.fog/2.first.ECE is missing"),
    ("cells|fog/2|first", None, "cells.fog/2.first is None, but it should be a group"),
    ("all|combined", ..., "the entry all.combined is missing"),
    ("cells|fog/1|combined", ..., "the entry cells has no column combined"),
    ("cells|fog/1|first", ..., "the entry cells has no column first"),
    ("all|combined|minus|first", ..., "the entry all.combined.minus has no first"),
    ("all|first|interval", [0.1], "all.first.interval is [0.1], but it should be a list of 2"),
    ("all|second|minus|first", {}, "the entry all.second.minus.first.interval is missing"),
    ("all|first|ECE", "low", "all.first.ECE is 'low', but it should be a number"),
    ("all|flips", {}, "the entry flips.combined to gate is missing"),
    ("all|flips|first to second", {"NFR": 0.5}, "flips.first to second.PFR is missing"),
    ("gate", {}, "the entry gate is {}, but it should be a list"),
    ("gate", [{"threshold": 0.5}], "the entry gate.0.adapted is missing"),
    ("protocol", None, "the entry protocol is None, but it should be text"),
]


@pytest.mark.parametrize(("name", "value", "words"), SUMMARY)
def test_a_summary_of_another_shape_is_named_and_no_report_is_written(
    out, capsys, name, value, words
):
    content = changed(files.read_json(out / "summary.json"), name, value)
    files.write_json(out / "summary.json", content)
    assert report([str(out), "--images", "0"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "test_ensemble.py again" in error
    assert f"{out}/summary.json is damaged" in error and not (out / "report.html").exists()


def test_a_summary_of_copies_of_some_images_tells_the_gate(out, capsys):
    content = files.read_json(out / "summary.json")
    content["facts"] |= {"partial": True, "beside": [], "params": {}}
    files.write_json(out / "summary.json", content)
    assert report([str(out), "--images", "0"]) == 2
    assert "`params` does not tell weight, temperatures, threshold" in capsys.readouterr().err


def test_a_whole_summary_is_reported(out):
    assert report([str(out), "--images", "0"]) == 0


def test_names_are_inert_in_every_form_of_the_report(out):
    bad, broken = "=1|<script>alert()", "caf\udce9"
    content = files.read_json(out / "summary.json")
    one, two = content["cells"].values()
    names = [f"{bad}/1", f"{broken}/1"]
    for cell, name in zip(content["cells"], names, strict=True):
        results.path_of(out, name).parent.mkdir(exist_ok=True)
        shutil.copy(results.path_of(out, cell), results.path_of(out, name))
    content["cells"] = dict(zip(names, (one, two), strict=True))
    content["protocol"] = "of <script>alert()</script>"
    files.write_json(out / "summary.json", content)
    assert report([str(out), "--images", "0"]) == 0
    pages = {name: (out / f"report.{name}").read_text() for name in ("md", "csv", "html")}
    assert "| =1\\|&lt;script>alert() |" in pages["md"]
    assert "\n'=1|<script>alert(),1," in pages["csv"] and "\n=" not in pages["csv"]
    assert "<script>alert" not in pages["md"] + pages["html"]
    assert all(r"caf\udce9" in page for page in pages.values())


ARRAYS = [
    ({"keys": np.arange(4)}, "keys are int64 (4,), but they should be text (N,)"),
    ({"keys": np.array([], "U1")}, "keys are <U1 (0,), but they should be text (N,)"),
    ({"keys": None}, "keys are float64 (0,)"),
    ({"labels": np.zeros(4)}, "labels are float64 (4,), but they should be whole numbers (4,)"),
    ({"labels": np.zeros(3, int)}, "labels are int64 (3,), but they should be whole numbers (4,)"),
    ({"labels": np.arange(4)}, "labels are 0 to 3, but there are 3 classes"),
    ({"labels": -np.arange(4)}, "labels are -3 to 0, but there are 3 classes"),
    ({"first": np.zeros((4, 2))}, "it should be numbers (4,K), of the same K classes"),
    ({"first": np.zeros((5, 3)), "second": np.zeros((5, 3))}, "it should be numbers (4,K)"),
    ({"first": np.zeros(4), "second": np.zeros(4)}, "it should be numbers (4,K)"),
    ({"first": np.full((4, 3), np.nan)}, "first holds scores that are not finite"),
    ({"second": np.full((4, 3), np.inf)}, "second holds scores that are not finite"),
    ({"first": np.full((4, 3), "a")}, "first is <U1 (4, 3), but it should be numbers"),
    ({"second": None}, "it has no column second"),
    (
        {"first": np.zeros((4, 4)), "second": np.zeros((4, 4))},
        "its scores are of 4 classes, but the evaluation has 3",
    ),
]


@pytest.mark.parametrize(("arrays", "words"), ARRAYS, ids=range(len(ARRAYS)))
def test_scores_of_another_shape_are_named(out, arrays, words):
    path = results.path_of(out, "fog/1")
    content = {**results.read(out, "fog/1"), **arrays}
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    facts = Facts.read(files.read_json(out / "summary.json")["facts"])
    with pytest.raises(files.BadFile) as fault:
        results.read(out, "fog/1", facts)
    assert words in one_line(fault.value, path)


def test_files_that_hold_no_scores_are_named(out, tmp_path):
    path = results.path_of(out, "fog/1")
    whole = dict(np.load(path))
    bad = path.with_name("bad.npz")
    np.savez_compressed(bad, **whole)
    contents = [bad.read_bytes(), path.read_bytes()[:200], b"", b"\x93NUMPY", b"PK\x05\x06"]
    np.savez(bad, **{**whole, "keys": np.array([{}], object)})
    np.save(bad.with_suffix(".npy"), whole["labels"])
    contents += [bad.read_bytes(), bad.with_suffix(".npy").read_bytes()]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(files.BadFile) as fault:
            results.read(out, "fog/1")
        one_line(fault.value, path)
        cell = Cell("fog/1", (), np.zeros(0), (), ())
        assert not results.is_complete(out, cell, "")  # so it is scored again


# ------------------------------------------------------------------------------------- a training


def a_state():
    torch.manual_seed(0)
    task = torch.nn.Linear(2, 2)
    return State(task, torch.optim.SGD(task.parameters(), lr=0.1))


SAVED = [
    ("step", "five", "the entry step is 'five', but it should be a whole number"),
    ("step", ..., "the entry step is missing"),
    ("seconds", 10**400, "the entry seconds is"),
    ("best", [], "the entry best is [], but it should be a number or nothing"),
    ("losses", {}, "the entry losses is {}, but it should be a list"),
    ("losses", [5], "the entry losses.0 is 5, but it should be a group of entries"),
    ("epochs", None, "the entry epochs is None, but it should be a list"),
    ("dtype", 3, "the entry dtype is 3, but it should be text"),
    ("settings", [], "was saved by another version"),
    ("task", ..., "was saved by another version"),
    ("task", {"weight": torch.zeros(3)}, "is damaged, or no state of this run"),
    ("task", None, "is damaged, or no state of this run"),
    ("optimizer", {"param_groups": []}, "is damaged, or no state of this run"),
]


@pytest.mark.parametrize(("name", "value", "words"), SAVED, ids=range(len(SAVED)))
def test_a_saved_state_of_another_shape_is_named(tmp_path, name, value, words):
    content = {**a_state().as_dict(), "settings": {}, name: value}
    torch.save(
        {key: value for key, value in content.items() if value is not ...}, tmp_path / RESUME
    )
    with pytest.raises(files.BadFile) as fault:
        resume(tmp_path, a_state(), {}, "choose another folder")
    assert words in one_line(fault.value, tmp_path / RESUME)


def test_a_saved_state_is_loaded(tmp_path):
    before, after = a_state(), a_state()
    before.step = 7
    torch.save({**before.as_dict(), "settings": {}}, tmp_path / RESUME)
    resume(tmp_path, after, {}, "")
    assert after.step == 7


CONFIGS = [
    ("config.yaml", "train: 5", "the entry train is 5, but it should be a group of entries"),
    ("config.yaml", "- a", "holds no entries of the form name: value"),
    ("config.yaml", "a: [", "is no YAML, line 1"),
    ("inputs.json", "[]", "holds no JSON object"),
    ("inputs.json", "{", "is damaged, or no JSON"),
]


@pytest.mark.parametrize(("name", "text", "words"), CONFIGS)
def test_files_of_a_run_of_another_shape_are_named(tmp_path, name, text, words):
    config = SimpleNamespace(kind="own", known=["fog"], name="deg", raw={})
    folder = tmp_path / "fog/own/deg/train/20260101"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    (folder / "inputs.json").write_text("{}")
    settings = SimpleNamespace(resume=None, save_dir=tmp_path, new=False)
    inputs = SimpleNamespace(digests={})
    assert runs.find_run(config, inputs, settings) == folder
    (folder / name).write_text(text)
    with pytest.raises(files.BadFile) as fault:
        runs.find_run(config, inputs, settings)
    assert words in one_line(fault.value, folder / name)


FITTED = [
    ({"gate": 5}, "`fitted.gate` must be a group of entries, not 5"),
    ({"weight": 0.5}, "`fitted` does not tell temperatures, threshold, which the rule gate needs"),
    ({"temperatures": [1, 1], "threshold": "a", "weight": 1}, "`fitted.threshold` must be"),
]


@pytest.mark.parametrize(("content", "words"), FITTED)
def test_fitted_parameters_of_another_shape_are_named_with_their_file(tmp_path, content, words):
    weights, path = tmp_path / "x.pth", tmp_path / "x.fitted.json"
    weights.write_bytes(b"")
    files.write_json(path, {**content, "first_sha256": files.sha256(weights)})
    with pytest.raises(ValueError) as fault:
        fitted.read_gate(path, weights)
    assert str(fault.value).startswith(f"{path}: {words}")


# ----------------------------------------------------------------------- what is no regular file

OPENERS = {
    "a list": lambda path: files.read_lines(path, "`keys`"),
    "YAML": files.read_yaml,
    "JSON": files.read_config_json,
    "state": files.read_json,
}


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "loop", "folder", "device"])
@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_what_is_no_regular_file_is_named_and_never_opened(tmp_path, monkeypatch, kind, opener):
    path = tmp_path / "odd"
    os.mkfifo(tmp_path / "a pipe")
    targets = {"pipe": "a pipe", "link to a pipe": "a pipe", "loop": "odd", "folder": "."}
    path.symlink_to(targets.get(kind, "/dev/zero"))
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(files.BadFile) as fault:
        opener(tmp_path / "a pipe" if kind == "pipe" else path)
    words = {"loop": "leads back to itself", "folder": "is a folder", "device": "is a device"}
    assert words.get(kind, "is a named pipe") in str(fault.value)
