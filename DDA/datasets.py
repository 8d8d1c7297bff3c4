"""Sources of images: a folder, or a data set in the files in which it is published, seen as a tree of named images.

Every source has ``path``; ``classes``, the class names in order, or None; ``names``, the relative paths that its images have in
a tree, sorted by key; ``read(name)``, the image as RGB; ``pixels(name)``, the same as uint8 (H,W,3); ``encoded(name)``, the
bytes of its file, or None where there are only pixels; ``digest(name)``, a SHA-256 of what is read; ``where(name)``, for
messages. Nothing that a file says is executed.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from DDA import images

LAYOUTS = ("imagenet", "imagenetc", "cifar10", "cifar10c", "digits", "folder")
SPLITS = {"imagenet": ("train", "val"), "cifar10": ("cifar_train", "cifar_test"), "digits": ("train", "test")}
DIGITS = "digits"  # a source by its name: it comes with scikit-learn
CIFAR_C = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
           "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression", "speckle_noise",
           "gaussian_blur", "spatter", "saturate")  # fmt: skip
FORMATS = (
    "a folder of images; CIFAR-10 or CIFAR-100 (python or binary, archive or folder); a folder with labels.npy and one "
    "<corruption>.npy each (CIFAR-10-C), or one such file; an .npy or .npz of images; the word digits"
)
CLASS_LISTS = ("cifar10", "cifar100", "imagenet", "digits")  # built in, in the order of their labels


class Folder:
    """A folder of images. files: other names in the tree than on disk, name -> file."""

    def __init__(self, path: Path, files: dict[str, Path] | None = None, classes: Iterable[str] | None = None):
        self.path = path
        self.classes = images.read_classes(path) if classes is None else tuple(classes)
        self._files = files
        self._names: list[str] | None = None

    @property
    def names(self) -> list[str]:
        if self._names is None:
            self._names = images.list_images(self.path)[0] if self._files is None else _by_key(self._files)
        return self._names

    def list(self, cell: str = ".", *, leave_out: Path | None = None) -> tuple[list[str], list[str]]:
        """The images below a folder of the tree, and what is none (see `images.list_images`)."""
        return images.list_images(self.path, cell, leave_out=leave_out)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder."""
        with os.scandir(self.path / folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))

    def is_adapted(self, folder: str, save_dir: Path | None) -> bool:
        """Whether a folder is a tree of adapted images, or holds the tree ``save_dir`` of them."""
        place = self.path / folder
        within = save_dir is not None and save_dir.resolve().is_relative_to(place.resolve())
        return within or (place / images.SETTINGS).is_file()

    def where(self, name: str) -> Path:
        return self.path / name if self._files is None else self._files[name]

    def read(self, name: str) -> Image.Image:
        return images.read_rgb(self.where(name))

    def pixels(self, name: str) -> np.ndarray:
        return np.asarray(self.read(name))

    def encoded(self, name: str) -> bytes:
        return self.where(name).read_bytes()

    def digest(self, name: str) -> str:
        return images.sha256(self.where(name))


class Arrays:
    """Images in arrays, in parts that are folders of the tree."""

    def __init__(self, path: Path, classes: Sequence[str] | None = None):
        self.path = path
        self.classes = None if classes is None else tuple(classes)
        self._places: dict[str, tuple[_Rows | _Jpegs, int]] = {}
        self._sorted: list[str] = []

    def __reduce__(self) -> tuple:
        return open_source, (self.path, self.classes)  # another process reads the same files

    def add(self, folder: str, part: _Rows | _Jpegs, count: int, labels: np.ndarray | None) -> None:
        """A part of ``count`` images under ``folder``, named <class>_<row> where labels are given, else <row>."""
        if labels is not None:
            if len(labels) != count:
                raise ValueError(f"{self.path}: {folder} has {count} images and {len(labels)} labels")
            if self.classes is None:
                raise ValueError(f"{self.path}: {folder} has labels, but nothing tells the class names; give --classes")
            if count and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                raise ValueError(
                    f"{self.path}: {folder} has the label {labels.max()}, but there are {len(self.classes)} classes"
                )
        prefix = f"{folder}/" if folder != "." else ""
        for row in range(count):
            name = f"{row:05}" if labels is None else f"{self.classes[int(labels[row])]}_{row:05}"
            self._places[f"{prefix}{name}{part.suffix}"] = (part, row)

    @property
    def names(self) -> list[str]:
        if len(self._sorted) < len(self._places):
            self._sorted = _by_key(self._places)
        return self._sorted

    def list(self, cell: str = ".", *, leave_out: Path | None = None) -> tuple[list[str], list[str]]:
        if cell == ".":
            return self.names, []
        first, end = (bisect_left(self.names, f"{cell}{after}", key=images.key_of) for after in "/0")  # 0 comes after /
        return self.names[first:end], []

    def folders(self, folder: str) -> list[str]:
        prefix = "" if folder == "." else f"{folder}/"
        inside = {name[len(prefix) :] for name in self._places if name.startswith(prefix)}
        return sorted({name.split("/")[0] for name in inside if "/" in name})

    def is_adapted(self, folder: str, save_dir: Path | None) -> bool:
        return False

    def where(self, name: str) -> str:
        return f"{self.path}: {name}"

    def read(self, name: str) -> Image.Image:
        part, row = self._places[name]
        return part.read(row)

    def pixels(self, name: str) -> np.ndarray:
        part, row = self._places[name]
        return part.pixels(row)

    def encoded(self, name: str) -> bytes | None:
        part, row = self._places[name]
        return part.encoded(row)

    def digest(self, name: str) -> str:
        part, row = self._places[name]
        return hashlib.sha256(part.encoded(row) or part.read(row).tobytes()).hexdigest()


class _Rows:
    """Pixels uint8 (N,H,W,3) or (N,H,W), loaded when the first is wanted."""

    suffix = ".png"

    def __init__(self, load: Callable[[], np.ndarray]):
        self._load = load
        self._pixels: np.ndarray | None = None

    def read(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels(row))

    def pixels(self, row: int) -> np.ndarray:
        if self._pixels is None:
            self._pixels = self._load()
        pixels = np.ascontiguousarray(self._pixels[row])
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)

    def encoded(self, row: int) -> None:
        return None


class _Jpegs:
    """JPEG files end to end: file i is ``data[offsets[i]:offsets[i+1]]``."""

    suffix = ".jpg"

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        self._data, self._offsets = data, offsets

    def read(self, row: int) -> Image.Image:
        with Image.open(io.BytesIO(self.encoded(row))) as image:
            return image.convert("RGB")

    def pixels(self, row: int) -> np.ndarray:
        return np.asarray(self.read(row))

    def encoded(self, row: int) -> bytes:
        return self._data[self._offsets[row] : self._offsets[row + 1]].tobytes()


Source = Folder | Arrays


def class_list(name: str | Path) -> tuple[str, ...]:
    """The class names of a built-in list, or of a file with one a line. Raises FileNotFoundError for neither."""
    path = Path(__file__).with_name("classes") / f"{name}.txt" if name in CLASS_LISTS else Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"--classes {name} is neither a file nor one of {', '.join(CLASS_LISTS)}")
    return tuple(read_lines(path, "--classes"))


def read_lines(path: Path, flag: str) -> list[str]:
    """The lines of a text file that are not empty. Raises FileNotFoundError, and ValueError where there are none or no text."""
    if not path.is_file():
        raise FileNotFoundError(f"{flag} {path} is not a file")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{flag} {path} is no text file") from None
    if not lines:
        raise ValueError(f"{flag} {path} is empty")
    return lines


def read_keys(path: Path) -> frozenset[str]:
    """The keys that gate.py wrote, one a line; there may be none. Raises FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"--keys {path} is not a file; gate.py writes one")
    return frozenset(path.read_bytes().decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")) - {""}


def read_pixels(source: Source, name: str) -> np.ndarray:
    """An image, uint8 (H,W,3). Raises ValueError that names it where it is damaged."""
    try:
        return source.pixels(name)
    except Exception as error:  # PIL and its plugins raise many types for damaged files
        raise ValueError(f"{source.where(name)} cannot be read ({error}); remove it or make it anew") from None


def open_source(path: str | Path, classes: Sequence[str] | None = None) -> Source:
    """Recognise what lies at ``path``: one of FORMATS. classes: names for labels that come without.

    Raises FileNotFoundError where there is nothing, ValueError for what is damaged, unknown or wants to execute code.
    """
    path = Path(path)
    if str(path) == DIGITS and not path.exists():
        return _digits(classes)
    if not path.exists():
        raise FileNotFoundError(f"--base_samples {path} does not exist; expected {FORMATS}")
    if path.is_dir():
        for reader in (_cifar_python, _cifar_binary, _corruption_arrays):
            source = reader(path, _folder_opener(path), classes)
            if source is not None:
                return source
        return Folder(path, classes=classes)
    if path.suffix == ".npz":
        return _npz(path, classes)
    if path.suffix == ".npy":
        return _npy(path, classes)
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return _archive(path, classes)
    raise ValueError(f"--base_samples {path} is no source of images; expected {FORMATS}")


def open_official(path: str | Path, classes: Sequence[str] | None = None, labels: Path | None = None) -> Source:
    """`open_source`, and ImageNet and Tiny-ImageNet as they are unpacked, with the names they get in a tree of ours.

    A folder with classes.txt is such a tree already. labels: the official list of a flat ImageNet val folder.
    """
    path = Path(path)
    if path.is_dir() and images.read_classes(path) is None:
        source = _tiny_imagenet(path) or _imagenet(path, classes, labels)
        if source is not None:
            return source
    return open_source(path, classes)


# ---------------------------------------------------------------------------------------------- cells


def cells(
    source: Source,
    layout: str,
    corruptions: Sequence[str],
    severities: Sequence[str],
    *,
    train: bool,
    leave_out: Path | None = None,
) -> list[str]:
    """The cells of a tree as POSIX paths relative to its root, in sorted order; ``.`` is the whole tree.

    corruptions: names, or ``all``; severities: numbers as text, or ``all``, or none for the default (5, and 0 for sequences).
    train chooses the split of layouts that have one; ``leave_out`` is a folder that holds no cell. Raises FileNotFoundError for
    what is not there, listing what is.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"--dataset {layout} is unknown; use one of {', '.join(LAYOUTS)}")
    if layout == "folder" and not corruptions:
        return ["."]
    root = source.path
    found = source.folders(".")
    trees = [name for name in found if not source.is_adapted(name, leave_out)]
    if not corruptions:
        raise ValueError(f"--corruption is missing; {_listing(trees, 'found')} in {root} (or: all)")
    missing = sorted(set(corruptions) - set(found) - {"all"})
    if missing:
        raise FileNotFoundError(f"--corruption {missing[0]} is not in {root}; {_listing(trees, 'found')}")
    chosen = trees if "all" in corruptions else sorted(set(corruptions))
    if not chosen:
        raise FileNotFoundError(f"{root} holds no folders, but --dataset {layout} wants one per corruption")
    if layout == "folder":
        return chosen
    if layout not in SPLITS and "clean" not in corruptions:
        chosen = [name for name in chosen if name != "clean"]  # no corruption, and without severities
    if layout in SPLITS:
        split = SPLITS[layout][0 if train else 1]
        return [_existing(source, f"{name}/{split}", f"--train {train} wants the split {split}") for name in chosen]
    return sorted(cell for name in chosen for cell in _severity_cells(source, name, severities))


def _severity_cells(source: Source, name: str, severities: Sequence[str]) -> list[str]:
    if "all" in severities:
        found = source.folders(name)
        if not found:
            raise FileNotFoundError(f"--severity all: {source.path / name} holds no severity folders")
        return [f"{name}/{severity}" for severity in found]
    if name == "clean":
        return [f"{name}/{folder}" for folder in source.folders(name)]  # it has no severities
    wanted = severities or ["0" if "_seq" in name else "5"]
    return [_existing(source, f"{name}/{severity}", f"--severity {severity} is wanted") for severity in sorted(set(wanted))]


def _existing(source: Source, cell: str, why: str) -> str:
    parent, _, name = cell.rpartition("/")
    if name not in source.folders(parent):
        found = _listing(source.folders(parent), "found")
        raise FileNotFoundError(f"{why}, but {source.path / cell} does not exist; {found} in {source.path / parent}")
    return cell


def _listing(names: Sequence[str], word: str) -> str:
    return f"{word}: {', '.join(names)}" if names else f"nothing {word}"


# ---------------------------------------------------------------------------------------------- CIFAR-10 and CIFAR-100

Opener = Callable[[str], "bytes | None"]  # the content of a file of a data set, None where it is absent


def _folder_opener(path: Path) -> Opener:
    return lambda name: (path / name).read_bytes() if (path / name).is_file() else None


def _archive(path: Path, classes: Sequence[str] | None) -> Arrays:
    """CIFAR as it is downloaded: read without unpacking it."""
    try:
        with tarfile.open(path) as archive:
            members = {member.name.rsplit("/", 1)[-1]: member for member in archive.getmembers() if member.isfile()}
            contents = {name: archive.extractfile(member).read() for name, member in members.items()
                        if member.size < 1 << 28}  # fmt: skip
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from None
    for reader in (_cifar_python, _cifar_binary):
        source = reader(path, contents.get, classes)
        if source is not None:
            return source
    raise ValueError(f"{path} holds neither CIFAR-10 nor CIFAR-100; unpack other archives and name the folder")


def _cifar_python(path: Path, content: Opener, classes: Sequence[str] | None) -> Arrays | None:
    """cifar-10-batches-py (data_batch_1 … test_batch, batches.meta) or cifar-100-python (train, test, meta)."""
    for meta, names, labels, parts in (
        ("batches.meta", "label_names", "labels", [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]),
        ("meta", "fine_label_names", "fine_labels", ["train", "test"]),
    ):
        if content(meta) is None:
            continue
        found = {part: unpickle(data, f"{path}: {part}") for part in parts if (data := content(part)) is not None}
        known = [_text(name) for name in unpickle(content(meta), f"{path}: {meta}")[names]]
        return _cifar(path, classes or known, {
            part: (batch.get("data"), np.array(batch.get(labels, []))) for part, batch in found.items()
        }, missing=[part for part in parts if part not in found])  # fmt: skip
    return None


def _cifar_binary(path: Path, content: Opener, classes: Sequence[str] | None) -> Arrays | None:
    """cifar-10-batches-bin (records of 1 + 3072 bytes) or cifar-100-binary (coarse and fine label, 3072 bytes)."""
    for meta, parts, head in (
        ("batches.meta.txt", [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], 1),
        ("fine_label_names.txt", ["train", "test"], 2),
    ):
        if content(meta) is None:
            continue
        batches = {}
        for part in parts:
            data = content(f"{part}.bin")
            if data is None:
                continue
            if not data or len(data) % (head + 3072):
                raise ValueError(f"{path}: {part}.bin has {len(data)} bytes, no multiple of {head + 3072}; download it again")
            records = np.frombuffer(data, np.uint8).reshape(-1, head + 3072)
            batches[part] = (records[:, head:], records[:, head - 1])
        known = content(meta).decode().split()
        return _cifar(path, classes or known, batches, missing=[part for part in parts if part not in batches])
    return None


def _cifar(path: Path, classes: Sequence[str], batches: dict, *, missing: list[str]) -> Arrays:
    """The layout of the published commands: clean/cifar_train and clean/cifar_test, rows counted over the batches."""
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; download it again")
    source = Arrays(path, classes)
    for split in ("train", "test"):
        chosen = [batches[part] for part in batches if ("test" in part) == (split == "test")]
        for data, _ in chosen:
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
                raise ValueError(f"{path} holds no CIFAR images of 3 x 32 x 32 bytes; download it again")
        pixels = np.concatenate([data for data, _ in chosen]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.concatenate([labels for _, labels in chosen])
        source.add(f"clean/cifar_{split}", _Rows(lambda pixels=pixels: pixels), len(pixels), labels)
    return source


class _ArraysOnly(pickle.Unpickler):
    """Makes numpy arrays and nothing else: every other name that a pickle calls for is refused."""

    def __init__(self, file: io.BytesIO, where: str):
        super().__init__(file, encoding="bytes")
        self._where = where

    def find_class(self, module: str, name: str):
        if (module.replace("numpy.core", "numpy._core"), name) == ("numpy._core.multiarray", "_reconstruct"):
            return np.ndarray.__reduce__(np.empty(0))[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return lambda text, _: text.encode("latin1")
        raise ValueError(f"{self._where} is no CIFAR file: it asks for {module}.{name}, which is refused")


def unpickle(data: bytes, where: str) -> dict:
    """A pickled dictionary of plain values and numpy arrays, keys as text. Raises ValueError for anything else."""
    try:
        value = _ArraysOnly(io.BytesIO(data), where).load()
    except ValueError:
        raise
    except Exception as error:  # damaged pickles raise many types
        raise ValueError(f"{where} is damaged ({error or type(error).__name__}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds no dictionary, as CIFAR files do")
    return {_text(key): item for key, item in value.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# ---------------------------------------------------------------------------------------------- ImageNet and Tiny-ImageNet


def _tiny_imagenet(path: Path) -> Folder | None:
    """wnids.txt, train/<class>/images/ and val/images/ with val_annotations.txt; its test images have no labels."""
    annotations = path / "val" / "val_annotations.txt"
    if not (path / "wnids.txt").is_file() or not annotations.is_file():
        return None
    files = {}
    for file in (path / "train").glob("*/images/*"):
        files[f"clean/train/{file.parts[-3]}/{file.name}"] = file
    for line in annotations.read_text(encoding="utf-8").splitlines():
        name, label = line.split("\t")[:2]
        files[f"clean/val/{label}/{name}"] = path / "val" / "images" / name
    return _labelled(path, files, class_list(path / "wnids.txt"))


def _imagenet(path: Path, classes: Sequence[str] | None, labels: Path | None) -> Folder | None:
    """ImageNet as it is unpacked: train/<wnid>/ and a flat val/ of ILSVRC2012_val_*, or one of the two alone.

    Also a val folder that is sorted into classes already; and ImageNet-C, where the folders of the corruptions may lie in those
    of their groups (noise, blur, weather, digital, extra).
    """
    flat = [file for place in (path, path / "val") for file in sorted(place.glob("ILSVRC2012_val_*"))]
    folders = _wnid_folders(path / "train" if flat else path)
    if not flat and not folders:
        return None
    classes = classes or class_list("imagenet")
    files = {}
    if flat:
        if labels is None:
            raise ValueError(
                f"{flat[0].parent} is not sorted into classes: give --labels, the official list (dataset/README.md)"
            )
        wnids = _val_labels(labels, classes)
        unknown = [file.name for file in flat if file.stem not in wnids]
        if unknown:
            raise ValueError(f"--labels {labels} has no label of {len(unknown)} images, such as {unknown[0]}")
        files = {f"clean/val/{wnids[file.stem]}/{file.name}": file for file in flat}
    for folder in folders:
        above = folder.relative_to(path).parts[:-1]
        is_cell = len(above) > 1 and above[-1].isdigit()  # [<group>/]<corruption>/<severity>
        prefix = "/".join(above[-2:] if is_cell else ("clean", *(part for part in above if part != "clean")))
        files.update((f"{prefix}/{folder.name}/{file.name}", file) for file in folder.iterdir())
    return _labelled(path, files, classes)


def _wnid_folders(path: Path) -> list[Path]:
    """The folders named as ImageNet's classes, at the first level below ``path`` that has any, at most the fourth."""
    for level in range(4):
        found = [folder for folder in path.glob("/".join(["*"] * level + ["n[0-9]*"])) if _is_wnid(folder)]
        if found:
            return sorted(found)
    return []


def _is_wnid(folder: Path) -> bool:
    return len(folder.name) == 9 and folder.name[1:].isdigit() and folder.is_dir()


def _labelled(path: Path, files: dict[str, Path], classes: Sequence[str]) -> Folder:
    """A folder whose files' classes must all be known."""
    files = {name: file for name, file in files.items() if file.suffix.lower() in images.SUFFIXES}
    unknown = sorted({name.split("/")[-2] for name in files} - set(classes))
    if unknown:
        raise ValueError(
            f"{path} has the class {unknown[0]}, which is none of the {len(classes)} of its data set; give --classes"
        )
    return Folder(path, files, classes)


def _val_labels(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """File name without suffix to class, for ImageNet's 50,000 validation images.

    Known lists: Kaggle's LOC_val_solution.csv; lines "<file> <class>" or "<file> <index>" (Caffe's val.txt); one class a line,
    in the order of the files; the development kit's ILSVRC2012_validation_ground_truth.txt with meta.mat beside it or above.
    """
    lines = [line.replace(",", " ").split() for line in read_lines(path, "--labels")]
    if lines and lines[0][0] == "ImageId":
        lines = lines[1:]
    if all(len(line) > 1 for line in lines):
        found = {Path(line[0]).stem: line[1] for line in lines}
        if all(label.isdigit() for label in found.values()):
            largest = max(map(int, found.values()))
            if largest >= len(classes):
                raise ValueError(f"--labels {path} has the label {largest}, but labels are 0..{len(classes) - 1}")
            found = {name: classes[int(label)] for name, label in found.items()}
    else:
        order = [line[0] for line in lines]
        if all(label.isdigit() for label in order):
            order = [_development_kit(path)[int(label)] for label in order]
        found = {f"ILSVRC2012_val_{i:08}": label for i, label in enumerate(order, start=1)}
    unknown = set(found.values()) - set(classes)
    if unknown:
        raise ValueError(f"--labels {path} has the class {min(unknown)}, which is none of the {len(classes)} of the data set")
    return found


@lru_cache(maxsize=1)
def _development_kit(path: Path) -> dict[int, str]:
    """The development kit's own numbers of the classes, which are not the usual ones."""
    meta = next((place / "meta.mat" for place in (path.parent, path.parent.parent) if (place / "meta.mat").is_file()), None)
    if meta is None:
        raise ValueError(f"--labels {path} holds the development kit's own numbers: put its meta.mat beside it")
    from scipy.io import loadmat

    synsets = loadmat(meta, squeeze_me=True)["synsets"]
    return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}


# ---------------------------------------------------------------------------------------------- arrays


def _corruption_arrays(path: Path, content: Opener, classes: Sequence[str] | None) -> Arrays | None:
    """CIFAR-10-C, CIFAR-100-C: labels.npy and <corruption>.npy of equally many rows for each severity 1..5."""
    found = [path / f"{name}.npy" for name in CIFAR_C if (path / f"{name}.npy").is_file()]
    if not found:
        return None
    if not (path / "labels.npy").is_file():
        raise ValueError(f"{path} holds {found[0].name}, but labels.npy is missing; download it too")
    source = Arrays(path)
    for file in found:
        _add_corruption(source, file, _load_npy(path / "labels.npy"), classes)
    return source


def _npy(path: Path, classes: Sequence[str] | None) -> Arrays:
    source = Arrays(path, classes)
    labels = path.with_name("labels.npy")
    if path.stem in CIFAR_C and labels.is_file():
        _add_corruption(source, path, _load_npy(labels), classes)
    else:
        source.add(".", _Rows(lambda: _load_npy(path)), len(_images(_load_npy(path), f"{path}")), None)
    return source


def _add_corruption(source: Arrays, file: Path, labels: np.ndarray, classes: Sequence[str] | None) -> None:
    rows = len(_images(_load_npy(file), f"{file}"))
    if rows % 5 or len(labels) not in (rows, rows // 5):
        raise ValueError(f"{file} has {rows} images and labels.npy {len(labels)} labels; expected 5 severities of equally many")
    each = rows // 5
    source.classes = source.classes or tuple(classes or _classes_of(labels, f"{file}"))
    for severity in range(1, 6):
        part = slice((severity - 1) * each, severity * each)
        source.add(f"{file.stem}/{severity}", _Rows(lambda part=part: _load_npy(file)[part]), each, labels[:each])


def _npz(path: Path, classes: Sequence[str] | None) -> Arrays:
    """Arrays by their names: train_x and test_x with train_y and test_y; <corruption> (S,N,H,W,3) with labels; jpeg files."""
    try:
        with np.load(path, allow_pickle=False) as data:
            all_shapes = {name: _shape(data, name) for name in data.files}
            shapes = {name: data[name] for name, shape in all_shapes.items() if len(shape) < 4}
            large = {name: shape for name, shape in all_shapes.items() if len(shape) >= 4}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is no npz file of arrays ({error})") from None
    labels = next((shapes[name] for name in ("labels", "train_y", "test_y", "y") if name in shapes), None)
    if classes is None and labels is not None:
        classes = [str(name) for name in shapes["classes"]] if "classes" in shapes else _classes_of(labels, f"{path}")
    source = Arrays(path, classes)

    @lru_cache(maxsize=1)  # of several severities in one array
    def whole(name: str) -> np.ndarray:
        with np.load(path, allow_pickle=False) as data:
            return data[name]

    def rows(name: str, index: int | None = None) -> _Rows:
        return _Rows(lambda: _images(whole(name) if index is None else whole(name)[index], f"{path}: {name}"))

    if {"jpeg", "offsets"} <= shapes.keys():
        source.add("clean/cifar_train", _Jpegs(shapes["jpeg"], shapes["offsets"]), len(shapes["offsets"]) - 1, labels)
    for name, shape in large.items():
        if len(shape) == 5:
            for severity in range(shape[0]):
                source.add(f"{name}/{severity + 1}", rows(name, severity), shape[1], labels)
        elif name in ("train_x", "test_x"):
            source.add(f"clean/cifar_{name[:-2]}", rows(name), shape[0], shapes.get(f"{name[:-2]}_y"))
        else:
            fits = labels is not None and len(labels) == shape[0]
            source.add(f"{name}/0" if len(large) > 1 else ".", rows(name), shape[0], labels if fits else None)
    if not source.names:
        raise ValueError(f"{path} holds no images: its arrays are {', '.join(shapes)}")
    return source


def _shape(data: np.lib.npyio.NpzFile, name: str) -> tuple[int, ...]:
    """Of an array in an npz file, without reading it."""
    with data.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file)[0]


def _classes_of(labels: np.ndarray, where: str) -> tuple[str, ...]:
    """The class names of labels that come without: CIFAR-10's where there are 10, CIFAR-100's where there are 100."""
    for name, count in (("cifar10", 10), ("cifar100", 100)):
        if int(labels.max()) == count - 1:
            return class_list(name)
    raise ValueError(f"{where} has labels up to {labels.max()} but no class names; give --classes FILE, one name a line")


def _digits(classes: Sequence[str] | None, size: int = 16, held_out: int = 360) -> Arrays:
    """The 1,797 handwritten digits of the UCI repository (Alpaydin & Kaynak) that scikit-learn carries, at 16 pixels.

    They come as 8x8 counts of ink, 0..16; the last 360 are the test split.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("--base_samples digits needs scikit-learn: pip install scikit-learn") from None

    digits = load_digits()
    ink = (digits.images * (255 / 16)).round().astype(np.uint8)
    pixels = np.stack([np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in ink])
    source = Arrays(Path(DIGITS), classes or class_list(DIGITS))
    train, test = slice(len(pixels) - held_out), slice(len(pixels) - held_out, None)
    for split, part in (("train", train), ("test", test)):
        source.add(f"clean/{split}", _Rows(lambda part=part: pixels[part]), len(pixels[part]), digits.target[part])
    return source


def _load_npy(path: Path) -> np.ndarray:
    """Mapped, not read: CIFAR-10-C has 15 files of 150 MB."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no npy file of numbers ({error})") from None


def _images(pixels: np.ndarray, where: str) -> np.ndarray:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[-1] == 3)):
        raise ValueError(f"{where} is {pixels.dtype} {pixels.shape}, but images are uint8 (N,H,W,3) or (N,H,W)")
    return pixels


def _by_key(names: Iterable[str]) -> list[str]:
    return sorted(names, key=images.key_of)
