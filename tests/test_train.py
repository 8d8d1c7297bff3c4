"""The trainers' commands with tiny networks.

What they write, how they go on, how stages find each other, and what they refuse.
"""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from DDA import files, images, weights
from DDA import tree as trees
from DDA.ranks import World
from DDA.training.loop import Recipe, fit, make_rate, start
from DistilledClassifier import classifiers, make_data, train, train_all_deg
from DistilledClassifier.data.batches import Steps
from DistilledClassifier.data.views import views
from DistilledClassifier.experiments import config
from DistilledClassifier.experiments.run import Experiment
from DistilledClassifier.experiments.stages import find_inputs
from DistilledClassifier.tasks.classify import Classify

ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PMI", "OMPI", "SLURM", "TORCHELASTIC"))
}
ENV |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}", "OMP_NUM_THREADS": "1"}
CLASSES = ("red", "green", "blue")


@pytest.fixture
def tree(tmp_path):
    """90 training and 31 held-out images of three classes that a small network can tell apart."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 90), ("val", 31)):
        folder = tmp_path / "tree" / "clean" / split
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 150, (8, 8, 3), dtype=np.uint8)
            pixels[..., i % 3] += 60
            Image.fromarray(pixels).save(folder / f"{CLASSES[i % 3]}_{i:05}.png")
    trees.write_classes(tmp_path / "tree", CLASSES)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path / "tree"


def write_config(tmp_path, name, kind="ind", stage="clean", **entries):
    """Write a config of one's own, of the data set ``own`` and the backbone ``Tiny``."""
    import yaml

    content = {
        "name": f"own_Tiny_{stage}",
        "kind": kind,
        "dataset": "own",
        "backbone": "Tiny",
        "stage": stage,
        "data": {
            "root": str(tmp_path / "tree"),
            "adapted": str(tmp_path / "adapted"),
            "train": "train",
            "val": "val",
            "classes": str(tmp_path / "classes.txt"),
        },
        "classifier": {"type": "CifarResNet", "depth": 8, "num_classes": 3},
        "preprocess": {"size": 8, "mean": [0.3] * 3, "std": [0.2] * 3},
        "augment": {"crop": 1, "flip": True},
        "view": "clean",
        "made": "fly",
        "loss": {"cross_entropy": 1},
        "train": {"epochs": 3, "batch_size": 30},
        "optimizer": {"type": "AdamW", "lr": 0.01},
        "schedule": {"type": "cosine"},
    }
    path = tmp_path / f"{name}.yaml"
    content |= entries
    content["train"] = {"amp": False, **content["train"]}  # the speed here is not what is tested
    path.write_text(yaml.safe_dump(content))
    return path


def flags(tmp_path, path, *more):
    saved = tmp_path / "saved"
    return [*map(str, ["-c", path, "--save_dir", saved, "--workers", 0, *more])]


def only_run(tmp_path, where="clean/ind/own_Tiny_clean"):
    (folder,) = (tmp_path / "saved" / where / "train").iterdir()
    return folder


def losses(folder):
    return np.loadtxt(folder / "losses.csv", delimiter=",", skiprows=1)[:, 1]


def test_a_run_leaves_a_whole_classifier_and_its_logs_and_a_second_run_does_nothing(
    tree, tmp_path, capsys
):
    command = flags(tmp_path, write_config(tmp_path, "clean"), "--workers", "1")
    assert train.main(command) == 0
    folder = only_run(tmp_path)
    names = "model_best.pth model_last.pth resume.pt config.yaml losses.csv epochs.csv finished"
    assert set(names.split()) <= {path.name for path in folder.iterdir()}
    assert len(losses(folder)) == 9 and len((folder / "epochs.csv").read_text().splitlines()) == 4
    best = classifiers.load(folder / "model_best.pth")
    assert best.classes == CLASSES
    names = trees.list_images(tree, "clean/val")[0]
    scores = best.scores([np.asarray(images.read_rgb(tree / name)) for name in names])
    right = np.mean([CLASSES[i] in name for i, name in zip(scores.argmax(1), names, strict=True)])
    metrics = classifiers.read(folder / "model_best.pth")["metrics"]
    assert metrics["top1"] == pytest.approx(100 * right)
    assert metrics["clean_top1"] == metrics["top1"] and metrics["top5"] == 100
    written = {path.name: path.stat().st_mtime_ns for path in folder.glob("model*")}
    capsys.readouterr()
    assert train.main(command) == 0
    assert only_run(tmp_path) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("model*")} == written
    assert f"{folder / 'model_best.pth'}" in capsys.readouterr().out
    assert train.main([*command, "--new"]) == 0
    assert len(list(folder.parent.iterdir())) == 2


def test_an_interrupted_run_ends_with_bitwise_the_same_weights(tree, tmp_path):
    path = write_config(tmp_path, "clean", train={"epochs": 20, "batch_size": 30})
    assert train.main(flags(tmp_path, path)) == 0
    whole = only_run(tmp_path).rename(tmp_path / "whole")
    command = [
        sys.executable,
        "-m",
        "DistilledClassifier.train",
        *flags(tmp_path, path, "--save_minutes", "0.002"),
    ]
    process = subprocess.Popen(
        command, env=ENV, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 60
    while not list((tmp_path / "saved").rglob("resume.pt")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    broken = only_run(tmp_path)
    assert process.returncode == 130 and "run the same command again to go on" in said
    assert 0 < classifiers.read(broken / "resume.pt")["step"] < 60
    assert not (broken / "finished").exists()
    again = subprocess.run(command, env=ENV, cwd=ROOT, capture_output=True, check=False)
    assert again.returncode == 0
    np.testing.assert_array_equal(losses(broken), losses(whole))
    for name in ("model_best.pth", "model_last.pth"):
        one, two = (classifiers.read(run / name)["state_dict"] for run in (broken, whole))
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    "launcher", [["torchrun", "--nproc_per_node", "2"], ["mpiexec", "-n", "2", sys.executable]]
)
def test_two_ranks_follow_the_loss_of_one(tree, tmp_path, launcher):
    """The network has no BatchNorm, and of 31 validation images each is counted once."""
    pytest.importorskip("timm" if launcher[0] == "torchrun" else "mpi4py")
    path = write_config(
        tmp_path,
        "clean",
        classifier={"type": "timm", "name": "test_convnext", "num_classes": 3},
        preprocess={"size": 32, "mean": [0.3] * 3, "std": [0.2] * 3},
        augment={},
        train={"steps": 20, "batch_size": 8, "accumulate": 2, "ema": 0.9},
        optimizer={"type": "AdamW", "lr": 1e-3},
    )
    assert train.main(flags(tmp_path, path)) == 0
    one = only_run(tmp_path).rename(tmp_path / "one")
    command = [*launcher, str(ROOT / "DistilledClassifier" / "train.py"), *flags(tmp_path, path)]
    result = subprocess.run(
        command, env=ENV, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    two = only_run(tmp_path)
    assert len(losses(one)) == 20
    np.testing.assert_allclose(losses(two), losses(one), atol=1e-4)
    epochs = [
        np.loadtxt(folder / "epochs.csv", delimiter=",", skiprows=1, ndmin=2)
        for folder in (one, two)
    ]
    np.testing.assert_allclose(epochs[0], epochs[1], rtol=1e-3, atol=1e-3)


@pytest.fixture
def stages(tree, tmp_path):
    """Configs of the four stages of one experiment."""
    distil = {"cross_entropy": 1, "cosine_inheritance": 2}
    return {
        "clean": write_config(tmp_path, "clean"),
        "deg": write_config(tmp_path, "deg", stage="deg", view="degraded", init="clean"),
        "adapt": write_config(
            tmp_path, "adapt", stage="adapt", view="adapted", made="trees", init="clean"
        ),
        "degDistill": write_config(
            tmp_path,
            "degDistill",
            "deg_all",
            "degDistill",
            view="degraded",
            init="clean",
            known=["clean", "blur", "noise"],
            teachers="deg",
            loss=distil,
            train={"epochs": 1, "batch_size": 30},
        ),
    }


def test_teachers_and_student_find_each_other(stages, tmp_path, capsys):
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    assert train.main(flags(tmp_path, stages["deg"], "--dt", "blur")) == 0
    assert train_all_deg.main(flags(tmp_path, stages["degDistill"])) == 2
    assert "the stage deg of noise is missing" in (said := capsys.readouterr().err)
    assert (
        "Train a config of the stage deg with `dataset` own and `backbone` Tiny first, with --dt "
        f"noise and the same --save_dir {tmp_path / 'saved'}" in said
    )
    assert train.main(flags(tmp_path, stages["deg"], "--dt", "noise")) == 0
    teacher = only_run(tmp_path, "blur/ind/own_Tiny_deg") / "model_best.pth"
    before = teacher.read_bytes()
    assert train_all_deg.main(flags(tmp_path, stages["degDistill"])) == 0
    assert teacher.read_bytes() == before
    said = capsys.readouterr().out
    assert f"starts from {only_run(tmp_path)}/model_best.pth" in said and str(teacher) in said
    student = only_run(tmp_path, "combined_deg/deg_all/own_Tiny_degDistill")
    header, first = (student / "losses.csv").read_text().splitlines()[:2]
    assert header == "step,loss,cross_entropy,cosine_inheritance"
    _, loss, ce, cos = map(float, first.split(","))
    assert loss == pytest.approx(ce + 2 * cos, rel=1e-4) and cos > 0
    assert {"clean_top1", "blur_top1", "noise_top1"} <= classifiers.read(
        student / "model_best.pth"
    )["metrics"].keys()
    other = write_config(
        tmp_path,
        "other",
        "deg_all",
        "adaptDistill",
        view="degraded",
        init="degDistill",
        teachers="deg",
        known=["clean", "blur", "noise"],
        train={"epochs": 1, "batch_size": 30},
        loss={"cross_entropy": 1, "cosine_inheritance": 2},
    )
    assert train_all_deg.main(flags(tmp_path, other)) == 0
    assert f"starts from {student}/model_best.pth" in capsys.readouterr().out


def test_a_model_of_one_degradation_can_be_taught_by_the_clean_one_on_clean_twins(
    stages, tmp_path, capsys
):
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    loss = {"cross_entropy": 1, "cosine_inheritance_maps": 1}
    taught = write_config(
        tmp_path,
        "sl",
        "sl",
        "sl",
        view="degraded",
        init="clean",
        teachers="clean",
        loss=loss,
        panel={"sees": "clean", "how": "averaged"},
    )
    assert train.main(flags(tmp_path, taught, "--dt", "noise")) == 0
    assert str(only_run(tmp_path)) in capsys.readouterr().out
    header = (only_run(tmp_path, "noise/sl/own_Tiny_sl") / "losses.csv").read_text().splitlines()[0]
    assert header == "step,loss,cross_entropy,cosine_inheritance_maps"
    machine = files.read_json(only_run(tmp_path, "noise/sl/own_Tiny_sl") / "machine.json")
    assert machine["parts"][0]["dtype"] == "float32" and machine["parts"][0]["from_step"] == 0


def test_a_state_of_an_earlier_version_is_refused_in_words(stages, tmp_path, capsys):
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    folder = only_run(tmp_path)
    (folder / "finished").unlink()
    torch.save({"model": {}, "optimizer": {}, "step": 3, "config": {}}, folder / "resume.pt")
    assert train.main(flags(tmp_path, stages["clean"])) == 2
    assert "resume.pt was saved by another version and cannot be read" in capsys.readouterr().err


def test_the_precision_does_not_identify_a_run(stages, tmp_path):
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    assert train.main(flags(tmp_path, stages["clean"], "--set", "train.amp=true")) == 0
    assert len(list(only_run(tmp_path).parent.iterdir())) == 1


def test_a_student_of_adapted_copies_remembers_how_they_were_made(stages, tmp_path):
    (tmp_path / "tree").joinpath("clean").rename(tmp_path / "tree" / "jpeg")
    (tmp_path / "tree").rename(tmp_path / "adapted")
    files.write_json(tmp_path / "adapted" / "settings.json", {"N": 12})
    assert train.main(flags(tmp_path, stages["adapt"], "--dt", "jpeg", "--set", "init=null")) == 0
    found = classifiers.load(only_run(tmp_path, "jpeg/ind/own_Tiny_adapt") / "model_best.pth")
    assert found.adapted == {"N": 12}
    found.check_adapted(tmp_path / "adapted")
    files.write_json(tmp_path / "adapted" / "settings.json", {"N": 13})
    with pytest.raises(ValueError, match="N 13 there, 12 in training"):
        found.check_adapted(tmp_path / "adapted")


def test_a_finished_student_is_trained_anew_when_a_teacher_or_the_copies_have_changed(
    stages, tmp_path
):
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    command = flags(tmp_path, stages["degDistill"], "--set", "known=[clean]")
    runs = tmp_path / "saved/clean/deg_all/own_Tiny_degDistill/train"
    for clean, expected in ((), 1), ((), 1), (("--new", "--rs", "1"), 2):
        assert not clean or train.main(flags(tmp_path, stages["clean"], *clean)) == 0
        assert train_all_deg.main(command) == 0
        assert len(list(runs.iterdir())) == expected
    (tmp_path / "tree" / "clean").rename(tmp_path / "tree" / "jpeg")
    (tmp_path / "tree").rename(tmp_path / "adapted")
    command = flags(tmp_path, stages["adapt"], "--dt", "jpeg", "--set", "init=null")
    for n, expected in ((12, 1), (12, 1), (13, 2)):
        files.write_json(tmp_path / "adapted" / "settings.json", {"N": n})
        assert train.main(command) == 0
        assert len(list((tmp_path / "saved/jpeg/ind/own_Tiny_adapt/train").iterdir())) == expected


def test_a_teacher_of_another_shape_is_refused(stages, tmp_path, capsys):
    timm = {"type": "timm", "name": "resnet18", "num_classes": 3}
    pytest.importorskip("timm")
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    more = ["--set", f"classifier={timm}", "known=[clean]", "init=null"]
    assert train_all_deg.main(flags(tmp_path, stages["degDistill"], *more)) == 2
    assert "features of the shape (64,), the student of (512,)" in capsys.readouterr().err


def test_teachers_are_frozen_and_in_eval(stages, tmp_path):
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    experiment = config.load(stages["degDistill"], {"known": ["clean"]})
    inputs = find_inputs(experiment, tmp_path / "saved")
    whole = Experiment(experiment, inputs, torch.device("cpu"))
    (teacher,) = whole.panel.teachers
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    rate = make_rate(0.01, {"type": "cosine"}, experiment.train)
    assert fit(whole.state, whole.steps(World(), 0), experiment.train, rate)
    assert not teacher.network.training and whole.state.step == 3
    assert all(
        torch.equal(before[name], value) for name, value in teacher.network.state_dict().items()
    )
    learnt = sum(p.numel() for p in classifiers.build(experiment.classifier).parameters())
    assert (
        sum(p.numel() for p in whole.state.task.parameters()) == learnt
    )  # nothing of the teachers
    assert not any("teacher" in name for name in whole.state.task.state_dict())


def test_validation_images_on_the_fly_are_those_of_the_trees_and_never_change(
    stages, tree, tmp_path
):
    fly = views(config.load(stages["deg"], {"known": ["noise", "jpeg"]}), "val")
    for kind in ("noise", "jpeg"):
        places = ["--base_samples", str(tree), "--save_dir", str(tree)]
        assert make_data.main(["degrade", *places, "--type", kind, "--workers", "1"]) == 0
    stored = views(config.load(stages["deg"], {"known": ["noise", "jpeg"], "made": "trees"}), "val")
    for one, two in zip(fly, stored, strict=True):
        assert one.examples.labels.tolist() == two.examples.labels.tolist()
        for row in range(31):
            np.testing.assert_array_equal(one.fixed(row), two.fixed(row))
            np.testing.assert_array_equal(one.fixed(row), one.fixed(row))


def test_ranks_share_a_batch_and_epochs_are_permutations(stages):
    experiment = config.load(stages["deg"], {"known": ["clean", "noise"]})
    found = views(experiment, "train")

    def steps(rank=0, ranks=1, parts=1, threads=0):
        recipe = Recipe(steps=9, batch_size=30, accumulate=parts)
        return Steps(
            found,
            experiment.augment,
            experiment.preprocess,
            recipe,
            rank=rank,
            ranks=ranks,
            threads=threads,
        )

    (whole,) = steps()[4]
    ranks, parts = [steps(rank, 2)[4][0] for rank in range(2)], steps(parts=3)[4]
    for shares in (ranks, parts):  # one group of each view
        for name in ("pixels", "labels"):
            groups = [
                [getattr(share, name).chunk(2)[view] for share in shares] for view in range(2)
            ]
            assert torch.equal(
                torch.cat([torch.cat(group) for group in groups]), getattr(whole, name)
            )
    labels = torch.cat([steps()[step][0].labels[:30] for step in range(3)])
    assert (
        labels.bincount().tolist() == [30, 30, 30] and whole.groups == 2 and len(whole.keys) == 60
    )
    assert not torch.equal(steps()[0][0].pixels, steps()[3][0].pixels)
    loaded = list(steps(threads=2).stream(3, 6))
    assert all(
        torch.equal(parts[0].pixels, steps()[3 + i][0].pixels) for i, parts in enumerate(loaded)
    )


def test_images_can_be_held_out_of_training_and_a_file_can_be_the_clean_stage(
    stages, tmp_path, capsys
):
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    source = (only_run(tmp_path) / "model_best.pth").rename(tmp_path / "source.pth")
    experiment = config.load(
        stages["deg"],
        {"known": ["noise"], "data.held_out": 0.2, "data.at_most": 60, "data.val": "nowhere"},
    )
    kept, used = (set(views(experiment, split)[0].examples.keys) for split in ("val", "train"))
    assert 5 < len(kept) < 35 and len(used) == 60 and not kept & used
    more = [
        "--set",
        f"source={source}",
        "data.held_out=0.2",
        "loss={cross_entropy: 1, cosine_inheritance: 1}",
        "known=[clean]",
    ]
    assert train_all_deg.main(flags(tmp_path, stages["degDistill"], *more)) == 0
    assert capsys.readouterr().out.count(f"{source}") == 2  # where it starts, and its teacher


def test_early_stop_and_minutes_end_a_run(tree, tmp_path):
    path = write_config(
        tmp_path,
        "clean",
        optimizer={"type": "SGD", "lr": 1e-9},
        train={"epochs": 50, "batch_size": 30, "early_stop": 2},
    )
    assert train.main(flags(tmp_path, path)) == 0
    assert len((only_run(tmp_path) / "epochs.csv").read_text().splitlines()) - 1 == 3
    changes = ["train.epochs=null", "train.early_stop=0", "schedule={type: cosine}"]
    assert train.main(flags(tmp_path, path, "--minutes", "0.01", "--set", *changes)) == 0
    run = sorted((tmp_path / "saved/clean/ind/own_Tiny_clean/train").iterdir())[-1]
    assert 0.6 <= classifiers.read(run / "resume.pt")["seconds"] < 5


@pytest.mark.parametrize(
    ("stage", "more", "words"),
    [
        ("deg", [], "--dt is missing"),
        ("clean", ["--dt", "jpeg"], "--dt jpeg does not go with a config of clean images"),
        ("deg", ["--dt", "fog"], "--dt: 'fog' is unknown"),
        ("deg", ["--dt", "jpeg"], "the stage clean of clean is missing"),
        ("degDistill", [], "is a config of train_all_deg.py"),
        ("clean", ["--bs", "500"], "clean has 90 training images, fewer than --bs 500"),
        ("clean", ["--set", "train.epochs"], "--set train.epochs is not NAME=VALUE"),
        ("clean", ["--set", "data.train=nowhere"], "there are no images in"),
        (
            "clean",
            ["--set", "data.root=nowhere"],
            "`data.root` nowhere does not exist; make_data.py prepare",
        ),
        (
            "clean",
            ["--set", "data.classes=cifar10"],
            "`classifier.num_classes` 3, but `data.classes` 'cifar10' has 10 classes",
        ),
        (
            "clean",
            ["--set", "data.classes=cifar10", "classifier.num_classes=10"],
            "has 3 classes (red, green, blue, …), but the config has 10",
        ),
        ("adapt", ["--dt", "jpeg", "--init", ""], "`data.adapted` "),
        ("clean", ["--init", "nowhere.pth"], "--init nowhere.pth is not a file; give one"),
        (
            "clean",
            ["--set", "init=pretrained", "pretrained=ckpt/nowhere.pth"],
            "OpenMMLab's model zoo",
        ),
        (
            "clean",
            ["--set", "init=pretrained"],
            "the backbone names no pretrained weights; give a file as --init",
        ),
        ("clean", ["-d", "7"], "--device 7: there is no GPU"),
        ("clean", ["-r", "nowhere/model_best.pth"], "there is no resume.pt beside it"),
        ("clean", ["--lr", "1e30", "--epochs", "30"], "lower --lr, or set train.warmup=200"),
    ],
)
def test_wrong_input_is_named(stages, tmp_path, capsys, stage, more, words):
    if words.startswith("--device") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert train.main(flags(tmp_path, stages[stage], *more)) == 2
    assert words in capsys.readouterr().err


def test_an_empty_adapted_tree_says_which_command_makes_it(stages, tmp_path, capsys):
    (tmp_path / "adapted" / "jpeg").mkdir(parents=True)
    assert train.main(flags(tmp_path, stages["adapt"], "--dt", "jpeg", "--set", "init=null")) == 2
    assert (
        "adapt the copies first: image_sample.py with `corruption` jpeg" in capsys.readouterr().err
    )


def test_a_damaged_image_and_a_damaged_state_are_named(stages, tree, tmp_path, capsys):
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    (only_run(tmp_path) / "resume.pt").write_bytes(b"x")
    (only_run(tmp_path) / "finished").unlink()
    assert train.main(flags(tmp_path, stages["clean"])) == 2
    error = capsys.readouterr().err
    assert "resume.pt is no state of a run; it is a" in error and "to start anew" in error
    broken = next((tree / "clean/train").iterdir())
    broken.write_bytes(b"x")
    assert train.main(flags(tmp_path, stages["clean"], "--new")) == 2
    assert f"{broken} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("room", "status", "name"), [(0, 2, "config.yaml"), (3, 1, "model_last.pth")]
)
def test_a_full_disk_says_what_to_do(stages, tmp_path, capsys, monkeypatch, room, status, name):
    written = []

    def fill(_):
        written.append(True)
        if len(written) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fill)
    assert train.main(flags(tmp_path, stages["clean"])) == status
    errors = capsys.readouterr().err
    assert f"{name}: No space left on device; make room" in errors, errors[-400:]


def test_a_new_degradation_reaches_the_trainer_from_its_own_file(stages, monkeypatch):
    from DistilledClassifier import degradations

    invert = degradations.Degradation(
        lambda image, level, rng, behavior: 255 - image, training=(0, 1, 1), test=(1,) * 5
    )
    monkeypatch.setitem(degradations.DEGRADATIONS, "invert", invert)
    experiment = config.load(stages["deg"], {"known": ["invert"]})
    (view,) = views(experiment, "train")
    np.testing.assert_array_equal(view.fixed(0), 255 - view.examples.read(0))


def test_a_new_loss_reaches_the_trainer_from_its_own_file(stages, tmp_path, monkeypatch):
    from DistilledClassifier import losses as loss_module

    monkeypatch.setitem(
        loss_module.SUPERVISED, "confidence", lambda student, labels: student.logits.square().mean()
    )
    change = "loss={cross_entropy: 1, confidence: 0.1}"
    assert train.main(flags(tmp_path, stages["clean"], "--set", change)) == 0
    table = (only_run(tmp_path) / "losses.csv").read_text()
    assert table.startswith("step,loss,cross_entropy,confidence\n")


def test_bfloat16_trains_to_about_the_same_loss(stages):
    experiment = config.load(stages["clean"])
    found, held_out = views(experiment, "train"), views(experiment, "val")
    ends = []
    for amp in (False, True):
        torch.manual_seed(0)
        network = classifiers.build(experiment.classifier)
        recipe = Recipe(steps=5, batch_size=30)
        task = Classify(network, experiment.preprocess, experiment.loss, held_out=held_out)
        state = start(task, recipe, experiment.optimizer, torch.bfloat16 if amp else torch.float32)
        steps = Steps(found, experiment.augment, experiment.preprocess, recipe)
        assert fit(state, steps, recipe, make_rate(0.01, experiment.schedule, recipe))
        assert next(network.parameters()).dtype == torch.float32
        ends.append([row["loss"] for row in state.losses])
    assert ends[0] != ends[1]
    np.testing.assert_allclose(ends[0], ends[1], rtol=0.1)


def test_a_run_reads_and_digests_each_file_once(stages, tmp_path, monkeypatch):
    assert train.main(flags(tmp_path, stages["clean"])) == 0
    read, digested = [], []
    load, digest = weights.read, files.sha256
    monkeypatch.setattr(
        weights, "read", lambda *given, **more: (read.append(given[0]), load(*given, **more))[1]
    )
    monkeypatch.setattr(files, "sha256", lambda path: (digested.append(path), digest(path))[1])
    # the clean classifier is the beginning and the teacher
    more = ["--set", "known=[clean]", "teachers=clean"]
    assert train_all_deg.main(flags(tmp_path, stages["degDistill"], *more)) == 0
    best = only_run(tmp_path) / "model_best.pth"
    assert read == [best] and digested == [best]


def test_an_unknown_task_is_named(tree, tmp_path, capsys):
    given = flags(tmp_path, write_config(tmp_path, "clean", task="detect"))
    assert train.main(given) == 2
    assert "`task`: 'detect' is unknown; use one of classify" in capsys.readouterr().err
