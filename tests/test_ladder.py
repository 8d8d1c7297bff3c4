"""The speed ladder: accuracy, intervals and cost of each setting, and wrong input."""

import json
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, labelled_tree
from PIL import Image

from DDA import files, images, metrics, tree
from DistilledClassifier import classifiers

sys.path.insert(0, str(ROOT / "scripts"))
import ladder as command

from DDA.studies import ladder


@pytest.fixture
def small(tmp_path, prior):
    return [*labelled_tree(tmp_path, prior, ("fog/1", "snow/1")), "--timing_images", "2"]


def test_the_ladder_counts_calls_scores_both_views_and_draws_a_chart(small, tmp_path, capsys):
    settings = ["slow: --N 4 --D 4", "quick: --speed fast --N 4 --D 4 --steps 2"]
    assert command.main([*small, "--setting", *settings]) == 0
    result = files.read_json(tmp_path / "out/ladder.json")
    source, slow, quick = result["rows"]
    assert (slow["forward"], slow["backward"], quick["forward"], quick["backward"]) == (4, 4, 2, 0)
    assert slow["adapted"]["difference"] == slow["adapted"]["difference_interval"] == 0
    assert slow["speedup"] == 1
    assert "8 images in 2 cells" in result["protocol"] and result["cells"] == ["fog/1", "snow/1"]
    classifier = classifiers.load(tmp_path / "net.pt")
    for row, folder in ((source, "tree"), (quick, "out/quick")):
        paths = tree.list_images(tmp_path / folder)[0]
        pixels = [np.asarray(images.read_rgb(tmp_path / folder / path)) for path in paths]
        labels = torch.tensor(["dog" in path for path in paths]).long()
        right = classifier.scores(np.stack(pixels)).argmax(1) == labels
        accuracy = 100 * float(right.double().mean())
        assert row["adapted"]["accuracy"] == pytest.approx(accuracy)
    with Image.open(tmp_path / "out/ladder.png") as chart:
        assert chart.width > 400
    table = (tmp_path / "out/ladder.md").read_text()
    lines = {line.split(" | ")[0]: line for line in table.splitlines()}
    assert lines["| slow"].endswith("| 4 (+ 4 backward) | 1.0 |")
    assert lines["| source"].count("|") == lines["| slow"].count("|")
    assert lines["| quick"].endswith(f"| 2 | {quick['speedup']:.1f} |")
    for row in (slow, quick):
        del row["speedup"]
    assert "calls" not in ladder.table(result)  # nothing was measured
    assert table in capsys.readouterr().out


def test_intervals_are_half_of_the_bootstrap_intervals_over_images():
    rng = np.random.default_rng(0)
    right, before, images = rng.random(400) < 0.6, rng.random(400) < 0.5, np.arange(400)
    numbers = ladder._statistics(right, before, images)
    assert numbers["accuracy"] == pytest.approx(100 * right.mean())
    assert numbers["difference"] == pytest.approx(100 * (right.mean() - before.mean()))
    difference = 100.0 * right - 100.0 * before
    for name, values in (("interval", 100.0 * right), ("difference_interval", difference)):
        low, high = metrics.interval(values, images)
        assert numbers[name] == pytest.approx((high - low) / 2)
        assert numbers[name] == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_an_image_under_several_corruptions_is_drawn_as_a_whole():
    right = np.random.default_rng(0).random(400) < 0.6
    alone = ladder._statistics(right, None, np.arange(400))
    fourfold = ladder._statistics(np.tile(right, 4), None, np.tile(np.arange(400), 4))
    assert fourfold == pytest.approx(alone)  # copies tell nothing new


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--setting", "quickest"], "--setting quickest is no rung"),
        (["--setting", "a: --N 2", "a: --N 3"], "--setting a is given twice"),
        (
            ["--setting", "a: --num_samples 2"],
            "--setting a: --num_samples is not for some settings alone",
        ),
        (["--setting", "a/b: --N 2"], "has no name that can be a folder"),
        (["--classifier", "nowhere.pt"], "nowhere.pt does not exist"),
        (["--base_samples", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_named(small, capfd, flags, words):
    assert command.main([*small, *flags]) == 2
    assert words in capfd.readouterr().err


def test_an_image_without_a_class_is_named(small, tmp_path, capfd):
    (tmp_path / "tree/fog/1/cat_00000.png").rename(tmp_path / "tree/fog/1/cow_00000.png")
    assert command.main([*small, "--setting", "a: --N 1 --D 4"]) == 2
    assert "cow_00000.png has none of the 2 classes in its name" in capfd.readouterr().err


def test_labels_of_another_class_list_are_refused(small, tmp_path, capfd):
    config = {
        "classifier": {"type": "CifarResNet", "depth": 8, "num_classes": 2},
        "preprocess": {"size": 16, "mean": [0.5] * 3, "std": [0.2] * 3},
    }
    path, network = tmp_path / "other.pth", classifiers.build(config["classifier"])
    classifiers.save(path, network, config, ("dog", "cat"))
    flags = ["--classifier", str(path), "--setting", "one-shot", "--timing_images", "0"]
    assert command.main([*small, *flags]) == 2
    assert "has the classes dog, cat, …, but" in capfd.readouterr().err


def test_json_is_the_result_alone_and_quiet_says_nothing_else(small, tmp_path, capfd):
    setting = ["--setting", "quick: --speed fast --N 4 --D 4 --steps 2", "--timing_images", "0"]
    assert command.main([*small, *setting, "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["rows"][1]["setting"] == "quick" and "to do       8" in said.err
    assert command.main([*small, *setting, "--quiet", "--out", str(tmp_path / "other")]) == 0
    said = capfd.readouterr()
    assert said.out.startswith("8 images in 2 cells") and said.err == ""
