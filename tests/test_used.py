"""Flags that are given are used, or refused in words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from DDA.model_adapt.settings import Gate
from DistilledClassifier import making


@pytest.fixture
def photos(tmp_path):
    """Return a tree of two classes that tells them."""
    for name in ("cat", "dog"):
        folder = tmp_path / "photos/clean/train" / name
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "1.png")
    (tmp_path / "photos/classes.txt").write_text("cat\ndog\n")
    return tmp_path / "photos"


def make(photos, **given):
    originals = making.Originals(photos, **given)
    target = making.Target(photos.parent / "out", workers=1)
    return making.degrade(originals, target, type="jpeg", quiet=True)


def test_labels_that_no_image_takes_are_refused(photos):
    labels = photos.parent / "labels.txt"
    labels.write_text("1\n")
    with pytest.raises(ValueError, match="`labels` .* goes with a flat ImageNet val folder"):
        make(photos, labels=labels)
    assert not (photos.parent / "out").exists() and make(photos).done == 2


def test_classes_that_the_source_does_not_take_are_refused(photos):
    tiny = photos.parent / "tiny"
    (tiny / "val/images").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tiny / "val/images/val_0.JPEG")
    (tiny / "val/val_annotations.txt").write_text("val_0.JPEG\tn01443537\t0\t0\t9\t9\n")
    (tiny / "wnids.txt").write_text("n01443537\nn01629819\n")
    (tiny / "train").mkdir()
    assert make(tiny).done == 1
    with pytest.raises(ValueError, match="`classes` cifar10 has other names than the 2 classes"):
        make(tiny, classes="cifar10")
    listed = photos.parent / "list.txt"
    listed.write_text("cat\ndog\n")
    assert make(photos, classes=str(listed)).done == 2


@pytest.mark.parametrize("layout", ["folder", "imagenet", "digits"])
def test_severities_of_a_layout_that_has_none_are_refused_by_the_gate(layout):
    paths = {"classifier": Path("a"), "source": Path("b"), "out": Path("c"), "threshold": 0.5}
    with pytest.raises(ValueError, match=f"`severity`: `layout` {layout} has none"):
        Gate(**paths, layout=layout, severity=["3"])
    assert Gate(**paths, layout="imagenetc", severity=["3"]).severity == ["3"]
    with pytest.raises(ValueError, match="`train`: `layout` folder has no splits"):
        Gate(**paths, train=True)
