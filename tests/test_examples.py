"""The examples in docstrings are run; every entry point has one, and tells what it takes."""

import doctest
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

FOLDERS = ("DDA", "DistilledClassifier")
ELSEWHERE = {"configs", "classifiers", "experiments", "losses.py"}  # see test_journey_train.py


def modules_with_examples() -> list[str]:
    """The names of the modules whose examples are run here."""
    names = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8") and not ELSEWHERE & {*path.parts}:
                place = path.relative_to(ROOT).with_suffix("").as_posix()
                names.append(place.replace("/", ".").removesuffix(".__init__"))
    return names


MODULES = modules_with_examples()
ENTRY_POINTS = (
    "DDA.image_adapt.adapter.Adapter",
    "DDA.image_adapt.adapter.Adapter.__call__",
    "DDA.image_adapt.adapter.Adapter.folder",
    "DDA.image_adapt.cache.CachedAdapter",
    "DDA.image_adapt.prior_training.train_prior",
    "DDA.model_adapt.advice.advise",
    "DDA.model_adapt.evaluate.Ensemble",
    "DDA.model_adapt.evaluate.Ensemble.scores",
    "DDA.model_adapt.evaluate.Ensemble.evaluate",
    "DDA.model_adapt.evaluate.Ensemble.fit",
    "DDA.studies.pipeline.run",
    "DDA.inputs.read",
    "DistilledClassifier.experiments.run.train",
    "DistilledClassifier.classifiers.checkpoints.load",
    "DistilledClassifier.classifiers.importing.import_classifier",
    "DistilledClassifier.classifiers.scoring.Classifier.scores",
    "DistilledClassifier.classifiers.libraries.build",
    "DistilledClassifier.making.prepare",
    "DistilledClassifier.making.degrade",
    "DistilledClassifier.making.sequence",
    "DistilledClassifier.making.corrupt",
    "DistilledClassifier.making.verify",
    "DistilledClassifier.making.sheet",
)


@pytest.fixture
def names(prior, tmp_path, monkeypatch):
    """What the examples talk about: a tiny prior, three photographs, two classifiers."""
    from DDA import Adapter, Ensemble, tree
    from DistilledClassifier import classifiers

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    for i, name in enumerate(("cat", "dog", "ship")):
        (photos / name).mkdir(parents=True)
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / name / f"{i}.png")
    tree.write_classes(photos, tree.class_list("cifar10"))
    paths = []
    for i in range(2):
        config = {"type": "CifarResNet", "depth": 8, "num_classes": 10}
        network = classifiers.build(config).eval()
        paths.append(tmp_path / f"{i}.pth")
        entries = {"classifier": config, "preprocess": {"size": 16}}
        classifiers.save(paths[i], network, entries, tree.class_list("cifar10"))
    adapter = Adapter(prior, speed="one-shot")
    known = tmp_path / "known"
    shutil.copytree(photos, known / "jpeg" / "3")
    tree.write_classes(known, tree.class_list("cifar10"))
    copies = tmp_path / "copies"
    adapter.folder(photos, copies, quiet=True)
    labelled = tmp_path / "labelled"
    (labelled / "cat").mkdir(parents=True)
    for i in range(40):
        shutil.copy(photos / "cat" / "0.png", labelled / "cat" / f"{i}.png")
    network = {"image_size": 16, "num_channels": 32, "channel_mult": "1,1", "num_heads": 2}
    network |= {"num_res_blocks": 1, "batch_size": 2, "bf16": False}
    return {
        "np": np,
        "torch": torch,
        "tiny_prior": prior,
        "adapter": adapter,
        "photos": photos,
        "labelled": labelled,
        "known": known,
        "copies": copies,
        "out": tmp_path / "out",
        "first": paths[0],
        "second": paths[1],
        "both": Ensemble(paths[0], paths[1], adapter=adapter),
        "tiny_network": network,
        "digits_yaml": ROOT / "scripts/pipelines/digits.yaml",
    }


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name, names):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for test in finder.find(module, extraglobs=names) if test.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in tests:
        runner.run(test)
    assert tests and not runner.summarize(verbose=False).failed


@pytest.mark.parametrize("path", ENTRY_POINTS)
def test_entry_points_say_what_they_take_give_and_raise(path):
    parts = path.split(".")
    depth = next(i for i in range(len(parts), 0, -1) if is_module(parts[:i]))
    target = importlib.import_module(".".join(parts[:depth]))
    for part in parts[depth:]:
        target = getattr(target, part)
    text = inspect.getdoc(target)
    for section in ("Args:", "Raises:", "Example:", ">>> "):
        assert section in text or (section != "Args:" and path.endswith("__call__")), section
    assert inspect.isclass(target) or "Returns:" in text or "Yields:" in text
    names = [name for name in inspect.signature(target).parameters if name != "self"]
    missing = [name for name in names if f"{name}:" not in text and f"{name}, " not in text]
    assert not missing, f"not explained: {missing}"


def test_the_python_of_dataset_makes_a_tree_a_copy_and_no_faults(names):
    page = (ROOT / "dataset" / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    lines = lines.replace("DOWNLOAD", "photos")
    space = {}
    exec(lines, space)
    root = Path("dataset/mine")
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["clean", "jpeg"]
    assert len([*root.rglob("*.png")]) == 6 and not space["checked"].faults


def is_module(parts):
    place = Path(ROOT, *parts)
    return place.with_suffix(".py").is_file() or place.is_dir()


def test_the_public_names_import_nothing_before_they_are_used():
    code = "import sys, DDA; print(*DDA.__all__, {'torch', 'numpy'} & {*sys.modules}, *dir(DDA))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("Adapter Ensemble train_prior set()")
    assert result.stdout.count("train_prior") == 2
