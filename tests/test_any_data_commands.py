"""The commands on one's own data in every form: what is made, predicted, judged and trained on."""

import csv
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from helpers import write_classifier
from PIL import Image

from DDA import sources
from DDA.image_adapt.prior_settings import PriorSettings
from DDA.image_adapt.prior_training import Images
from DDA.image_adapt.scripts import image_sample
from DDA.model_adapt import advise, predict

CLASSES = ("dark", "light")


@pytest.fixture
def classifier(tmp_path):
    return write_classifier(tmp_path / "c.pth", CLASSES)


def contents(count):
    """Return the bytes of image files, dark and light ones in turn."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        pixels = rng.integers(0, 60, (20, 24, 3)) + 150 * (i % 2)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "png")
        files.append(buffer.getvalue())
    return files


def in_zip(folder, images):
    path = folder / "my.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, data in enumerate(images):
            archive.writestr(f"{CLASSES[i % 2]}/{i}.png", data)
    return path


def in_shards(folder, images):
    (folder / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(folder / "shards" / f"{shard}.tar", "w") as archive:
            for i in range(shard, len(images), 2):
                for name, data in ((f"{i}.png", images[i]), (f"{i}.cls", str(i % 2).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    (folder / "shards" / "classes.txt").write_text("\n".join(CLASSES))
    return folder / "shards"


def in_list(folder, images):
    (folder / "flat").mkdir()
    for i, data in enumerate(images):
        (folder / "flat" / f"{i}.png").write_bytes(data)
    rows = (f"{i}.png,{CLASSES[i % 2]}\n" for i in range(len(images)))
    (folder / "flat" / "labels.csv").write_text("file_name,label\n" + "".join(rows))
    return folder / "flat"


def in_table(folder, images):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    labels = [CLASSES[i % 2] for i in range(len(images))]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "x.parquet")
    return folder / "x.parquet"


def in_pattern(folder, images):
    in_list(folder, images)
    (folder / "flat" / "labels.csv").unlink()
    return folder / "flat" / "*.png"


FORMS = (in_zip, in_shards, in_list, in_table, in_pattern)


@pytest.mark.parametrize("form", FORMS)
def test_images_of_every_form_are_adapted_and_predicted(tmp_path, prior, classifier, form):
    path = form(tmp_path, contents(4))
    names = sources.open_source(path).names
    argv = ["--base_samples", path, "--save_dir", tmp_path / "out", "--model_path", prior]
    argv = [*map(str, argv), "--speed", "one-shot", "--quiet"]
    assert image_sample.main(argv) == 0 and image_sample.main(argv) == 0
    made = sources.Folder(tmp_path / "out").names
    assert len(made) == 4 and made == names
    argv = [classifier, "--data_prefix1", path, "--out", tmp_path / "said.csv", "--quiet"]
    for way in (["--data_prefix2", tmp_path / "out"], ["--model_path", prior]):
        rest = [*way, "--cache", tmp_path / "cache"] if "--model_path" in way else way
        assert predict.main([*map(str, [*argv, *rest])]) == 0
        rows = list(csv.DictReader((tmp_path / "said.csv").open()))
        assert [row["key"] for row in rows] == [name.rpartition(".")[0] for name in names]
        assert {row["status"] for row in rows} == {"ok"}


@pytest.mark.parametrize("form", FORMS[:4])
def test_labelled_images_of_every_form_are_advised_on(tmp_path, prior, classifier, form, capsys):
    path = form(tmp_path, contents(24))
    argv = [classifier, "--model_path", prior, "--base_samples", path, "--speed", "one-shot"]
    argv += ["--cache", tmp_path / "cache", "--out", tmp_path / "out", "--json"]
    assert advise.main([*map(str, argv)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sum(facts["images"].values()) == 24


def test_a_prior_takes_the_images_of_a_zip_or_a_part_of_them(tmp_path):
    given = {"source": in_zip(tmp_path, contents(6)), "save_dir": tmp_path / "out"}
    given |= {"image_size": 16, "steps": 1}
    for cell, count in ((".", 6), ("dark", 3)):
        assert Images(PriorSettings(**given, cell=cell)).count == count
    with pytest.raises(ValueError, match="no images in `cell` grey; its images lie in dark"):
        Images(PriorSettings(**given, cell="grey"))
