import json
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from DDA import files, images, inputs, sources
from DDA import tree as trees
from DDA.image_adapt import job
from DDA.sources.cells import cells_of
from DistilledClassifier import making


def test_pixels_survive_the_way_to_the_model_and_back():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    values = images.to_model(pixels)
    assert values.shape == (3, 16, 16) and values.min() == -1 and values.max() == 1
    np.testing.assert_array_equal(images.to_pixels(values), pixels)
    assert images.to_pixels(np.array([[[-9.0]], [[0.0]], [[9.0]]])).tolist() == [[[0, 128, 255]]]


def test_keys_are_paths_without_the_image_suffix_in_sorted_order(tree):
    listed, others, unfinished = trees.list_images(tree, "fog/3")
    assert [trees.key_of(path) for path in listed] == [
        f"fog/3/{name}" for name in ("cat/1", "cat/a b", "cat/ü", "dog/1", "dog/2", "dog/3")
    ]
    assert others == unfinished == []
    assert trees.list_images(tree)[0] == sorted(trees.list_images(tree)[0], key=trees.key_of)


def test_other_files_are_named_and_metadata_is_not(tree):
    for name in ("notes.txt", "fog/x.json", "fog/.hidden.png", "fog/a.partial"):
        (tree / name).write_text("x")
    assert trees.list_images(tree)[1] == ["notes.txt"]


def test_two_files_with_one_key_are_an_error(tree):
    (tree / "fog/3/cat/1.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"1\.JPEG and .*1\.png|1\.png and .*1\.JPEG"):
        trees.list_images(tree)


def test_a_folder_inside_the_tree_can_be_left_out_and_links_do_not_circle(tree):
    (tree / "fog/out").mkdir()
    Image.new("RGB", (2, 2)).save(tree / "fog/out/x.png")
    os.symlink(tree, tree / "fog/loop")
    os.symlink(tree / "snow", tree / "linked")
    listed = trees.list_images(tree, leave_out=tree / "fog/out")[0]
    assert len(listed) == 36 and not any("out" in path or "loop" in path for path in listed)


@pytest.mark.parametrize(
    ("layout", "corruptions", "severities", "expected"),
    [
        ("imagenetc", ["fog"], [], ["fog/5"]),
        ("cifar10c", ["snow", "fog"], ["5", "3"], ["fog/3", "fog/5", "snow/3", "snow/5"]),
        ("imagenetc", ["all"], ["all"], ["fog/3", "fog/5", "snow/3", "snow/5"]),
        ("folder", [], [], ["."]),
        ("folder", ["fog"], [], ["fog"]),
    ],
)
def test_cells_of_each_layout(tree, layout, corruptions, severities, expected):
    assert cells_of(sources.Folder(tree), layout, corruptions, severities, train=True) == expected


def test_splits_and_sequences_have_their_own_folders(tmp_path):
    for name in ("jpeg/train", "jpeg/val", "jpeg/cifar_test", "weak_seq/0"):
        (tmp_path / name).mkdir(parents=True)
    source = sources.Folder(tmp_path)
    for layout, folder, train, cell in (
        ("imagenet", "jpeg", True, "jpeg/train"),
        ("imagenet", "jpeg", False, "jpeg/val"),
        ("cifar10", "jpeg", False, "jpeg/cifar_test"),
        ("imagenetc", "weak_seq", True, "weak_seq/0"),
    ):
        assert cells_of(source, layout, [folder], [], train=train) == [cell]


@pytest.mark.parametrize(
    ("layout", "corruptions", "severities", "words"),
    [
        ("imagenetc", [], [], "`corruption` is missing; found: fog, snow"),
        ("imagenetc", ["rain"], [], "`corruption` rain .*found: fog, snow"),
        ("imagenetc", ["fog"], ["4"], "`severity` 4 .*found: 3, 5"),
        ("imagenet", ["fog"], [], "`train` True wants the split train.*found: 3, 5"),
        ("tree", ["fog"], [], "`layout` tree is unknown"),
    ],
)
def test_a_missing_cell_is_an_error_that_lists_the_existing_ones(
    tree, layout, corruptions, severities, words
):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        cells_of(sources.Folder(tree), layout, corruptions, severities, train=True)


def test_every_kind_of_file_is_read_as_rgb(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    alpha = np.dstack([grey, grey, grey, 255 - grey])
    cases = {
        "grey.png": Image.fromarray(grey),
        "palette.png": Image.fromarray(np.dstack([grey] * 3)).quantize(256),
        "alpha.png": Image.fromarray(alpha, "RGBA"),
        "grey_alpha.png": Image.fromarray(alpha, "RGBA").convert("LA"),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "deep.tif": Image.fromarray(grey.astype(np.uint16) * 257),
        "one_bit.png": Image.fromarray(grey > 100),
        "cmyk.tif": Image.fromarray(np.dstack([grey] * 3)).convert("CMYK"),
    }
    for name, image in cases.items():
        image.save(tmp_path / name)
        pixels = np.asarray(images.read_rgb(tmp_path / name))
        assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
        expected = (grey > 100) * np.uint8(255) if name == "one_bit.png" else grey
        np.testing.assert_allclose(pixels[..., 0].astype(int), expected, atol=1, err_msg=name)


SQUARES = np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[250] * 3, [0] * 3, [120] * 3]])


def blocks():
    """Six blocks of one colour each, 3 wide and 2 high; no two turns of them are equal."""
    return Image.fromarray(SQUARES.astype(np.uint8).repeat(16, 0).repeat(16, 1))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".mpo", ".avif"])
def test_photographs_are_put_upright_where_that_is_wanted(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for orientation in range(1, 9):
        image, exif = blocks(), Image.Exif()
        exif[0x0112] = orientation
        image.save(path, exif=exif, quality=100)
        image = Image.open(path)
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
        upright = np.asarray(images.read_rgb(path, upright=True)).astype(int)
        np.testing.assert_array_equal(upright, expected)
        assert images.is_turned(path) == (orientation > 1 and suffix != ".tif")
        if suffix != ".tif":  # Pillow turns TIFF files while it loads them
            assert images.read_rgb(path).size == (48, 32)
    assert abs(expected[8::16, 8::16] - np.rot90(SQUARES)).max() < 30


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_turn_nothing(tmp_path):
    blocks().save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    pixels = images.read_rgb(tmp_path / "x.jpg", upright=True)
    np.testing.assert_array_equal(pixels, images.read_rgb(tmp_path / "x.jpg"))


@pytest.mark.parametrize("suffix", [".jfif", ".avif", ".jp2", ".j2k", ".mpo"])
def test_formats_of_cameras_and_browsers_are_read_and_written(tmp_path, suffix, monkeypatch):
    pixels = np.asarray(blocks())
    images.write_image(tmp_path / f"x{suffix}", pixels)
    assert trees.list_images(tmp_path)[0] == [f"x{suffix}"]
    again = np.asarray(images.read_rgb(tmp_path / f"x{suffix}")).astype(int)
    assert abs(again - pixels)[8::16, 8::16].max() < 30
    if suffix in images.OPTIONAL:
        (tmp_path / f"x{suffix}").write_bytes(b"of another format")
        monkeypatch.setattr(images.features, "check", lambda name: False)
        with pytest.raises(ValueError, match=rf"this Pillow reads no {suffix}.*-U pillow"):
            images.read_rgb(tmp_path / f"x{suffix}")


def test_frames_that_only_accompany_the_first_are_left_out(tmp_path):
    image, other = blocks(), Image.new("RGB", (48, 32), "red")
    image.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[other], quality=100)
    assert Image.open(tmp_path / "x.jpg").n_frames == 2
    gap = np.asarray(images.read_rgb(tmp_path / "x.jpg")).astype(int) - np.asarray(image)
    assert abs(gap).mean() < 5
    for kind, tag in ((1, 254), (2, 255), (0, 254), (2, 254)):
        small = image.resize((12, 8))
        small.encoderinfo = {"tiffinfo": {tag: kind}}
        image.save(tmp_path / "x.tif", save_all=True, append_images=[small, small])
        opened = Image.open(tmp_path / "x.tif")
        assert opened.n_frames == 3
        if (kind, tag) in ((1, 254), (2, 255)):
            np.testing.assert_array_equal(images.read_rgb(tmp_path / "x.tif"), image)
            np.testing.assert_array_equal(inputs.read(opened)[0], image)
        else:
            with pytest.raises(ValueError, match="3 pages; save each"):
                images.read_rgb(tmp_path / "x.tif")


def test_animated_and_other_depths_are_refused_in_words(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="animated.*2 frames"):
        images.read_rgb(tmp_path / "x.gif")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="neither 8 nor 16 bits"):
        images.read_rgb(tmp_path / "x.tif")


@pytest.mark.parametrize("shape", [(20, 30), (64, 40), (16, 16), (100, 33), (5, 9)])
def test_fit_square_gives_the_middle_square_of_any_image(shape):
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[:, shape[1] // 2 :] = 200
    square = images.fit_square(Image.fromarray(pixels), 16)
    assert square.shape == (16, 16, 3)
    assert square[:, :6].mean() < 20 and square[:, 10:].mean() > 180
    same = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(images.fit_square(Image.fromarray(same), 16), same)


def whole_fit(image, size):
    """Fit an image as `fit_square` did before it knew long images: all of it is resized."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    resized = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_ordinary_images_are_fitted_as_ever_to_the_byte():
    draw = np.random.default_rng(1)
    for _ in range(60):
        short = int(draw.integers(1, 80))
        sides = draw.permutation([short, int(draw.integers(short, min(32 * short, 400) + 1))])
        image = noise(*map(int, sides))
        for size in (8, 27, 64):
            fitted = images.fit_square(image, size)
            np.testing.assert_array_equal(fitted, whole_fit(image, size), err_msg=f"{sides}")


@pytest.mark.parametrize(
    "sides", [(700, 2), (2, 700), (1, 900), (1001, 3), (7, 999), (1300, 40), (33, 1), (5000, 150)]
)
def test_long_images_are_fitted_as_if_all_of_them_were_resized(sides):
    waves = [np.sin(np.arange(side) / 2) for side in sides]
    pixels = 128 + 30 * (waves[0][None, :, None] + waves[1][:, None, None]) + np.zeros(3)
    image = Image.fromarray(pixels.round().astype(np.uint8))
    for size in (8, 27, 64):
        fitted, whole = (fit(image, size).astype(int) for fit in (images.fit_square, whole_fit))
        assert abs(fitted - whole).max() <= 1


@pytest.mark.parametrize("sides", [(30_000, 2), (2, 30_000), (3_000_000, 1), (1, 3_000_000)])
def test_the_longest_images_take_no_time_and_no_memory(sides):
    image = Image.new("RGB", sides, (1, 2, 3))
    started = time.perf_counter()
    fitted = images.fit_square(image, 256)
    assert (fitted == (1, 2, 3)).all() and fitted.shape == (256, 256, 3)
    assert time.perf_counter() - started < 2


def test_an_image_of_too_many_pixels_is_refused_in_words(tmp_path, monkeypatch):
    Image.new("L", (12, 12)).save(tmp_path / "x.png")
    for most in (60, 100):  # Pillow refuses above twice its limit, and warns below
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=rf"more than {2 * most} pixels.*make it smaller"):
                images.read_rgb(tmp_path / "x.png")


def test_pillow_does_not_warn_of_large_images(tmp_path):
    Image.new("L", (12, 12)).save(tmp_path / "x.png")
    code = "from PIL import Image; from DDA import images; Image.MAX_IMAGE_PIXELS = 100; "
    code += f"print(images.read_rgb({str(tmp_path / 'x.png')!r}).size)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("(12, 12)\n", "")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), r"; nothing else is there \(hidden files are not seen\)"),
        (
            ("train-0.parquet", "train-1.parquet", "a/test.parquet", "README"),
            r"; the files there are 3 \.parquet, 1 \(no suffix\): give them themselves, with a",
        ),
        (("val.zip", "notes.txt"), r"; the files there are 1 \.\w+, 1 \.\w+: give one of them"),
        (("val.7z",), r"; the files there are 1 \.7z: unpack them$"),
        (("a.h5",), r"; the files there are 1 \.h5: write their images to files, or to one \.npz$"),
        (("a/IMG_1.HEIC",), r"; the files there are 1 \.heic: save them as \.png or \.jpg$"),
        (
            ("made/settings.json", "made/x.png"),
            r"made is not entered: name adapted copies themselves",
        ),
    ],
)
def test_where_there_are_no_images_it_is_said_what_is_there(tmp_path, names, words):
    root = tmp_path / "set"
    root.mkdir()
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"{}")
    assert re.search(words, sources.found_instead(sources.Folder(root)))
    with pytest.raises(ValueError, match=f"no images in {root} .*{words}"):
        job.make_plan(sources.Folder(root), tmp_path / "out", ["."])


def test_images_beside_the_wanted_folder_are_named(tmp_path):
    (tmp_path / "fog").mkdir()
    (tmp_path / "data/val").mkdir(parents=True)
    for place in ("data/val/1.png", "data/val/2.png", "data/3.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / place)
    words = r"no images in .*; its images lie in data/val \(2\), data \(1\)"
    with pytest.raises(ValueError, match=words):
        job.make_plan(sources.Folder(tmp_path), tmp_path / "out", ["fog"])
    with pytest.raises(ValueError, match=r"in `split` val; its images lie in data/val \(2\)"):
        making.prepare(making.Originals(tmp_path, split="val"), tmp_path / "out", quiet=True)
    with pytest.raises(ValueError, match="holds no images; nothing else is there"):
        making.verify(tmp_path / "fog")


def test_an_interrupted_write_leaves_no_final_name_and_strays_are_swept(tmp_path, monkeypatch):
    def broken(self, file, **kwargs):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", broken)
        with pytest.raises(KeyboardInterrupt):
            images.write_image(tmp_path / "x.png", np.zeros((4, 4, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / f"abc{files.TEMPORARY}").write_bytes(b"half")
    dead = subprocess.Popen(["true"])
    dead.wait()
    own = files.temporary(tmp_path / "x")
    pid = f"-{os.getpid()}-"
    begin = own.name.partition(pid)[2].partition("-")[0]
    assert begin
    others = [
        own.name.replace(pid, f"-{dead.pid}-"),
        own.name.replace(begin, f"{begin}0"),  # of an earlier process of the same id
    ]
    own.write_bytes(b"being written")
    for other in others:
        (tmp_path / other).write_bytes(b"half")
    assert not files.TEMPORARY.endswith(trees.SUFFIXES)
    saved = trees.list_saved(tmp_path, ["cell", "absent"], at_root=True)
    assert saved.images == {"cell": {}, "absent": {}} and len(saved.unfinished) == 4
    assert trees.sweep_temporaries(tmp_path, saved.unfinished) == 3
    assert own.exists()  # of a living process
    assert list((tmp_path / "cell").iterdir()) == []


def test_a_process_sweeps_each_folder_that_it_writes_to(tmp_path):
    stray = tmp_path / f"{files.host()}-1-0-0123456789ab{files.TEMPORARY}"
    stray.write_bytes(b"half")
    theirs = ["film.partial", "a-1-b.partial", f"{files.host()}-1-0-0123.partial"]
    for name in theirs:
        (tmp_path / name).write_bytes(b"of another program")
    files.write_bytes(tmp_path / "x", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*theirs, "x"])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell")
def test_the_temporary_of_a_process_that_has_ended_is_nobodys(tmp_path):
    """Its parent has not asked about it yet, so its number is still taken."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        name = f"{files.host()}-{child.pid}-{files._begin_of(child.pid)}-0123456789ab"
        path = tmp_path / f"{name}{files.TEMPORARY}"
        path.write_bytes(b"half")
        assert files.is_being_written(path)
        child.stdin.close()
        while b") Z" not in Path(f"/proc/{child.pid}/stat").read_bytes():
            time.sleep(0.01)
        assert not files.is_being_written(path)


def test_a_temporary_may_be_finished_while_it_is_looked_at(tmp_path, monkeypatch):
    other = files.temporary(tmp_path / "x")
    other.write_bytes(b"of another worker")
    now = time.time()

    def finish():
        other.replace(tmp_path / "x")
        return now

    monkeypatch.setattr(time, "time", finish)
    assert not files.is_being_written(other)


def test_exclusive_json_is_written_once(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": 1}, exclusive=True)
    with pytest.raises(FileExistsError):
        files.write_json(tmp_path / "x.json", {"a": 2}, exclusive=True)
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert files.read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_exclusive_json_needs_no_links(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError("this file system has no links")

    monkeypatch.setattr(os, "link", refuse)
    test_exclusive_json_is_written_once(tmp_path)


def test_damaged_json_is_named(tmp_path):
    for text in ("{", "[1]"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json"):
            files.read_json(tmp_path / "x.json")


def test_contact_sheet_shows_each_image_in_its_place():
    red, blue = np.zeros((2, 4, 4, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        views = {"one": [red, blue], "two": [blue, blue]}
        sheet = np.asarray(images.contact_sheet(views, ["a" * 90, "\udcff"], side=64))
    is_red = (sheet == (255, 0, 0)).all(-1)
    rows, columns = np.nonzero(is_red)
    height, width, _ = sheet.shape
    assert is_red.sum() == 64 * 64
    assert rows.max() < height // 2 and columns.max() < width * 2 // 3


def test_published_paths_are_found_from_the_root_and_from_dda(tmp_path, monkeypatch):
    root = images.Path(images.__file__).parents[1]
    monkeypatch.chdir(root)
    assert files.find("ckpt/x.pt") == root / "DDA" / "ckpt/x.pt"
    assert files.find("dataset/x") in (images.Path("dataset/x"), root / "dataset/x")
    monkeypatch.chdir(root / "DDA")
    assert files.find("ckpt/x.pt") == images.Path("ckpt/x.pt")
    assert files.find("dataset/x") == root / "dataset/x"
    monkeypatch.chdir(tmp_path)
    assert files.find("dataset/x") == images.Path("dataset/x")
