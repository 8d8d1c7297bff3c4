"""The search for settings: every combination is measured, on known degradations only."""

import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, labelled_tree
from PIL import Image

from DDA import files, images, tree
from DistilledClassifier import classifiers

sys.path.insert(0, str(ROOT / "scripts"))
import search as command

from DDA.studies import search


@pytest.fixture
def flags(tmp_path, prior):
    return [*labelled_tree(tmp_path, prior, ("jpeg/10", "noise/50")), "--flags", "--speed one-shot"]


def test_every_combination_is_measured_and_the_best_is_first(flags, tmp_path, capsys):
    assert command.main([*flags, "--N", "2", "4", "--D", "2", "4", "--k", "0.5"]) == 0
    result = files.read_json(tmp_path / "out/search.json")
    means = [row["mean"] for row in result["rows"]]
    assert len(means) == 4 and means == sorted(means, reverse=True)
    assert {row["flags"] for row in result["rows"]} == {
        f"--N {n} --D {d} --k 0.5" for n in (2, 4) for d in (2, 4)
    }
    assert files.read_json(tmp_path / "out/N4-D2-k0.5/settings.json")["N"] == 4
    classifier = classifiers.load(tmp_path / "net.pt")
    for row in result["rows"]:
        name = row["flags"].replace(" --", "-").replace("--", "").replace(" ", "")
        copies = tmp_path / "out" / name
        paths = tree.list_images(copies)[0]
        scores = classifier.scores([np.asarray(images.read_rgb(copies / path)) for path in paths])
        right = scores.argmax(1) == torch.tensor(["dog" in path for path in paths]).long()
        assert row["adapted"] == pytest.approx(100 * float(right.double().mean()))
        assert row["mean"] == pytest.approx((row["adapted"] + row["self-ensemble"]) / 2)
    with Image.open(tmp_path / "out/search.png") as chart:
        assert chart.width > 400
    assert search.table(result) in capsys.readouterr().out


def test_samplers_are_compared_too(flags, tmp_path):
    assert command.main([*flags, "--sampler", "ddim", "ddpm", "--flags", "--N 2 --D 2"]) == 0
    rows = files.read_json(tmp_path / "out/search.json")["rows"]
    assert {row["flags"] for row in rows} == {"--sampler ddim", "--sampler ddpm"}
    assert files.read_json(tmp_path / "out/samplerddpm/settings.json")["sampler"] == "ddpm"


def test_nothing_is_chosen_on_what_is_judged(flags, tmp_path, capsys):
    (tmp_path / "tree/jpeg").rename(tmp_path / "tree/fog")
    assert command.main([*flags, "--N", "2"]) == 2
    assert "holds fog: settings are chosen on known degradations only" in capsys.readouterr().err
    assert command.main([*flags, "--N", "2", "--flags=--severity 5"]) == 2
    assert "--flags: --severity is not for some settings alone" in capsys.readouterr().err
    assert command.main(flags) == 2
    words = "give values to try: --N, --D, --k, --scale, --steps, --eta, --sampler"
    assert words in capsys.readouterr().err
