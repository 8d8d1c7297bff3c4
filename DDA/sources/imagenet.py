"""ImageNet, ImageNet-C and Tiny-ImageNet as they are unpacked.

Their images get the names that they have in our trees.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from DDA import files, tree
from DDA.sources.folder import Folder

FLAT = "ILSVRC2012_val_"  # how the names of the images in a flat val folder begin


def tiny_imagenet(path: Path) -> Folder | None:
    """Open Tiny-ImageNet; return None for any other folder.

    Its folder, or one in it, holds wnids.txt, train/<class>/images/ and val/images/ with
    val_annotations.txt. A val folder that is sorted into classes is taken too, and classes without
    the folder images. The test images have no labels and are left out.
    """
    homes = [path, *sorted(_folders(path))]
    home = next((home for home in homes if (home / "wnids.txt").is_file()), None)
    if home is None:
        return None
    named = {
        f"clean/{split}/{folder.name}/{file.name}": file
        for split, folder in _class_folders(home)
        for file in _files(folder)
    }
    annotations = home / "val" / "val_annotations.txt"
    if annotations.is_file():
        for line in files.read_lines(annotations, "the annotations"):
            name, label, *_ = [*line.split("\t"), ""]
            tree.check_name(f"{label}/{name}", annotations)
            named.setdefault(f"clean/val/{label}/{name}", home / "val" / "images" / name)
    elif (home / "val" / "images").is_dir():
        raise ValueError(
            f"{home / 'val'} is not sorted into classes, and its val_annotations.txt is missing; "
            "unpack it too"
        )
    return _labelled(path, named, tree.class_list(home / "wnids.txt")) if named else None


def _class_folders(home: Path) -> list[tuple[str, Path]]:
    """Return the split and the folder of each class of Tiny-ImageNet that has a folder."""
    folders = [(split, folder) for split in ("train", "val") for folder in _folders(home / split)]
    return [(split, folder) for split, folder in folders if folder.name != "images"]


def imagenet(path: Path, classes: Sequence[str] | None, labels: Path | None) -> Folder | None:
    """Open ImageNet as it is unpacked; return None for any other folder.

    Its folder holds train/<wnid>/ and a flat val/ of ILSVRC2012_val_*, or one of the two alone, and
    may lie in others. A val folder that is sorted into classes is taken too. So is ImageNet-C,
    where the folders of the corruptions may lie in those of their groups (noise, blur, weather,
    digital, extra). Classes that are none of ``classes`` are named and left out where these are
    given.
    """
    flat, folders = _scan(path)
    if not flat and not folders:
        return None
    known = classes or tree.class_list("imagenet")
    named = _labelled_val(flat, labels, known) if flat else {}
    parents = {folder.relative_to(path).parts[:-1] for folder in folders}
    splits = [above[-1] for above in parents if above]
    is_official = len(splits) == len(parents) and set(splits) <= {"train", "val"}
    for folder, images in folders.items():
        above = folder.relative_to(path).parts[:-1]
        if is_official and len(set(splits)) == len(splits):  # whatever lies above them
            prefix = f"clean/{above[-1]}"
        elif len(above) > 1 and above[-1].isdigit():  # [<group>/]<corruption>/<severity>
            prefix = "/".join(above[-2:])
        else:
            prefix = "/".join(("clean", *(part for part in above if part != "clean")))
        named.update((f"{prefix}/{folder.name}/{file.name}", file) for file in images)
    return _labelled(path, named, known, leave_out=classes is not None)


def _labelled_val(
    flat: Sequence[Path], labels: Path | None, classes: Sequence[str]
) -> dict[str, Path]:
    """Return the files of a flat val folder by their names in a tree."""
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
    return {f"clean/val/{wnids[file.stem]}/{file.name}": file for file in flat}


def _scan(path: Path, levels: int = 5) -> tuple[list[Path], dict[Path, list[Path]]]:
    """Return the images of flat val folders, and those of each folder that is named as a class.

    These are looked for in so many levels of folders, at most.
    """
    flat: list[Path] = []
    folders: dict[Path, list[Path]] = {}
    level, seen = [path], {os.path.realpath(path)}
    for _ in range(levels):
        below = []
        for folder in level:
            flat += sorted(file for file in _files(folder) if file.stem.startswith(FLAT))
            below += [child for child in _folders(folder) if os.path.realpath(child) not in seen]
        seen.update(map(os.path.realpath, below))
        named = [folder for folder in below if re.fullmatch(r"n\d{8}", folder.name)]
        folders |= {folder: images for folder in named if (images := _files(folder))}
        level = sorted(set(below) - set(named))
    return flat, folders


def _folders(path: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones; none where there is no folder."""
    return [path / entry.name for entry in _entries(path) if tree.is_folder(entry)]


def _files(folder: Path) -> list[Path]:
    """Return the images in a folder, and in the folder images in it, without hidden ones."""
    places = (folder, folder / "images") if folder.name != "val" else (folder,)
    entries = [(place / entry.name, entry) for place in places for entry in _entries(place)]
    images = [(file, entry) for file, entry in entries if file.suffix.lower() in tree.SUFFIXES]
    return [file for file, entry in images if not tree.is_folder(entry)]


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        return tree.entries(folder) or []
    except (FileNotFoundError, NotADirectoryError):
        return []


def _labelled(
    path: Path, named: dict[str, Path], classes: Sequence[str], *, leave_out: bool = False
) -> Folder:
    """Return a folder of images whose classes must all be known; hidden files are left out.

    leave_out: leave images of other classes out, unless all are; the folder names them.
    """
    wanted = set(classes)
    visible = {name: file for name, file in named.items() if not file.name.startswith(".")}
    shown = {name: file for name, file in visible.items() if file.suffix.lower() in tree.SUFFIXES}
    known = {name: file for name, file in shown.items() if name.split("/")[-2] in wanted}
    unknown = sorted({name.split("/")[-2] for name in shown.keys() - known})
    if not unknown:
        return Folder(path, shown, classes)
    label = tree.shown(unknown[0])[1:-1]
    more = f" (and {len(unknown) - 1} more such)" if len(unknown) > 1 else ""
    if known and leave_out:
        left_out = (
            f"{len(shown) - len(known):,} images of the class {label}{more}, which is none of the "
            f"{len(classes)} of `classes`, are left out"
        )
        return Folder(path, known, classes, left_out)
    raise ValueError(
        f"{path} has the class {label}{more}, which is none of the {len(classes)} of its data set; "
        "give `classes`, a file with one name a line: other classes are then left out"
    )


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
