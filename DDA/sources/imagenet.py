"""ImageNet, ImageNet-C and Tiny-ImageNet as they are unpacked.

Their images get the names that they have in our trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from DDA import files, tree
from DDA.sources.folder import Folder


def tiny_imagenet(path: Path) -> Folder | None:
    """Open Tiny-ImageNet; return None for any other folder.

    Its folder holds wnids.txt, train/<class>/images/ and val/images/ with val_annotations.txt. The
    test images have no labels and are left out.
    """
    annotations = path / "val" / "val_annotations.txt"
    if not (path / "wnids.txt").is_file() or not annotations.is_file():
        return None
    named = {
        f"clean/train/{file.parts[-3]}/{file.name}": file
        for file in (path / "train").glob("*/images/*")
    }
    for line in files.read_lines(annotations, "the annotations"):
        name, label, *_ = [*line.split("\t"), ""]
        tree.check_name(f"{label}/{name}", annotations)
        named[f"clean/val/{label}/{name}"] = path / "val" / "images" / name
    return _labelled(path, named, tree.class_list(path / "wnids.txt"))


def imagenet(path: Path, classes: Sequence[str] | None, labels: Path | None) -> Folder | None:
    """Open ImageNet as it is unpacked; return None for any other folder.

    Its folder holds train/<wnid>/ and a flat val/ of ILSVRC2012_val_*, or one of the two alone. A
    val folder that is sorted into classes is taken too. So is ImageNet-C, where the folders of the
    corruptions may lie in those of their groups (noise, blur, weather, digital, extra).
    """
    pattern = "ILSVRC2012_val_*"
    flat = [*sorted(path.glob(pattern)), *sorted((path / "val").glob(pattern))]
    folders = _wnid_folders(path / "train" if flat else path)
    if not flat and not folders:
        return None
    classes = classes or tree.class_list("imagenet")
    named = {}
    if flat:
        if labels is None:
            raise ValueError(
                f"{flat[0].parent} is not sorted into classes: give `labels`, the official list "
                "(dataset/README.md)"
            )
        wnids = _val_labels(labels, classes)
        unknown = [file.name for file in flat if file.stem not in wnids]
        if unknown:
            raise ValueError(
                f"`labels` {labels} has no label of {len(unknown)} images, such as {unknown[0]}"
            )
        named = {f"clean/val/{wnids[file.stem]}/{file.name}": file for file in flat}
    for folder in folders:
        above = folder.relative_to(path).parts[:-1]
        if len(above) > 1 and above[-1].isdigit():  # [<group>/]<corruption>/<severity>
            prefix = "/".join(above[-2:])
        else:
            prefix = "/".join(("clean", *(part for part in above if part != "clean")))
        named.update((f"{prefix}/{folder.name}/{file.name}", file) for file in folder.iterdir())
    return _labelled(path, named, classes)


def _wnid_folders(path: Path) -> list[Path]:
    """Return the folders named as ImageNet's classes, at one level below ``path``.

    It is the first of four levels that has such folders.
    """
    for level in range(4):
        named = path.glob("*/" * level + "n" + "[0-9]" * 8)
        folders = sorted(folder for folder in named if folder.is_dir())
        if folders:
            return folders
    return []


def _labelled(path: Path, named: dict[str, Path], classes: Sequence[str]) -> Folder:
    """Return a folder of images whose classes must all be known; hidden files are left out."""
    visible = {name: file for name, file in named.items() if not file.name.startswith(".")}
    shown = {name: file for name, file in visible.items() if file.suffix.lower() in tree.SUFFIXES}
    unknown = sorted({name.split("/")[-2] for name in shown} - set(classes))
    if unknown:
        label = tree.shown(unknown[0])[1:-1]
        raise ValueError(
            f"{path} has the class {label}, which is none of the {len(classes)} of its data set; "
            "give `classes`"
        )
    return Folder(path, shown, classes)


def _val_labels(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """Return the class of each of ImageNet's 50,000 validation images.

    They are keyed by the file's name without suffix. Known lists are

    * Kaggle's LOC_val_solution.csv;
    * lines "<file> <class>" or "<file> <index>" (Caffe's val.txt);
    * one class on each line, in the order of the files;
    * the development kit's ILSVRC2012_validation_ground_truth.txt, with meta.mat beside or above.
    """
    lines = [line.replace(",", " ").split() for line in files.read_lines(path, "`labels`")]
    if lines[0][0] == "ImageId":
        lines = lines[1:]
    if all(len(line) > 1 for line in lines):
        wnids = {Path(line[0]).stem: line[1] for line in lines}
        if all(label.isdigit() for label in wnids.values()):
            largest = max(map(int, wnids.values()))
            if largest >= len(classes):
                raise ValueError(
                    f"`labels` {path} has the label {largest}, but labels are 0..{len(classes) - 1}"
                )
            wnids = {name: classes[int(label)] for name, label in wnids.items()}
    else:
        order = [line[0] for line in lines]
        if all(label.isdigit() for label in order):
            kit = _development_kit(path)
            unknown_number = next((label for label in order if int(label) not in kit), None)
            if unknown_number is not None:
                raise ValueError(
                    f"`labels` {path} has the number {unknown_number}, which is not in its meta.mat"
                )
            order = [kit[int(label)] for label in order]
        wnids = {f"ILSVRC2012_val_{i:08}": label for i, label in enumerate(order, start=1)}
    unknown = set(wnids.values()) - set(classes)
    if unknown:
        raise ValueError(
            f"`labels` {path} has the class {min(unknown)}, which is none of the {len(classes)} "
            "of the data set"
        )
    return wnids


@lru_cache(maxsize=1)
def _development_kit(path: Path) -> dict[int, str]:
    """Return the development kit's own numbers of the classes, which are not the usual ones."""
    places = [folder / "meta.mat" for folder in path.parents[:2]]
    meta = next((place for place in places if place.is_file()), None)
    if meta is None:
        raise ValueError(
            f"`labels` {path} holds the development kit's own numbers: put its meta.mat beside it"
        )
    from scipy.io import loadmat

    with files.parsing(meta, "meta.mat of the development kit"):
        with files.open_regular(meta) as file:
            synsets = loadmat(file, squeeze_me=True)["synsets"]
        return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
