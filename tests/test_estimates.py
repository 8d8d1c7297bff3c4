"""What --dry_run tells of the time that long commands take, and that it writes nothing."""

import json
import math
import time

import pytest
import test_train
from test_image_train import TINY
from test_job import Ranks, job
from test_train import tree as labelled  # noqa: F401

from DDA import images
from DDA.fitting import Fit
from DDA.image_adapt import prior_training
from DDA.image_adapt.scripts import image_sample, image_train
from DDA.progress import Estimate
from DDA.ranks import World
from DDA.sources import Folder
from DDA.training import loop
from DistilledClassifier import train


def everything(folder):
    """Return what lies below a folder, with its contents."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in paths}


def estimate_of(out):
    return json.loads(out)["estimate"]


def slow(keys, pixels):
    time.sleep(0.05)
    return -images.to_model(pixels)


def test_an_estimate_is_one_batch_times_the_images_that_are_missing(tree, tmp_path):
    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3", "fog/5", "snow/5"])
    estimate = job.estimate(World(), plan, slow, batch_size=5, fit=Fit(16))
    assert estimate.measured == "one batch of 5" and 0.009 < estimate.each < 0.05
    assert estimate.seconds == pytest.approx(18 * estimate.each)
    assert not (tmp_path / "out").exists()


def test_an_estimate_goes_by_the_rank_that_takes_longest(tree, tmp_path):
    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3", "fog/5", "snow/5"])

    class Two(Ranks):
        def __init__(self):
            World.__init__(self)
            self.rank, self.size = 0, 2

        def gather(self, value):
            return [value, (9, 5, 1.0)]

    estimate = job.estimate(Two(), plan, slow, batch_size=5, fit=Fit(16))
    assert estimate == Estimate(9.0, 0.5, "an image", "one batch of 5 on each of 2 ranks")
    assert f"{estimate}" == (
        "9 s (0.5 s an image, measured on one batch of 5 on each of 2 ranks on this machine)"
    )


def test_a_long_batch_is_not_measured_twice(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "LONG", 0.01)
    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3"])
    calls = []

    def counted(keys, pixels):
        calls.append(keys)
        return slow(keys, pixels)

    assert job.estimate(World(), plan, counted, batch_size=4, fit=Fit(16)).seconds > 0.05
    assert len(calls) == 1


def test_image_sample_tells_how_long_it_takes_and_writes_nothing(prior, tree, tmp_path, capsys):
    words = ["--model_path", prior, "--base_samples", tree, "--save_dir", tmp_path / "out"]
    flags = ["--N", "2", "--timestep_respacing", "10", "--fit", "square", "--dry_run"]
    command = [*map(str, words), *flags]
    before = everything(tmp_path)
    assert image_sample.main(command) == 0
    out = capsys.readouterr().out
    assert (
        "estimate    " in out and "s an image, measured on one batch of 4 on this machine)" in out
    )
    assert everything(tmp_path) == before and not (tmp_path / "out").exists()
    assert image_sample.main([*command, "--json"]) == 0
    estimate = estimate_of(capsys.readouterr().out)
    assert estimate["unit"] == "an image"
    assert math.isclose(estimate["seconds"], 24 * estimate["each"])
    assert image_sample.main(command[:-1]) == 0
    capsys.readouterr()
    assert image_sample.main([*command, "--json"]) == 0
    assert estimate_of(capsys.readouterr().out) is None  # nothing is left to do


def test_the_estimate_of_image_sample_is_near_its_time(prior, tree, tmp_path, capsys):
    words = ["--model_path", prior, "--base_samples", tree, "--save_dir", tmp_path / "out"]
    command = [*map(str, words), "--N", "8", "--batch_size", "6", "--json"]
    assert image_sample.main([*command, "--dry_run"]) == 0
    told = estimate_of(capsys.readouterr().out)["seconds"]
    assert image_sample.main(command) == 0
    took = json.loads(capsys.readouterr().out)["seconds"]
    assert told / 8 < took < 8 * told, (told, took)


def training(tree, out, *more):
    return [*map(str, ["--base_samples", tree, "--save_dir", out, *TINY, "--quiet", *more])]


def test_image_train_tells_how_long_it_takes_and_writes_nothing(tree, tmp_path, capsys):
    before = everything(tmp_path)
    command = training(tree, tmp_path / "out", "--json", "--dry_run")
    assert image_train.main([*command, "--steps", "500"]) == 0
    estimate = estimate_of(capsys.readouterr().out)
    assert estimate["unit"] == "a step"
    assert math.isclose(estimate["seconds"], 500 * estimate["each"])
    assert image_train.main([*command, "--steps", "50000000", "--minutes", "2"]) == 0
    assert estimate_of(capsys.readouterr().out)["seconds"] == 120
    assert everything(tmp_path) == before and not (tmp_path / "out").exists()


def test_a_run_in_the_middle_is_estimated_from_there_and_left_as_it_is(tree, tmp_path, capsys):
    assert image_train.main(training(tree, tmp_path / "out", "--steps", "2")) == 0
    before = everything(tmp_path)
    capsys.readouterr()
    flags = ["--steps", "5", "--dry_run", "--json"]
    assert image_train.main(training(tree, tmp_path / "out", *flags)) == 0
    estimate = estimate_of(capsys.readouterr().out)
    assert math.isclose(estimate["seconds"], 3 * estimate["each"])
    assert everything(tmp_path) == before


def test_a_plan_of_a_prior_says_the_estimate(tree, tmp_path, capsys):
    flags = training(tree, tmp_path / "out", "--steps", "9", "--dry_run")
    assert image_train.main([flag for flag in flags if flag != "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "s a step, measured on a few steps on this machine)" in out
    assert "done        nothing, --dry_run; 0 steps are in" in out


def test_train_prior_estimates_too(tree, tmp_path):
    how = {"image_size": 16, "num_channels": 32, "channel_mult": "1,1", "num_res_blocks": 1}
    made = prior_training.train_prior(
        tree, tmp_path / "out", steps=7, batch_size=4, dry_run=True, quiet=True, **how
    )
    assert made.estimate.seconds == 7 * made.estimate.each and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("limit", "steps"), [(1e9, 4), (0, 1)])
def test_a_training_is_estimated_by_a_few_steps(monkeypatch, limit, steps):
    monkeypatch.setattr(loop, "LONG", limit)
    counted = []

    class Fitting:
        def __init__(self, *_):
            pass

        def step(self, stream):
            counted.append(next(stream))

        def look(self):
            pass

    class Batches:
        per_epoch = 1

        def stream(self, first, last):
            return iter(range(first, last))

    class Task:
        def train(self):
            pass

    monkeypatch.setattr(loop, "_Fitting", Fitting)
    assert loop.step_seconds(loop.State(Task(), None, step=7), Batches(), None, None) >= 0
    assert counted == [7, 8, 9, 10][:steps]


def test_train_tells_how_long_it_takes_and_writes_nothing(labelled, tmp_path, capsys):  # noqa: F811
    path = test_train.write_config(tmp_path, "clean")
    before = everything(tmp_path)
    command = test_train.flags(tmp_path, path, "--dry_run")
    assert train.main([*command, "--json"]) == 0
    estimate = estimate_of(capsys.readouterr().out)
    assert math.isclose(estimate["seconds"], 9 * estimate["each"])
    assert train.main([*command, "--minutes", "1", "--epochs", "9999999"]) == 0
    out = capsys.readouterr().out
    assert "estimate    1 min 0 s (" in out and "; validations come on top" in out
    assert "nothing, --dry_run; 0 steps are in" in out
    assert everything(tmp_path) == before and not (tmp_path / "saved").exists()
