"""Training from Python: it reads like the documentation of it."""

import doctest
import importlib
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from DistilledClassifier import classifiers, experiments, train
from DistilledClassifier.experiments import compose

COLOURS = ("red", "green", "blue")


@pytest.fixture
def photos(tmp_path):
    """A folder of one's own: train and val, a folder for each class, sizes as they come."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for label, colour in enumerate(COLOURS):
            folder = tmp_path / "photos" / split / colour
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (9 + i % 4, 12, 3), dtype=np.uint8)
                pixels[..., label] += 90
                Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return tmp_path / "photos"


@pytest.fixture
def mine(photos):
    """What one's own images change in a config of CIFAR-10."""
    return {
        "dataset": "mine",
        "data.root": photos,
        "data.classes": list(COLOURS),
        "data.train": "train",
        "data.val": "val",
        "classifier": {"type": "CifarResNet", "depth": 8, "num_classes": 3},
        "preprocess": {"size": 8, "mean": [0.4] * 3, "std": [0.2] * 3},
        "augment.crop": 1,
    }


@pytest.fixture(autouse=True)
def saved(tmp_path, monkeypatch):
    """Runs lie in ``saved`` of the folder in which one works."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "saved"


CLEAN = "configs/ind/CIFAR10/ResNet20/clean.yaml"
DEGRADED = "configs/ind/CIFAR10/ResNet20/deg.yaml"
STUDENT = "configs/deg_all/CIFAR10/ResNet20/degDistill.yaml"


def start(config, **settings):
    """Train for a few seconds: small batches, no threads, nothing printed."""
    return experiments.train(
        config, batch_size=24, workers=0, device="cpu", quiet=True, lr=0.01, **settings
    )


def test_a_classifier_of_ones_own_photos_is_one_call(photos, mine):
    run = start(CLEAN, changes=mine, epochs=6)
    assert run.top1 > 80 and run.steps == 18 and run.epochs == 6
    assert run.best == run.folder / "model_best.pth"
    assert repr(run) == f"Trained(top1={run.top1:.2f}, epochs=6, steps=18, folder='{run.folder}')"

    classifier = classifiers.load(run.best)
    image = Image.open(photos / "val" / "green" / "000.png")
    logits = classifier.scores(image)
    assert logits.shape == (1, 3) and classifier.classes[int(logits.argmax())] == "green"


def test_a_student_is_distilled_from_teachers_that_are_found(photos, mine):
    start(CLEAN, changes=mine, epochs=3)
    for name in ("jpeg", "noise"):
        start(DEGRADED, known=name, changes=mine, epochs=2)
    run = start(STUDENT, known=["jpeg", "noise"], changes=mine, epochs=2)
    assert run.folder.parts[-5:-1] == (
        "combined_deg",
        "deg_all",
        "mine_ResNet20_degDistill",
        "train",
    )
    assert classifiers.load(run.best).scores(np.zeros((2, 40, 30, 3), np.uint8)).shape == (2, 3)


def test_a_part_of_the_photos_can_be_held_out(mine):
    run = start(CLEAN, changes={**mine, "data.val": "absent", "data.held_out": 0.25}, epochs=1)
    assert classifiers.load(run.best).held_out == 0.25


def test_a_finished_training_is_not_run_again(mine, capfd):
    run = start(CLEAN, changes=mine, epochs=1)
    weights = run.best.stat().st_mtime_ns
    assert start(CLEAN, changes=mine, epochs=1) == run and run.best.stat().st_mtime_ns == weights
    assert start(CLEAN, changes=mine, epochs=1, new=True).folder != run.folder
    assert capfd.readouterr() == ("", "")  # quiet shows nothing


def test_what_is_missing_is_said_in_pythons_words(mine):
    missing = "the stage clean of clean is missing: .* has no finished run. Train "
    first = "a config of the stage clean with `dataset` mine and `backbone` ResNet20 first, with "
    with pytest.raises(FileNotFoundError, match=f"{missing}{first}the same `save_dir` saved"):
        start(DEGRADED, known="jpeg", changes=mine)
    with pytest.raises(
        FileNotFoundError, match=f"{missing}{CLEAN} first, with the same `save_dir`"
    ):
        start(DEGRADED, known="jpeg")
    with pytest.raises(ValueError, match="`known` is missing: which known degradation"):
        start(DEGRADED, changes=mine)
    with pytest.raises(ValueError, match="train.py trains one degradation, not 2"):
        start(DEGRADED, known=["jpeg", "noise"], changes=mine)
    with pytest.raises(ValueError, match=r"`data.root` nowhere does not exist"):
        start(CLEAN, changes={**mine, "data.root": "nowhere"})
    words = r"there are no images in .*photos/clean/tests; its images lie in .*; clean images"
    with pytest.raises(ValueError, match=words):
        start(CLEAN, changes={**mine, "data.val": "tests"})
    with pytest.raises(ValueError, match=r"num_classes` 10, but `data.classes` .* to 3"):
        start(CLEAN, changes={**mine, "classifier": {"type": "CifarResNet", "num_classes": 10}})
    with pytest.raises(ValueError, match="`workers` -1 must be at least 0"):
        experiments.train(CLEAN, workers=-1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"config": None}, "`config` must be a path, not None"),
        ({"config": {}}, "`config` must be a path, not {}"),
        ({"save_dir": None}, "`save_dir` must be a path, not None"),
        ({"resume": 3}, "`resume` must be a path, not 3"),
        ({"changes": "x"}, "`changes` must map dotted names of entries to values, .* not 'x'"),
        ({"changes": ["train.epochs=3"]}, "`changes` must map dotted names"),
        ({"changes": {3: 1}}, "`changes` must map dotted names of entries .* not {3: 1}"),
        ({"new": 1}, "`new` must be true or false, not 1"),
        ({"seed": 2**70}, "`seed` must be a whole number below 2"),
        ({"lr": float("nan")}, "`lr` must be a number or nothing, not nan"),
        ({"workers": np.float32(1.5)}, "`workers` must be a whole number, not 1.5"),
        ({"device": "gpu"}, "`device` gpu is unknown; use auto"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(settings, words):
    with pytest.raises(ValueError, match=words):
        experiments.train(**{"config": CLEAN, **settings})


def test_a_save_dir_that_is_a_file_is_refused_before_the_images_are_read(mine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`save_dir` .* cannot be a folder: .* is a file"):
        start(CLEAN, changes={**mine, "data.root": "nowhere"}, save_dir=tmp_path / "file")


def test_numbers_of_numpy_and_a_device_of_torch_are_taken(mine):
    import torch

    numbers = {"batch_size": np.int64(24), "seed": np.int64(1), "epochs": np.float32(1)}
    others = {"workers": np.int64(0), "device": torch.device("cpu"), "quiet": True}
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = experiments.train(
        CLEAN, changes={**mine, "train.steps": np.int64(1)}, **numbers, **others
    )
    assert run.steps == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_the_command_prints_the_result_as_json(mine, capsys):
    changes = [f"{name}={json.dumps(value, default=str)}" for name, value in mine.items()]
    flags = ["--bs", "24", "--epochs", "1", "--workers", "0", "-d", "cpu", "--json"]
    assert train.main(["-c", CLEAN, *flags, "--save_dir", "saved", "--set", *changes]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["steps"] == 3 and result["best"].startswith(result["folder"])
    assert "images      clean 72; held out 18: clean" in err
    assert train.main(["-c", CLEAN, *flags, "--workers", "-1"]) == 2
    assert "--workers -1 must be at least 0" in capsys.readouterr().err


def test_help_and_imports_do_not_wait_for_torch():
    code = (
        "import sys\n"
        "from DistilledClassifier import classifiers, experiments, test_corrupt, train\n"
        "from DistilledClassifier.experiments import compose, settings, stages\n"
        "assert 'usage' in train.parser().format_help() + test_corrupt.parser().format_help()\n"
        "slow = {'torch', 'mmcls', 'mmcv', 'timm'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        "assert 'train' in dir(experiments) and 'load' in dir(classifiers)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_examples_of_the_documentation_run(mine, tmp_path):
    import torch
    import yaml

    changes = {**mine, "data.root": str(mine["data.root"]), "train.batch_size": 24}
    entries = compose.change(compose.compose(ROOT / "DistilledClassifier" / CLEAN), changes)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(entries))
    run = start(tmp_path / "tiny.yaml", epochs=1)
    names = {
        "np": np,
        "torch": torch,
        "classifiers": classifiers,
        "tiny_config": tmp_path / "tiny.yaml",
        "tiny_classifier": run.best,
        "saved": tmp_path / "saved",
        "out": tmp_path,
        "weights": tmp_path / "weights.pt",
    }
    wide = classifiers.build(
        {"type": "torchvision", "name": "shufflenet_v2_x0_5", "num_classes": 2}
    )
    torch.save(wide.model.state_dict(), names["weights"])
    modules = ["losses"]
    for folder in ("classifiers", "experiments"):
        modules += [
            f"{folder}.{path.stem}" for path in (ROOT / "DistilledClassifier" / folder).glob("*.py")
        ]
    runner = doctest.DocTestRunner()
    for name in modules:
        module = importlib.import_module(f"DistilledClassifier.{name}")
        for example in doctest.DocTestFinder().find(module, extraglobs=names):
            runner.run(example)
    assert runner.summarize().attempted > 12 and not runner.summarize().failed
