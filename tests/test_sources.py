import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from helpers import SHARED, needs_shared
from PIL import Image

from DDA import sources, tree
from DDA.sources.cells import cells_of
from DistilledClassifier import making

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(20) % 10


def rows(pixels):
    """Return images as CIFAR's files store them: red, green and blue planes in one row."""
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def write_cifar10(folder, *, binary=False):
    """Write two images to each of the six files."""
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    classes = list(tree.class_list("cifar10"))
    for i, name in enumerate(names):
        part = slice(2 * i, 2 * i + 2)
        if binary:
            records = np.concatenate(
                [LABELS[part, None].astype(np.uint8), rows(PIXELS[part])], axis=1
            )
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            batch = {
                b"batch_label": b"x",
                b"data": rows(PIXELS[part]),
                b"labels": LABELS[part].tolist(),
                b"filenames": [b"a.png"] * 2,
            }
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    if binary:
        (folder / "batches.meta.txt").write_text("\n".join(classes) + "\n\n")
    else:
        (folder / "batches.meta").write_bytes(
            pickle.dumps({b"label_names": [name.encode() for name in classes]}, protocol=2)
        )
    return folder


def write_cifar100(folder, *, binary=False):
    folder.mkdir(parents=True)
    classes = list(tree.class_list("cifar100"))
    for name, part in (("train", slice(0, 12)), ("test", slice(12, 20))):
        count = len(LABELS[part])
        if binary:
            heads = np.stack([np.full(count, 3), LABELS[part] * 11], axis=1).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(
                np.concatenate([heads, rows(PIXELS[part])], axis=1).tobytes()
            )
        else:
            batch = {
                b"data": rows(PIXELS[part]),
                b"fine_labels": (LABELS[part] * 11).tolist(),
                b"coarse_labels": [3] * count,
            }
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    if binary:
        (folder / "fine_label_names.txt").write_text("\n".join(classes) + "\n")
    else:
        (folder / "meta").write_bytes(
            pickle.dumps({b"fine_label_names": [name.encode() for name in classes]}, protocol=2)
        )
    return folder


def check_cifar(source, classes, *, split, row, index):
    name = f"clean/{split}/{classes[index]}_{row:05}.png"
    assert name in source.names
    return np.asarray(source.read(name))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar_10_in_every_form(tmp_path, binary, packed):
    path = write_cifar10(tmp_path / "cifar-10-batches", binary=binary)
    if packed:
        path = tmp_path / "cifar-10.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "cifar-10-batches", "cifar-10-batches")
    source = sources.open_source(path)
    assert len(source.names) == 12 and source.classes == tree.class_list("cifar10")
    seventh = check_cifar(source, source.classes, split="cifar_train", row=7, index=7)
    np.testing.assert_array_equal(seventh, PIXELS[7])
    np.testing.assert_array_equal(
        check_cifar(source, source.classes, split="cifar_test", row=1, index=1), PIXELS[11]
    )


@pytest.mark.parametrize("binary", [False, True])
def test_cifar_100_takes_the_fine_labels(tmp_path, binary):
    source = sources.open_source(write_cifar100(tmp_path / "c100", binary=binary))
    assert len(source.names) == 20 and len(source.classes) == 100
    np.testing.assert_array_equal(
        check_cifar(source, source.classes, split="cifar_train", row=5, index=55), PIXELS[5]
    )
    np.testing.assert_array_equal(
        check_cifar(source, source.classes, split="cifar_test", row=0, index=22), PIXELS[12]
    )


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_pickle_with_code_in_it_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_cifar10(tmp_path / "c10")
    (folder / "data_batch_3").write_bytes(
        pickle.dumps({b"data": Evil(), b"labels": [1]}, protocol=2)
    )
    with pytest.raises(
        ValueError, match=r"data_batch_3 is no CIFAR file: it asks for \w+.mkdir, which is refused"
    ):
        sources.open_source(folder)
    assert not (tmp_path / "executed").exists()


NARROW = {b"data": np.zeros((2, 7), np.uint8), b"labels": [1, 2]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "lacks data_batch_2"),
        (b"\x80\x02", "data_batch_2 is damaged"),
        (pickle.dumps([1]), "data_batch_2 holds no dictionary"),
        (pickle.dumps(NARROW), "no CIFAR images of 3 x 32 x 32"),
    ],
)
def test_damaged_cifar_files_are_named(tmp_path, content, words):
    folder = write_cifar10(tmp_path / "c10")
    (folder / "data_batch_2").unlink()
    if content is not None:
        (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        sources.open_source(folder)


def test_a_damaged_archive_and_a_truncated_binary_are_named(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"x.tar.gz is damaged"):
        sources.open_source(tmp_path / "x.tar.gz")
    folder = write_cifar10(tmp_path / "bin", binary=True)
    (folder / "data_batch_1.bin").write_bytes(b"12345")
    with pytest.raises(ValueError, match=r"data_batch_1.bin has 5 bytes, no multiple of 3073"):
        sources.open_source(folder)


@pytest.fixture
def cifar10c(tmp_path):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(LABELS[:4], 5).astype(np.uint8))
    np.save(folder / "fog.npy", PIXELS)
    np.save(folder / "snow.npy", 255 - PIXELS)
    return folder


def test_cifar_10_c_is_a_tree_of_corruptions_and_severities(cifar10c):
    with pytest.raises(ValueError, match="labels up to 3 but no class names"):
        sources.open_source(cifar10c)
    source = sources.open_source(cifar10c, tree.class_list("cifar10"))
    assert (
        len(source.names) == 40
        and source.folders(".") == ["fog", "snow"]
        and source.folders("fog") == list("12345")
    )
    assert source.list("fog/3")[0] == [
        f"fog/3/{name}.png"
        for name in ("airplane_00000", "automobile_00001", "bird_00002", "cat_00003")
    ]
    np.testing.assert_array_equal(source.read("snow/5/bird_00002.png"), 255 - PIXELS[18])
    one = sources.open_source(cifar10c / "fog.npy", tree.class_list("cifar10"))
    assert one.names == [name for name in source.names if name.startswith("fog/")]
    assert one.digest("fog/1/airplane_00000.png") == source.digest("fog/1/airplane_00000.png")


def test_wrong_numbers_of_rows_are_named(cifar10c):
    np.save(cifar10c / "fog.npy", PIXELS[:19])
    with pytest.raises(ValueError, match=r"fog.npy has 19 images and labels.npy 20 labels"):
        sources.open_source(cifar10c, tree.class_list("cifar10"))


def test_any_npy_and_npz_of_images(tmp_path):
    np.save(tmp_path / "some.npy", PIXELS[:3, ..., 0])
    source = sources.open_source(tmp_path / "some.npy")
    assert source.names == ["00000.png", "00001.png", "00002.png"] and source.classes is None
    np.testing.assert_array_equal(np.asarray(source.read("00001.png"))[..., 2], PIXELS[1, ..., 0])
    np.savez(
        tmp_path / "some.npz",
        train_x=PIXELS,
        train_y=LABELS,
        fog=PIXELS.reshape(2, 10, 32, 32, 3)[:, :, :16],
    )
    with pytest.raises(ValueError, match="fog/1 has 10 images and 20 labels"):
        sources.open_source(tmp_path / "some.npz")
    for array, words in ((PIXELS / 255, "are uint8"), (np.array([{}]), "no npy file of numbers")):
        np.save(tmp_path / "bad.npy", array)
        with pytest.raises(ValueError, match=words):
            sources.open_source(tmp_path / "bad.npy")


def test_another_process_gets_the_source_by_its_files_not_by_their_content(tmp_path, cifar10c):
    np.savez(
        tmp_path / "part.npz",
        fog=PIXELS.reshape(2, 10, 32, 32, 3),
        fog_seq=PIXELS.reshape(2, 10, 32, 32, 3),
        labels=LABELS[:10],
    )
    for path in (tmp_path / "part.npz", cifar10c, write_cifar10(tmp_path / "cifar-10-batches-py")):
        source = sources.open_source(path, tree.class_list("cifar10"))
        source.pixels(source.names[0])
        sent = pickle.dumps(source)
        assert len(sent) < 1000
        received = pickle.loads(sent)
        assert received.names == source.names
        for name in source.names:
            np.testing.assert_array_equal(received.pixels(name), source.pixels(name))


def test_a_cell_of_arrays_is_its_folder_and_no_other(tmp_path):
    pixels = PIXELS[:4].reshape(2, 2, 32, 32, 3)
    np.savez(
        tmp_path / "part.npz",
        **dict.fromkeys(("fog", "fog-2", "fog_seq", "fox"), pixels),
        labels=LABELS[:2],
    )
    source = sources.open_source(tmp_path / "part.npz", tree.class_list("cifar10"))
    folders = [name.rpartition("/")[0] for name in source.list("fog")[0]]
    assert folders == ["fog/1", "fog/1", "fog/2", "fog/2"]
    assert source.list("fog/2")[0] == [name for name in source.names if name.startswith("fog/2/")]
    assert source.list("fo") == ([], [])


def test_all_corruptions_are_without_clean_images_unless_they_are_named(tmp_path):
    np.savez(
        tmp_path / "part.npz",
        fog=PIXELS.reshape(2, 10, 32, 32, 3),
        clean=PIXELS[:10],
        labels=LABELS[:10],
    )
    source = sources.open_source(tmp_path / "part.npz", tree.class_list("cifar10"))

    def cells(corruptions, severities):
        return cells_of(source, "cifar10c", corruptions, severities, train=False)

    assert cells(["all"], ["2"]) == ["fog/2"] and cells(["all"], ["all"]) == ["fog/1", "fog/2"]
    assert cells(["all", "clean"], ["all"]) == ["clean/0", "fog/1", "fog/2"]
    assert cells(["clean"], ["0"]) == ["clean/0"]


def test_image_files_in_an_npz_are_passed_on_as_they_are(tmp_path):
    files = []
    for image in PIXELS[:3]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=75)
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(
        tmp_path / "x.npz",
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offsets=offsets,
        labels=np.array([1, 0, 1]),
        classes=np.array(["cat", "dog"]),
    )
    source = sources.open_source(tmp_path / "x.npz")
    assert source.names == [
        "clean/cifar_train/cat_00001.jpg",
        "clean/cifar_train/dog_00000.jpg",
        "clean/cifar_train/dog_00002.jpg",
    ]
    assert source.encoded("clean/cifar_train/cat_00001.jpg") == files[1]
    assert source.read("clean/cifar_train/cat_00001.jpg").size == (32, 32)


def jpeg_at(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS[0]).save(path)


def test_tiny_imagenet(tmp_path):
    (tmp_path / "wnids.txt").write_text("n00000002\nn00000001\n")
    jpeg_at(tmp_path / "train/n00000001/images/n00000001_0.JPEG")
    jpeg_at(tmp_path / "val/images/val_0.JPEG")
    jpeg_at(tmp_path / "test/images/test_0.JPEG")
    (tmp_path / "val/val_annotations.txt").write_text("val_0.JPEG\tn00000002\t0\t0\t62\t62\n")
    source = sources.open_official(tmp_path)
    assert source.classes == ("n00000002", "n00000001")
    assert source.names == [
        "clean/train/n00000001/n00000001_0.JPEG",
        "clean/val/n00000002/val_0.JPEG",
    ]
    assert source.read(source.names[1]).size == (32, 32)


WNIDS = tree.class_list("imagenet")


@pytest.mark.parametrize(
    "text",
    [
        f"ImageId,PredictionString\nILSVRC2012_val_00000001,{WNIDS[4]} 1 2 3 4 "
        f"\nILSVRC2012_val_00000002,{WNIDS[2]} 5 6 7 8\n",
        "ILSVRC2012_val_00000001.JPEG 4\nILSVRC2012_val_00000002.JPEG 2\n",
        f"{WNIDS[4]}\n{WNIDS[2]}\n",
        "kit",
    ],
)
def test_a_flat_imagenet_val_folder_is_labelled_by_any_official_list(tmp_path, text):
    labels = tmp_path / "kit" / "data" / "labels.txt"
    labels.parent.mkdir(parents=True)
    if text == "kit":
        from scipy.io import savemat

        numbers = np.array(
            [(7, WNIDS[4]), (3, WNIDS[2])], dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "U9")]
        )
        savemat(labels.with_name("meta.mat"), {"synsets": numbers})
        text = "7\n3\n"
    labels.write_text(text)
    for number in (1, 2):
        jpeg_at(tmp_path / f"imagenet/val/ILSVRC2012_val_{number:08}.JPEG")
    jpeg_at(tmp_path / f"imagenet/train/{WNIDS[0]}/{WNIDS[0]}_1.JPEG")
    source = sources.open_official(tmp_path / "imagenet", labels=labels)
    assert source.names == [
        f"clean/train/{WNIDS[0]}/{WNIDS[0]}_1.JPEG",
        f"clean/val/{WNIDS[2]}/ILSVRC2012_val_00000002.JPEG",
        f"clean/val/{WNIDS[4]}/ILSVRC2012_val_00000001.JPEG",
    ]
    assert source.classes == WNIDS and len(WNIDS) == 1000
    with pytest.raises(ValueError, match="give `labels`, the official list"):
        sources.open_official(tmp_path / "imagenet")


def test_labels_out_of_range_are_named(tmp_path):
    jpeg_at(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 1000\n")
    with pytest.raises(ValueError, match=r"has the label 1000, but labels are 0..999"):
        sources.open_official(tmp_path / "val", labels=tmp_path / "val.txt")
    with pytest.raises(FileNotFoundError, match="`labels` .*nowhere is not a file"):
        sources.open_official(tmp_path / "val", labels=tmp_path / "nowhere")


def test_cifar_10_c_without_its_labels_is_named(tmp_path):
    np.save(tmp_path / "fog.npy", PIXELS)
    with pytest.raises(ValueError, match=r"fog.npy, but labels.npy is missing"):
        sources.open_source(tmp_path)


def test_the_development_kits_numbers_need_its_table(tmp_path):
    jpeg_at(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "truth.txt").write_text("490\n")
    with pytest.raises(ValueError, match=r"put its meta.mat beside it"):
        sources.open_official(tmp_path / "val", labels=tmp_path / "truth.txt")


def test_imagenet_c_with_and_without_folders_of_groups(tmp_path):
    jpeg_at(tmp_path / f"weather/fog/3/{WNIDS[0]}/ILSVRC2012_val_00000001.JPEG")
    for path in (tmp_path, tmp_path / "weather"):
        name = f"fog/3/{WNIDS[0]}/ILSVRC2012_val_00000001.JPEG"
        assert sources.open_official(path).names == [name]
    jpeg_at(tmp_path / "weather/fog/3/n99999999/ILSVRC2012_val_00000002.JPEG")
    with pytest.raises(ValueError, match="n99999999, which is none of the 1000"):
        sources.open_official(tmp_path)


@pytest.mark.parametrize("inside", ["", "images/"])
@pytest.mark.parametrize("above", ["", "tiny-imagenet-200/"])
def test_tiny_imagenet_with_a_val_folder_that_is_sorted(tmp_path, inside, above):
    home = tmp_path / above
    jpeg_at(home / f"train/n00000001/{inside}n00000001_0.JPEG")
    jpeg_at(home / f"val/n00000002/{inside}val_0.JPEG")
    (home / "wnids.txt").write_text("n00000002\nn00000001\n")
    names = ["clean/train/n00000001/n00000001_0.JPEG", "clean/val/n00000002/val_0.JPEG"]
    for annotations in ("", "val_0.JPEG\tn00000002\t0\t0\t62\t62\n"):
        source = sources.open_official(tmp_path)
        assert source.names == names and source.classes == ("n00000002", "n00000001")
        assert source.read(names[1]).size == (32, 32)
        (home / "val/val_annotations.txt").write_text(annotations or "val_0.JPEG\tn00000002\n")


def test_tiny_imagenet_without_the_labels_of_val_is_named(tmp_path):
    (tmp_path / "wnids.txt").write_text("n00000001\n")
    jpeg_at(tmp_path / "val/images/val_0.JPEG")
    with pytest.raises(ValueError, match="not sorted .* val_annotations.txt is missing"):
        sources.open_official(tmp_path)


@pytest.mark.parametrize("above", ["imagenet", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_imagenet_in_folders_above_keeps_its_val_images(tmp_path, above, is_sorted):
    home = tmp_path / "download" / above
    jpeg_at(home / f"train/{WNIDS[0]}/{WNIDS[0]}_1.JPEG")
    folder = f"val/{WNIDS[2]}" if is_sorted else "val"
    jpeg_at(home / folder / "ILSVRC2012_val_00000001.JPEG")
    other = tmp_path / "download/ILSVRC/Annotations/CLS-LOC"  # has no images
    for name in (f"train/{WNIDS[0]}/{WNIDS[0]}_1.xml", "val/ILSVRC2012_val_00000001.xml"):
        (other / name).parent.mkdir(parents=True)
        (other / name).touch()
    (tmp_path / "labels.txt").write_text(f"ILSVRC2012_val_00000001.JPEG {WNIDS[2]}\n")

    source = sources.open_official(tmp_path / "download", labels=tmp_path / "labels.txt")

    assert source.names == [
        f"clean/train/{WNIDS[0]}/{WNIDS[0]}_1.JPEG",
        f"clean/val/{WNIDS[2]}/ILSVRC2012_val_00000001.JPEG",
    ]
    if not is_sorted:
        with pytest.raises(ValueError, match="give `labels`, the official list"):
            sources.open_official(tmp_path / "download")


def test_folders_of_classes_in_two_places_are_never_one(tmp_path):
    for above in ("clean/val", "jpeg/val"):
        jpeg_at(tmp_path / above / WNIDS[0] / "1.JPEG")
    assert len(sources.open_official(tmp_path).names) == 2


def test_a_class_that_is_none_of_the_data_set_is_named_and_can_be_left_out(tmp_path, capsys):
    for label in ("n00000001", "n00000009"):
        jpeg_at(tmp_path / f"fog/3/{label}/1.JPEG")
    with pytest.raises(ValueError, match="n00000001 .and 1 more such., which is none of the 1000"):
        sources.open_official(tmp_path)

    source = sources.open_official(tmp_path, ["n00000001", "n00000002"])

    assert source.names == ["fog/3/n00000001/1.JPEG"]
    assert source.left_out.startswith("1 images of the class n00000009, which is none of the 2")
    (tmp_path / "two").write_text("n00000001\nn00000002\n")
    originals = making.Originals(tmp_path / "fog/..", classes=tmp_path / "two")
    making.prepare(originals, making.Target(tmp_path / "out", workers=1))
    assert f"note        {source.left_out}\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match="n00000009"):
        sources.open_official(tmp_path / "fog/3/n00000009/..", ["n00000005"])


@pytest.mark.parametrize("names", ["x_train y_train", "train_images train_labels"])
def test_the_npz_files_of_keras_and_medmnist(tmp_path, names):
    images, labels = names.split()
    pixels, path = PIXELS[:4, ..., 0], tmp_path / "mnist.npz"
    others = {"x_train": "x_test y_test", "train_images": "val_images val_labels"}[images].split()
    arrays = {others[0]: pixels[:2], others[1]: np.array([[1], [0]])}
    np.savez(path, **{images: pixels, labels: np.array([[9], [0], [1], [0]])}, **arrays)
    # labels up to 9 are not CIFAR's: these images are grey
    with pytest.raises(ValueError, match=f"{images} has labels but no class names; give `classes`"):
        sources.open_source(path)

    source = sources.open_source(path, [f"{number}" for number in range(10)])

    split = others[0].replace("x_", "").replace("_images", "")
    assert source.list("clean/train")[0] == [
        "clean/train/0_00001.png",
        "clean/train/0_00003.png",
        "clean/train/1_00002.png",
        "clean/train/9_00000.png",
    ]
    assert source.folders("clean") == sorted(["train", split])
    np.testing.assert_array_equal(source.pixels("clean/train/9_00000.png")[..., 1], pixels[0])


def test_arrays_that_are_no_corruptions_have_no_folder_that_looks_like_a_class(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS[:2], others=PIXELS[:1], fog=PIXELS[:1])
    source = sources.open_source(tmp_path / "a.npz")
    assert source.names == [
        "fog/0/00000.png",
        "images/00000.png",
        "images/00001.png",
        "others/00000.png",
    ]


def test_what_an_npz_without_images_holds_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=PIXELS[:2, ..., 0], y=np.arange(2))
    with pytest.raises(ValueError, match=r"it holds 'x' uint8 \(2, 32, 32\), 'y' int64 \(2,\); im"):
        sources.open_source(tmp_path / "a.npz", ["a", "b"])


def test_a_tree_of_ours_is_left_as_it_is(tmp_path):
    jpeg_at(tmp_path / f"jpeg/val/{WNIDS[0]}/1.png")
    tree.write_classes(tmp_path, WNIDS)
    assert sources.open_official(tmp_path).names == [f"jpeg/val/{WNIDS[0]}/1.png"]


@pytest.mark.parametrize("name", ["missing", "text.txt"])
def test_what_is_no_source_is_named(tmp_path, name):
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(
        (ValueError, FileNotFoundError), match=f"{name} .*expected a folder of images"
    ):
        sources.open_source(tmp_path / name)


@needs_shared
def test_the_npz_files_beside_the_project_are_known():
    lossless = sources.open_source(SHARED / "data" / "cifar10_lossless.npz")
    assert (
        len(lossless.list("clean/cifar_train")[0]) == 5170
        and len(lossless.list("clean/cifar_test")[0]) == 1017
    )
    corrupted = sources.open_source(SHARED / "data" / "cifar10c_open.npz")
    assert len(corrupted.names) == 19000 and len(corrupted.list("fog/5")[0]) == 250
    with np.load(SHARED / "data" / "cifar10c_open.npz") as data:
        row = int(corrupted.list("fog/5")[0][7].rsplit("_", 1)[1][:5])
        np.testing.assert_array_equal(
            corrupted.read(corrupted.list("fog/5")[0][7]), data["fog"][4, row]
        )


def test_a_truncated_npz_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", train_x=np.zeros((2, 8, 8, 3), np.uint8))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match="a.npz is damaged, or no npz file of arrays"):
        sources.open_source(tmp_path / "a.npz")
