"""The command line, from flags to files, with a tiny prior."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, processes_of, tiny_unet

from DDA import files, images
from DDA import tree as trees
from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.noise import NoiseStreams
from DDA.image_adapt.sampler import SPEEDS, adapt
from DDA.image_adapt.scripts.image_sample import main

FAST = ["--timestep_respacing", "10", "--N", "3", "--D", "4"]
ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PMI", "OMPI", "SLURM", "TORCHELASTIC"))
}
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"


@pytest.fixture
def call(prior, tree, tmp_path, capsys):
    """Run the command line in this process; return its status, stdout and stderr."""

    def call(*flags, model_path=prior, base_samples=tree, save_dir=tmp_path / "out", fast=FAST):
        paths = ["--model_path", model_path, "--base_samples", base_samples, "--save_dir", save_dir]
        status = main([*map(str, paths), *fast, *map(str, flags)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def saved(folder):
    return {
        key: np.asarray(images.read_rgb(folder / path))
        for key, path in trees.saved_images(folder, ["."]).items()
    }


def same(one, other):
    """Assert the same keys, and 99.9 % of the values within 1 grey level."""
    assert one.keys() == other.keys() and one
    gap = np.stack([np.abs(one[key].astype(int) - other[key]) for key in one])
    return (gap <= 1).mean() >= 0.999


FOG = ["--dataset", "imagenetc", "--corruption", "fog", "--severity", "all"]
CELLS = ["--dataset", "imagenetc", "--corruption", "fog", "snow", "--severity", "all"]


def test_the_whole_job_writes_each_key_once_and_a_second_run_does_nothing(call, tree, tmp_path):
    status, out, _ = call(*CELLS, "--gallery", tmp_path / "look" / "gallery.png")
    assert status == 0 and "24 of 24 adapted images" in out and "ignored" not in out
    assert f"gallery     {tmp_path / 'look' / 'gallery.png'}" in out
    assert saved(tmp_path / "out").keys() == {
        trees.key_of(path) for path in trees.list_images(tree)[0]
    }
    others = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert others == {"settings.json", "classes.txt"} | {
        f"manifest.{c}.{s}.json" for c in ("fog", "snow") for s in (3, 5)
    }
    assert images.read_rgb(tmp_path / "look/gallery.png").size[0] > 8 * 128
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    status, out, _ = call(*CELLS)
    assert status == 0 and "to do       0 " in out
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_command_reads_weights_and_digests_files_once_and_lists_folders_seldom(
    call, tree, tmp_path, prior, monkeypatch
):
    counts = {"digested": Counter(), "loaded": Counter(), "listed": Counter()}

    def count(module, name, what):
        original = getattr(module, name)

        def counting(path, *args, **how):
            counts[what][str(path)] += 1
            return original(path, *args, **how)

        monkeypatch.setattr(module, name, counting)

    count(files, "sha256", "digested")
    count(torch, "load", "loaded")
    count(os, "scandir", "listed")
    for deleted, most in (
        ([], 1),
        ([], 1),
        (["fog/3/cat/1.png"], 2),
    ):  # a working job looks once more what is there
        for name in deleted:
            (tmp_path / "out" / name).unlink()
        for counter in counts.values():
            counter.clear()
        assert call(*CELLS, "--gallery", tmp_path / "look.png")[0] == 0
        assert counts["loaded"] == {str(prior): 1} and counts["digested"][str(prior)] == 1
        assert set(counts["digested"].values()) == {1}
        assert (
            max(
                times
                for path, times in counts["listed"].items()
                if path.startswith(str(tmp_path / "out"))
            )
            == most
        )
        assert counts["listed"].pop(str(tree)) <= 2  # what kind it is, and what it holds
        assert (
            max(times for path, times in counts["listed"].items() if path.startswith(str(tree)))
            == 1
        )


def test_the_pixels_are_those_of_the_sampler(call, tree, tmp_path):
    call("--dataset", "imagenetc", "--corruption", "fog", "--seed", "5", "--scale", "2.5")
    key, size = "fog/5/cat/a b", 16
    reference = images.to_model(images.fit_square(images.read_rgb(tree / f"{key}.png"), size))[None]
    expected = adapt(
        tiny_unet(),
        Diffusion(timestep_respacing="10", learn_sigma=True),
        torch.from_numpy(reference),
        diffusion_range=3,
        factor=4,
        scale=2.5,
        draw_noise=NoiseStreams([key], seed=5, shape=(3, size, size)),
    )
    gap = saved(tmp_path / "out")[key].astype(int) - images.to_pixels(expected.numpy()[0])
    assert np.abs(gap).max() <= 1


def test_batch_size_and_neighbours_change_nothing_but_the_seed_does(call, tmp_path):
    for name, flags in {
        "a": ["--batch_size", "1"],
        "b": ["--batch_size", "24"],
        "c": ["--batch_size", "7", "--seed", "1"],
    }.items():
        assert call(*CELLS, *flags, save_dir=tmp_path / name)[0] == 0
    call(
        "--dataset", "imagenetc", "--corruption", "snow", "--severity", "3", save_dir=tmp_path / "d"
    )
    a, b, c, d = (saved(tmp_path / name) for name in "abcd")
    assert same(a, b) and same({key: a[key] for key in d}, d)
    assert not same(a, c)


def test_published_behaviour_depends_on_the_batch_and_records_it(call, tmp_path):
    flags = [*CELLS, "--behavior", "published"]
    assert call(*flags, "--batch_size", "1", save_dir=tmp_path / "a")[0] == 0
    assert call(*flags, "--batch_size", "6", save_dir=tmp_path / "b")[0] == 0
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b")
    assert not same(a, b)
    assert (tmp_path / "a/fog/5/cat/1.JPEG").exists()  # in the source's format, as published
    status, _, err = call(*flags, "--batch_size", "6", save_dir=tmp_path / "a")
    assert status == 2 and "batch_size 1 there, 6 here" in err
    (tmp_path / "b/fog/5/cat/a b.png").unlink()
    assert call(*flags, "--batch_size", "6", save_dir=tmp_path / "b")[0] == 0
    assert same(saved(tmp_path / "b"), b)


def test_dry_run_prints_the_plan_and_writes_nothing(call, tmp_path):
    status, out, _ = call(*CELLS, "--dry_run", "--num_samples", "20")
    assert (
        "cropped to their middle square and resized to 16 pixels: fog/3/cat/1.JPEG has 30 x 20"
        in out
    )
    assert status == 0 and not (tmp_path / "out").exists()
    for words in (
        "images      20 in 4 cell(s)",
        "done        0",
        "to do       20",
        "3 from 3 of 10",
        "guidance gradient, D 4, scale 6.0, sampler ddpm",
    ):
        assert words in out


def test_other_settings_into_one_folder_are_an_error_and_overwrite_makes_all_anew(call, tmp_path):
    cell = ["--dataset", "imagenetc", "--corruption", "fog"]
    call(*cell)
    first = saved(tmp_path / "out")
    for flags, words in (
        (["--scale", "3"], "scale 6.0 there, 3.0 here"),
        (["--seed", "9"], "seed 0 there, 9 here"),
        (["--use_ddim", "True"], "sampler ddpm there, ddim here"),
        (["--dtype", "bfloat16"], "dtype float32 there, bfloat16 here"),
    ):
        status, _, err = call(*cell, *flags)
        assert status == 2 and words in err, err
    assert (
        call(*cell, "--batch_size", "2", "--device", "cpu", "--severity", "3")[0] == 0
    )  # never a conflict
    status, _, err = call(*cell, "--seed", "9", "--overwrite")
    assert status == 2 and "this plan leaves 6, such as" in err
    assert call(*cell, "--severity", "3", "5", "--seed", "9", "--overwrite")[0] == 0
    second = saved(tmp_path / "out")
    assert len(second) == 12 and not same(first, {key: second[key] for key in first})


def test_ddim_and_low_precision_run_and_differ_from_the_default(call, tmp_path):
    cell = ["--dataset", "imagenetc", "--corruption", "fog"]
    trees = {}
    for name, flags in {
        "ddpm": [],
        "ddim": ["--use_ddim", "True"],
        "bf16": ["--dtype", "bfloat16"],
        "fp16": ["--use_fp16", "True"],
    }.items():
        status, out, _ = call(*cell, *flags, save_dir=tmp_path / name)
        assert status == 0
        trees[name] = saved(tmp_path / name)
        if name == "fp16" and not torch.cuda.is_available():
            assert "--use_fp16 True is float32 on a CPU" in out
            assert same(trees["ddpm"], trees["fp16"])
    assert not same(trees["ddpm"], trees["ddim"])
    gap = np.stack(
        [np.abs(trees["bf16"][key].astype(int) - trees["ddpm"][key]) for key in trees["ddpm"]]
    )
    assert 0 < gap.mean() < 2


def test_guidance_without_a_gradient_in_few_steps_is_recorded_with_what_it_reads(call, tmp_path):
    method = "--guidance projection --projection dct --k 0.5 --sampler ddim --eta 0.5"
    flags = [*FOG, *method.split()]
    status, out, _ = call(*flags, "--steps", "2", "--scale", "3")
    assert status == 0 and "2 from 3 of 10" in out
    assert "--scale is ignored by --guidance projection" in out
    recorded = files.read_json(tmp_path / "out/settings.json")
    guidance = dict(guidance="projection", projection="dct", k=0.5, s_y=None, D=4)
    wanted = guidance | dict(sampler="ddim", eta=0.5, steps=2, N=3)
    assert {name: recorded[name] for name in wanted} == wanted and "scale" not in recorded
    assert call(*flags, "--steps", "2")[0] == 0
    status, _, err = call(*flags, "--steps", "3")
    assert status == 2 and "steps 2 there, 3 here" in err
    call(*FOG, "--guidance", "none", "--sampler", "dpmpp2m", save_dir=tmp_path / "none")
    assert not same(saved(tmp_path / "out"), saved(tmp_path / "none"))


def test_a_rung_is_recorded_by_its_settings_and_single_flags_override_it(call, tmp_path):
    few = ["--dataset", "imagenetc", "--corruption", "fog", "--num_samples", "2"]
    assert call(*few, "--speed", "fast", "--k", "0.3", "--N", "6", fast=[])[0] == 0
    settings = files.read_json(tmp_path / "out" / "settings.json")
    rung = SPEEDS["fast"]
    expected = {
        "N": 6,
        "steps": min(6, rung["steps"]),
        "D": rung["factor"],
        "guidance": "projection",
        "k": 0.3,
    }
    assert (
        settings.items() >= expected.items() and "speed" not in settings and "scale" not in settings
    )
    # the same settings by single flags are the same images
    flags = f"--guidance projection --k 0.3 --sampler {rung['sampler']} --eta {rung['eta']}"
    flags += f" --N 6 --D {rung['factor']} --steps {expected['steps']}"
    status, out, _ = call(*few, *flags.split(), fast=[])
    assert status == 0 and "to do       0" in out
    for speed in ("exact", "balanced", "one-shot"):
        status, _, err = call(*few, "--speed", speed, "--dry_run", fast=[])
        assert status == 2 and "holds images of other settings" in err
    few, other = [*few, "--speed", "fast"], {"save_dir": tmp_path / "b", "fast": []}
    status, _, err = call(*few, "--timestep_respacing", "10", **other)
    words = "--speed fast counts in steps of --timestep_respacing 100; with 10 give --N too"
    assert status == 2 and words in err
    status, out, _ = call(*few, "--scale", "3", "--dry_run", **other)
    assert status == 0 and "--scale is ignored by --guidance projection" in out


def test_arrays_are_adapted_as_the_tree_of_them_would_be(call, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    (tmp_path / "C").mkdir()
    np.save(tmp_path / "C/fog.npy", pixels)
    np.save(tmp_path / "C/labels.npy", np.array([0, 9] * 5))
    for row, image in enumerate(pixels):
        name = ("airplane", "truck")[row % 2]
        path = tmp_path / f"tree/fog/{row // 2 + 1}/{name}_{row % 2:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_image(path, image)
    cells = ["--dataset", "cifar10c", "--corruption", "fog", "--severity", "2", "5"]
    for name, source in (("file", "C/fog.npy"), ("folder", "C"), ("plain", "tree")):
        places = {"base_samples": tmp_path / source, "save_dir": tmp_path / name}
        status, out, err = call(*cells, "--gallery", tmp_path / "look.png", **places)
        assert status == 0 and "4 of 4 adapted images" in out, err
    assert same(saved(tmp_path / "file"), saved(tmp_path / "plain"))
    assert same(saved(tmp_path / "folder"), saved(tmp_path / "plain"))
    assert trees.read_classes(tmp_path / "file")[9] == "truck"
    np.save(tmp_path / "C/fog.npy", 255 - pixels)
    status, _, err = call(*cells, base_samples=tmp_path / "C/fog.npy", save_dir=tmp_path / "file")
    assert status == 2 and "is not the image that its copy" in err
    snow = ["--dataset", "cifar10c", "--corruption", "snow"]
    status, _, err = call(*snow, base_samples=tmp_path / "C", save_dir=tmp_path / "x")
    assert status == 2 and "--corruption snow is not in" in err and "found: fog" in err


def test_a_folder_of_any_shape_with_a_broken_file_adapts_the_rest_and_fails(call, tree, tmp_path):
    (tree / "fog/3/cat/broken.png").write_bytes(b"")
    status, _, err = call()
    assert status == 1 and "1 of 25 images failed: fog/3/cat/broken.png" in err
    assert len(saved(tmp_path / "out")) == 24
    assert files.read_json(tmp_path / "out/manifest.json")["failures"] == {
        "fog/3/cat/broken.png": "it is empty (0 bytes)"
    }
    (tree / "fog/3/cat/broken.png").unlink()
    assert call()[0] == 0


def test_a_save_folder_inside_the_source_is_left_out(call, tree):
    for _ in range(2):
        status, out, _ = call(save_dir=tree / "adapted")
        assert status == 0 and "24 of 24" in out
    every = ["--dataset", "imagenetc", "--corruption", "all", "--severity", "all"]
    status, out, _ = call(*every, save_dir=tree / "adapted")
    assert status == 0 and "done        24" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--D", "4", "--N", "0"], ["--N 0 must be at least 1"]),
        (["--N", "11"], ["--N 11 is outside 1..10"]),
        (["--D", "3"], ["--D 3 does not divide the image size 16", "1, 2, 4, 8"]),
        (
            ["--D", "50", "--N", "4", "--timestep_respacing", "100"],
            ["--D 50", "swapped", "--D 4 --N 50"],
        ),
        (["--scale", "nan"], ["--scale nan"]),
        (["--timestep_respacing", "ddim999"], ["timestep_respacing 'ddim999'"]),
        (
            ["--corruption", "rain", "--dataset", "imagenetc"],
            ["--corruption rain", "found: fog, snow"],
        ),
        (["--dataset", "imagenetc"], ["--corruption is missing", "found: fog, snow"]),
        (
            ["--dataset", "imagenetc", "--corruption", "fog", "--severity", "1"],
            ["--severity 1", "found: 3, 5"],
        ),
        (["--severity", "five"], ["--severity five"]),
        (["--image_size", "32"], ["--image_size 32", "16"]),
        (
            ["--num_channels", "128", "--learn_sigma", "False"],
            ["--num_channels 128", "32", "--learn_sigma False", "True"],
        ),
        (["--batch_size", "0"], ["--batch_size 0"]),
        (["--num_samples", "-1"], ["--num_samples -1"]),
        (["--train", "perhaps"], ["--train", "'perhaps' is neither True nor False"]),
        (["--device", "cuda:99"], ["--device cuda:99"]),
        (["--device", "toaster"], ["--device toaster"]),
        (["--device", "meta"], ["--device meta is unknown"]),
        (["--gallery", "look.jpg"], ["--gallery look.jpg", ".png"]),
        (["--base_samples", "/nowhere"], ["--base_samples /nowhere does not exist"]),
        (["--model_path", "/nowhere.pt"], ["--model_path /nowhere.pt does not exist"]),
        (
            ["--behavior", "published", "--use_ddim", "True"],
            ["--behavior published has gradient guidance"],
        ),
        (["--guidence", "gradient"], ["--guidence"]),
        (["--timestep_respacing", "1"], ["--N 3 is outside 1..1"]),
        (["--steps", "4"], ["--steps 4 is outside 1..3"]),
        (["--steps", "0"], ["--steps 0 is outside 1..3"]),
        (["--k", "1.5"], ["--k 1.5 must be a number of at least 0 and at most 1"]),
        (["--s_y", "-1"], ["--s_y -1.0"]),
        (
            ["--use_ddim", "True", "--sampler", "ddpm"],
            ["--use_ddim True contradicts --sampler ddpm"],
        ),
        (
            ["--behavior", "published", "--steps", "2"],
            ["--behavior published has gradient guidance"],
        ),
        (["--save_dir", "/dev/null"], ["--save_dir /dev/null cannot be a folder", "is a file"]),
        (["--gallery", "/dev/null/x.png"], ["--gallery /dev/null cannot be a folder"]),
        (["--class_cond", "True"], ["--class_cond True, but the file says False"]),
    ],
)
def test_wrong_input_is_refused_in_words_before_anything_is_written(call, tmp_path, flags, words):
    status, _, err = call(*flags)
    assert status == 2 and not (tmp_path / "out").exists()
    for word in words:
        assert word in err, err
    assert "Traceback" not in err


def test_a_gallery_inside_the_save_folder_and_equal_folders_are_refused(call, tree, tmp_path):
    status, _, err = call("--gallery", tmp_path / "out" / "g.png")
    assert status == 2 and "lies in --save_dir, among the images" in err
    status, _, err = call("--gallery", tree / "g.png")
    assert status == 2 and "lies in --base_samples, among the images" in err
    status, _, err = call(save_dir=tree)
    assert status == 2 and "are the same folder" in err


def test_a_prior_that_does_not_fit_is_refused_by_a_dry_run_and_costs_nothing_that_was_there(
    call, tmp_path, prior
):
    assert call("--severity", "3", *FOG[:-2])[0] == 0
    state = tiny_unet().state_dict()
    del state["middle_block.1.norm.weight"]
    torch.save(state, tmp_path / "cut.pt")
    shutil.copy(prior.with_suffix(".json"), tmp_path / "cut.json")
    for flag in ("--dry_run", "--overwrite"):
        status, _, err = call("--severity", "3", *FOG[:-2], flag, model_path=tmp_path / "cut.pt")
        assert status == 2 and "differ: middle_block.1.norm.weight is missing" in err
    assert len(saved(tmp_path / "out")) == 6
    shutil.copy(prior, tmp_path / "heads.pt")
    text = prior.with_suffix(".json").read_text()
    for heads, words in (
        ("5", "num_heads 5 does not divide"),
        ('"2"', "num_heads must be a whole number, not '2'"),
    ):
        (tmp_path / "heads.json").write_text(
            text.replace('"num_heads": 2', f'"num_heads": {heads}')
        )
        status, _, err = call(
            "--dry_run", model_path=tmp_path / "heads.pt", save_dir=tmp_path / "new"
        )
        assert status == 2 and words in err


def test_an_earlier_save_folder_inside_the_source_is_no_source(call, tree):
    assert call("--num_samples", "2", save_dir=tree / "fog" / "old")[0] == 0
    status, out, _ = call(save_dir=tree / "new")
    assert status == 0 and "24 of 24" in out and "1 other files are left alone: fog/old/" in out


def test_another_source_with_the_same_keys_is_refused(call, tree, tmp_path):
    call(*FOG)
    shutil.copytree(tree / "snow", tmp_path / "other" / "fog")
    status, _, err = call(*FOG, base_samples=tmp_path / "other")
    assert status == 2 and "is not the image that its copy in" in err
    assert call(*FOG, "--overwrite", base_samples=tmp_path / "other")[0] == 0


def test_a_class_conditional_prior_is_refused(call, tmp_path, prior):
    torch.save(tiny_unet(class_cond=True).state_dict(), tmp_path / "classes.pt")
    shutil.copy(prior.with_suffix(".json"), tmp_path / "classes.json")
    (tmp_path / "classes.json").write_text(
        (tmp_path / "classes.json").read_text().replace('"class_cond": false', '"class_cond": true')
    )
    status, _, err = call(model_path=tmp_path / "classes.pt")
    assert status == 2 and "class-conditional" in err and "unconditional prior" in err


def test_an_empty_source_and_an_unwritable_target_are_refused(call, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = call(base_samples=tmp_path / "empty")
    assert status == 2 and "no images in" in err
    (tmp_path / "file").write_text("")
    status, _, err = call(save_dir=tmp_path / "file" / "out")
    assert status == 2 and "cannot be a folder" in err and "is a file" in err
    status, _, err = call(save_dir=tmp_path / ("n" * 300))
    assert status == 2 and "File name too long" in err


def command(prior, tree, out, *flags):
    script = str(ROOT / "DDA/image_adapt/scripts/image_sample.py")
    paths = ["--model_path", str(prior), "--base_samples", str(tree), "--save_dir", str(out)]
    return [sys.executable, script, *paths, *FAST, *flags]


def shell(command, **options):
    return subprocess.run(
        command, env=ENV, capture_output=True, text=True, timeout=180, check=False, **options
    )


def test_two_ranks_write_what_one_rank_writes(prior, tree, tmp_path, call):
    pytest.importorskip("mpi4py")
    call(*CELLS, save_dir=tmp_path / "one")
    result = shell(
        ["mpiexec", "-n", "2", *command(prior, tree, tmp_path / "two", *CELLS, "--batch_size", "5")]
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("24 of 24 adapted images") == 1 and "24/24 images" in result.stderr
    assert same(saved(tmp_path / "one"), saved(tmp_path / "two"))
    assert files.read_json(tmp_path / "two/manifest.fog.3.json")["ranks"] == 2


def test_a_killed_rank_ends_the_job_and_the_next_run_completes_the_same_tree(prior, tree, tmp_path):
    pytest.importorskip("mpi4py")
    # chaotic: batches of one equal bit for bit
    slow = ["--timestep_respacing", "100", "--N", "60", "--batch_size", "1", *FOG]
    out = tmp_path / "killed"
    job = subprocess.Popen(
        ["mpiexec", "-n", "2", *command(prior, tree, out, *slow)],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while len(list(out.rglob("*.png"))) < 2 and job.poll() is None:
        time.sleep(0.02)
    os.kill(processes_of(str(out))[-1], signal.SIGKILL)
    output, _ = job.communicate(timeout=60)
    assert job.returncode != 0 and "BAD TERMINATION" in output, output
    before = saved(out)
    assert 2 <= len(before) < 12
    assert shell(["mpiexec", "-n", "2", *command(prior, tree, out, *slow)]).returncode == 0
    whole = tmp_path / "whole"
    assert shell(command(prior, tree, whole, *slow)).returncode == 0
    assert same(saved(out), saved(whole)) and not list(out.rglob(f"*{files.TEMPORARY}"))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_keeps_its_images_and_says_how_to_go_on(prior, tree, tmp_path, stop):
    slow = ["--timestep_respacing", "100", "--N", "60", *CELLS]
    out = tmp_path / "out"
    job = subprocess.Popen(
        command(prior, tree, out, *slow, "--batch_size", "1"),
        env=ENV,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list(out.rglob("*.png"))) < 2 and job.poll() is None:
        time.sleep(0.02)
    job.send_signal(stop)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130 and "interrupted; run the same command again to go on" in errors
    assert "Traceback" not in errors and 2 <= len(saved(out)) < 24


def test_wrong_input_under_mpiexec_is_said_once(prior, tree, tmp_path):
    pytest.importorskip("mpi4py")
    result = shell(["mpiexec", "-n", "2", *command(prior, tree, tmp_path / "out", "--D", "5")])
    assert result.returncode == 2 and result.stderr.count("--D 5 does not divide") == 1


def test_a_full_disk_ends_the_job_with_a_message_and_the_next_run_goes_on(prior, tree, tmp_path):
    """A limit on the size of files stands for a full disk: the kernel refuses both alike."""

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    out = tmp_path / "out"
    result = shell(command(prior, tree, out, *CELLS), preexec_fn=small)
    assert (
        result.returncode == 2
        and f"cannot write {out}/settings.json: File too large; make room" in result.stderr
    )
    assert "Traceback" not in result.stderr and not any(
        p.suffix == files.TEMPORARY for p in out.rglob("*")
    )
    assert shell(command(prior, tree, out, *CELLS)).returncode == 0
    assert len(saved(out)) == 24


@pytest.mark.parametrize("folder", [".", "DDA", "DistilledClassifier"])
def test_the_script_runs_from_a_checkout_that_is_not_installed(folder):
    script = os.path.relpath(ROOT / "DDA/image_adapt/scripts/image_sample.py", ROOT / folder)
    result = shell([sys.executable, script, "--help"], cwd=ROOT / folder)
    assert result.returncode == 0 and "--corruption" in result.stdout


PUBLISHED_FLAGS = (
    "--image_size 256 --attention_resolutions 32,16,8 --class_cond False --learn_sigma True "
    "--num_channels 256 "
    "--num_head_channels 64 --num_res_blocks 2 --resblock_updown True --use_fp16 True "
    "--use_scale_shift_norm True "
    "--diffusion_steps 1000 --noise_schedule linear --batch_size 4 --num_samples 10000 "
    "--timestep_respacing 100",
    "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3 "
    "--diffusion_steps 1000 "
    "--noise_schedule cosine --batch_size 256 --num_samples 10000 --timestep_respacing 100",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "flags"), list(zip(("imagenet256", "cifar10"), PUBLISHED_FLAGS, strict=True))
)
def test_the_published_commands_run_as_they_stand(call, tmp_path, config, flags):
    """The published architectures run with random weights, one image and one step."""
    from helpers import UNET_FLAGS, parity

    from DDA.image_adapt.unet import create_unet

    architecture = parity("02_unet_fullsize_names")[1]["flags"][config]
    network = create_unet(**{name: architecture[name] for name in UNET_FLAGS})
    torch.save(network.state_dict(), tmp_path / "x.pt")
    cells = "--dataset imagenetc --corruption fog --train False --severity 5 --num_samples 1"
    command = f"{flags} {cells} --D 4 --N 1 --scale 6"
    status, out, err = call(*command.split(), model_path=tmp_path / "x.pt", fast=[])
    assert status == 0 and "1 of 1 adapted images" in out, err
    assert "--train is ignored" in out


def test_the_published_flags_are_all_known(call):
    """The flags are right for priors of their own architecture."""
    others = (
        "--dataset imagenetc --corruption fog --D 4 --N 50 --num_heads_upsample -1"
        " --use_new_attention_order False --rescale_timesteps False --predict_xstart False"
        " --use_checkpoint False --save_latents False --clip_denoised True --use_ddim False"
    )
    for flags in PUBLISHED_FLAGS:
        status, _, err = call(*flags.split(), *others.split(), "--channel_mult", "", fast=[])
        assert (status == 2 and "--num_channels" in err) or "--image_size" in err


def test_a_misspelt_flag_is_answered_in_one_line(call):
    status, _, err = call(*CELLS, "--datset", "imagenetc")
    expected = (
        "unrecognized arguments: --datset imagenetc; did you mean --dataset? "
        "(--help lists the flags)\n"
    )
    assert status == 2 and err == f"image_sample.py: error: {expected}"
