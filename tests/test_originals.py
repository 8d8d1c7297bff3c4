"""Clean originals: found by what a tree says of itself, and compared with both views."""

import shutil

import numpy as np
import pytest
from PIL import Image

from DDA import images, metrics, sources, tree
from DDA.model_adapt import originals
from DDA.model_adapt.paired import named
from DistilledClassifier import making
from DistilledClassifier.making import Originals, Target

KEYS = ("cat/1", "cat/2", "dog/1", "dog/2")


def _write(root, keys, seed=0, size=(16, 16)):
    rng = np.random.default_rng(seed)
    for key in keys:
        images_of_key = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images_of_key).save(root / f"{key}.png")
    tree.write_classes(root, ("cat", "dog"))
    return root


def _find(root, *cells, clean=None):
    """Return the path of the original of each degraded image, by its key."""
    degraded = sources.open_source(root)
    keys = {cell: named(degraded, cell) for cell in cells}
    places = originals.find(degraded, keys, clean)
    return {key: str(source.where(name)) for key, (source, name) in places.items()}


@pytest.fixture
def made(tmp_path):
    """A tree of noise at two levels, made of the split test of a clean tree that has two splits."""
    clean = tmp_path / "clean"
    for split in ("train", "test"):
        _write(clean, [f"clean/{split}/{key}" for key in KEYS], seed=len(split))
    source = Originals(clean, split="test")
    target = Target(tmp_path / "degraded", workers=1)
    making.degrade(source, target, type="noise", level=[20, 60], quiet=True)
    return target.save_dir


def test_a_made_tree_tells_its_originals_and_their_split(made, tmp_path):
    expected = {
        f"noise/{level}/{key}": str(tmp_path / f"clean/clean/test/{key}.png")
        for level in (20, 60)
        for key in KEYS
    }
    assert _find(made, "noise/20", "noise/60") == expected
    (tmp_path / "clean").rename(tmp_path / "elsewhere")
    assert _find(made, "noise/20") == {}
    again = _find(made, "noise/20", clean=tmp_path / "elsewhere/clean/test")
    assert again["noise/20/dog/2"] == str(tmp_path / "elsewhere/clean/test/dog/2.png")


def test_splits_of_a_known_degradation_have_the_originals_of_the_same_tree(tmp_path):
    _write(
        tmp_path, [f"clean/{split}/{key}_{split}" for split in ("train", "test") for key in KEYS]
    )
    making.degrade(tmp_path, Target(tmp_path, workers=1), type="jpeg", quiet=True)
    expected = {
        f"jpeg/test/{key}_test": str(tmp_path / f"clean/test/{key}_test.png") for key in KEYS
    }
    assert _find(tmp_path, "jpeg/test") == expected


def test_a_tree_may_hold_its_clean_images_itself(tmp_path):
    for cell in ("fog/1", "clean/0"):
        _write(tmp_path, [f"{cell}/{key}" for key in KEYS])
    expected = {f"fog/1/{key}": str(tmp_path / f"clean/0/{key}.png") for key in KEYS}
    assert _find(tmp_path, "fog/1", "clean/0") == expected
    assert _find(tmp_path, ".") == {}  # no image is its own original


def test_an_image_with_two_possible_originals_has_none(made, tmp_path):
    assert _find(made, "noise/20", clean=tmp_path / "clean") == {}
    shutil.rmtree(tmp_path / "clean/clean/train/cat")
    found = _find(made, "noise/20", clean=tmp_path / "clean")
    assert list(found) == ["noise/20/cat/1", "noise/20/cat/2"]


def test_a_missing_folder_of_originals_is_an_error(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="`clean` .*none, the folder of the originals"):
        _find(made, "noise/20", clean=tmp_path / "none")


def test_the_likeness_is_the_median_over_images_of_each_cell():
    rng = np.random.default_rng(0)
    pixels = {
        (view, key): rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        for view in ("clean", "degraded", "adapted")
        for key in KEYS[:3]
    }
    pixels["adapted", KEYS[0]] = pixels["clean", KEYS[0]]
    found = originals.likeness({"fog/1": KEYS[:3], "snow/1": []}, lambda *place: pixels[place])
    assert list(found) == ["fog/1"]
    expected = []
    for measure in (metrics.psnr, metrics.ssim):
        for view in ("degraded", "adapted"):
            values = [measure(pixels[view, key], pixels["clean", key]) for key in KEYS[:3]]
            expected.append(sorted(values)[1])
    assert found["fog/1"] == pytest.approx(expected) and np.isfinite(expected).all()


def test_images_of_other_sizes_are_compared_in_the_size_of_the_smaller_one():
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    square = images.fit_square(Image.fromarray(photo), 16)
    for pair in ((square, photo), (photo, square)):
        assert metrics.psnr(*originals.alike(*pair)) == float("inf")
    half = np.asarray(Image.fromarray(photo).resize((32, 24), Image.Resampling.BICUBIC))
    assert metrics.psnr(*originals.alike(half, photo)) == float("inf")


def test_the_table_of_likeness_begins_with_the_least_like_corruption():
    numbers = {
        "snow/1": (30.0, 31.0, 0.9, 0.91),
        "fog/1": (10.0, 20.0, float("nan"), float("nan")),
        "fog/2": (12.0, 22.0, float("nan"), float("nan")),
    }
    assert originals.likeness_rows(numbers)[:2] == [
        ("fog", "11.0", "21.0", "", ""),
        ("snow", "30.0", "31.0", "0.900", "0.910"),
    ]
    assert originals.likeness_rows(numbers)[2][:3] == ("mean", "17.3", "24.3")
