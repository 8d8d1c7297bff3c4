"""Sources in tables: parquet, and the folders of Hugging Face's datasets."""

import io
import json
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from DDA import files, sources, tree
from DDA.sources import tables
from DistilledClassifier import make_data

NAMES = ["cat", "dog", "ox"]
RNG = np.random.default_rng(0)


def encoded(kind="png"):
    """Return the bytes of a small image of noise."""
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def features(names=NAMES, image="image", label="label"):
    return {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}


def table(contents, labels=None, *, image="image", label="label", described=None):
    """Return a table as datasets makes it. described: what it says of its columns."""
    pa = pytest.importorskip("pyarrow")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": None} for data in contents]
    columns = {image: pa.array(rows, kind)}
    if labels is not None:
        columns[label] = pa.array(labels)
    info = {"huggingface": json.dumps({"info": {"features": described}})}
    return pa.table(columns).replace_schema_metadata(None if described is None else info)


def written(path, value, rows=2):
    """Write a table as parquet or arrow, whichever the suffix names."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(value, path, row_group_size=rows)
        return path
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, value.schema) as writer:
        writer.write_table(value, max_chunksize=rows)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_table_has_its_images_and_classes(tmp_path, suffix):
    contents = [encoded() for _ in range(5)]
    value = table(contents, [0, 1, 1, 0, 2], described=features())
    source = sources.open_source(written(tmp_path / f"x{suffix}", value))
    rows = {"cat": (0, 3), "dog": (1, 2), "ox": (4,)}
    expected = [f"{name}/{row:05}.png" for name, places in rows.items() for row in places]
    assert source.names == expected and source.classes == tuple(NAMES)
    for name in source.names:
        row = int(name[-9:-4])
        assert source.encoded(name) == contents[row]
        image = Image.open(io.BytesIO(contents[row]))
        np.testing.assert_array_equal(source.pixels(name), np.asarray(image))
    received = pickle.loads(pickle.dumps(source))
    assert received.digest(expected[0]) == source.digest(expected[0])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_splits_are_folders_and_their_rows_are_counted_over_their_files(tmp_path, suffix):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        value = table([encoded("jpeg")] * 2, [0, 1], described=features())
        written(tmp_path / "set" / "data" / f"{name}{suffix}", value)
    source = sources.open_source(tmp_path / "set")
    train = ["train/cat/00000.jpg", "train/cat/00002.jpg"]
    train += ["train/dog/00001.jpg", "train/dog/00003.jpg"]
    assert source.names == ["test/cat/00000.jpg", "test/dog/00001.jpg", *train]
    assert sources.splits_of(source.names) == {"train": ["train"], "test": ["test"]}
    only = sources.open_source(tmp_path / "set" / "data" / f"train-*{suffix}")
    assert only.names == train and len(only.files) == 2


def test_a_folder_that_datasets_saved_is_prepared(tmp_path):
    saved = tmp_path / "saved"
    for split in ("train", "validation"):
        value = table([encoded("jpeg"), encoded()], [2, 0])
        written(saved / split / "data-00000-of-00001.arrow", value)
        written(saved / split / "cache-1234.arrow", value)
        info = {"features": features()}
        (saved / split / "dataset_info.json").write_text(json.dumps(info))
        (saved / split / "state.json").write_text("{}")
    (saved / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    out = tmp_path / "out"
    argv = ["prepare", "--base_samples", str(saved), "--save_dir", str(out), "--quiet"]
    assert make_data.main([*argv, "--workers", "1"]) == 0
    names = [
        f"clean/{split}/{end}" for split in ("train", "validation") for end in ("cat/1", "ox/0")
    ]
    made = sources.Folder(out).names
    assert made == [f"{name[:-1]}0000{name[-1]}.jpg" for name in names]
    assert tree.read_classes(out) == tuple(NAMES)


def test_other_columns_are_found_by_their_kinds(tmp_path):
    pa = pytest.importorskip("pyarrow")
    value = table(
        [encoded()], [1], image="img", label="fine", described=features(NAMES, "img", "fine")
    )
    assert sources.open_source(written(tmp_path / "a.parquet", value)).names == ["dog/00000.png"]
    plain = pa.table({"id": [7], "jpg": [encoded("jpeg")], "target": ["ant"]})
    source = sources.open_source(written(tmp_path / "b.parquet", plain))
    assert source.names == ["ant/00000.jpg"] and source.classes == ("ant",)


def test_numbers_without_names_take_the_given_classes(tmp_path):
    path = written(tmp_path / "a.parquet", table([encoded()] * 2, [0, 1]))
    with pytest.raises(ValueError, match="numbers as labels, and nothing tells the class names"):
        sources.open_source(path)
    assert sources.open_source(path, ["x", "y"]).names == ["x/00000.png", "y/00001.png"]
    with pytest.raises(files.BadFile, match="has the label 1, but there are 1 classes"):
        sources.open_source(path, ["x"])


def test_class_names_that_are_numbers_are_not_taken_for_labels(tmp_path):
    value = table([encoded()] * 2, [0, 1], described=features(["1", "0"]))
    path = written(tmp_path / "a.parquet", value)
    assert sources.open_source(path).names == ["0/00001.png", "1/00000.png"]


def test_class_names_that_cannot_be_folders_give_way_to_given_ones(tmp_path):
    path = written(
        tmp_path / "a.parquet", table([encoded()], [1], described=features(["a/b", "c"]))
    )
    with pytest.raises(files.BadFile, match="cannot be the name of a folder; give `classes`, 2"):
        sources.open_source(path)
    assert sources.open_source(path, ["ab", "c"]).names == ["c/00000.png"]


def test_rows_without_a_label_are_left_out_and_told(tmp_path):
    value = table([encoded()] * 3, [0, -1, None], described=features())
    source = sources.open_source(written(tmp_path / "a.parquet", value))
    assert source.names == ["cat/00000.png"]
    assert source.left_out.startswith("2 images without a label in")
    bare = table([encoded()] * 2, [-1, -1], described=features())
    source = sources.open_source(written(tmp_path / "b.parquet", bare))
    assert source.names == ["00000.png", "00001.png"] and not source.left_out


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_rows_that_are_no_images_are_failures_of_these(tmp_path, suffix):
    value = table([encoded(), None, b"nonsense"])
    source = sources.open_source(written(tmp_path / f"x{suffix}", value))
    assert source.pixels(source.names[0]).shape == (9, 12, 3)
    faults = ("no image but at most a path", "no image file")
    for name, words in zip(source.names[1:], faults, strict=True):
        with pytest.raises(files.BadFile, match=words):
            sources.read_pixels(source, name)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("cut", [0, 10, 100, -20])
def test_a_table_that_is_cut_off_is_told_in_words(tmp_path, suffix, cut):
    path = written(tmp_path / f"x{suffix}", table([encoded()] * 4, [0] * 4, described=features()))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(files.BadFile, match=rf"x{suffix} is damaged|is empty"):
        source = sources.open_source(path)
        for name in source.names:
            source.pixels(name)


def test_a_table_without_images_is_told_in_words(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path = written(tmp_path / "a.parquet", pa.table({"text": ["x"], "n": [1]}))
    with pytest.raises(
        files.BadFile, match="no column of image files: it has 'text' string, 'n' int64"
    ):
        sources.open_source(path)
    path = written(tmp_path / "b.parquet", table([]))
    with pytest.raises(files.BadFile, match="holds no images: its tables have no rows"):
        sources.open_source(path)


def test_without_pyarrow_the_error_names_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    with pytest.raises(ValueError, match=r"x\.parquet needs pyarrow .* diffaud\[parquet\]"):
        sources.open_source(tmp_path / "x.parquet")


def test_statistics_of_a_column_are_never_asked_for(tmp_path):
    """Where they are damaged, pyarrow 26 aborts the process, as tests/fuzz.py found."""
    path = written(tmp_path / "a.parquet", table([encoded()], [1], described=features()))
    asked = []

    class Group:
        num_rows, total_byte_size = 1, 100

        def column(self, place):
            asked.append(place)

    tables._Parquet(path)._check(Group(), 200)
    assert not asked
    Group.total_byte_size = 1 << 40
    with pytest.raises(
        files.BadFile, match="declares rows of 1,099,511,627,776 bytes, but has 200"
    ):
        tables._Parquet(path)._check(Group(), 200)
