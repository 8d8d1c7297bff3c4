"""Advice: whether adaptation helps a classifier, from labelled images."""

import json
import shutil
from html import escape

import numpy as np
import pytest
import torch
from helpers import write_classifier
from PIL import Image

from DDA import files
from DDA.image_adapt import checkpoints, denoising
from DDA.model_adapt import advice, advise
from DDA.model_adapt.settings import Trial

CLASSES = ("dark", "light")


@pytest.fixture
def labelled(tmp_path):
    """Forty images of two classes, dark and light ones."""
    rng = np.random.default_rng(0)
    for i in range(40):
        label = CLASSES[i % 2]
        pixels = rng.integers(0, 60, (20, 24, 3)) + 150 * (i % 2)
        path = tmp_path / "labelled" / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "labelled"


@pytest.fixture
def classifier(tmp_path):
    return write_classifier(tmp_path / "c.pth", CLASSES)


def command(classifier, prior, labelled, tmp_path, *more):
    flags = ["--model_path", prior, "--base_samples", labelled, "--cache", tmp_path / "cache"]
    return [*map(str, [classifier, *flags, "--out", tmp_path / "out", *more])]


def test_a_trial_ends_in_a_page_with_its_numbers(classifier, prior, labelled, tmp_path, capsys):
    words = command(classifier, prior, labelled, tmp_path, "--student", classifier, "--json")
    assert advise.main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == files.read_json(tmp_path / "out/advice.json")
    names = [way["name"] for way in facts["ways"]]
    rungs = [f"{speed} ({view})" for speed in ("one-shot", "fast") for view in ("copy", "sum")]
    assert names == ["as it is", *rungs, "student"]
    assert sum(facts["images"].values()) == 40 and min(facts["images"].values()) >= 5
    alone, student = facts["ways"][0], facts["ways"][-1]
    assert student["accuracy"] == alone["accuracy"] and student["gain"] == 0  # the same weights
    page = (tmp_path / "out/advice.html").read_text()
    assert escape(facts["verdict"]) in page and facts["best"] in page


def test_the_numbers_are_those_of_the_scores(classifier, prior, labelled, tmp_path):
    from DDA import Adapter, Ensemble, tree
    from DDA.sources import Folder

    answer = advice.advise(
        Trial(
            classifier=classifier,
            prior=prior,
            source=labelled,
            out=tmp_path / "out",
            speeds=["one-shot"],
            cache=tmp_path / "cache",
        )
    )
    source = Folder(labelled, classes=CLASSES)
    names = source.list(".")[0]
    judged = [name for name in names if tree.is_held_out(tree.key_of(name), 0.5)]
    labels = torch.tensor([CLASSES.index(name.split("/")[0]) for name in judged])
    both = Ensemble(classifier, adapter=Adapter(prior, speed="one-shot", fit="whole"))
    said = both.scores([source.pixels(name) for name in judged]).argmax(1)
    ways = {way.name: way for way in answer.ways}
    expected = 100 * float((said == labels).float().mean())
    assert ways["one-shot (sum)"].accuracy == pytest.approx(expected)
    gain = ways["one-shot (sum)"].accuracy - ways["as it is"].accuracy
    assert ways["one-shot (sum)"].gain == pytest.approx(gain)


@pytest.mark.parametrize(("flags", "shape"), [([], (19, 16)), (["--fit", "pad"], (16, 13))])
def test_what_is_tried_is_adapted_as_photographs_are(
    classifier, prior, labelled, tmp_path, flags, shape
):
    words = command(classifier, prior, labelled, tmp_path, "--speed", "one-shot", *flags)
    assert advise.main(words) == 0
    copies = list((tmp_path / "cache").rglob("*.png"))
    assert {Image.open(path).size for path in copies} == {shape} and copies


def way(name, accuracy, low, high, **more):
    gain = (low + high) / 2
    return advice.Way(name, accuracy, accuracy, gain, low, high, 8.9, **more)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 3.0, "Adaptation helps: 71.0 %"),
        (-0.1, 3.0, "makes no difference that these images show"),
        (-3.0, -0.1, "Adaptation harms"),
    ],
)
def test_helps_means_that_the_interval_is_above_zero(low, high, words):
    alone, best = advice.Way("as it is", 70, 70.0), way("fast (sum)", 71.0, low, high)
    assert words in advice.Advice([alone, best], best, "out").verdict


def test_a_second_run_makes_no_copy(classifier, prior, labelled, tmp_path):
    words = command(classifier, prior, labelled, tmp_path, "--speed", "one-shot", "--quiet")
    assert advise.main(words) == 0
    copies = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.png")}
    first = (tmp_path / "out/advice.json").read_text()
    assert len(copies) == 40 and advise.main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in copies} == copies
    ways = [
        json.loads(text)["ways"] for text in (first, (tmp_path / "out/advice.json").read_text())
    ]
    without_cost = [[{**way, "cost": 0} for way in run] for run in ways]
    assert without_cost[0] == without_cost[1]


def test_broken_images_are_left_out_and_named(classifier, prior, labelled, tmp_path, capsys):
    (labelled / "dark/0.png").write_bytes(b"\x89PNG\r\n broken")
    words = command(classifier, prior, labelled, tmp_path, "--speed", "one-shot")
    assert advise.main(words) == 1
    errors = capsys.readouterr().err
    assert "dark/0.png" in errors and "1 images could not be read" in errors
    facts = files.read_json(tmp_path / "out/advice.json")
    assert sum(facts["images"].values()) == 39 and list(facts["failed"]) == ["dark/0.png"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_samples", "3"], "--num_samples 3 must be at least 20"),
        (["--speed", "one-shot", "one-shot"], "name each rung once"),
        (["--student", "none.pth"], "--student none.pth does not exist"),
        (["--corruption", "fog"], "--corruption fog is not in"),
    ],
)
def test_what_is_wrong_is_named(flags, words, classifier, prior, labelled, tmp_path, capsys):
    assert advise.main(command(classifier, prior, labelled, tmp_path, *flags)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_few_images_are_refused(classifier, prior, labelled, tmp_path, capsys):
    for path in sorted(labelled.rglob("*.png"))[10:]:
        path.unlink()
    assert advise.main(command(classifier, prior, labelled, tmp_path)) == 2
    assert "has 10 images; advice needs 20 at least" in capsys.readouterr().err


def test_a_prior_that_denoises_badly_is_told_beside_the_verdict(
    classifier, prior, labelled, tmp_path, capsys
):
    bad = tmp_path / "bad.pt"
    for kind in (".pt", ".json"):
        shutil.copy(prior.with_suffix(kind), bad.with_suffix(kind))
    numbers = dict(timestep=70, noise=25.0, prior=15.0, gaussian=10.0, sigma=1.0, identity=20.0)
    record = dict(error=denoising.UNIT, images=8, held_out=True, levels=[numbers])
    checkpoints.add_record(bad, denoising=record)
    with pytest.warns(UserWarning, match="the prior denoises no better"):
        assert advise.main(command(classifier, bad, labelled, tmp_path, "--speed", "one-shot")) == 0
    warning = "Beware: the prior denoises no better than a Gaussian filter at noise of 25 grey"
    assert capsys.readouterr().out.count(warning) == 1
    verdict = (tmp_path / "out/advice.html").read_text().partition("<p class=verdict>")[2]
    assert warning in verdict.partition("</p>")[0]
    assert warning in (tmp_path / "out/advice.md").read_text()
