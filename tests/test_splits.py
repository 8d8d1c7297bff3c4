"""One's own images: their splits, their classes, their mean and deviation."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from DDA import files, sources, tree
from DistilledClassifier import make_data, making, splits
from DistilledClassifier.data.measured import settled
from DistilledClassifier.experiments.config import load
from DistilledClassifier.experiments.run import train
from DistilledClassifier.making import Originals, Target


def write(root: Path, names, shape=(12, 10)) -> Path:
    """Write a small image under each name."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path)
    return root


def photos(root: Path, count: int = 30, classes=("cat", "dog")) -> Path:
    return write(root, [f"{name}/{i:02}.png" for name in classes for i in range(count)])


def prepared(source: Path, out: Path, classes="folders", **more) -> dict[str, set[str]]:
    """Return the keys of each split of the tree that is made."""
    originals = Originals(source, classes=classes)
    more = {"test_share": 0.2, **more}
    assert making.prepare(originals, Target(out, workers=1), quiet=True, **more).done
    keys = {}
    for split in ("train", "test"):
        listed = tree.list_images(out, f"clean/{split}")[0]
        keys[split] = {tree.key_of(name).removeprefix(f"clean/{split}/") for name in listed}
    return keys


def test_folders_of_classes_are_divided_by_key_and_tell_the_classes(tmp_path):
    keys = prepared(photos(tmp_path / "photos"), tmp_path / "out")
    assert tree.read_classes(tmp_path / "out") == ("cat", "dog")
    assert not keys["train"] & keys["test"] and len(keys["train"] | keys["test"]) == 60
    assert 4 <= len(keys["test"]) <= 24
    # another image leaves the others where they are
    write(tmp_path / "photos", ["cat/new.png"])
    again = prepared(tmp_path / "photos", tmp_path / "again")
    assert keys["test"] <= again["test"] and keys["train"] <= again["train"]


def test_validation_images_are_drawn_anew_among_the_training_images(tmp_path):
    keys = prepared(photos(tmp_path / "photos", 60), tmp_path / "out")
    held_out = [key for key in keys["train"] if tree.is_held_out(key, 0.2)]
    assert len(held_out) > 5


def test_each_class_gets_a_training_and_a_test_image_and_one_that_cannot_is_named(tmp_path, capsys):
    few = photos(tmp_path / "few", 2, classes=[f"c{i}" for i in range(8)])
    words = ["--base_samples", few, "--classes", "folders", "--test_share", "0.1", "--workers", "1"]
    words = [*map(str, words), "--save_dir", str(tmp_path / "out")]
    assert make_data.main(["prepare", *words]) == 0
    assert "one image was moved, so that each has both kinds" in capsys.readouterr().out
    for split in ("train", "test"):
        assert len(list((tmp_path / "out/clean" / split).glob("*/*"))) == 8
    write(few, ["single/1.png"])
    with pytest.raises(ValueError, match="the class single has one image, .*it needs two"):
        prepared(few, tmp_path / "other")


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_splits_that_are_there_are_taken(tmp_path, test):
    keys = ["a/1", "a/2", "b/1", "b/2"]
    names = [f"{split}/{key}.png" for split in ("train", test) for key in keys]
    found = prepared(write(tmp_path / "photos", names), tmp_path / "out")
    assert found == {"train": set(keys), "test": set(keys)}
    assert tree.read_classes(tmp_path / "out") == ("a", "b")


def test_a_class_may_be_called_like_a_split(tmp_path):
    keys = prepared(photos(tmp_path / "photos", 4, ("car", "train")), tmp_path / "out")
    assert tree.read_classes(tmp_path / "out") == ("car", "train")
    assert {key.split("/")[0] for key in keys["test"]} == {"car", "train"}


def test_a_class_may_be_called_clean(tmp_path):
    keys = prepared(photos(tmp_path / "photos", 4, ("clean", "dirty")), tmp_path / "out")
    assert tree.read_classes(tmp_path / "out") == ("clean", "dirty")
    assert len(keys["train"] | keys["test"]) == 8
    # a tree of ours, with copies beside the clean images
    making.degrade(tmp_path / "out", Target(tmp_path / "out", workers=1), type="jpeg", quiet=True)
    again = prepared(tmp_path / "out", tmp_path / "again")
    assert again == keys


def test_other_splits_are_named_and_other_folders_are_told(tmp_path, capsys):
    names = [f"{split}/{name}/1.png" for split in ("fit", "judge", "rest") for name in "ab"]
    source = write(tmp_path / "photos", names)
    keys = prepared(source, tmp_path / "out", train="fit", test="judge")
    assert keys == {"train": {"a/1", "b/1"}, "test": {"a/1", "b/1"}}
    opened = sources.open_source(source, ["a", "b"])
    division = splits.divide(opened, opened.names, 0.1, train="fit", test="judge")
    assert division.note == "2 images in other folders than the splits are left out"
    with pytest.raises(ValueError, match="`train` fits is no folder of .*; there are fit, judge"):
        prepared(source, tmp_path / "none", train="fits", test="judge")


def test_a_list_names_classes_that_file_names_begin_with(tmp_path):
    write(tmp_path / "photos", [f"{name}_{i}.png" for name in ("ox", "cow") for i in range(5)])
    (tmp_path / "names.txt").write_text("ox\ncow\n")
    keys = prepared(tmp_path / "photos", tmp_path / "out", str(tmp_path / "names.txt"))
    assert tree.read_classes(tmp_path / "out") == ("ox", "cow")
    assert len(keys["train"] | keys["test"]) == 10


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat/1.png", "2.png"], "2.png lies in no folder; images lie in <class>/ or"),
        (["cat/a/1.png", "cat/2.png"], "a/1.png lies deeper than in the folder of its class"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png"], "has no test image of the class b"),
        (["test/a/1.png", "test/b/1.png"], "has test images in test; `train` names the others"),
    ],
)
def test_images_that_cannot_be_divided_are_named(tmp_path, names, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        prepared(write(tmp_path / "photos", names), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_changes_its_split_is_not_in_both(tmp_path):
    names = [f"{split}/{name}/1.png" for split in ("train", "test") for name in "ab"]
    source = write(tmp_path / "photos", [*names, "train/a/2.png"])
    prepared(source, tmp_path / "out")
    prepared(source, tmp_path / "out")  # images of the same name in both splits are two images
    (source / "train/a/2.png").rename(source / "test/a/2.png")
    with pytest.raises(ValueError, match="clean/train/a/2.png is one of the test images now"):
        prepared(source, tmp_path / "out")


def test_some_classes_of_imagenet_are_a_data_set_of_their_own(tmp_path):
    wnids = sorted(tree.class_list("imagenet")[5:8])
    keys = [f"{wnid}/{i}.png" for wnid in wnids for i in "12"]
    names = [f"{split}/{key}" for split in ("train", "val") for key in keys]
    source = write(tmp_path / "photos", names)
    keys = prepared(source, tmp_path / "out")
    assert list(tree.read_classes(tmp_path / "out")) == wnids and len(keys["test"]) == 6


def test_a_data_set_that_tells_its_classes_keeps_their_order():
    source = sources.open_source("digits")
    assert splits.class_names(source) == tree.class_list("digits")
    division = splits.divide(source, source.names, 0.1)
    assert (division.count("train"), division.count("test")) == (1437, 360)


OWN = "configs/ind/own/ResNet20/clean.yaml"


def test_classes_and_size_are_entries_of_any_experiment(tmp_path):
    prepared(photos(tmp_path / "photos", classes="abc"), tmp_path / "out")
    changes = {"data.root": str(tmp_path / "out"), "preprocess.size": 12}
    config = load(Path(OWN), changes)
    assert config.data.class_names == ("a", "b", "c")
    assert config.classifier["num_classes"] == 3 and config.preprocess.size == 12
    plain = load(Path(OWN), {**changes, "data.root": str(tmp_path / "photos")})
    assert plain.data.class_names == ("a", "b", "c")
    named = load(Path(OWN), {**changes, "data.classes": ["x", "y"]})
    assert named.classifier["num_classes"] == 2
    large = load(Path(OWN.replace("ResNet20", "ResNet50")), {**changes, "preprocess.size": 128})
    assert large.classifier["backbone"]["type"] == "ResNet"
    assert large.classifier["head"]["num_classes"] == 3
    with pytest.raises(ValueError, match="`data.root` must be given"):
        load(Path(OWN))


def test_mean_and_deviation_are_those_of_the_training_images(tmp_path):
    keys = prepared(photos(tmp_path / "photos", 12), tmp_path / "out")
    changes = {"data.root": str(tmp_path / "out"), "preprocess.size": 10, "data.held_out": 0.3}
    config = load(Path(OWN), changes)
    seen = settled(config, tmp_path / "saved").preprocess
    trained = [key for key in keys["train"] if not tree.is_held_out(key, 0.3)]
    paths = [tmp_path / "out/clean/train" / f"{key}.png" for key in trained]
    pixels = np.stack([config.preprocess.fit(np.asarray(Image.open(path))) for path in paths]) / 255
    assert seen.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-4)
    assert seen.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-4)
    # the file is taken while the images are the same ones
    path = tmp_path / "saved/measured.json"
    kept = json.loads(path.read_text())
    files.write_json(path, {**kept, "mean": [0.1, 0.2, 0.3]})
    assert settled(config, tmp_path / "saved").preprocess.mean == (0.1, 0.2, 0.3)
    other = load(Path(OWN), {**changes, "preprocess.size": 8})
    assert settled(other, tmp_path / "saved").preprocess.mean != (0.1, 0.2, 0.3)
    given = load(Path(OWN), {**changes, "preprocess.mean": [0.5, 0.5, 0.5]})
    assert settled(given, tmp_path / "saved").preprocess.mean == (0.5, 0.5, 0.5)


def test_a_training_of_ones_own_images_stores_what_was_measured(tmp_path):
    prepared(photos(tmp_path / "photos", 8), tmp_path / "out")
    changes = {"data.root": str(tmp_path / "out"), "preprocess.size": 8, "train.batch_size": 4}
    changes |= {"classifier": {"type": "CifarResNet", "depth": 8, "num_classes": 2}}
    options = {"changes": changes, "save_dir": tmp_path / "saved", "quiet": True, "workers": 0}
    run = train(OWN, epochs=1, **options)
    raw = files.read_yaml(run.folder / "config.yaml")
    assert raw["data"]["classes"] == ["cat", "dog"] and 0 < raw["preprocess"]["mean"][0] < 1
    assert train(OWN, epochs=1, **options).folder == run.folder  # the same run


def test_a_dry_run_of_a_training_measures_its_images_and_keeps_nothing(tmp_path):
    prepared(photos(tmp_path / "photos", 12), tmp_path / "out")
    changes = {"data.root": str(tmp_path / "out"), "preprocess.size": 10, "data.held_out": 0.3}
    settings = {"save_dir": tmp_path / "saved", "batch_size": 4, "workers": 0, "quiet": True}
    planned = train(OWN, changes=changes, dry_run=True, **settings)
    assert planned.estimate.seconds > 0 and not (tmp_path / "saved").exists()
