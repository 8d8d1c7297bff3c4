"""The measurement of a prior: how well it denoises, in the file, and warned of where it is used."""

import math
import shutil
import time
import warnings

import numpy as np
import pytest
import torch
from helpers import SMALL_PRIOR, tiny_unet
from PIL import Image

from DDA import Adapter, files, train_prior
from DDA.image_adapt import checkpoints, denoising, prior_results, prior_task, prior_training
from DDA.image_adapt.choices import SPEEDS
from DDA.image_adapt.denoising import Pictures
from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.prior import rungs
from DDA.image_adapt.prior_settings import PriorSettings
from DDA.image_adapt.scripts import image_sample
from DDA.progress import Show
from DDA.training.loop import Recipe

RNG = np.random.default_rng(0)


def smooth(count, side=16):
    """Return images uint8 (count,side,side,3) that a Gaussian filter denoises well."""
    small = RNG.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack(
        [
            np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC))
            for one in small
        ]
    )


def pictures(count, prefix="image"):
    return Pictures([f"{prefix} {i}" for i in range(count)], smooth(count))


def write(folder, count):
    folder.mkdir()
    for i, pixels in enumerate(smooth(count)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def photos(tmp_path):
    return write(tmp_path / "photos", 10)


SMALL = {**SMALL_PRIOR, "quiet": True}


class Oracle(torch.nn.Module):
    """A prior that knows the noise but for a share of it."""

    def __init__(self, shown, process, share):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self._shown, self._process, self._share = shown, process, share

    def forward(self, x_t, times):
        device = torch.device("cpu")
        x0, noised = denoising.noised(self._shown, self._process, int(times[0]), device)
        signal = float(self._process.alphas_cumprod[int(times[0])])
        noise = (noised - math.sqrt(signal) * x0) / math.sqrt(1 - signal)
        return (1 - self._share) * noise


# ------------------------------------------------------------------------------------ measuring


def test_the_errors_are_those_of_the_definition():
    process, shown = Diffusion(), pictures(12)
    oracle = Oracle(shown, process, share=0.1)
    [level] = denoising.measure(oracle, process, shown, pictures(6, "other"), [70])
    signal = process.alphas_cumprod[70]
    assert level["noise"] == pytest.approx(127.5 * math.sqrt(1 / signal - 1), abs=1e-3)
    # a tenth of the noise remains; what is clamped has less
    assert 0.09 * level["noise"] < level["prior"] < 0.1 * level["noise"]
    assert 0.9 * level["noise"] < level["identity"] <= level["noise"]
    assert level["prior"] < level["gaussian"] < level["identity"]


def test_the_filter_is_the_best_of_its_width_and_wider_for_more_noise():
    process, shown = Diffusion(), pictures(8)
    rows = denoising.measure(tiny_unet(learn_sigma=False), process, shown, shown, [20, 150, 500])
    sigmas = [row["sigma"] for row in rows]
    assert sigmas == sorted(sigmas) and sigmas[0] < sigmas[-1]
    # chosen on the images that are measured, no other width is better
    scale = 1 / math.sqrt(process.alphas_cumprod[150])
    batch = [denoising.noised(shown, process, 150, torch.device("cpu"))]
    for sigma in (0.7 * sigmas[1], 1.4 * sigmas[1]):
        blur = denoising._blur(denoising._filter(sigma, 16, torch.device("cpu")), scale)
        assert denoising._errors(batch, [blur])[0] > rows[1]["gaussian"]


def test_an_image_has_the_same_noise_in_every_batch_and_the_numbers_are_repeated():
    process, shown, model = Diffusion(), pictures(20), tiny_unet(learn_sigma=False)
    tuning = pictures(3, "other")
    once, twice = (denoising.measure(model, process, shown, tuning, [70]) for _ in range(2))
    assert once == twice
    places = [4, 17]
    some = Pictures([shown.keys[place] for place in places], shown.pixels[places])
    _, all_noised = denoising.noised(shown, process, 70, torch.device("cpu"))
    _, some_noised = denoising.noised(some, process, 70, torch.device("cpu"))
    assert torch.equal(all_noised[places], some_noised)


def level(timestep, prior, gaussian=10.0, identity=20.0):
    return dict(
        timestep=timestep, noise=25.0, prior=prior, gaussian=gaussian, sigma=1.0, identity=identity
    )


def test_a_prior_falls_short_where_it_is_used_and_nowhere_else():
    levels = [level(20, 5.0), level(70, 5.0), level(300, 15.0)]
    assert denoising.shortfall(levels, [71]) is None  # the nearest level is 70
    assert denoising.shortfall(levels, [0, 60, 120]) is None
    assert "no better than a Gaussian filter" in denoising.shortfall(levels, [0, 100, 494])
    assert "its error is 15.0, against 10.0" in denoising.shortfall(levels, range(500))
    assert "than no change at all" in denoising.shortfall([level(20, 9.0, 10.0, 8.0)], [71])
    assert denoising.shortfall([level(20, 10.0)], [71]) is not None  # as good is no better
    assert denoising.shortfall([], [71]) is None


# ------------------------------------------------------------------------------------- held out


def test_a_few_images_are_held_out_by_their_keys_and_never_trained_on(tmp_path):
    folder = write(tmp_path / "photos", 400)
    settings = PriorSettings(source=folder, save_dir=tmp_path / "out", steps=1)
    data = prior_training.Images(settings)
    held_out = set(data.held_out.keys)
    assert 8 <= len(held_out) <= 40 and data.count == 400 - len(held_out)
    assert data.held_out.pixels.shape == (len(held_out), 16, 16, 3)
    pixels = data.load(np.arange(data.count))
    others = {one.tobytes() for one in data.held_out.pixels}
    assert not others & {one.tobytes() for one in pixels}
    # an image that is taken away moves no other one to the other side
    spare = next(name for name in data._names)
    (folder / spare).unlink()
    assert held_out <= set(prior_training.Images(settings).held_out.keys)


def test_a_run_tells_its_numbers_in_its_file_and_has_the_same_after_a_stop(tmp_path):
    folder = write(tmp_path / "photos", 400)
    settings = {**SMALL, "anneal_steps": 4}
    whole = train_prior(folder, tmp_path / "whole", steps=4, **settings).denoising
    train_prior(folder, tmp_path / "parts", steps=2, **settings)
    parts = train_prior(folder, tmp_path / "parts", steps=4, **settings).denoising
    assert whole == parts and whole["held_out"] and whole["images"] >= 8
    for name in ("whole", "parts"):
        assert files.read_json(tmp_path / name / "ema.json")["denoising"] == whole
    assert [row["timestep"] for row in whole["levels"]] == denoising.timesteps(999)
    with Image.open(tmp_path / "whole/denoising.png") as chart:
        assert min(chart.size) > 200


def test_a_run_that_was_stopped_at_its_end_is_measured_by_the_next(photos, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    record = tmp_path / "out/ema.json"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "add_record", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_prior(photos, tmp_path / "out", steps=2, **SMALL)
    before = files.read_json(record)
    assert "denoising" not in before
    prior = train_prior(photos, tmp_path / "out", steps=2, **SMALL)
    assert prior.steps == 2
    assert files.read_json(record) == {**before, "denoising": prior.denoising}


def test_too_few_images_are_said_and_measured_all_the_same(photos, tmp_path, capsys):
    prior = train_prior(photos, tmp_path / "out", steps=1, **{**SMALL, "quiet": False})
    said = capsys.readouterr()
    assert not prior.denoising["held_out"] and prior.denoising["images"] == 8
    assert "too few images to hold some out" in said.err
    assert "the prior denoises no better than a Gaussian filter" in said.err
    assert "8 training images; root mean square error" in said.out


def test_a_training_says_what_falls_short_of_the_levels_that_adaptation_uses(capsys):
    good, bad = level(300, 5.0), level(500, 15.0)
    prior_training._say_denoising(measured(good, bad), range(500), Show())
    said = capsys.readouterr()
    assert said.err == "" and said.out.count("\n") == 4
    prior_training._say_denoising(measured(good, bad), range(600), Show())
    assert "Train it longer; adaptation with it says the same" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- its warning


def recorded(prior, folder, **entries):
    """Return a copy of a prior whose .json tells more."""
    folder.mkdir()
    for kind in (".pt", ".json"):
        shutil.copy(prior.with_suffix(kind), folder / f"tiny{kind}")
    checkpoints.add_record(folder / "tiny.pt", **entries)
    return folder / "tiny.pt"


def measured(*levels):
    return dict(error=denoising.UNIT, images=8, held_out=True, levels=list(levels))


def test_adaptation_with_a_prior_that_falls_short_warns_and_marks_its_copies(
    prior, photos, tmp_path, capsys
):
    bad = recorded(prior, tmp_path / "bad", denoising=measured(level(70, 15.0), level(300, 5.0)))
    with pytest.warns(UserWarning, match="no better than a Gaussian filter at noise of 25") as all:
        adapter = Adapter(bad, speed="one-shot", device="cpu")
    assert len(all) == 1
    adapter.folder(photos, tmp_path / "out", quiet=True)
    warning = files.read_json(tmp_path / "out/settings.json")["warning"]
    assert warning == adapter.shortfall
    command = ["--model_path", bad, "--base_samples", photos, "--speed", "one-shot"]
    capsys.readouterr()
    assert image_sample.main([*map(str, command), "--save_dir", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("no better than a Gaussian filter") == 1
    # the warning identifies no copy: without the measurement the folder is the same
    unmeasured = ["--model_path", prior, *command[2:], "--save_dir", tmp_path / "out"]
    assert image_sample.main([*map(str, unmeasured)]) == 0


def test_a_prior_that_denoises_well_where_it_is_used_or_is_not_measured_warns_of_nothing(
    prior, photos, tmp_path
):
    good = recorded(prior, tmp_path / "good", denoising=measured(level(70, 5.0), level(300, 15.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in (good, prior):
            adapter = Adapter(path, speed="one-shot", device="cpu")
            assert adapter.shortfall is None
            adapter.folder(photos, tmp_path / path.parent.name, quiet=True)
            assert "warning" not in files.read_json(tmp_path / path.parent.name / "settings.json")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"timesteps": 200}, "the entry timesteps is 200, but it should be text"),
        ({"timesteps": "100-200"}, 'the entry timesteps should be like "0-200"'),
        ({"denoising": {"levels": []}}, "the entry denoising.error is missing"),
        ({"denoising": measured(level(70, -1.0))}, "denoising.levels.0.prior is -1.0, but it"),
    ],
)
def test_a_record_of_another_form_is_named(prior, tmp_path, entries, words):
    path = recorded(prior, tmp_path / "odd", **entries)
    with pytest.raises(files.BadFile, match="tiny.json is damaged") as fault:
        Adapter(path)
    assert words in str(fault.value)


# ------------------------------------------------------------------------- low noise levels alone


@pytest.mark.parametrize(
    ("last", "fitting"),
    [
        (70, []),
        (71, ["one-shot"]),
        (110, ["one-shot"]),
        (111, ["fast", "one-shot"]),
        (150, ["fast", "one-shot"]),
        (151, ["balanced", "fast", "one-shot"]),
        (493, ["balanced", "fast", "one-shot"]),
        (494, list(SPEEDS)),
    ],
)
def test_a_prior_of_low_timesteps_can_do_these_rungs_and_refuses_the_others(
    prior, tmp_path, last, fitting
):
    assert rungs(1000, last) == fitting
    path = recorded(prior, tmp_path / "low", timesteps=f"0-{last}")
    for speed in SPEEDS:
        if speed in fitting:
            assert Adapter(path, speed=speed, device="cpu").settings.N
            continue
        with pytest.raises(ValueError, match=f"a prior for the timesteps 0-{last} alone") as fault:
            Adapter(path, speed=speed, device="cpu")
        can = ", ".join(fitting) or "no rung"
        assert f"It can do {can} of `speed`, and `N` can be" in str(fault.value)


def test_the_largest_n_of_a_prior_of_low_timesteps_is_told_and_works(prior, tmp_path):
    path = recorded(prior, tmp_path / "low", timesteps="0-200")
    Adapter(path, N=20, device="cpu")  # the 20th of 100 steps is timestep 192
    with pytest.raises(
        ValueError, match=r"`N` 21 needs 202 too\. .* `N` can be 20 at most, in the 100"
    ):
        Adapter(path, N=21, device="cpu")
    Adapter(path, N=201, timestep_respacing="1000", device="cpu")
    with pytest.raises(ValueError, match="`N` can be 201 at most, in the 1000 steps"):
        Adapter(path, N=202, timestep_respacing="1000", device="cpu")


def test_training_of_low_timesteps_draws_no_others_and_says_so(photos, tmp_path, monkeypatch):
    drawn = []
    original = prior_task.training_losses

    def noted(model, process, x0, index, noise):
        drawn.extend(index.tolist())
        return original(model, process, x0, index, noise)

    monkeypatch.setattr(prior_task, "training_losses", noted)
    more = {**SMALL, "batch_size": 64}
    prior = train_prior(photos, tmp_path / "out", steps=3, timesteps="0-20", **more)
    assert set(drawn) == set(range(21))
    record = files.read_json(tmp_path / "out/ema.json")
    assert record["timesteps"] == "0-20"
    assert max(level["timestep"] for level in record["denoising"]["levels"]) <= 20
    with pytest.raises(ValueError, match="a prior for the timesteps 0-20 alone"):
        Adapter(prior.path, speed="one-shot")
    with Image.open(tmp_path / "out/samples.png") as sheet:
        assert min(sheet.size) > 500  # clean, and noised and denoised at three levels
    with pytest.raises(ValueError, match="timesteps 0-20 there, absent here"):
        train_prior(photos, tmp_path / "out", steps=9, **more)


@pytest.mark.parametrize("text", ["200", "0-0", "0-1000", "100-200", "0-2e2", "0--5", "0-\u0664"])
def test_timesteps_that_cannot_be_meant_are_refused_with_an_example(photos, tmp_path, text):
    with pytest.raises(ValueError, match='`timesteps` .* at most 999, such as "0-200"'):
        train_prior(photos, tmp_path / "out", steps=1, timesteps=text, **SMALL)


def test_all_timesteps_are_no_restriction(tmp_path):
    paths = dict(source=tmp_path, save_dir=tmp_path / "out")
    assert PriorSettings(**paths, steps=1, timesteps="0-999").record() == {}


# ------------------------------------------------------------------------------------ the budget


def test_the_ending_fits_into_its_share_of_the_budget_or_is_the_least():
    assert prior_results.plan_ending(1e9)[:3] == (128, 16, 50)
    for room in (100, 500, 1000, 1500):
        ending = prior_results.plan_ending(room, 1.0)
        assert ending.samples == 4 and ending.seconds <= room + prior_results.WRITING, room
    assert prior_results.plan_ending(-5.0)[:3] == (8, 4, 5)
    recipe = Recipe(steps=100, minutes=1, batch_size=10)
    assert prior_results.room_of(recipe, 0.001) == pytest.approx(600)  # a fifth of 3,000
    # 10 of 12 s, of which 2 s are for writing
    assert prior_results.room_of(recipe, 0.1) == pytest.approx(100)


def test_minutes_include_what_is_measured_and_drawn(photos, tmp_path, monkeypatch):
    slow = prior_training.UNet.forward

    def forward(self, x, times, *rest):
        # all that is drawn without a budget would take 17 s
        if not torch.is_grad_enabled():
            time.sleep(0.02 * len(x))
        return slow(self, x, times, *rest)

    monkeypatch.setattr(prior_training.UNet, "forward", forward)
    begun, train = [], prior_training.Run.train

    def timed(*args, **kwargs):
        begun.append(time.monotonic())
        train(*args, **kwargs)

    monkeypatch.setattr(prior_training.Run, "train", timed)
    prior = train_prior(photos, tmp_path / "out", minutes=0.05, **SMALL)
    seconds = time.monotonic() - begun[0]
    assert prior.steps > 0 and prior.denoising["images"] >= 8
    assert (tmp_path / "out/samples.png").is_file()
    # half of the 3 s is kept for the end, and counts as spent
    assert 3 <= prior.seconds < 4.4
    assert seconds < 3 + 8, seconds  # the tolerance is for a machine that is busy


def test_the_time_of_a_training_includes_what_is_written_meanwhile(photos, tmp_path, monkeypatch):
    written = []

    def write(self):
        written.append(time.sleep(0.4))

    monkeypatch.setattr(prior_results.Results, "write", write)
    monkeypatch.setattr(prior_results.Results, "finish", lambda self: None)
    settings = {**SMALL, "save_minutes": 0.0001}
    prior = train_prior(photos, tmp_path / "out", steps=21, **settings)
    assert len(written) >= 3  # after 10 and 20 steps, and at the end, which is counted apart
    assert prior.seconds > 0.4 * (len(written) - 1)


def test_a_finished_run_in_minutes_does_not_go_on_where_the_end_takes_less(
    photos, tmp_path, monkeypatch
):
    first = train_prior(photos, tmp_path / "out", minutes=0.02, **SMALL)
    digest = files.sha256(first.path)
    monkeypatch.setattr(prior_training, "plan_ending", lambda *_: prior_results.Ending(8, 4, 5))
    again = train_prior(photos, tmp_path / "out", minutes=0.02, **SMALL)
    assert again.steps == first.steps and files.sha256(again.path) == digest
    assert again.seconds == first.seconds  # the end counts once


def test_the_plan_tells_how_many_images_can_be_measured(photos, tmp_path, capsys):
    how = {**SMALL, "quiet": False}
    prior_training.train_prior(photos, tmp_path / "out", minutes=60, dry_run=True, **how)
    assert ": 10 images are measured, 16 drawn" in capsys.readouterr().out
