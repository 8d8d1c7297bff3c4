"""The training command, with a tiny network, and its priors in the adaptation job."""

import doctest
import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SMALL_PRIOR
from PIL import Image

from DDA import files
from DDA.image_adapt import checkpoints, job, prior_settings, prior_task, prior_training
from DDA.image_adapt.prior_settings import PriorSettings
from DDA.image_adapt.prior_training import make_model
from DDA.image_adapt.scripts import image_sample
from DDA.image_adapt.scripts.image_train import main, parser

SCRIPT = ROOT / "DDA" / "image_adapt" / "scripts" / "image_train.py"
TINY = [
    "--image_size",
    "16",
    "--num_channels",
    "32",
    "--channel_mult",
    "1,1",
    "--num_res_blocks",
    "1",
    "--num_heads",
    "2",
    "--batch_size",
    "4",
    "--warmup",
    "2",
    "--lr",
    "1e-3",
    "--ema",
    "0.9",
    "--no-bf16",
]
SMALL = SMALL_PRIOR  # TINY, from Python
ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PMI", "OMPI", "SLURM", "TORCHELASTIC"))
}
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"


@pytest.fixture
def photos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(10):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((16, 16), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def flags(photos, out, *more):
    return [
        "--base_samples",
        str(photos),
        "--save_dir",
        str(out),
        "--no-bf16",
        *TINY,
        *map(str, more),
    ]


def losses(out):
    return np.loadtxt(out / "loss.csv", delimiter=",", skiprows=1)[:, 1]


def tensors(path):
    return torch.load(path, weights_only=True)


def test_a_trained_prior_is_complete_and_the_adaptation_job_takes_it(photos, tmp_path, capsys):
    out = tmp_path / "prior"
    assert main(flags(photos, out, "--steps", 4, "--learn_sigma", "--flip")) == 0
    written = {path.name for path in out.iterdir() if not path.name.startswith("events.")}
    assert written == {
        "ema.pt",
        "ema.json",
        "resume.pt",
        "machine.json",
        "denoising.png",
        "loss.csv",
        "loss.png",
        "samples.png",
    }
    assert len(losses(out)) == 4
    with Image.open(out / "samples.png") as samples, Image.open(out / "loss.png") as curve:
        assert samples.width > 500 and min(*curve.size) > 200
    flags_of_job = [
        "--model_path",
        out / "ema.pt",
        "--base_samples",
        photos,
        "--save_dir",
        tmp_path / "out",
        "--speed",
        "one-shot",
    ]
    assert image_sample.main([*map(str, flags_of_job)]) == 0
    assert "10 of 10 adapted images" in capsys.readouterr().out


def test_an_interrupted_run_ends_with_bitwise_the_same_weights(photos, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(flags(photos, whole, "--steps", 30)) == 0
    command = [
        sys.executable,
        SCRIPT,
        *flags(photos, broken, "--steps", 30, "--save_minutes", 0.005),
    ]
    process = subprocess.Popen(
        [*map(str, command)], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 120
    while not (broken / "resume.pt").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "run the same command again to go on" in said
    assert 0 < tensors(broken / "resume.pt")["step"] < 30
    assert (
        subprocess.run([*map(str, command)], env=ENV, capture_output=True, check=False).returncode
        == 0
    )
    np.testing.assert_array_equal(losses(whole), losses(broken))
    for name in ("ema.pt", "resume.pt"):
        one, two = tensors(whole / name), tensors(broken / name)
        for part in ("task", "ema") if name == "resume.pt" else (None,):
            parts = (one, two) if part is None else (one[part], two[part])
            assert all(torch.equal(parts[0][key], parts[1][key]) for key in parts[0])


def test_a_run_that_was_killed_before_it_saved_begins_again(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("machine.json", "events.out.tfevents.1.host", "host-1-0123456789ab.partial"):
        (out / name).write_text("{}")
    assert main(flags(photos, out, "--steps", 1)) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    assert main(flags(photos, tmp_path / "other", "--steps", 1)) == 2


@pytest.mark.parametrize(
    "launcher", [["mpiexec", "-n", "2", sys.executable], ["torchrun", "--nproc_per_node", "2"]]
)
def test_two_ranks_follow_the_loss_of_one(photos, tmp_path, launcher):
    assert main(flags(photos, tmp_path / "one", "--steps", 20)) == 0
    command = [*launcher, str(SCRIPT), *flags(photos, tmp_path / "two", "--steps", 20)]
    result = subprocess.run(
        command, env=ENV, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-4)


def test_minutes_are_a_budget_too(photos, tmp_path):
    assert main(flags(photos, tmp_path / "out", "--minutes", 0.01)) == 0
    assert 0.6 <= tensors(tmp_path / "out/resume.pt")["seconds"] < 5


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "give a budget"),
        (["--steps", 0], "--steps 0 must be above 0"),
        (["--steps", 2, "--batch_size", 3, "--accumulate", 2], "--batch_size 3 cannot be shared"),
        (["--steps", 2, "--cell", "nowhere"], "--cell nowhere is no folder"),
        (["--steps", 2, "--image_size", 32], "is 16x16, smaller than --image_size 32"),
        (["--steps", 2, "--num_channels", 33], "num_channels 33"),
        (["--steps", 2, "--ema", 1.5], "--ema 1.5"),
        (
            ["--steps", 2, "--attention_resolutions", 5],
            "--attention_resolutions 5 is no size of the network's levels: 16, 8",
        ),
    ],
)
def test_wrong_input_is_named(photos, tmp_path, capsys, more, words):
    assert main(flags(photos, tmp_path / "out", *more)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mixed_sizes_and_broken_images_are_named(photos, tmp_path, capsys):
    command = [
        "--base_samples",
        str(photos),
        "--save_dir",
        str(tmp_path / "out"),
        *TINY[2:],
        "--steps",
        "1",
    ]
    Image.new("RGB", (20, 30)).save(photos / "large.png")
    assert main(command) == 2
    assert (
        "several sizes or not square (16x16, 20x30): give --image_size" in capsys.readouterr().err
    )
    (photos / "large.png").unlink()
    (photos / "small.png").write_bytes(b"no image")
    assert main(command) == 2  # the size is that of the others
    said = capsys.readouterr().err
    assert "1 of 11 images cannot be used" in said and "small.png: it is no image file" in said
    Image.new("RGB", (8, 8)).save(photos / "small.png")
    (photos / "large.png").write_bytes(b"")
    assert main([*command, "--image_size", "16"]) == 2
    said = capsys.readouterr().err
    assert "2 of 12 images cannot be used" in said and "large.png: it is empty (0 bytes)" in said
    assert "small.png is 8x8, smaller than --image_size 16" in said
    (photos / "small.png").unlink()
    assert main([*command, "--image_size", "16"]) == 2
    assert "1 of 11 images cannot be used" in capsys.readouterr().err


def test_an_image_of_a_file_of_many_is_not_called_gone(tmp_path):
    assert job.reason("images.npz: 3.png", ValueError("bad")) == "bad"
    assert job.reason(tmp_path / "3.png", ValueError("bad")) == "it is gone"


def test_a_run_with_other_settings_and_a_foreign_folder_are_refused(photos, tmp_path, capsys):
    assert main(flags(photos, tmp_path / "out", "--steps", 1)) == 0
    assert main(flags(photos, tmp_path / "out", "--steps", 2, "--lr", 0.5)) == 2
    assert "is a run with other settings: lr 0.001 there, 0.5 here" in capsys.readouterr().err
    assert main(flags(photos, tmp_path / "out", "--steps", 2)) == 0  # a larger budget goes on
    assert len(losses(tmp_path / "out")) == 2
    (tmp_path / "out/resume.pt").write_bytes(b"x")
    assert main(flags(photos, tmp_path / "out", "--steps", 3)) == 2
    error = capsys.readouterr().err
    assert "it is a text file" in error and "to start anew" in error
    assert main(flags(photos, photos, "--steps", 3)) == 2
    assert "holds other files" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_says_what_to_do(photos, tmp_path, capsys, monkeypatch):
    def diverged(*_):
        return {"loss": torch.full((2,), torch.nan, requires_grad=True)}

    monkeypatch.setattr(prior_task, "training_losses", diverged)
    assert main(flags(photos, tmp_path / "out", "--steps", 60)) == 2
    assert "lower --lr or raise --warmup" in capsys.readouterr().err


def test_a_full_disk_says_what_to_do(photos, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    assert main(flags(photos, tmp_path / "out", "--steps", 1)) == 1
    assert (
        f"cannot write {tmp_path / 'out/machine.json'}: No space left on device; make room"
        in capsys.readouterr().err
    )


def test_a_folder_that_vanishes_ends_the_training_and_is_not_made_again(
    photos, tmp_path, capsys, monkeypatch
):
    out, write = tmp_path / "out", files.write_bytes

    def write_and_move(path, *args, **kwargs):
        write(path, *args, **kwargs)
        out.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(files, "write_bytes", write_and_move)
    assert main(flags(photos, out, "--steps", 1)) == 1
    assert f"error: the folder {out} is gone" in capsys.readouterr().err and not out.exists()


def test_the_settings_beside_the_prior_tell_everything(photos, tmp_path):
    assert main(flags(photos, tmp_path / "out", "--steps", 1, "--noise_schedule", "cosine")) == 0
    told = files.read_json(tmp_path / "out/ema.json")
    assert (
        told["noise_schedule"] == "cosine" and told["image_size"] == 16 and told["num_heads"] == 2
    )


# ---------------------------------------------------------------------------------- from Python


def test_python_and_the_command_train_the_same_prior(photos, tmp_path, capsys):
    prior = prior_training.train_prior(photos, tmp_path / "python", steps=4, quiet=True, **SMALL)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert main(flags(photos, tmp_path / "command", "--steps", 4)) == 0
    ours, theirs = tensors(prior.path), tensors(tmp_path / "command/ema.pt")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert prior.steps == 4 and prior.seconds > 0
    assert prior.loss == pytest.approx(losses(tmp_path / "python").mean(), rel=1e-4)


def test_a_run_from_python_goes_on_with_the_command(photos, tmp_path):
    out = tmp_path / "out"
    prior_training.train_prior(photos, out, steps=2, quiet=True, **SMALL)
    assert main(flags(photos, out, "--steps", 3)) == 0
    assert len(losses(out)) == 3


def test_the_example_of_train_prior_runs(photos, tmp_path):
    names = {"photos": photos, "out": tmp_path / "out", "tiny_network": SMALL}
    names["train_prior"] = prior_training.train_prior
    [example] = doctest.DocTestFinder().find(prior_training.train_prior, "train_prior", globs=names)
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 1, "learning_rate": 1}, "`learning_rate` is unknown"),
        ({}, "give a budget: `steps` or `minutes`"),
        ({"steps": 1, "warmup": -1}, "`warmup` -1 must be at least 0"),
        ({"steps": 1, "noise_schedule": "square"}, "`noise_schedule`: 'square' is unknown"),
        ({"steps": 1, "seed": "one"}, "`seed` must be a whole number, not 'one'"),
        ({"steps": 1, "num_channels": 0}, "`num_channels` 0 must be at least 1"),
        ({"steps": 1, "num_res_blocks": 0}, "`num_res_blocks` 0 must be at least 1"),
        ({"steps": 1, "num_heads": 0}, "`num_heads` 0 must be at least 1"),
        ({"steps": 1, "num_heads": 5}, "`num_heads` 5 does not divide the 32 channels"),
        ({"steps": 1, "num_head_channels": 0}, "`num_head_channels` 0 must be at least 1, or -1"),
        ({"steps": 1, "dropout": 2}, "`dropout` 2 must be at least 0 and below 1"),
        ({"steps": 1, "attention_resolutions": "x"}, "`attention_resolutions` 'x' must be image"),
        ({"steps": 1, "channel_mult": "x"}, "`channel_mult` 'x' must be multipliers"),
        ({"steps": 1, "channel_mult": ""}, "`channel_mult` '' must be multipliers"),
        ({"steps": 1, "channel_mult": "1,inf"}, "`channel_mult` '1,inf' must be multipliers"),
        ({"steps": 1, "class_cond": True}, "`class_cond` True makes a prior that cannot adapt"),
        ({"steps": 1, "lr": 1e30}, "`lr` 1e.30 must be at most 1"),
        ({"steps": 1, "cache_gib": -1}, "`cache_gib` -1 must be at least 0"),
        ({"steps": 1, "diffusion_steps": 20}, "`diffusion_steps` 20 must be at least 50"),
        ({"steps": 1, "device": None}, "`device` None is unknown; use auto, cpu"),
        ({"steps": 1, "quiet": "yes"}, "`quiet` must be true or false, not 'yes'"),
    ],
)
def test_settings_from_python_are_named_as_settings(photos, tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        prior_training.train_prior(photos, tmp_path / "out", **{**SMALL, **settings})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [None, np.zeros((2, 16, 16, 3)), ""])
def test_a_folder_from_python_must_be_a_path(photos, tmp_path, value):
    with pytest.raises(ValueError, match="`source` must be a path, not "):
        prior_training.train_prior(value, tmp_path / "out", steps=1)
    with pytest.raises(ValueError, match="`save_dir` must be a path, not "):
        prior_training.train_prior(photos, value, steps=1)


def test_the_lines_of_the_documentation_train_a_prior_and_adapt_with_it(
    photos, tmp_path, monkeypatch
):
    page = (ROOT / "docs/priors.md").read_text(encoding="utf-8")
    lines = page.split("```python\n")[1].split("```")[0]
    shown = "image_size=64, minutes=60"
    assert lines.count("\n") == 3 and shown in lines
    monkeypatch.chdir(tmp_path)
    names = {"small": SMALL}
    exec(lines.replace(shown, "steps=1, **small"), names)
    assert names["prior"].path.is_file() and names["adapter"].image_size == 16


def test_what_is_unusual_but_can_be_meant_is_trained(photos, tmp_path, capsys):
    more = {"cache_gib": 0, "diffusion_steps": 50, "batch_size": np.int64(12)}
    more["device"] = torch.device("cpu")
    prior = prior_training.train_prior(photos, tmp_path / "out", steps=1, **{**SMALL, **more})
    assert prior.steps == 1 and (tmp_path / "out/samples.png").is_file()
    assert "note: `batch_size` 12: each step sees some of the 10 images" in capsys.readouterr().err


def test_the_result_is_one_json_object_and_quiet_shows_nothing_else(photos, tmp_path, capsys):
    assert main(flags(photos, tmp_path / "out", "--steps", 2, "--json", "--quiet")) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    names = {"path", "steps", "loss", "seconds", "denoising", "estimate"}
    assert captured.err == "" and result.keys() == names
    assert result["steps"] == 2 and Path(result["path"]) == tmp_path / "out/ema.pt"


def test_progress_is_shown_unless_it_is_quiet(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("DDA.training.run.SHOW_EVERY", 0.0)
    monkeypatch.setattr("DDA.training.loop.LOOK_EVERY", 1)
    prior_training.train_prior(photos, tmp_path / "shown", steps=3, **SMALL)
    captured = capsys.readouterr()
    assert "step 2, loss" in captured.err and "images/s" in captured.err
    assert captured.out.startswith("images      10 of ")
    prior_training.train_prior(photos, tmp_path / "quiet", steps=3, quiet=True, **SMALL)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_settings_of_a_prior_are_those_that_a_checkpoint_needs(photos, tmp_path):
    assert prior_settings.NETWORK == checkpoints.NETWORK
    assert prior_settings.PROCESS == checkpoints.DIFFUSION
    assert main(flags(photos, tmp_path / "out", "--steps", 1)) == 0
    names = (*checkpoints.RECOGNISED, *checkpoints.UNTOLD, "dropout")
    assert tuple(files.read_json(tmp_path / "out/ema.json")) == (*names, "sha256", "denoising")


@pytest.mark.parametrize("size", [15, 28, 32, 64, 96, 128])
def test_the_defaults_make_a_network_for_images_of_any_size(size, tmp_path):
    settings = PriorSettings(source=tmp_path, save_dir=tmp_path / "out", steps=1, num_channels=32)
    settings.check_attention(size)
    flags = settings.flags(size)
    model = make_model({**flags, "num_res_blocks": 1}, torch.device("cpu"))
    blank = torch.zeros(1, 3, size, size)
    assert model(blank, torch.zeros(1)).shape == blank.shape
    assert int(flags["attention_resolutions"]) * 2 ** flags["channel_mult"].count(",") == size


@pytest.mark.parametrize("page", ["README.md", "docs/priors.md"])
def test_the_lines_of_the_pages_have_a_network_for_their_images(page, tmp_path):
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^image_train\.py (.*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split(line.replace("…", ""), comments=True)
        values, _ = parser().read(words)
        own = {item.name for item in fields(PriorSettings)}
        settings = PriorSettings(**{name: values[name] for name in values if name in own})
        settings.check_attention(settings.image_size or 32)
