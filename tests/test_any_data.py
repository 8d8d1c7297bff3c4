"""Sources of one's own data: single images, patterns, zips, lists of labels, shards and tables."""

import gzip
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from DDA import files, sources, tree
from DDA.image_adapt.scripts import image_sample
from DDA.sources import packed
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


# --------------------------------------------------------------------------------- zip archives


def zipped(path, contents, how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def encoded(kind="png", shade=None):
    """Return the bytes of a small image."""
    pixels = RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels if shade is None else np.full_like(pixels, shade)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_has_its_images_and_class_folders(tmp_path, how):
    contents = {f"my/{name}/1.png": encoded() for name in ("dog", "cat")}
    contents |= {"my/cat/2.jpg": encoded("jpeg"), "my/notes.txt": b"x", "__MACOSX/my/._1.png": b"x"}
    source = sources.open_source(zipped(tmp_path / "my.zip", contents, how))
    assert source.names == ["cat/1.png", "cat/2.jpg", "dog/1.png"]
    assert source.classes == ("cat", "dog") and source.folders(".") == ["cat", "dog"]
    assert source.list("cat")[0] == ["cat/1.png", "cat/2.jpg"]
    assert source.list(".")[1] == ["notes.txt"]
    assert source.encoded("cat/2.jpg") == contents["my/cat/2.jpg"]
    expected = np.asarray(Image.open(io.BytesIO(contents["my/dog/1.png"])))
    np.testing.assert_array_equal(source.pixels("dog/1.png"), expected)


def test_photographs_in_a_zip_are_turned_like_those_in_a_folder(tmp_path):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (12, 9)).save(buffer, "jpeg", exif=exif)
    path = zipped(tmp_path / "a.zip", {"x.jpg": buffer.getvalue()})
    turned, plain = (sources.open_source(path, upright=upright) for upright in (True, False))
    assert turned.read("x.jpg").size == (9, 12) and plain.read("x.jpg").size == (12, 9)
    assert turned.encoded("x.jpg") is None and plain.encoded("x.jpg") == buffer.getvalue()
    assert sources.open_official(path).upright


def damaged(path, change):
    """Change the bytes of a file."""
    path.write_bytes(change(path.read_bytes()))
    return path


def with_size(data, size):
    """Return a zip whose list declares another size of its only file."""
    place = data.rindex(b"PK\1\2") + 24
    return data[:place] + size.to_bytes(4, "little") + data[place + 4 :]


def encrypted(data):
    """Return a zip whose list says that its only file is encrypted."""
    place = data.rindex(b"PK\1\2") + 8
    return data[:place] + bytes([data[place] | 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("contents", "change", "words"),
    [
        ({"../x.png": b"x"}, None, r"'\.\./x\.png', which is no path below a folder"),
        ({"/x.png": b"x"}, None, "no path below a folder"),
        ({"a.txt": b"x"}, None, r"holds no images; the files there are 1 \.txt"),
        ({}, None, "holds no images"),
        ({"x.png": b"x"}, lambda data: data[:-8], "is damaged, or no zip"),
        ({"x.png": b"x"}, lambda data: b"nonsense", "is damaged, or no zip"),
        ({"x.png": b"0" * 5000}, lambda data: with_size(data, 2**31), "declares 2,147,483,648"),
        ({"x.png": b"0" * 5000}, encrypted, "x.png is encrypted; unpack the zip"),
    ],
)
def test_a_wrong_zip_is_told_in_words(tmp_path, contents, change, words):
    path = zipped(tmp_path / "a.zip", contents)
    with pytest.raises(files.BadFile, match=words):
        sources.open_source(path if change is None else damaged(path, change))


def test_a_zip_of_another_packer_is_told_in_words(tmp_path):
    path = zipped(tmp_path / "a.zip", {"x.png": encoded()}, zipfile.ZIP_BZIP2)
    with pytest.raises(files.BadFile, match="packed in a way that is not read here"):
        sources.open_source(path)


@pytest.mark.parametrize("size", [4000, 6000])
def test_a_member_of_a_zip_that_is_not_as_declared_is_a_failure_of_that_image(tmp_path, size):
    path = zipped(tmp_path / "a.zip", {"x.png": b"0" * 5000})
    source = sources.open_source(damaged(path, lambda data: with_size(data, size)))
    with pytest.raises(files.BadFile, match=r"x\.png is damaged; get the archive again"):
        sources.read_pixels(source, "x.png")


# ------------------------------------------------------------------- class folders and CSV lists


def prepared(tmp_path, source, *flags):
    """Return the names of the tree that make_data.py prepare makes, and its classes."""
    out = tmp_path / "prepared"
    argv = ["prepare", "--base_samples", str(source), "--save_dir", str(out), "--workers", "1"]
    assert make_data.main([*argv, *map(str, flags), "--quiet"]) == 0
    return sources.Folder(out).names, tree.read_classes(out)


@pytest.mark.parametrize("train", ["train", "training"])
@pytest.mark.parametrize("test", ["val", "test", "valid", "validation"])
def test_an_image_folder_with_splits_is_prepared(tmp_path, train, test):
    names = [f"{train}/0/a.png", f"{train}/7/b.png", f"{test}/7/a.png"]
    for name in names:
        picture(tmp_path / "data" / name)
    source = sources.open_official(tmp_path / "data")
    assert source.classes == ("0", "7")
    assert sources.splits_of(source.names) == {"train": [train], "test": [test]}
    made, classes = prepared(tmp_path, tmp_path / "data")
    assert made == sorted(f"clean/{name}" for name in names) and classes == ("0", "7")
    assert sources.splits_of(made) == {"train": [train], "test": [test]}


def test_class_folders_without_splits_are_prepared(tmp_path):
    for name in ("dog/a.png", "cat/a.png", "cat/b.png"):
        picture(tmp_path / "data" / name)
    assert sources.splits_of(sources.open_official(tmp_path / "data").names) == {
        "train": [],
        "test": [],
    }
    made, classes = prepared(tmp_path, tmp_path / "data")
    assert made == ["clean/cat/a.png", "clean/cat/b.png", "clean/dog/a.png"]
    assert classes == ("cat", "dog")


def test_folders_of_albums_are_no_classes(photos):
    assert sources.open_official(photos).classes is None
    assert sources.open_official(photos / "trip").classes is None


LIST = "\ufeffFile_Name;note;Label\r\n./a.png;x;dog\r\nsub/b.jpg;;cat\r\nc;;dog\r\n"


@pytest.fixture
def flat(tmp_path):
    for name in ("a.png", "sub/b.jpg", "c.png"):
        picture(tmp_path / "flat" / name)
    return tmp_path / "flat"


@pytest.mark.parametrize("name", ["labels.csv", "metadata.csv"])
def test_a_folder_with_a_list_of_labels_is_sorted_into_classes(flat, tmp_path, name):
    (flat / name).write_text(LIST, newline="")
    source = sources.open_source(flat)
    assert source.names == ["dog/a.png", "dog/c.png", "sub/cat/b.jpg"]
    assert source.classes == ("cat", "dog") and source.left_out == ""
    assert source.list("dog")[0] == ["dog/a.png", "dog/c.png"]
    np.testing.assert_array_equal(
        source.pixels("dog/a.png"), np.asarray(Image.open(flat / "a.png"))
    )
    made, classes = prepared(tmp_path, flat)
    assert made == ["clean/dog/a.png", "clean/dog/c.png", "clean/sub/cat/b.jpg"]
    assert classes == ("cat", "dog")


def test_a_list_in_a_zip_and_one_that_is_given_do_the_same(flat, tmp_path):
    named = {name: (flat / name).read_bytes() for name in ("a.png", "sub/b.jpg", "c.png")}
    path = zipped(tmp_path / "x.zip", named | {"labels.csv": LIST})
    expected = ["dog/a.png", "dog/c.png", "sub/cat/b.jpg"]
    assert sources.open_source(path).names == expected
    (tmp_path / "given.csv").write_text(LIST)
    made, classes = prepared(tmp_path, flat, "--labels", tmp_path / "given.csv")
    assert made == [f"clean/{name}" for name in expected] and classes == ("cat", "dog")
    assert sources.open_source(flat / "**", labels=tmp_path / "given.csv").names == expected
    bare = zipped(tmp_path / "y.zip", named)
    assert sources.open_source(bare, labels=tmp_path / "given.csv").names == expected


def test_a_list_in_each_folder_of_a_split_is_read(tmp_path):
    for split in ("train", "test"):
        picture(tmp_path / "data" / split / "1.png")
        rows = f"file_name,label\n1.png,{'cat' if split == 'train' else 'dog'}\n"
        (tmp_path / "data" / split / "metadata.csv").write_text(rows)
    source = sources.open_source(tmp_path / "data")
    assert source.names == ["test/dog/1.png", "train/cat/1.png"]


def test_numbers_in_a_list_are_places_in_the_class_list(flat, tmp_path):
    (flat / "labels.csv").write_text("id,target\na,1\nb,0\nc,1\n")
    with pytest.raises(ValueError, match="numbers as labels, and nothing tells the class names"):
        sources.open_source(flat)
    source = sources.open_source(flat, ["cat", "dog"])
    assert source.names == ["dog/a.png", "dog/c.png", "sub/cat/b.jpg"]
    with pytest.raises(files.BadFile, match=r"has the label 1, but there are 1 classes"):
        sources.open_source(flat, ["cat"])


def test_images_without_a_row_and_rows_without_an_image_are_told(flat, tmp_path, capsys):
    (flat / "labels.csv").write_text("file,class\na.png,dog\nz.png,cat\n")
    source = sources.open_source(flat)
    assert source.names == ["dog/a.png"]
    assert source.left_out == (
        f"2 images without a label in {flat}: labels.csv, such as c.png, are left out; "
        f"{flat}: labels.csv names 1 images that are not there, such as z.png"
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("file,class\na.png,cat\na.png,dog\n", "gives 'a.png' the labels 'cat' and 'dog'"),
        ("file,class\na.png,cat\na,dog\n", "two rows give 'a.png' the labels 'cat' and 'dog'"),
        ("file,class\nz.png,cat\n", "names none of the 3 images; it names 'z.png'"),
        ("file,class\na.png\n", "line 2, has 1 columns, fewer than its first line"),
        ("file,class\na.png,../x\n", "'../x', which cannot be the name of a folder"),
        ("file,class\na.png,\n", "no path below a folder"),
        ('file,class\na.png,"cat\n', "is damaged, or no CSV file"),
    ],
)
def test_a_wrong_list_of_labels_is_told_in_words(flat, rows, words):
    (flat / "labels.csv").write_text(rows)
    with pytest.raises(files.BadFile, match=words):
        sources.open_source(flat)


def test_a_csv_of_another_kind_is_no_list_of_labels(flat):
    (flat / "labels.csv").write_text("when,where\n1,2\n")
    assert sources.open_source(flat).names == ["a.png", "c.png", "sub/b.jpg"]


def test_labels_that_a_source_does_not_take_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4, 3), np.uint8))
    (tmp_path / "l.csv").write_text("file,label\na,b\n")
    with pytest.raises(ValueError, match="`labels` .* has labels of its own; leave it out"):
        sources.open_source(tmp_path / "a.npy", labels=tmp_path / "l.csv")


def test_the_adaptation_job_tells_what_a_list_leaves_out(flat, tmp_path, prior, capsys):
    (flat / "labels.csv").write_text("file,class\na.png,dog\n")
    argv = ["--base_samples", str(flat), "--save_dir", str(tmp_path / "out"), "--dry_run"]
    assert image_sample.main([*argv, "--model_path", str(prior), "--speed", "one-shot"]) == 0
    assert "2 images without a label in" in capsys.readouterr().out


# --------------------------------------------------------------------------- shards (webdataset)


def tarred(path, contents, form=tarfile.PAX_FORMAT):
    """Write a tar of some contents by name, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


@pytest.mark.parametrize("form", FORMS)
def test_a_shard_has_its_images_and_the_labels_beside_them(tmp_path, form):
    contents = {"./0.png": encoded(), "./0.cls": b"1\n", "./long/1.png": encoded()}
    contents |= {"./long/1.cls": b"0", "./long/1.json": b"{}", "./.hidden.png": b"x"}
    source = sources.open_source(tarred(tmp_path / "x.tar", contents, form), ["cat", "dog"])
    assert source.names == ["dog/0.png", "long/cat/1.png"] and source.classes == ("cat", "dog")
    assert source.encoded("dog/0.png") == contents["./0.png"]
    assert source.list(".")[1] == [] and source.left_out == ""


@pytest.mark.parametrize("form", FORMS[1:])
def test_long_names_and_large_numbers_of_a_shard_are_read(tmp_path, form):
    long, accents = f"{'x' * 90}/{'y' * 200}.png", f"{'ü' * 80}.png"
    data = encoded()
    source = sources.open_source(tarred(tmp_path / "x.tar", {long: data, accents: b"0"}, form))
    assert source.names == [long, accents] and source.encoded(long) == data


@pytest.mark.parametrize(
    ("suffix", "texts", "classes", "labels"),
    [
        ("cls", ("cat", "dog"), None, ("cat", "dog")),
        ("json", ('{"label": 1}', '{"label": 0}'), ["cat", "dog"], ("dog", "cat")),
        ("json", ('{"class_name": "ox"}', '{"class_name": "ant"}'), None, ("ox", "ant")),
        ("txt", ("1", "0"), ["cat", "dog"], ("dog", "cat")),
        ("txt", ("dog", "cat"), ["cat", "dog"], ("dog", "cat")),
        ("txt", ("a dog", "two cats"), None, (None, None)),
        ("json", ('{"caption": "a dog"}', "[]"), None, (None, None)),
        ("json", ("[" * 9999, "nonsense"), None, (None, None)),
    ],
)
def test_labels_beside_images_are_numbers_or_names_and_captions_are_none(
    tmp_path, suffix, texts, classes, labels
):
    contents = {f"{i}.png": encoded() for i in range(2)}
    contents |= {f"{i}.{suffix}": text.encode() for i, text in enumerate(texts)}
    source = sources.open_source(tarred(tmp_path / "x.tar", contents), classes)
    expected = [f"{label}/{i}.png" if label else f"{i}.png" for i, label in enumerate(labels)]
    assert sorted(source.names) == sorted(expected)
    known = classes or (sorted(labels) if labels[0] else None)
    assert source.classes == (None if known is None else tuple(known))


def test_shards_are_one_source_by_folder_pattern_and_split(tmp_path):
    for split, number in (("train", 0), ("train", 1), ("val", 0)):
        contents = {f"{number}.jpg": encoded("jpeg"), f"{number}.cls": b"1"}
        tarred(tmp_path / "shards" / f"set-{split}-{number:06}.tar", contents)
    (tmp_path / "shards" / "classes.txt").write_text("cat\ndog\n")
    names = ["train/dog/0.jpg", "train/dog/1.jpg", "val/dog/0.jpg"]
    source = sources.open_source(tmp_path / "shards")
    assert source.names == names and source.classes == ("cat", "dog")
    assert len(source.files) == 3
    pattern = tmp_path / "shards" / "set-train-{000000..000001}.tar"
    assert sources.open_source(pattern).names == names[:2]
    assert sources.open_source(tmp_path / "shards" / "set-val-*.tar").names == names[2:]
    made, classes = prepared(tmp_path, tmp_path / "shards")
    assert made == [f"clean/{name}" for name in names] and classes == ("cat", "dog")
    received = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(received.pixels(names[0]), source.pixels(names[0]))


def test_shards_in_folders_of_splits_are_one_source(tmp_path):
    for split in ("train", "test"):
        tarred(tmp_path / "shards" / split / "0.tar", {"0.png": encoded(), "0.cls": b"ox"})
    assert sources.open_source(tmp_path / "shards").names == ["test/ox/0.png", "train/ox/0.png"]


def test_a_folder_with_images_beside_a_tar_is_a_folder(photos):
    tarred(photos / "x.tar", {"q.png": encoded()})
    assert "q.png" not in sources.open_source(photos).names


def test_a_key_in_two_shards_is_told(tmp_path):
    for number in range(2):
        tarred(tmp_path / "shards" / f"{number}.tar", {"0.png": encoded()})
    with pytest.raises(files.BadFile, match=r"0\.tar: 0\.png and .*1\.tar: 0\.png would be one"):
        sources.open_source(tmp_path / "shards")


def with_field(place, value):
    """Return a function that changes a field of a tar's first header and puts its sum right."""

    def change(data):
        head = bytearray(data[:512])
        head[place : place + len(value)] = value
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head) + data[512:]

    return change


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("x.png", lambda data: data[:700], "declares a file of 300 bytes at 0, but has 700 in all"),
        ("x.png", lambda data: b"y" + data[1:], "is damaged at byte 0, or no tar archive"),
        ("x.png", lambda data: data[:100], "is cut off, or no tar archive"),
        ("x.png", with_field(124, b"77777777777\0"), "declares a file of 8,589,934,591 bytes"),
        ("x.png", with_field(124, b"\x80" + b"\xff" * 11), "declares a file of"),
        ("x.png", with_field(124, b"99999999999\0"), "is damaged, or no tar archive"),
        ("../x.png", None, "no path below a folder"),
        ("x.txt", gzip.compress, "CIFAR"),
    ],
)
def test_a_wrong_shard_is_told_in_words(tmp_path, name, change, words):
    path = tarred(tmp_path / "x.tar", {name: b"0" * 300}, tarfile.USTAR_FORMAT)
    with pytest.raises(ValueError, match=words):
        sources.open_source(path if change is None else damaged(path, change))


def test_links_and_pipes_in_a_shard_are_no_images(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("c.png")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    assert sources.open_source(tmp_path / "x.tar").names == ["c.png"]


def test_a_shard_is_listed_by_its_headers_and_labels_alone(tmp_path, monkeypatch):
    contents = {f"{i}.png": b"0" * 600 for i in range(9)} | {"0.cls": b"ox", "0.seg": b"x"}
    path, read = tarred(tmp_path / "x.tar", contents), []
    original = packed.Member.read
    monkeypatch.setattr(
        packed.Member, "read", lambda self, file=None: (read.append(self), original(self, file))[1]
    )
    assert sources.open_source(path).names == ["ox/0.png"]
    assert [member.name for member in read] == ["0.cls"]


def test_a_list_of_numbers_takes_the_class_list_beside_it(flat):
    (flat / "labels.csv").write_text("id,target\na,1\nb,0\nc,1\n")
    (flat / "classes.txt").write_text("cat\ndog\n")
    assert sources.open_source(flat).names == ["dog/a.png", "dog/c.png", "sub/cat/b.jpg"]


def test_two_images_that_would_be_one_by_their_labels_are_told(tmp_path):
    contents = {"cat/a.png": encoded(), "a.jpg": encoded("jpeg"), "b.png": encoded()}
    rows = b"file,label\ncat/a.png,cat\na.jpg,cat\nb.png,dog\n"
    path = zipped(tmp_path / "x.zip", contents | {"labels.csv": rows})
    with pytest.raises(ValueError, match=r"cat/a\.\w+ and .*cat/a\.\w+ would be one image"):
        assert sources.open_source(path).names
    contents = {"cat/a.png": encoded(), "a.png": encoded()}
    rows = b"file,label\ncat/a.png,cat\na.png,cat\n"
    path = zipped(tmp_path / "y.zip", contents | {"labels.csv": rows})
    with pytest.raises(files.BadFile, match=r"'cat/a.png' and 'a.png' would both be 'cat/a.png'"):
        sources.open_source(path)


def test_a_label_of_no_class_is_told(flat):
    (flat / "labels.csv").write_text("file,label\na.png,cow\n")
    with pytest.raises(files.BadFile, match="label 'cow', which is none of the 2 classes; give"):
        sources.open_source(flat, ["cat", "dog"])
