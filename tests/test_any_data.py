"""Sources of one's own data: single images, patterns, zips, lists of labels, shards and tables."""

import os

import numpy as np
import pytest
from PIL import Image

from DDA import files, sources
from DDA.image_adapt.scripts import image_sample
from DistilledClassifier import make_data

RNG = np.random.default_rng(0)


def picture(path, size=(20, 16)):
    """Write an image of noise, whose format the suffix tells, and return its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def photos(tmp_path):
    """Return a folder of images in folders, with other files among them."""
    for name in ("a.jpg", "b.png", "trip/c.jpg", "trip/sea/d.jpg", "trip/.hidden/e.jpg"):
        picture(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("x")
    return tmp_path / "photos"


# ---------------------------------------------------------------------- one image, and patterns


def test_one_image_is_a_source_of_one_image(photos):
    source = sources.open_source(photos / "b.png")
    assert source.names == ["b.png"] and source.list(".") == (["b.png"], [])
    np.testing.assert_array_equal(source.pixels("b.png"), np.asarray(Image.open(photos / "b.png")))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["a.jpg"]),
        ("*", ["a.jpg", "b.png"]),
        ("**/*.jpg", ["a.jpg", "trip/c.jpg", "trip/sea/d.jpg"]),
        ("**", ["a.jpg", "b.png", "trip/c.jpg", "trip/sea/d.jpg"]),
        ("tr?p/*.jpg", ["trip/c.jpg"]),
        ("{a,b,z}.[jp][pn]g", ["a.jpg", "b.png"]),
        ("{b,q}.png", ["b.png"]),
    ],
)
def test_a_pattern_is_a_source_of_the_images_it_matches(photos, pattern, names):
    source = sources.open_source(photos / pattern)
    assert source.names == names
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    assert source.folders(".") == folders
    assert source.list("trip")[0] == [name for name in names if name.startswith("trip/")]


def test_a_pattern_counts_through_numbers_in_braces(tmp_path):
    for number in range(9, 13):
        picture(tmp_path / f"x-{number:03}.png")
    names = sources.open_source(tmp_path / "x-{008..011}.png").names
    assert names == ["x-009.png", "x-010.png", "x-011.png"]
    with pytest.raises(ValueError, match="more than 1,000,000 files"):
        sources.open_source(tmp_path / "x-{000000000..999999999}.png")


def test_what_a_pattern_does_not_match_is_told_in_words(photos):
    with pytest.raises(FileNotFoundError, match=r"matches no image$"):
        sources.open_source(photos / "*.webp")
    with pytest.raises(FileNotFoundError, match=r"matches no image; the files there are 1 .txt"):
        sources.open_source(photos / "*.txt")
    Image.open(photos / "a.jpg").save(photos / "a.png")
    with pytest.raises(ValueError, match="would be one image"):
        assert sources.open_source(photos / "a.*").names


def test_a_pattern_leads_to_no_pipe_and_round_no_circle(photos):
    os.mkfifo(photos / "pipe.jpg")
    (photos / "trip" / "circle").symlink_to(photos)
    source = sources.open_source(photos / "**" / "*.jpg")
    assert source.names == ["a.jpg", "pipe.jpg", "trip/c.jpg", "trip/sea/d.jpg"]
    with pytest.raises(files.BadFile, match="named pipe"):
        sources.read_pixels(source, "pipe.jpg")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photos):
    picture(photos / "[1].png")
    assert sources.open_source(photos / "[1].png").names == ["[1].png"]


@pytest.mark.parametrize("pattern", ["b.png", "**/*.jpg"])
def test_commands_take_one_image_and_patterns(photos, tmp_path, prior, pattern):
    out, given = tmp_path / "out", str(photos / pattern)
    expected = sources.open_source(photos / pattern).names
    argv = ["--base_samples", given, "--save_dir", str(out), "--model_path", str(prior)]
    assert image_sample.main([*argv, "--speed", "one-shot", "--quiet"]) == 0
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert made == [name.rpartition(".")[0] + ".png" for name in expected]
    argv = ["prepare", "--base_samples", given, "--save_dir", str(tmp_path / "tree"), "--quiet"]
    assert make_data.main([*argv, "--workers", "1"]) == 0
    made = {path.name for path in (tmp_path / "tree").rglob("*.*g")}
    assert made == {name.rpartition("/")[2] for name in expected}
