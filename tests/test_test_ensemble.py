"""The evaluation of two classifiers on two views: pairs, ranks, rules, configs and files."""

import csv
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from DDA import files, images, metrics, shards, tree
from DDA.image_adapt.scripts import image_sample
from DDA.model_adapt import evaluate, gate, predict, report, results, tables
from DDA.model_adapt.ensemble import FUSE_RULES, RULES, combine
from DDA.model_adapt.settings import Facts
from DDA.tree import is_held_out
from DistilledClassifier import classifiers

pytest.importorskip("mmcls")
from DDA.model_adapt.config import METRICS, read_config
from DDA.model_adapt.test_ensemble import main

SCRIPT = ROOT / "DDA" / "model_adapt" / "test_ensemble.py"
CONFIG = "configs/ensemble/resnet18_ensemble_b64_cifar10c.py"
ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PMI", "OMPI", "SLURM", "TORCHELASTIC"))
}
ENV |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}", "OMP_NUM_THREADS": "1"}
CELLS = ("fog/1", "fog/3", "snow/1")


def make_trees(root: Path, order: int = 1, cells=CELLS) -> None:
    """Seven images a cell; the adapted copies are another view of the same keys.

    order: the order in which the images are written.
    """
    for view, seed in (("degraded", 0), ("adapted", 1)):
        rng = np.random.default_rng(seed)
        for cell in cells:
            (root / view / cell).mkdir(parents=True)
            pixels = rng.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
            for i in range(7)[::order]:
                Image.fromarray(pixels[i]).save(
                    root / view / cell / f"{('cat', 'dog', 'ship')[i % 3]}_{i:05}.png"
                )
        tree.write_classes(root / view, tree.class_list("cifar10"))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    root = tmp_path_factory.mktemp("ensemble")
    make_trees(root)
    for i in range(2):
        torch.manual_seed(i)
        model = {"type": "CifarResNet", "depth": 8, "num_classes": 10}
        network = classifiers.build(model)
        network.train()(torch.randn(64, 3, 32, 32))
        config = {
            "classifier": model,
            "preprocess": {"size": 32, "mean": [0.4 + 0.1 * i] * 3, "std": [0.2] * 3},
        }
        classifiers.save(root / f"{i}.pth", network.eval(), config, tree.class_list("cifar10"))
    return root


def command(here, out, *more, views=None):
    views = views or here
    return [
        *map(
            str,
            [
                CONFIG,
                here / "0.pth",
                "--second_model_prefix",
                here / "1.pth",
                "--data_prefix1",
                views / "degraded",
                "--data_prefix2",
                views / "adapted",
                "--out",
                out,
                *more,
            ],
        )
    ]


@pytest.fixture(scope="module")
def done(here):
    assert (
        main(
            command(
                here,
                here / "out",
                "--source",
                here / "1.pth",
                "--metrics",
                *[m for m in METRICS if m != "mCE"],
            )
        )
        == 0
    )
    return here / "out"


def test_each_classifier_sees_its_own_view_with_its_own_preprocessing(here, done):
    one, two = (classifiers.load(here / f"{i}.pth") for i in range(2))
    for cell in CELLS:
        found = results.read(done, cell)
        names = [f"{key}.png" for key in found["keys"]]
        assert names == sorted(names) and len(names) == 7
        labels = [tree.class_list("cifar10")[label] for label in found["labels"]]
        assert all(label in name for label, name in zip(labels, names, strict=True))
        views = [
            [np.asarray(images.read_rgb(here / view / name)) for name in names]
            for view in ("degraded", "adapted")
        ]
        expected = {
            "first": one.scores(views[0]),
            "second": two.scores(views[1]),
            "source": two.scores(views[0]),
            "source_adapted": two.scores(views[1]),
        }
        for name, scores in expected.items():
            np.testing.assert_allclose(found[name], scores.numpy(), atol=1e-5)


def test_a_control_is_a_column_from_which_the_others_are_subtracted(here, tmp_path):
    assert main(command(here, tmp_path / "out", "--control", here / "1.pth")) == 0
    summary = files.read_json(tmp_path / "out/summary.json")
    control = classifiers.load(here / "1.pth")
    found = results.read(tmp_path / "out", "fog/1")
    pixels = [images.read_rgb(here / "degraded" / f"{key}.png") for key in found["keys"]]
    scores = control.scores([np.asarray(image) for image in pixels])
    np.testing.assert_allclose(found["control"], scores.numpy(), atol=1e-5)
    overall = summary["all"]
    gain = overall["combined"]["minus"]["control"]
    assert gain["top1"] == overall["combined"]["top1"] - overall["control"]["top1"]
    assert "| minus control (degraded) |" in (tmp_path / "out/summary.md").read_text()
    assert report.main([str(tmp_path / "out"), "--images", "0"]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "without teachers and without adaptation" in page and "over control (degraded)" in page


def test_the_library_gives_the_tables_of_the_command(here, tmp_path, capsys):
    settings = evaluate.Settings(
        first=str(here / "0.pth"),
        second=str(here / "1.pth"),
        degraded=here / "degraded",
        adapted=here / "adapted",
        out=tmp_path / "library",
        layout="cifar10c",
    )
    result = evaluate.evaluate(settings, "cpu")
    assert "21 in 3 cells" in capsys.readouterr().out
    assert main(command(here, tmp_path / "command")) == 0
    assert result.markdown == (tmp_path / "command/summary.md").read_text()
    assert result.top1["sum"] == 100 * result.summary["all"]["combined"]["top1"]


def test_differences_of_columns_are_paired(done):
    summary = files.read_json(done / "summary.json")["all"]
    parts = [results.read(done, cell) for cell in CELLS]
    gaps = np.concatenate(
        [
            (part["second"].argmax(1) == part["labels"]) * 1.0
            - (part["source"].argmax(1) == part["labels"])
            for part in parts
        ]
    )
    gain = summary["second"]["minus"]["source"]
    assert (
        gain["top1"] == pytest.approx(gaps.mean())
        and gain["interval"][0] <= gaps.mean() <= gain["interval"][1]
    )
    assert tables.say_gain(gain) in (done / "summary.md").read_text()
    assert "source" not in summary["source"]["minus"]


def test_the_summary_counts_and_says_its_protocol(done):
    summary = files.read_json(done / "summary.json")
    assert set(summary["cells"]) == set(CELLS) and all(
        row["N"] == 7 for row in summary["cells"].values()
    )
    assert (
        "21 images" in summary["protocol"]
        and "sum of logits" in summary["protocol"]
        and "severities 1, 3" in summary["protocol"]
    )
    found = results.read(done, "fog/3")
    both = found["first"] + found["second"]
    row = summary["cells"]["fog/3"]["combined"]
    assert row["top1"] == pytest.approx((both.argmax(1) == found["labels"]).mean())
    assert sum(row["support"]["per_class"]) == 7 and {"ECE", "NLL", "top5"} <= row.keys()
    mean = np.mean([summary["cells"][cell]["combined"]["top1"] for cell in CELLS])
    assert summary["all"]["combined"]["top1"] == pytest.approx(mean)
    rates = summary["all"]["flips"]["first to combined"]
    assert rates["PFR"] - rates["NFR"] == pytest.approx(mean - summary["all"]["first"]["top1"])
    text = (done / "summary.md").read_text()
    assert "| fog | 14 |" in text and "| snow | 7 |" in text and "broken %" in text


def test_tables_are_made_again_without_the_models(done):
    before = (done / "summary.json").read_bytes(), (done / "summary.md").read_bytes()
    tables.summarise(done, Facts.read(files.read_json(done / "summary.json")["facts"]))
    assert ((done / "summary.json").read_bytes(), (done / "summary.md").read_bytes()) == before


@pytest.mark.parametrize(
    "launch",
    [
        ["mpiexec", "-n", "2", sys.executable],
        ["mpiexec", "-n", "3", sys.executable],
        ["torchrun", "--nproc_per_node", "2"],
    ],
)
def test_any_number_of_ranks_gives_the_same_numbers(here, done, tmp_path, launch):
    launcher = "mpi" if launch[0] == "mpiexec" else "pytorch"
    flags = command(here, tmp_path, "--launcher", launcher, "--batch_size", "2")
    result = subprocess.run(
        [*launch, str(SCRIPT), *flags],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for cell in CELLS:
        one, many = results.read(done, cell), results.read(tmp_path, cell)
        assert one["keys"].tolist() == many["keys"].tolist()
        for name in ("first", "second"):
            np.testing.assert_allclose(one[name], many[name], atol=1e-5)
            assert (one[name].argmax(1) == many[name].argmax(1)).all()
    one, many = (files.read_json(out / "summary.json") for out in (done, tmp_path))
    for cell in CELLS:
        assert one["cells"][cell]["combined"]["top1"] == many["cells"][cell]["combined"]["top1"]


def test_copies_in_shards_are_read_like_copies_in_files(here, done, tmp_path):
    for cell in CELLS:
        with shards.Shard(here, f"shards/{cell}/shard-000000.tar", lambda key: None) as shard:
            for path in tree.list_images(here / "adapted", cell)[0]:
                shard.add(tree.key_of(path), (here / "adapted" / path).read_bytes())
    files.write_json(here / "shards/settings.json", {"format": shards.FORMAT})
    assert main(command(here, tmp_path, "--data_prefix2", here / "shards")) == 0
    for cell in CELLS:
        one, two = results.read(done, cell), results.read(tmp_path, cell)
        np.testing.assert_array_equal(one["second"], two["second"])


def test_a_second_run_makes_only_what_is_missing_or_has_changed(here, tmp_path, monkeypatch):
    make_trees(tmp_path)
    shutil.copy(here / "0.pth", tmp_path)
    flags = [
        *map(
            str,
            [
                CONFIG,
                tmp_path / "0.pth",
                "--second_model_prefix",
                here / "1.pth",
                "--out",
                tmp_path / "out",
                "--data_prefix1",
                tmp_path / "degraded",
                "--data_prefix2",
                tmp_path / "adapted",
            ],
        )
    ]
    written = []
    write = results.write
    monkeypatch.setattr(
        results,
        "write",
        lambda out, cell, *more: (written.append(cell.name), write(out, cell, *more)),
    )

    def made(*more):
        written.clear()
        assert main([*flags, *more]) == 0
        return list(written)

    assert made() == list(CELLS)
    before = (tmp_path / "out/summary.json").read_bytes()
    assert made() == [] and (tmp_path / "out/summary.json").read_bytes() == before
    assert made("--ensemble", "confidence") == []  # another sum of the same scores
    results.path_of(tmp_path / "out", "fog/3").unlink()
    assert made() == ["fog/3"] and (tmp_path / "out/summary.json").read_bytes() == before
    Image.new("RGB", (32, 32)).save(tmp_path / "adapted/snow/1/dog_00001.png")
    assert made() == ["snow/1"]
    assert made("--ensemble", "entropy_fuse") == list(CELLS)
    shutil.copy(here / "1.pth", tmp_path / "0.pth")
    assert made() == list(CELLS)


def test_each_file_is_read_and_hashed_and_each_folder_listed_once(here, tmp_path, monkeypatch):
    for i in range(2):
        shutil.copy(here / f"{i}.pth", tmp_path)
    digests = {
        f"{name}_sha256": files.sha256(here / f"{i}.pth")
        for i, name in enumerate(("first", "second"))
    }
    files.write_json(
        tmp_path / "1.fitted.json",
        {"weighted_sum": {"weight": 0.4, "temperatures": [1, 2]}, **digests},
    )
    calls = Counter()

    def counted(module, name):
        function = getattr(module, name)

        def counting(*arguments, **more):
            calls[(name, *map(str, arguments))] += 1
            return function(*arguments, **more)

        monkeypatch.setattr(module, name, counting)

    for module, name in ((torch, "load"), (files, "sha256"), (tree, "list_images")):
        counted(module, name)
    flags = [
        CONFIG,
        tmp_path / "0.pth",
        "--second_model_prefix",
        tmp_path / "1.pth",
        "--source",
        tmp_path / "0.pth",
        "--out",
        tmp_path / "out",
        "--data_prefix1",
        here / "degraded",
        "--data_prefix2",
        here / "adapted",
        "--ensemble",
        "weighted_sum",
        "sum",
    ]
    assert main([*map(str, flags)]) == 0
    assert len(calls) == 2 + 2 + 2 * len(CELLS) and set(calls.values()) == {1}, calls


def test_the_order_of_files_changes_nothing(here, done, tmp_path):
    make_trees(tmp_path, order=-1)
    assert main(command(here, tmp_path / "out", views=tmp_path)) == 0
    for cell in CELLS:
        for name in ("keys", "labels", "first", "second"):
            np.testing.assert_array_equal(
                results.read(tmp_path / "out", cell)[name], results.read(done, cell)[name]
            )


@pytest.mark.parametrize("view", ["degraded", "adapted"])
def test_an_image_without_partner_is_named(here, tmp_path, capsys, view):
    make_trees(tmp_path)
    (tmp_path / view / "fog/3/dog_00004.png").unlink()
    assert main(command(here, tmp_path / "out", views=tmp_path)) == 2
    words = "have no partner in" if view == "degraded" else "have no copy in"
    assert (
        "1 images of fog/3" in (said := capsys.readouterr().err)
        and words in said
        and "fog/3/dog_00004" in said
    )


@pytest.mark.parametrize("scores", ["logits", "probabilities"])
@pytest.mark.parametrize("rule", [*RULES, *FUSE_RULES])
def test_every_rule_runs_on_logits_and_on_probabilities(here, done, tmp_path, rule, scores):
    flags = command(here, tmp_path, "--ensemble", rule, "--scores", scores, "--corruption", "snow")
    assert main([*flags, "--metrics", "accuracy", "calibration"]) == 0
    found = results.read(tmp_path, "snow/1")
    summary = files.read_json(tmp_path / "summary.json")["cells"]["snow/1"]["combined"]
    if rule in FUSE_RULES:
        expected = found["combined"]
    else:
        pair = [torch.from_numpy(found[name]) for name in ("first", "second")]
        expected = combine(
            *([x.softmax(1) for x in pair] if scores == "probabilities" else pair), rule
        ).numpy()
    assert summary["top1"] == pytest.approx((expected.argmax(1) == found["labels"]).mean())
    assert 0 <= summary["ECE"] <= 1 and np.isfinite(summary["NLL"])


def test_what_has_parameters_is_fitted_on_known_degradations_and_stored_with_the_checkpoint(
    here, tmp_path, capsys
):
    make_trees(tmp_path, cells=("jpeg/1", "noise/1"))
    for i in range(2):
        shutil.copy(here / f"{i}.pth", tmp_path)
    rule, gate = "weighted_sum", "gate"

    def run(*more, views=here):
        flags = [
            CONFIG,
            tmp_path / "0.pth",
            "--second_model_prefix",
            tmp_path / "1.pth",
            "--out",
            tmp_path / "out",
            "--data_prefix1",
            views / "degraded",
            "--data_prefix2",
            views / "adapted",
            *more,
        ]
        return main([*map(str, flags)]), capsys.readouterr().err

    assert run("--ensemble", rule)[0] == 2 and "fit it first" in run("--ensemble", rule)[1]
    assert "--fit learns from known degradations only" in run("--fit", "--corruption", "fog")[1]
    assert run("--fit", "--corruption", "jpeg", "noise", views=tmp_path)[0] == 0
    stored = files.read_json(tmp_path / "1.fitted.json")
    assert stored["images"] == 14 and 0 <= stored[rule]["weight"] <= 1
    assert run("--ensemble", rule, "sum", gate, "--corruption", "fog")[0] == 0
    found, summary = (
        results.read(tmp_path / "out", "fog/3"),
        files.read_json(tmp_path / "out/summary.json"),
    )
    pair = [torch.from_numpy(found[name]) for name in ("first", "second")]
    for name, used in (("combined", rule), ("sum", "sum"), (gate, gate)):
        expected = combine(*pair, used, **stored.get(used, {})).numpy().argmax(1) == found["labels"]
        assert summary["cells"]["fog/3"][name]["top1"] == pytest.approx(expected.mean())
    doubtful = (pair[0] / stored[gate]["temperatures"][0]).softmax(1).amax(1) < stored[gate][
        "threshold"
    ]
    assert summary["all"][gate]["adapted"] == pytest.approx(float(doubtful.double().mean()))
    never, always = summary["gate"][0], summary["gate"][-1]
    assert (never["adapted"], always["adapted"]) == (0, 1)
    for end, name in ((never, "first"), (always, "combined")):
        assert end["top1"] == pytest.approx(summary["all"][name]["top1"])
    assert f"weight {stored[rule]['weight']:.3g}, temperatures" in summary["protocol"]
    assert "| adapted images % |" in (tmp_path / "out/summary.md").read_text()
    assert "each rule once" in run("--ensemble", "sum", "sum")[1]
    assert "blend images alone" in run("--ensemble", "sum", "var_fuse")[1]
    assert "leave --scores out" in run("--ensemble", rule, "--scores", "probabilities")[1]
    shutil.copy(here / "1.pth", tmp_path / "0.pth")
    assert "was fitted for other checkpoints" in run("--ensemble", rule)[1]


def test_behind_the_gate_only_the_images_it_asks_for_need_copies(here, tmp_path, capsys):
    make_trees(tmp_path)
    for i in range(2):
        shutil.copy(here / f"{i}.pth", tmp_path)
    probable = np.concatenate(
        [
            classifiers.load(here / "0.pth")
            .scores(
                [
                    np.asarray(images.read_rgb(here / "degraded" / name))
                    for name in tree.list_images(here / "degraded", cell)[0]
                ]
            )
            .softmax(1)
            .amax(1)
            for cell in CELLS
        ]
    )
    threshold = round(float(np.median(probable)), 4)
    digests = {
        f"{name}_sha256": files.sha256(here / f"{i}.pth")
        for i, name in enumerate(("first", "second"))
    }
    files.write_json(
        tmp_path / "1.fitted.json",
        {"gate": {"threshold": threshold, "weight": 0.4, "temperatures": [1, 2]}, **digests},
    )
    flags = [
        tmp_path / "0.pth",
        "--fitted",
        tmp_path / "1.fitted.json",
        "--base_samples",
        tmp_path / "degraded",
        "--dataset",
        "cifar10c",
        "--corruption",
        "all",
        "--severity",
        "all",
        "--out",
        tmp_path / "keys.txt",
    ]
    assert gate.main([*map(str, flags)]) == 0
    assert gate.main([*map(str, [tmp_path / "1.pth", *flags[1:]])]) == 2
    assert "fitted for another classifier" in capsys.readouterr().err
    never = [*flags[:1], "--threshold", "0", *flags[3:-1], tmp_path / "none.txt"]
    assert gate.main([*map(str, never)]) == 0 and (tmp_path / "none.txt").read_text() == ""
    assert "no image needs an adapted copy" in capsys.readouterr().out
    asked = set((tmp_path / "keys.txt").read_text().split())
    assert len(asked) == (probable < threshold).sum() and 5 < len(asked) < 16
    judge = [
        *command(tmp_path, tmp_path / "all", "--ensemble", "gate"),
        "--source",
        str(here / "1.pth"),
    ]
    assert main(judge) == 0
    for path in (tmp_path / "adapted").rglob("*.png"):
        if path.relative_to(tmp_path / "adapted").with_suffix("").as_posix() not in asked:
            path.unlink()
    assert (
        "have no copy in"
        in (main(command(tmp_path, tmp_path / "some")), capsys.readouterr().err)[1]
    )
    judge[judge.index("--out") + 1] = str(tmp_path / "some")
    assert main(judge) == 0
    some, every = (files.read_json(tmp_path / out / "summary.json") for out in ("some", "all"))
    for name in ("combined", "source", "first"):
        assert some["cells"]["fog/3"][name] == every["cells"]["fog/3"][name]
        assert all(
            some["all"][name][key] == every["all"][name][key] for key in ("top1", "interval")
        )
    assert {"second", "source_adapted"} <= every["all"].keys() and not {
        "second",
        "source_adapted",
    } & some["all"].keys()
    assert every["all"]["combined"]["adapted"] == pytest.approx(len(asked) / 21)
    assert report.main([str(tmp_path / "some"), "--images", "3"]) == 0
    next(iter((tmp_path / "adapted").rglob("*.png"))).unlink()
    assert main(judge) != 0 and "but the gate asks for one" in capsys.readouterr().err


@pytest.mark.parametrize("some", [False, True])
def test_a_flat_folder_goes_through_the_gate(here, tmp_path, prior, some):
    make_trees(tmp_path, cells=(".",))
    names = tree.list_images(tmp_path / "degraded")[0]
    scores = classifiers.load(here / "0.pth").scores(
        [np.asarray(images.read_rgb(tmp_path / "degraded" / n)) for n in names]
    )
    threshold = float(scores.softmax(1).amax(1).median()) if some else 0.0
    shutil.rmtree(tmp_path / "adapted")
    for i in range(2):
        shutil.copy(here / f"{i}.pth", tmp_path)
    digests = {
        f"{name}_sha256": files.sha256(here / f"{i}.pth")
        for i, name in enumerate(("first", "second"))
    }
    fitted = {"gate": {"threshold": threshold, "weight": 0.4, "temperatures": [1, 2]}, **digests}
    files.write_json(tmp_path / "1.fitted.json", fitted)
    photos = ["--base_samples", tmp_path / "degraded", "--dataset", "folder"]
    listed = [
        tmp_path / "0.pth",
        "--fitted",
        tmp_path / "1.fitted.json",
        *photos,
        "--out",
        tmp_path / "new" / "keys.txt",
    ]
    assert gate.main([*map(str, listed)]) == 0
    asked = (tmp_path / "new" / "keys.txt").read_text().split()
    assert len(asked) == (3 if some else 0)
    adapt = [
        "--model_path",
        prior,
        *photos,
        "--keys",
        tmp_path / "new" / "keys.txt",
        "--save_dir",
        tmp_path / "adapted",
    ]
    assert image_sample.main([*map(str, adapt), "--speed", "one-shot"]) == 0
    assert tree.saved_images(tmp_path / "adapted", ["."]).keys() == set(asked)
    judge = command(tmp_path, tmp_path / "out", "--ensemble", "gate", "--dataset", "folder")
    assert main(judge) == 0 and report.main([str(tmp_path / "out")]) == 0
    summary = files.read_json(tmp_path / "out/summary.json")
    assert summary["cells"]["."]["combined"]["adapted"] == pytest.approx(len(asked) / 7)
    assert f"7 images of {tmp_path / 'degraded'}; " in summary["protocol"]
    both = [
        str(word)
        for word in (
            tmp_path / "0.pth",
            "--second_model_prefix",
            tmp_path / "1.pth",
            "--data_prefix1",
            tmp_path / "degraded",
            "--data_prefix2",
            tmp_path / "adapted",
        )
    ]
    assert predict.main([*both, "--ensemble", "gate", "--out", str(tmp_path / "said.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "said.csv").open()))
    right = np.mean([row["key"].startswith(row["class"]) for row in rows])
    assert len(rows) == 7 and right == pytest.approx(summary["all"]["combined"]["top1"])
    assert {row["key"] for row in rows if row["adapted"]} == set(asked)
    assert (
        predict.main([*both, "--out", str(tmp_path / "x.csv")]) == 2
        and not (tmp_path / "x.csv").exists()
    )


def test_images_without_labels_get_classes(here, tmp_path, capsys):
    make_trees(tmp_path, cells=("a",))
    for view in ("degraded", "adapted"):
        for i, path in enumerate(sorted((tmp_path / view / "a").iterdir())):
            path.rename(path.with_name(f"photo {i}.png"))
    trees = ["--data_prefix1", tmp_path / "degraded", "--data_prefix2", tmp_path / "adapted"]
    flags = [
        here / "0.pth",
        "--second_model_prefix",
        here / "1.pth",
        *trees,
        "--batch_size",
        "3",
        "--out",
        tmp_path / "said.csv",
    ]
    assert predict.main([*map(str, flags)]) == 0
    rows = list(csv.DictReader((tmp_path / "said.csv").open()))
    logits = [
        classifiers.load(here / f"{i}.pth").scores(
            [np.asarray(images.read_rgb(tmp_path / view / f"a/photo {j}.png")) for j in range(7)]
        )
        for i, view in enumerate(("degraded", "adapted"))
    ]
    classes = tree.class_list("cifar10")
    assert [row["key"] for row in rows] == [f"a/photo {i}" for i in range(7)]
    for name, scores in zip(("degraded", "adapted", "class"), (*logits, sum(logits)), strict=True):
        assert [row[name] for row in rows] == [classes[i] for i in scores.argmax(1)]
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        sum(logits).softmax(1).amax(1).tolist(), abs=1e-3
    )
    (tmp_path / "adapted/a/photo 3.png").unlink()
    assert predict.main([*map(str, flags)]) == 2
    assert "1 images have no copy in" in capsys.readouterr().err
    torch.save(classifiers.CifarResNet(8).state_dict(), tmp_path / "bare.pth")
    assert (
        predict.main([*map(str, [tmp_path / "bare.pth", *trees, "--out", tmp_path / "x.csv"])]) == 2
    )
    assert "does not tell its classes; name them with --classes" in capsys.readouterr().err


def test_only_images_that_were_held_out_are_fitted_on(here, tmp_path):
    make_trees(tmp_path, cells=("jpeg/train",))
    content = classifiers.read(here / "0.pth")
    content["config"]["data"] = {"held_out": 0.4}
    content.pop("sha256")
    torch.save(content, tmp_path / "0.pth")
    flags = [
        CONFIG,
        tmp_path / "0.pth",
        "--fit",
        "--dataset",
        "digits",
        "--train",
        "True",
        "--corruption",
        "jpeg",
        "--out",
        tmp_path / "out",
        "--data_prefix1",
        tmp_path / "degraded",
        "--data_prefix2",
        tmp_path / "adapted",
    ]
    assert main([*map(str, flags)]) == 0
    keys = results.read(tmp_path / "out", "jpeg/train")["keys"].tolist()
    there = [path.stem for path in sorted((tmp_path / "degraded/jpeg/train").iterdir())]
    assert keys == [f"jpeg/train/{name}" for name in there if is_held_out(name, 0.4)] and 0 < len(
        keys
    ) < len(there)
    assert files.read_json(tmp_path / "0.fitted.json")["held_out"] == 0.4


def test_a_blend_of_equal_views_is_the_image_itself(here, tmp_path):
    flags = [
        CONFIG,
        here / "0.pth",
        "--data_prefix1",
        here / "degraded",
        "--data_prefix2",
        here / "degraded",
        "--out",
        tmp_path,
    ]
    assert main([*map(str, flags), "--ensemble", "entropy_fuse"]) == 0
    found = results.read(tmp_path, "fog/1")
    np.testing.assert_allclose(found["combined"], found["first"], atol=1e-4)
    np.testing.assert_array_equal(found["second"], found["first"])  # one classifier, two views


def test_flags_that_are_not_given_leave_the_config_alone(here, tmp_path):
    own = tmp_path / "own.py"
    base = ROOT / "DDA/model_adapt" / CONFIG
    own.write_text(
        f"_base_ = ['{base}']\nevaluation = dict(ensemble='confidence', corruption=['snow'], "
        "scores='probabilities')\n"
    )
    flags = [own, *command(here, tmp_path / "out")[1:]]
    assert main([*map(str, flags)]) == 0
    facts = files.read_json(tmp_path / "out/summary.json")["facts"]
    assert (facts["ensemble"], facts["scores"], facts["cells"]) == (
        "confidence",
        "probabilities",
        ["snow/1"],
    )
    assert (
        main([*map(str, flags), "--ensemble", "sum", "--corruption", "fog", "--severity", "3"]) == 0
    )
    facts = files.read_json(tmp_path / "out/summary.json")["facts"]
    assert (facts["ensemble"], facts["scores"], facts["cells"]) == (
        "sum",
        "probabilities",
        ["fog/3"],
    )


CONFIGS = sorted(path.stem for path in (ROOT / "DDA/model_adapt/configs/ensemble").glob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_published_config_runs_with_weights_of_mmcls(name, tmp_path):
    config = read_config(Path(f"configs/ensemble/{name}.py"), [])
    large = "Imagenet" in name
    classes = tree.class_list(config["data"]["test"]["classes"])[:2]
    cell = "jpeg/cifar_test" if name.endswith("_cifar10") else "fog/5"
    rng = np.random.default_rng(0)
    for view, size in (("degraded", 224 if large else 32), ("adapted", 256 if large else 32)):
        for label in classes:
            (tmp_path / view / cell / label).mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(
                tmp_path / view / cell / label / "a.png"
            )
    torch.manual_seed(0)
    network = classifiers.build(config["model"])
    torch.save({"meta": {}, "state_dict": network.model.state_dict()}, tmp_path / "w.pth")
    flags = [
        f"model_adapt/configs/ensemble/{name}.py",
        tmp_path / "w.pth",
        "--metrics",
        "accuracy",
        "--ensemble",
        "sum",
        "--corruption",
        cell.split("/", maxsplit=1)[0],
        "--severity",
        "5",
        "--data_prefix1",
        tmp_path / "degraded",
        "--data_prefix2",
        tmp_path / "adapted",
        "--out",
        tmp_path / "out",
    ]
    assert main([*map(str, flags)]) == 0
    found = results.read(tmp_path / "out", cell)
    from mmcls.datasets.pipelines import Compose

    test = config["data"]["test"]
    for column, view, steps in (
        ("first", "degraded", test["pipeline"]),
        ("second", "adapted", test["pipeline2"]),
    ):
        data = Compose(steps)(
            {
                "img_prefix": str(tmp_path / view),
                "img_info": {"filename": f"{found['keys'][0]}.png"},
            }
        )
        network.eval()
        with torch.no_grad():
            expected = network.model.simple_test(
                data["img"][None], softmax=False, post_process=False
            )
        np.testing.assert_allclose(found[column][0], expected[0].numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--corruption", "frog"], "--corruption frog is not in"),
        (["--severity", "9"], "--severity 9"),
        (["--second_model_prefix", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--data_prefix2", "nowhere"], "--data_prefix2 nowhere does not exist"),
        (["--metrics", "mCE"], "name it, --baseline alexnet"),
        (["--num_samples", "0"], "must be at least 1"),
        (["--cfg-options", "a"], "--cfg-options a is not NAME=VALUE"),
        (["--metric-options", "thrs=0.5"], "use topk=5"),
        (["--second_model_prefix", "timm/resnet019"], "timm has no model resnet019"),
    ],
)
def test_wrong_input_is_named(here, tmp_path, capsys, more, words):
    assert main(command(here, tmp_path, *more)) == 2
    assert words in capsys.readouterr().err


def test_a_config_that_is_not_there_is_named_with_those_that_are(here, tmp_path, capsys):
    assert main(["nowhere.py", *command(here, tmp_path)[1:]]) == 2
    assert (
        "there are any.yaml, convnextT_ensemble_b64_Imagenet.py, resnet18_ensemble_b64_cifar10.py,"
        in capsys.readouterr().err
    )


def test_the_mean_corruption_error_is_of_all_corruptions_and_names_its_baseline(here, tmp_path):
    make_trees(
        tmp_path,
        cells=[
            *(f"{name}/{severity}" for name in metrics.ALEXNET for severity in range(1, 6)),
            "clean/val",
        ],
    )
    more = ["--metrics", "accuracy", "mCE", "--baseline", "alexnet"]
    assert main(command(here, tmp_path / "out", *more, views=tmp_path)) == 0
    summary = files.read_json(tmp_path / "out/summary.json")
    assert "alexnet" in summary["protocol"] and "torch" in summary["facts"]["versions"]
    row = summary["all"]["first"]
    top1 = {
        name: np.mean(
            [summary["cells"][f"{name}/{severity}"]["first"]["top1"] for severity in range(1, 6)]
        )
        for name in metrics.ALEXNET
    }
    assert row["CE"]["fog"] == pytest.approx(100 * (1 - top1["fog"]) / 0.819)
    each = {name: 100 * (1 - top1[name]) / (error / 100) for name, error in metrics.ALEXNET.items()}
    assert row["mCE"] == pytest.approx(np.mean(list(each.values()))) and "relative mCE" not in row

    assert (
        main(command(here, tmp_path / "out", *more, "--corruption", "all", "clean", views=tmp_path))
        == 0
    )
    summary = files.read_json(tmp_path / "out/summary.json")
    row, clean = summary["all"]["first"], 1 - summary["cells"]["clean/val"]["first"]["top1"]
    relative = {
        name: 100 * (1 - top1[name] - clean) / (error - 43.5) * 100
        for name, error in metrics.ALEXNET.items()
    }
    assert row["relative mCE"] == pytest.approx(np.mean(list(relative.values())))
    assert row["top1"] == pytest.approx(
        np.mean(list(top1.values()))
    )  # clean images are beside the mean
    assert (
        "| clean | 7 |" in (text := (tmp_path / "out/summary.md").read_text())
        and "mean of 75 cells** | 525 |" in text
    )


def test_no_mean_corruption_error_of_a_part(here, tmp_path, capsys):
    assert main(command(here, tmp_path, "--metrics", "mCE", "--baseline", "alexnet")) == 2
    assert (
        "brightness/1 is not among the cells; give --severity all --corruption gaussian_noise"
        in capsys.readouterr().err
    )


def test_a_part_is_evaluated_of_which_alone_there_are_copies(here, tmp_path):
    make_trees(tmp_path)
    for cell in CELLS:
        for path in sorted((tmp_path / "adapted" / cell).iterdir())[3:]:
            path.unlink()
    assert main(command(here, tmp_path / "out", "--num_samples", "3", views=tmp_path)) == 0
    assert files.read_json(tmp_path / "out/summary.json")["cells"]["fog/1"]["N"] == 3


def test_classifiers_of_other_classes_and_cells_without_copies_are_named(here, tmp_path, capsys):
    torch.save(classifiers.CifarResNet(8, 7).state_dict(), tmp_path / "seven.pth")
    assert main(command(here, tmp_path, "--second_model_prefix", tmp_path / "seven.pth")) == 1
    assert (
        "seven gives scores of 7 classes, but the images have 10; take a classifier of these "
        "classes" in capsys.readouterr().err
    )
    make_trees(tmp_path)
    shutil.rmtree(tmp_path / "adapted/fog/3")
    assert main(command(here, tmp_path / "out", views=tmp_path)) == 2
    assert (
        f"{tmp_path / 'adapted'} has no fog/3: adapt it, or name the cells"
        in capsys.readouterr().err
    )


def test_the_report_of_other_numbers_goes(here, tmp_path):
    assert main(command(here, tmp_path)) == 0 and report.main([str(tmp_path)]) == 0
    assert all((tmp_path / name).is_file() for name in tables.REPORT)
    assert main(command(here, tmp_path, "--num_samples", "3")) == 0
    assert not any((tmp_path / name).is_file() for name in tables.REPORT)


def test_scores_that_are_no_numbers_are_refused(here, tmp_path, capsys):
    content = classifiers.read(here / "1.pth")
    content["state_dict"]["linear.bias"][3] = np.inf
    content.pop("sha256")
    torch.save(content, tmp_path / "nan.pth")
    assert main(command(here, tmp_path, "--second_model_prefix", tmp_path / "nan.pth")) == 1
    words = "the scores of nan are not finite numbers, first those of fog/1/cat_00000"
    assert words in capsys.readouterr().err
    both = [
        here / "0.pth",
        "--second_model_prefix",
        tmp_path / "nan.pth",
        "--data_prefix1",
        here / "degraded",
    ]
    both += ["--data_prefix2", here / "adapted", "--out", tmp_path / "x.csv"]
    assert predict.main([*map(str, both)]) == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
    asked = [
        tmp_path / "nan.pth",
        "--threshold",
        "0.5",
        "--base_samples",
        here / "degraded",
        "--dataset",
        "cifar10c",
        "--corruption",
        "all",
        "--severity",
        "all",
        "--out",
        tmp_path / "keys.txt",
    ]
    assert gate.main([*map(str, asked)]) == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "keys.txt").exists()


def test_a_model_of_timm_brings_its_own_preprocessing(here, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, pretrained, **more: create(name, pretrained=False, **more),
    )
    model = classifiers.open_classifier("timm/test_convnext", {})
    told = create("test_convnext").pretrained_cfg
    assert told["input_size"][1] == 160 and model.preprocess.fit(
        np.zeros((300, 400, 3), np.uint8)
    ).shape == (160, 160, 3)
    white = model.batch([np.full((160, 160, 3), 255, np.uint8)])
    np.testing.assert_allclose(
        white[0, :, 0, 0], (1 - np.array(told["mean"])) / np.array(told["std"]), rtol=1e-5
    )
    assert model.logits(white).shape == (1, 1000)
