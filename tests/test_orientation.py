"""Photographs that EXIF data put upright: every reader of both views turns them alike."""

import contextlib
import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from DDA import Adapter, Ensemble, images
from DDA.image_adapt.prior_settings import PriorSettings
from DDA.image_adapt.prior_training import Images
from DDA.image_adapt.scripts import image_sample
from DDA.model_adapt import gallery, gate, predict, results, test_ensemble
from DDA.model_adapt.settings import Facts, Gate
from DDA.studies import ladder
from DistilledClassifier import classifiers, make_data
from DistilledClassifier.data.views import views
from DistilledClassifier.experiments import config

CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same photographs: turned by EXIF data, without these, and with upright pixels.

    The last one of each folder has nothing to be turned.
    """
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(4):
        image = Image.fromarray(rng.integers(0, 256, (20, 34, 3), dtype=np.uint8))
        kinds = {"exif": (image, exif), "sideways": (image, None)}
        kinds["upright"] = (image.transpose(Image.Transpose.ROTATE_270), None)
        for kind, (pixels, data) in kinds.items():
            path = root / kind / "fog" / "5" / CLASSES[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if i == 3:
                image.save(path)
            else:
                pixels.save(path, **({} if data is None else {"exif": data}))
    return root


@pytest.fixture(scope="module")
def adapter(prior):
    return Adapter(prior, speed="one-shot")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The files of two classifiers with other weights."""
    paths = []
    for i in range(2):
        torch.manual_seed(i)
        config = {"type": "CifarResNet", "depth": 8, "num_classes": 2}
        paths.append(tmp_path_factory.mktemp("pair") / f"{i}.pth")
        entries = {"classifier": config, "preprocess": {"size": 16}}
        classifiers.save(paths[i], classifiers.build(config), entries, CLASSES)
    return paths


@pytest.fixture(scope="module")
def copies(folders, adapter):
    """Adapted copies of the photographs, by how they were turned."""
    for orientation in ("apply", "ignore"):
        out = folders / f"copies_{orientation}"
        adapter.folder(folders / "exif", out, orientation=orientation, quiet=True)
    return folders


def pixels_of(folder):
    return {
        path.relative_to(folder).as_posix(): np.asarray(images.read_rgb(path))
        for path in sorted(folder.rglob("*.png"))
    }


def equal(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )


def settings_of(folder):
    return json.loads((folder / "settings.json").read_text())


@pytest.mark.parametrize(
    ("layout", "behavior", "orientation"),
    [
        ("folder", "corrected", "apply"),
        ("imagenetc", "corrected", "ignore"),
        ("folder", "published", "ignore"),
    ],
)
def test_a_folder_is_read_upright_and_what_is_published_is_not(
    folders, prior, tmp_path, layout, behavior, orientation
):
    method = {"N": 2} if behavior == "published" else {"speed": "one-shot"}
    adapter = Adapter(prior, behavior=behavior, **method)
    where = {"layout": layout, "quiet": True}
    where |= {"corruption": "all", "severity": 5} if layout != "folder" else {}
    for kind in ("exif", "upright", "sideways"):
        adapter.folder(folders / kind, tmp_path / kind, **where)
    assert settings_of(tmp_path / "exif")["orientation"] == orientation
    expected = {"apply": "upright", "ignore": "sideways"}[orientation]
    assert equal(pixels_of(tmp_path / "exif"), pixels_of(tmp_path / expected))
    assert not equal(pixels_of(tmp_path / "upright"), pixels_of(tmp_path / "sideways"))


def test_a_save_folder_keeps_to_its_orientation_and_an_old_one_ignored_it(
    folders, adapter, tmp_path
):
    out = tmp_path / "out"
    adapter.folder(folders / "exif", out, orientation="ignore", num_samples=2, quiet=True)
    settings = settings_of(out)
    assert settings.pop("orientation") == "ignore"
    (out / "settings.json").write_text(json.dumps(settings))  # as older versions wrote it
    with pytest.raises(ValueError, match="orientation ignore there, apply here"):
        adapter.folder(folders / "exif", out, orientation="apply", quiet=True)
    adapter.folder(folders / "exif", out, quiet=True)
    adapter.folder(folders / "sideways", tmp_path / "sideways", quiet=True)
    assert equal(pixels_of(out), pixels_of(tmp_path / "sideways"))
    (out / "settings.json").write_text(json.dumps({**settings, "orientation": 5}))
    with pytest.raises(ValueError, match=r"settings.json has the orientation 5, which is neither"):
        adapter.folder(folders / "exif", out, quiet=True)


def test_both_views_of_an_evaluation_agree(copies, pair, tmp_path):
    both = Ensemble(*pair)

    def scores(kind, made, **more):
        out = tmp_path / f"{kind}_{made}"
        both.evaluate(copies / kind, copies / f"copies_{made}", out=out, quiet=True, **more)
        return results.read(out, ".")["first"]

    for orientation, kind in (("apply", "upright"), ("ignore", "sideways")):
        np.testing.assert_array_equal(scores("exif", orientation), scores(kind, orientation))
        out = tmp_path / f"exif_{orientation}"
        facts = Facts.read(json.loads((out / "summary.json").read_text())["facts"])
        assert facts.orientation == orientation
        shown = gallery.Gallery(facts, [], None)
        side = shown.read("degraded", "fog/5/cat/0").shape[0]
        assert side == {"apply": 34, "ignore": 20}[orientation]
    assert (scores("exif", "apply") != scores("sideways", "ignore")).any()
    with pytest.raises(ValueError, match="`orientation` apply, but the copies .* with ignore"):
        scores("exif", "ignore", orientation="apply")


def test_copies_that_do_not_tell_are_of_images_whose_exif_data_were_ignored(copies, pair, tmp_path):
    foreign = tmp_path / "foreign"
    shutil.copytree(copies / "copies_apply/fog", foreign / "fog")
    both, out = Ensemble(*pair), tmp_path / "out"
    scores = {}
    for orientation in (None, "apply", "ignore"):  # the scores of one are not those of another
        both.evaluate(copies / "exif", foreign, orientation=orientation, out=out, quiet=True)
        scores[orientation] = results.read(out, ".")["first"]
    np.testing.assert_array_equal(scores[None], scores["ignore"])
    assert (scores["apply"] != scores["ignore"]).any()


def test_copies_that_an_evaluation_makes_are_of_the_images_that_it_reads(
    folders, pair, adapter, tmp_path
):
    both, views = Ensemble(*pair, adapter=adapter), {}
    for kind in ("exif", "upright"):
        both.evaluate(folders / kind, out=tmp_path / kind, quiet=True)
        views[kind] = results.read(tmp_path / kind, ".")
    for column in ("first", "second"):
        np.testing.assert_array_equal(views["exif"][column], views["upright"][column])


def test_how_photographs_are_turned_is_no_part_of_a_classifier(copies, pair):
    classifier = classifiers.load(pair[0])
    adapted = json.loads((copies / "copies_apply/settings.json").read_text())
    dataclasses.replace(classifier, adapted=adapted).check_adapted(copies / "copies_ignore")
    with pytest.raises(ValueError, match="seed 0 there, 7 in training"):
        wrong = dataclasses.replace(classifier, adapted={**adapted, "seed": 7})
        wrong.check_adapted(copies / "copies_ignore")


def said(pair, tmp_path, degraded, *flags):
    words = [pair[0], "--second_model_prefix", pair[1], "--data_prefix1", degraded]
    words += ["--out", tmp_path / "said.csv", *flags]
    assert predict.main([*map(str, words)]) == 0
    return list(csv.DictReader((tmp_path / "said.csv").open()))


def test_prediction_reads_photographs_upright_and_as_their_copies_were_made(
    copies, pair, prior, tmp_path
):
    makes = ["--model_path", prior, "--cache", tmp_path / "cache"]
    rows = {kind: said(pair, tmp_path, copies / kind, *makes) for kind in ("upright", "sideways")}
    assert rows["upright"] != rows["sideways"]
    assert said(pair, tmp_path, copies / "exif", *makes) == rows["upright"]
    ignored = said(pair, tmp_path, copies / "exif", *makes, "--orientation", "ignore")
    assert ignored == rows["sideways"]
    for orientation, kind in (("apply", "upright"), ("ignore", "sideways")):
        given = ["--data_prefix2", copies / f"copies_{orientation}"]
        expected = said(pair, tmp_path, copies / kind, *given)
        assert said(pair, tmp_path, copies / "exif", *given) == expected


def test_the_gate_reads_what_is_adapted_later(folders, pair, tmp_path):
    chances = {}
    for kind in ("upright", "sideways"):
        scores = classifiers.load(pair[0]).scores([*pixels_of(folders / kind).values()])
        chances[kind] = scores.softmax(1).amax(1).tolist()
    i = int(np.argmax(np.abs(np.subtract(*chances.values()))))
    threshold = (chances["upright"][i] + chances["sideways"][i]) / 2  # one is above, one below
    keys = {}
    for kind, orientation in (
        *(("exif", way) for way in (None, "apply", "ignore")),
        *((kind, None) for kind in chances),
    ):
        words = [pair[0], "--base_samples", folders / kind, "--threshold", threshold]
        words += ["--out", tmp_path / "keys.txt"]
        words += [] if orientation is None else ["--orientation", orientation]
        assert gate.main([*map(str, words)]) == 0
        keys[kind, orientation] = (tmp_path / "keys.txt").read_text()
    assert keys["exif", None] == keys["exif", "apply"] == keys["upright", None]
    assert keys["exif", "ignore"] == keys["sideways", None] != keys["upright", None]


def test_data_are_made_of_upright_photographs(folders, tmp_path):
    def make(kind, out, *flags, command="degrade"):
        words = [command, "--base_samples", folders / kind, "--save_dir", tmp_path / out]
        words += ["--workers", "1", *flags]
        assert make_data.main([*map(str, words)]) == 0
        return pixels_of(tmp_path / out)

    kinds = ["--type", "blur"]
    assert equal(make("exif", "a", *kinds), make("upright", "b", *kinds))
    ignored = make("exif", "c", *kinds, "--orientation", "ignore")
    assert equal(ignored, make("sideways", "d", *kinds))
    assert json.loads((tmp_path / "a/made.blur.json").read_text())["settings"]["orientation"]
    assert equal(make("exif", "e", command="prepare"), make("upright", "f", command="prepare"))
    files = {kind: sorted((folders / kind).rglob("*.png")) for kind in ("exif", "upright")}
    prepared = sorted((tmp_path / "e").rglob("*.png"))
    assert prepared[3].read_bytes() == files["exif"][3].read_bytes()  # nothing to turn


def test_a_copy_of_a_turned_jpeg_is_nearly_the_photograph(tmp_path):
    exif, rng = Image.Exif(), np.random.default_rng(0)
    exif[0x0112] = 6
    image = Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8))
    image = image.resize((48, 32), Image.Resampling.BICUBIC)
    for tree, classes in (("mine", False), ("ours", True)):
        (tmp_path / tree).mkdir()
        image.save(tmp_path / tree / "cat_0.jpg", exif=exif, quality=90)
        if classes:
            (tmp_path / tree / "classes.txt").write_text("cat\n")
        words = ["prepare", "--base_samples", tmp_path / tree, "--workers", "1"]
        assert make_data.main([*map(str, words), "--save_dir", str(tmp_path / f"{tree}_out")]) == 0
    (mine,) = (tmp_path / "mine_out").rglob("*.jpg")
    upright = np.asarray(images.read_rgb(tmp_path / "mine/cat_0.jpg", upright=True)).astype(int)
    assert not images.is_turned(mine)
    assert abs(np.asarray(images.read_rgb(mine)) - upright).mean() < 3
    (ours,) = (tmp_path / "ours_out").rglob("*.jpg")  # a tree of ours is read as it is
    assert ours.read_bytes() == (tmp_path / "ours/cat_0.jpg").read_bytes()


def test_training_reads_photographs_upright(folders, tmp_path):
    of_priors, of_classifiers = {}, {}
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for kind in ("exif", "upright", "sideways"):
        settings = PriorSettings(source=folders / kind, save_dir=tmp_path, image_size=16, steps=1)
        of_priors[kind] = Images(settings)._pixels
        data = {"root": str(folders / kind / "fog"), "train": "5", "val": "5"}
        entries = {"name": "x", "dataset": "x", "backbone": "x", "kind": "ind", "stage": "clean"}
        entries |= {"data": data | {"classes": str(tmp_path / "classes.txt")}}
        entries |= {"classifier": {"type": "CifarResNet", "depth": 8, "num_classes": 2}}
        entries |= {"preprocess": {"size": 8}, "view": "clean", "loss": {"cross_entropy": 1}}
        entries |= {
            "train": {"epochs": 1},
            "made": "fly",
            "optimizer": {"type": "AdamW", "lr": 0.1},
        }
        entries |= {"schedule": {"type": "cosine"}}
        (tmp_path / "x.json").write_text(json.dumps(entries))
        (view,) = views(config.load(tmp_path / "x.json"), "val")
        of_classifiers[kind] = view.examples.read(0)
    for seen in (of_priors, of_classifiers):
        np.testing.assert_array_equal(seen["exif"], seen["upright"])
        assert not np.array_equal(seen["exif"], seen["sideways"])


def test_a_study_adapts_the_images_that_it_scores(tmp_path, pair):
    paths = {"model_path": tmp_path, "classifier": pair[0], "source": tmp_path, "out": tmp_path}
    for layout, orientation in (("folder", "apply"), ("cifar10c", "ignore")):
        flags = ladder.Study(**paths, layout=layout).adapt_flags(tmp_path, "a", [])
        assert flags[flags.index("--orientation") + 1] == orientation
    with pytest.raises(ValueError, match="--orientation=ignore is not for some settings"):
        ladder.check_flags("`flags`", ["--orientation=ignore"])


def test_every_command_knows_two_orientations(capsys):
    for program in (image_sample, test_ensemble, predict, gate):
        with contextlib.suppress(SystemExit):
            program.main(["--orientation", "sideways"])
        assert "--orientation: invalid choice: 'sideways'" in capsys.readouterr().err
    known = {"orientation": "up", "classifier": "x", "source": "x", "out": "x", "threshold": 0.5}
    with pytest.raises(ValueError, match="`orientation`: 'up' is unknown"):
        Gate(**known)
