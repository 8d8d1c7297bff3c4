"""The digits that the quickstart needs, and the comparison that it ends with."""

import sys

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from DDA import datasets, images
from DistilledClassifier import classifiers, make_data, trees

sys.path.insert(0, str(ROOT / "scripts"))
import compare

sklearn = pytest.importorskip("sklearn.datasets")


def test_the_digits_are_those_of_scikit_learn_in_a_fixed_split():
    source, digits = datasets.open_source("digits"), sklearn.load_digits()
    assert source.classes == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for split, rows in (("train", range(1437)), ("test", range(1437, 1797))):
        names = source.list(f"clean/{split}")[0]
        assert len(names) == len(rows)
        by_row = {int(images.key_of(name)[-5:]): name for name in names}
        for i, row in list(enumerate(rows))[::97]:
            assert trees.parse(by_row[i], source.classes)[2] == source.classes[digits.target[row]]
            shown = np.asarray(source.read(by_row[i]))
            assert shown.shape == (16, 16, 3) and (shown == shown[..., :1]).all()
            ink = shown[..., 0].reshape(8, 2, 8, 2).mean((1, 3)) * 16 / 255
            assert np.corrcoef(ink.ravel(), digits.images[row].ravel())[0, 1] > 0.98


def test_prepare_writes_the_digits_and_the_adaptation_job_knows_their_splits(tmp_path):
    assert make_data.main(["prepare", "--base_samples", "digits", "--save_dir", str(tmp_path / "digits"), "--num_samples", "30",
                           "--workers", "1"]) == 0  # fmt: skip
    assert images.read_classes(tmp_path / "digits")[3] == "three"
    assert datasets.cells(datasets.Folder(tmp_path / "digits"), "digits", ["clean"], [], train=False) == ["clean/test"]
    assert make_data.main(["verify", "--save_dir", str(tmp_path / "digits")]) == 0


def test_classes_that_look_like_severities_are_refused_where_they_mislead():
    assert trees.parse("jpeg/1/cat_3.png", ("cat", "dog"))[2] == "cat"
    assert trees.parse("jpeg/1/7_3.png", ("7", "8"))[2] == "7"
    assert trees.parse("clean/train/7/3.png", ("7", "8"))[2] == "7"
    with pytest.raises(ValueError, match="may be of the class 1 or 7"):
        trees.parse("jpeg/1/7_3.png", ("1", "7"))


@pytest.fixture
def views(tmp_path):
    """Two cells; the classifier sees the class of bright images on one view only."""
    torch.manual_seed(0)
    for root, value in (("degraded", 0), ("adapted", 255)):
        for cell in ("noise/1", "fog/2"):
            (tmp_path / root / cell).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / root / cell / f"bright_{i}.png")
        images.write_classes(tmp_path / root, ("dark", "bright"))
    network = classifiers.build({"type": "CifarResNet", "depth": 8, "num_classes": 2})
    with torch.no_grad():  # logits of dark and bright follow the mean of the first layer
        network.model.linear.weight.zero_()
        network.model.linear.bias.zero_()
        white = network.eval()(torch.ones(1, 3, 8, 8))[0][0] - network(-torch.ones(1, 3, 8, 8))[0][0]
        black = network(-torch.ones(1, 3, 8, 8))[0][0]
        network.model.linear.weight[1] = white
        network.model.linear.bias[1] = -(white @ (black + white / 2))
    config = {"classifier": {"type": "CifarResNet", "depth": 8, "num_classes": 2},
              "preprocess": {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}}  # fmt: skip
    classifiers.save(tmp_path / "net.pth", network, config, ("dark", "bright"))
    return ["--classifier", tmp_path / "net.pth", "--degraded", tmp_path / "degraded", "--adapted", tmp_path / "adapted",
            "--out", tmp_path / "out"]  # fmt: skip


def test_the_comparison_counts_both_views(views, tmp_path, capsys):
    assert compare.main([*map(str, views)]) == 0
    cells = images.read_json(tmp_path / "out/compare.json")["cells"]
    assert set(cells) == {"noise/1", "fog/2"}
    assert all((row["count"], row["degraded"], row["adapted"], row["gain"]) == (3, 0, 100, 100) for row in cells.values())
    assert "| **mean** | 6 | 0.0 | 100.0 |" in capsys.readouterr().out
    with Image.open(tmp_path / "out/gallery.png") as gallery:
        colours = {colour for _, colour in gallery.convert("RGB").getcolors(1 << 20)}
    assert {(220, 20, 60), (46, 139, 87)} <= colours  # wrong and right


def test_students_see_their_own_view_and_their_logits_are_summed(views, tmp_path, capsys):
    other = classifiers.read(tmp_path / "net.pth")
    other["state_dict"]["linear.bias"] += torch.tensor([0.0, 1e4])  # sure of bright, whatever it sees
    torch.save(other, tmp_path / "sure.pth")
    assert compare.main([*map(str, views), "--students", str(tmp_path / "sure.pth"), str(tmp_path / "net.pth")]) == 0
    row = images.read_json(tmp_path / "out/compare.json")["cells"]["fog/2"]
    assert (row["degraded student"], row["adapted student"], row["sum"], row["gain"]) == (100, 100, 100, 100)
    assert compare.main([*map(str, views), "--students", str(tmp_path / "net.pth"), str(tmp_path / "sure.pth")]) == 0
    row = images.read_json(tmp_path / "out/compare.json")["cells"]["fog/2"]
    assert (row["degraded student"], row["adapted student"], row["sum"]) == (0, 100, 100)
    assert "| corruption | N | degraded | adapted | self-ensemble | degraded student |" in capsys.readouterr().out
    other["adapted"] = {"N": 12, "D": 4}
    torch.save(other, tmp_path / "sure.pth")
    images.write_json(tmp_path / "adapted/settings.json", {"N": 20, "D": 4})
    assert compare.main([*map(str, views), "--students", str(tmp_path / "net.pth"), str(tmp_path / "sure.pth")]) == 2
    assert "N 20 there, 12 in training" in (said := capsys.readouterr().err) and "D 4" not in said


def test_a_missing_copy_is_named(views, tmp_path, capsys):
    (tmp_path / "adapted/fog/2/bright_1.png").unlink()
    assert compare.main([*map(str, views)]) == 2
    assert "lacks 1 of 3 images of fog/2, such as fog/2/bright_1" in capsys.readouterr().err
