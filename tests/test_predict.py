"""Images without labels, adapted on the way: one command from photographs to their classes."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from DDA import Adapter, Ensemble, files, images, tree
from DDA.image_adapt.cache import CachedAdapter
from DDA.model_adapt import predict
from DistilledClassifier import classifiers

CLASSES = ("cat", "dog", "ship")
GATE = {"weight": 0.5, "temperatures": [1.0, 1.0]}


@pytest.fixture
def photos(tmp_path):
    """Five photographs of several sizes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, shape in enumerate([(16, 16), (20, 30), (40, 18), (16, 17), (33, 33)]):
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo {i}.png")
    return folder


@pytest.fixture
def pair(tmp_path):
    """Two classifiers with other weights."""
    paths = []
    for i in range(2):
        torch.manual_seed(i)
        config = {"type": "CifarResNet", "depth": 8, "num_classes": 3}
        paths.append(tmp_path / f"{i}.pth")
        entries = {"classifier": config, "preprocess": {"size": 16}}
        classifiers.save(paths[i], classifiers.build(config), entries, CLASSES)
    return paths


@pytest.fixture
def command(pair, photos, prior, tmp_path):
    first, second = pair
    flags = [first, "--second_model_prefix", second, "--data_prefix1", photos]
    flags += ["--model_path", prior, "--cache", tmp_path / "cache", "--out", tmp_path / "said.csv"]
    return [*map(str, flags)]


def read(tmp_path):
    return {row["key"]: row for row in csv.DictReader((tmp_path / "said.csv").open())}


def copies_of(tmp_path):
    return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.png")}


def test_photographs_are_adapted_and_classified_by_one_command(
    command, pair, photos, prior, tmp_path
):
    assert predict.main(command) == 0
    rows = read(tmp_path)
    both = Ensemble(*pair, adapter=Adapter(prior, speed="one-shot", fit="whole"))
    scores = both.scores([images.read_rgb(path) for path in sorted(photos.iterdir())])
    chances = scores.softmax(1)
    assert [row["class"] for row in rows.values()] == [CLASSES[i] for i in scores.argmax(1)]
    assert [float(row["probability"]) for row in rows.values()] == pytest.approx(
        chances.amax(1).tolist(), abs=2e-3
    )
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_a_second_run_makes_no_copy_even_of_renamed_images(command, photos, tmp_path, monkeypatch):
    assert predict.main(command) == 0
    first, copies = read(tmp_path), copies_of(tmp_path)
    assert len(copies) == 5
    for path in photos.iterdir():
        path.rename(path.with_name(f"my {path.name}"))
    monkeypatch.setattr(Adapter, "pixels", None)
    assert predict.main(command) == 0
    assert copies_of(tmp_path) == copies
    renamed = {key.removeprefix("my "): row["class"] for key, row in read(tmp_path).items()}
    assert renamed == {key: row["class"] for key, row in first.items()}


def test_other_settings_have_copies_of_their_own(command, photos, tmp_path):
    assert predict.main(command) == 0
    assert predict.main([*command, "--seed", "1"]) == 0
    folders = {path.parents[1] for path in copies_of(tmp_path)}
    assert len(folders) == 2 and len(copies_of(tmp_path)) == 10
    settings = [files.read_json(folder / "settings.json") for folder in sorted(folders)]
    assert {entry["seed"] for entry in settings} == {0, 1}


def test_a_changed_image_and_a_damaged_copy_are_adapted_anew(command, photos, tmp_path):
    assert predict.main(command) == 0
    copies = sorted(copies_of(tmp_path))
    whole = copies[0].read_bytes()
    copies[0].write_bytes(whole[:20])
    Image.new("RGB", (20, 20), "red").save(photos / "photo 1.png")
    assert predict.main(command) == 0
    assert copies[0].read_bytes() == whole
    assert len(copies_of(tmp_path)) == 6


def test_a_broken_image_is_a_row_with_its_reason(command, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"no image")
    assert predict.main([*command, "--json"]) == 1
    rows = read(tmp_path)
    assert len(rows) == 6 and rows["broken"]["class"] == ""
    assert "broken.png cannot be read" in rows["broken"]["status"]
    assert all(row["class"] for key, row in rows.items() if key != "broken")
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["images"] == 6 and list(result["failed"]) == ["broken"]
    assert "1 of 6 images have no class; see --out" in printed.err


def test_an_image_whose_copy_fails_does_not_take_its_batch_along(pair, photos, prior, tmp_path):
    from DDA.model_adapt.unlabelled import predict as classes_of
    from DDA.progress import Show
    from DDA.sources import open_source

    class Failing:
        def pixels(self, pixels, keys):
            if any(image.shape == (20, 30, 3) for image in pixels):
                raise ValueError("the adapted copy has values that are not finite")
            return np.stack([np.zeros((16, 16, 3), np.uint8) for _ in pixels])

    both = Ensemble(*pair, adapter=Failing())
    rows = classes_of(both, [open_source(photos, CLASSES)], Show(quiet=True))
    failed = {row["key"]: row["status"] for row in rows if row["status"] != "ok"}
    assert failed == {"photo 1": "the adapted copy has values that are not finite"}


def test_the_gate_is_used_where_one_is_fitted(command, pair, photos, tmp_path, capsys):
    digests = {
        "first_sha256": files.sha256(pair[0]),
        "second_sha256": files.sha256(pair[1]),
    }
    scores = classifiers.load(pair[0]).scores([*map(images.read_rgb, sorted(photos.iterdir()))])
    threshold = float(scores.softmax(1).amax(1).sort().values[2])
    gate = {"gate": {**GATE, "threshold": threshold}}
    files.write_json(pair[1].with_suffix(".fitted.json"), {**gate, **digests})
    assert predict.main(command) == 0
    assert "gate of 0 and 1" in capsys.readouterr().out
    assert sum(row["adapted"] != "" for row in read(tmp_path).values()) == 2
    assert len(copies_of(tmp_path)) == 2
    files.write_json(pair[1].with_suffix(".fitted.json"), {**gate, **digests, "first_sha256": ""})
    assert predict.main(command) == 0
    printed = capsys.readouterr()
    assert "no gate is used" in printed.err and "sum of 0 and 1" in printed.out


def test_what_does_not_go_together_is_named(command, pair, photos, tmp_path, capsys):
    assert predict.main([*command, "--data_prefix2", str(photos)]) == 2
    assert "give one of --data_prefix2" in capsys.readouterr().err
    flags = [str(pair[0]), "--data_prefix1", str(photos), "--out", str(tmp_path / "x.csv")]
    assert predict.main(flags) == 2
    assert predict.main([*flags, "--data_prefix2", str(photos), "--speed", "fast"]) == 2
    assert "--speed is of copies that a --model_path makes" in capsys.readouterr().err
    assert predict.main([*flags, "--ensemble", "first"]) == 0


def test_missing_copies_that_the_gate_asks_for_are_rows_with_their_reason(pair, photos, tmp_path):
    copies = tmp_path / "copies"
    shutil.copytree(photos, copies)
    (copies / "photo 2.png").unlink()
    gate = {"gate": {**GATE, "threshold": 1.01}}
    digests = {f"{name}_sha256": files.sha256(pair[0]) for name in ("first", "second")}
    files.write_json(pair[0].with_suffix(".fitted.json"), {**gate, **digests})
    flags = [pair[0], "--data_prefix1", photos, "--data_prefix2", copies, "--ensemble", "gate"]
    assert predict.main([*map(str, [*flags, "--out", tmp_path / "said.csv"])]) == 1
    rows = read(tmp_path)
    status = "photo 2 has no adapted copy, but the rule gate asks for one"
    assert rows["photo 2"]["status"] == status
    assert sum(row["status"] == "ok" for row in rows.values()) == 4


def test_photographs_are_adapted_whole_unless_squares_are_asked_for(command, tmp_path):
    assert predict.main(command) == 0
    shapes = {images.read_rgb(path).size for path in copies_of(tmp_path)}
    assert shapes == {(16, 16), (24, 16), (16, 36), (17, 16)}
    before = copies_of(tmp_path)
    assert predict.main([*command, "--fit", "square"]) == 0
    squares = copies_of(tmp_path).keys() - before.keys()
    assert {images.read_rgb(path).size for path in squares} == {(16, 16)} and len(squares) == 5


def test_copies_that_depend_on_their_neighbours_are_not_kept(prior, tmp_path):
    with pytest.raises(ValueError, match="`behavior` published .* cannot be kept one by one"):
        CachedAdapter(Adapter(prior, behavior="published"), tmp_path)


def test_kept_copies_equal_those_of_the_adapter(prior, tmp_path):
    adapter = Adapter(prior, speed="one-shot")
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))
    cached = CachedAdapter(adapter, tmp_path)
    made = cached.pixels(pixels, ["a", "b", "c"])
    assert np.array_equal(made, adapter.pixels(pixels, ["a", "b", "c"]))
    assert np.array_equal(cached.pixels(pixels[::-1], ["c", "b", "a"]), made[::-1])
    assert cached.pixels([]).shape == (0, 16, 16, 3)
    assert not tree.list_images(cached.folder)[1]
