"""Accuracy of one classifier on corrupted trees."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SHARED, needs_shared
from PIL import Image

from DDA import files, tree
from DDA.progress import Show
from DistilledClassifier import classifiers
from DistilledClassifier.experiments.config import load as load_config
from DistilledClassifier.experiments.corrupted import evaluate, open_classifier
from DistilledClassifier.experiments.settings import Evaluation
from DistilledClassifier.test_corrupt import main

CONFIG = "configs/ind/CIFAR10/ResNet20/clean.yaml"


@pytest.fixture
def corrupted(tmp_path):
    """Two corruptions and a sequence; the classifier always says cat."""
    for cell, labels in (
        ("fog/1", "cat dog"),
        ("fog/3", "cat cat"),
        ("snow/1", "dog dog"),
        ("weak_seq/0", "cat dog"),
    ):
        (tmp_path / "c" / cell).mkdir(parents=True)
        for i, label in enumerate(labels.split()):
            Image.new("RGB", (32, 32), (100, 10 * i, 0)).save(
                tmp_path / "c" / cell / f"{label}_{i}.png"
            )

    tree.write_classes(tmp_path / "c", tree.class_list("cifar10"))
    network = classifiers.build({"type": "CifarResNet", "depth": 20})
    with torch.no_grad():
        network.model.linear.weight.zero_()
        network.model.linear.bias.copy_(torch.eye(10)[3])
    torch.save(network.model.state_dict(), tmp_path / "cat.th")
    return ["-c", CONFIG, "-r", str(tmp_path / "cat.th"), "--dd", str(tmp_path / "c")]


def test_each_cell_is_counted(corrupted, tmp_path, capsys):
    assert main([*corrupted, "--corruption", "fog", "snow", "--out", str(tmp_path / "out")]) == 0
    result = files.read_json(tmp_path / "out/corrupt.json")
    assert result["top1"] == {"fog": {"1": 50, "3": 100}, "snow": {"1": 0}} and result["mean"] == 50
    assert result["counts"] == {"fog/1": 2, "fog/3": 2, "snow/1": 2}
    assert (
        "| fog | 50.0 | 100.0 | 75.0 |" in (said := capsys.readouterr().out)
        and "| snow | 0.0 |  | 0.0 |" in said
    )
    assert main([*corrupted, "--corruption", "fog", "--sev", "3"]) == 0
    assert "| fog | 100.0 | 100.0 |" in capsys.readouterr().out
    assert main([*corrupted, "--ct", "sequence", "--dl", "CIFAR_C", "--batch_size", "1"]) == 0
    said = capsys.readouterr()
    assert "| weak_seq | 50.0 | 50.0 |" in said.out and "--dl changes nothing" in said.err


def test_a_published_resnet_is_shown_what_it_was_trained_on(corrupted):
    """It has ImageNet's mean and deviation; the config, for training anew, has CIFAR-10's."""
    config, path = corrupted[1], corrupted[3]
    classifier = open_classifier(Path(path), load_config(Path(config)))
    assert classifier.preprocess == classifiers.load(path).preprocess
    assert classifier.preprocess != load_config(Path(config)).preprocess


def test_from_python_the_result_is_one_frozen_object(corrupted, tmp_path, capsys):
    settings = Evaluation(
        config=Path(CONFIG), resume=tmp_path / "cat.th", images=tmp_path / "c", corruption=("fog",)
    )
    accuracy = evaluate(settings, Show(quiet=True))
    assert accuracy.top1 == {"fog": {"1": 50, "3": 100}} and accuracy.mean == 75
    assert "| fog | 50.0 | 100.0 | 75.0 |" in accuracy.markdown and accuracy.markdown in str(
        accuracy
    )
    assert "4 images in 2 cells" in accuracy.protocol and capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match="`batch_size` 0 must be at least 1"):
        replace(settings, batch_size=0)
    assert main([*corrupted, "--corruption", "fog", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == accuracy.as_dict()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--sev", "7"], "--sev 7 is wanted"),
        (["--corruption", "frog"], "--corruption frog is not in"),
        (["--dd", "nowhere"], "--dd nowhere does not exist; make_data.py corrupt"),
        (["-r", "nowhere.th"], "nowhere.th does not exist"),
        (["-c", "nowhere.yaml"], "--config nowhere.yaml does not exist"),
        (["-c", "configs/ind/CIFAR10/ResNet56/clean.yaml"], "does not fit the classifier"),
    ],
)
def test_wrong_input_is_named(corrupted, capsys, more, words):
    assert main([*corrupted, *more]) == 2
    assert words in capsys.readouterr().err


@needs_shared
def test_the_published_resnet20_on_a_part_of_cifar10c(tmp_path):
    weights, part = SHARED / "ckpt" / "resnet20-12fca82f.th", SHARED / "data" / "cifar10c_open.npz"
    config = tmp_path / "akamaster.yaml"
    config.write_text(
        f"base: {CONFIG}\npreprocess: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}\n"
    )
    command = [
        "-c",
        config,
        "-r",
        weights,
        "--dd",
        part,
        "--corruption",
        "jpeg_compression",
        "--sev",
        "5",
        "--out",
        tmp_path,
    ]
    assert main([*map(str, command)]) == 0
    found = files.read_json(tmp_path / "corrupt.json")["top1"]["jpeg_compression"]["5"]
    with np.load(part) as data:
        scores = classifiers.load(weights).scores(data["jpeg_compression"][4])
        labels = torch.from_numpy(data["labels"]).long()
    assert found == pytest.approx(100 * float((scores.argmax(1) == labels).double().mean()))
