#!/usr/bin/env python3
"""Make data: official data sets to trees, degraded, corrupted and sequence-degraded copies, checks and contact sheets.

  make_data.py prepare  --base_samples cifar-10-python.tar.gz --save_dir dataset/cifar_10
  make_data.py degrade  --base_samples dataset/cifar_10 --save_dir dataset/cifar_10 --type jpeg blur noise
  make_data.py degrade  --base_samples dataset/cifar_10 --split cifar_train --save_dir dataset/known --type jpeg --level 20 40
  make_data.py sequence --base_samples dataset/cifar_10 --split cifar_test --save_dir dataset/cifar_10_seq
  make_data.py corrupt  --base_samples dataset/cifar_10 --split cifar_test --save_dir dataset/CIFAR-10-C --severity all
  make_data.py verify   --save_dir dataset/cifar_10
  make_data.py sheet    --base_samples photos --type blur --out blur.png

Run a command again to go on where it stopped. --base_samples is a folder of images or a data set as it is downloaded.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from DDA import commands, files, images, ranks, tree
from DDA.sources import Source, open_official
from DDA.tree import CORRUPTIONS, EXTRA_CORRUPTIONS
from DistilledClassifier import trees
from DistilledClassifier.degradations import (
    BEHAVIORS,
    COMBINED,
    DEGRADATIONS,
    SEQUENCE_NAMES,
    by_name,
)
from DistilledClassifier.recipes import Recipe, generator
from DistilledClassifier.trees import Task
from DistilledClassifier.verify import read_manifests
from DistilledClassifier.verify import verify as verify_tree

PROGRAM = "make_data.py"
SPLITS = ("train", "val", "test", "cifar_train", "cifar_test")


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns 0 when everything is there and right, 1 where images failed or are wrong, 2 for wrong input."""
    ranks.interrupt_on_sigterm()
    args = parser().parse_args(argv)
    try:
        return commands.run(lambda: args.run(args), PROGRAM)
    except BrokenProcessPool:
        again = "run the same command again to go on, with fewer --workers"
        ranks.say(PROGRAM, f"a worker process died (out of memory?); {again}")
        return 1


# ---------------------------------------------------------------------------------------------- the command line


FROM = """
--base_samples PATH!  a folder of images or a data set's files
--split NAME  only this part of it, such as cifar_test, train, val
--num_samples INT  at most so many images, spread evenly (default: all)
"""
OF = """
--classes LIST  class names: a file, one a line, or a built-in list; where the data do not tell
--labels FILE  labels of a flat ImageNet val folder (dataset/README.md)
--list FILE  only the images that it names, one a line
"""
ONE_SEVERITY = "--severity->file_severity int:1..5  that of a .npy of a corruption that holds one"
TO = f"""
--save_dir DIR!  the tree to write
--workers INT = {os.cpu_count()}  processes
--seed INT = 0  of every image's stream
"""
COMMANDS = {
    "prepare": (
        "Write a data set as a tree: pixels as PNG, image files as they are (as links where possible).",
        (FROM, OF, ONE_SEVERITY, TO),
    ),
    "degrade": (
        "Copies with the known degradations, one folder each; the level is drawn for each image.",
        (
            FROM,
            OF,
            ONE_SEVERITY,
            TO,
            """
--type {TYPES}+!  combined: one of them by chance
--level LEVEL+ = []  fixed levels instead, each in <type>/<level>/; test: the papers' five, as severities 1..5
--behavior {BEHAVIORS} = corrected  published: the quirks of the reference code
""",
        ),
    ),
    "sequence": (
        "Copies with blur, then noise, then JPEG, in <name>/0/.",
        (
            FROM,
            OF,
            ONE_SEVERITY,
            TO,
            """
--name {SEQUENCE_NAMES}+ = [weak_seq,medium_seq,strong_seq]  (default: the three as documented)
""",
        ),
    ),
    "corrupt": (
        "Common corruptions, in <corruption>/<severity>/ or as the official .npy files.",
        (
            FROM,
            OF,
            TO,
            """
--corruption NAME+ = [all]  all: the 15; extra: the other 4 (default: all)
--severity 1..5+ = [all]  (default: all)
--constants {auto,cifar,imagenet} = auto  auto: CIFAR's up to 64 pixels
--format {png,npy} = png  npy: <corruption>.npy and labels.npy of equal sizes
""",
        ),
    ),
    "verify": (
        "Count and check a tree: missing, extra, damaged and mislabelled images.",
        (
            OF,
            ONE_SEVERITY,
            """
--save_dir DIR!  the tree to check
--base_samples PATH  clean images that every cell without a manifest must have
--split NAME  of the clean images
""",
        ),
    ),
    "sheet": (
        "One picture of a degradation at all its levels on a few images.",
        (
            FROM,
            OF,
            ONE_SEVERITY,
            """
--type NAME!  a degradation, a sequence or a corruption
--constants {auto,cifar,imagenet} = auto  of a corruption
--out PNG!
--seed INT = 0
""",
        ),
    ),
}


def parser() -> argparse.ArgumentParser:
    p = commands.Parser(PROGRAM, description=__doc__)
    subcommands = p.add_subparsers(required=True, metavar="COMMAND", dest="command")
    choices = {
        "TYPES": (*DEGRADATIONS, COMBINED),
        "BEHAVIORS": BEHAVIORS,
        "SEQUENCE_NAMES": SEQUENCE_NAMES,
    }
    for name, (about, flags) in COMMANDS.items():
        command = subcommands.add_parser(name, help=about, description=about)
        command.set_defaults(run=globals()[name], file_severity=None)
        commands.add_flags(command, "\n".join(text.strip("\n") for text in flags), **choices)
    return p


# ---------------------------------------------------------------------------------------------- commands that write


def _inside_clean(name: str) -> str:
    return name.removeprefix("clean/")


def _inside_split(name: str) -> str:
    """A name without the folder of its split: what a cell <corruption>/<severity> holds."""
    first, _, rest = _inside_clean(name).partition("/")
    return rest if rest and first in SPLITS else _inside_clean(name)


def prepare(args: argparse.Namespace) -> int:
    source, names = choose(args)
    places = ((name, *_place(name)) for name in names)
    return _write(
        args,
        source,
        [Task(Recipe(folder, "copy"), name, f"{folder}/{rest}") for name, folder, rest in places],
    )


def degrade(args: argparse.Namespace) -> int:
    source, names = choose(args)
    tasks = []
    for kind in args.type:
        if not args.level:
            tasks += _tasks(
                Recipe(kind, "degrade", kind, None, args.behavior), names, _inside_clean
            )
        for folder, level in _levels(kind, args.level) if args.level else ():
            tasks += _tasks(
                Recipe(f"{kind}/{folder}", "degrade", kind, level, args.behavior), names
            )
    return _write(args, source, tasks)


def _tasks(
    recipe: Recipe, names: Sequence[str], place: Callable[[str], str] = _inside_split
) -> list[Task]:
    """A task for each image; place: the image's name to that in the recipe's folder."""
    return [Task(recipe, name, f"{recipe.folder}/{tree.key_of(place(name))}.png") for name in names]


def _levels(kind: str, levels: Sequence[str]) -> list[tuple[str, float]]:
    """Folder and level of each --level. Raises ValueError for what is none."""
    if kind == COMBINED:
        raise ValueError(
            "--level does not go with --type combined, which draws degradation and level"
        )
    if levels == ["test"]:
        return [
            (str(severity), level)
            for severity, level in enumerate(DEGRADATIONS[kind].test, start=1)
        ]
    try:
        numbers = [float(level) for level in levels]
        for number in numbers:
            by_name(kind)(np.zeros((8, 8, 3), np.uint8), number, np.random.default_rng(0))
    except ValueError as error:
        raise ValueError(
            f"--level {' '.join(levels)}: {error}; levels are numbers, or the one word test"
        ) from None
    return [(f"{number:g}", number) for number in numbers]


def sequence(args: argparse.Namespace) -> int:
    source, names = choose(args)
    return _write(
        args,
        source,
        [
            task
            for kind in args.name
            for task in _tasks(Recipe(f"{kind}/0", "sequence", kind), names)
        ],
    )


def corrupt(args: argparse.Namespace) -> int:
    groups = {"all": CORRUPTIONS, "extra": EXTRA_CORRUPTIONS}
    chosen = list(
        dict.fromkeys(name for given in args.corruption for name in groups.get(given, (given,)))
    )
    known = CORRUPTIONS + EXTRA_CORRUPTIONS
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(
            f"--corruption {unknown[0]} is unknown; use all, extra, {', '.join(known)}"
        )
    severities = list("12345") if "all" in args.severity else sorted(set(args.severity))
    if not set(severities) <= set("12345"):
        raise ValueError(f"--severity {' '.join(args.severity)} must be 1..5 or all")
    if args.format == "npy" and len(severities) < 5:
        raise ValueError("--format npy holds all five severities; leave --severity out")
    source, names = choose(args)
    if args.format == "npy" and (
        not source.classes or any(tree.parse(name, source.classes)[2] is None for name in names)
    ):
        raise ValueError(
            f"--format npy needs labels, but nothing tells those of {args.base_samples}; give --classes"
        )
    tasks = []
    for kind, severity in itertools.product(chosen, severities):
        tasks += _tasks(
            Recipe(f"{kind}/{severity}", "corrupt", kind, int(severity), args.constants), names
        )
    status = _write(args, source, tasks)
    if status == 0 and args.format == "npy":
        _write_arrays(args.save_dir, chosen, severities)
    return status


def _write_arrays(save_dir: Path, corruptions: Sequence[str], severities: Sequence[str]) -> None:
    """The official form beside the tree: rows in the order of their names' numbers, severities one after the other."""
    classes = tree.read_classes(save_dir) or ()
    labels: list[int] = []
    for kind in corruptions:
        pixels, labels = [], []
        for severity in severities:
            names = tree.list_images(save_dir, f"{kind}/{severity}")[0]
            parsed = {name: tree.parse(name, classes) for name in names}
            for name in sorted(names, key=lambda name: (parsed[name][1], name)):
                pixels.append(np.asarray(images.read_rgb(save_dir / name)))
                labels.append(classes.index(parsed[name][2]))
        if len({image.shape for image in pixels}) > 1:
            raise ValueError(
                f"--format npy needs images of one size, but those of {save_dir / kind} differ"
            )
        files.write_array(save_dir / f"{kind}.npy", np.stack(pixels))
    files.write_array(
        save_dir / "labels.npy", np.array(labels, np.uint8 if len(classes) <= 256 else np.int64)
    )


def choose(args: argparse.Namespace) -> tuple[Source, list[str]]:
    """The source and the names of its images that are wanted. Raises ValueError where there are none."""
    source = open_official(*_reopen(args))
    names = source.names
    if args.run is not prepare and any(name.startswith("clean/") for name in names):
        names = [
            name for name in names if name.startswith("clean/")
        ]  # degraded copies may lie beside them
    names = _originals(args, names)
    if args.classes is not None:
        odd = [name for name in names if tree.parse(name, source.classes)[2] is None]
        if odd:
            raise ValueError(
                f"--classes {args.classes} has no class of {odd[0]} (and {len(odd)} such images in all)"
            )
    if args.split:
        names = [name for name in names if args.split in _inside_clean(name).split("/")[:1]]
    if args.list is not None:
        wanted = {Path(line).stem for line in files.read_lines(args.list, "--list")}
        names = [name for name in names if Path(name).stem in wanted]
        if len(names) < len(wanted):
            raise ValueError(
                f"--list {args.list} names {len(wanted)} images, of which {args.base_samples} has {len(names)}"
            )
    if not names:
        where = f" in --split {args.split}" if args.split else ""
        raise ValueError(f"--base_samples {args.base_samples} has no images{where}")
    if args.num_samples is not None:
        commands.at_least_1(args, "num_samples")
        names = tree.spread(names, args.num_samples)
    return source, names


def _originals(args: argparse.Namespace, names: list[str]) -> list[str]:
    """Without what was made here from others: copies may lie beside their sources."""
    made = (
        []
        if args.run is prepare or not args.base_samples.is_dir()
        else [
            f"{manifest['folder']}/"
            for _, manifest in read_manifests(args.base_samples)
            if manifest["settings"].get("kind") != "copy"
        ]
    )
    source = args.base_samples.resolve()
    if "save_dir" in args and source in args.save_dir.resolve().parents:
        made.append(f"{args.save_dir.resolve().relative_to(source).as_posix()}/")
    return [name for name in names if not name.startswith(tuple(made))]


def _reopen(args: argparse.Namespace) -> tuple:
    classes = None if args.classes is None else tree.class_list(args.classes)
    return args.base_samples, classes, args.labels, args.file_severity


def _place(name: str) -> tuple[str, str]:
    """The folder of the tree that gets a manifest of its own, and the rest of an image's name."""
    if match := re.fullmatch(r"(?s)([^/]*/\d+)/(.+)", name):  # <corruption>/<severity>
        return match[1], match[2]
    rest = _inside_split(name)
    return f"clean/{_inside_clean(name).removesuffix(rest)}".rstrip("/"), rest


def _write(args: argparse.Namespace, source: Source, tasks: list[Task]) -> int:
    commands.at_least_1(args, "workers")
    print(f"images      {len(tasks):,} of {args.base_samples} -> {args.save_dir}", flush=True)
    if source.classes is None:
        print(
            f"note        nothing tells the class names, so {args.save_dir} gets no {tree.CLASSES}; --classes FILE would"
        )
    failures = trees.write(
        source, _reopen(args), tasks, args.save_dir, seed=args.seed, workers=args.workers
    )
    for target, why in list(failures.items())[:10]:
        print(f"failed: {target}: {why}", file=sys.stderr)
    if failures:
        where = (
            f"the reasons are in {args.save_dir}/made*.json, and the same command tries them again"
        )
        ranks.say(PROGRAM, f"{len(failures)} of {len(tasks)} images failed; {where}")
        return 1
    print(f"{len(tasks):,} of {len(tasks):,} images are in {args.save_dir}", flush=True)
    return 0


# ---------------------------------------------------------------------------------------------- commands that look


def verify(args: argparse.Namespace) -> int:
    expected: list[str] = []
    if args.base_samples is not None:
        args.num_samples = None
        expected = [_inside_split(name) for name in choose(args)[1]]
        if tree.read_classes(args.save_dir) is None:
            raise ValueError(
                f"--base_samples compares images by their classes, but {args.save_dir} has no {tree.CLASSES}"
            )
    counts, wrong = verify_tree(args.save_dir, expected)
    if tree.read_classes(args.save_dir) is None:
        print(f"note        {args.save_dir} has no {tree.CLASSES}: classes were not checked")
    for cell, count in sorted(counts.items()):
        print(f"{cell:40} {count:8,}")
    for name, why in sorted(wrong.items()):
        print(f"{name}: {why}", file=sys.stderr)
    print(
        f"{sum(counts.values()):,} images in {len(counts)} folders, {len(wrong)} faults", flush=True
    )
    return 1 if wrong else 0


def sheet(args: argparse.Namespace) -> int:
    args.num_samples = args.num_samples or 6
    source, names = choose(args)
    recipes = _levels_of(args.type, args.constants)
    if args.out.suffix.lower() != ".png":
        raise ValueError(f"--out {args.out} must end in .png")
    clean = [np.asarray(source.read(name)) for name in names]
    rows = {"clean": clean}
    for title, recipe in recipes.items():
        rows[title] = [
            recipe.apply(image, generator(args.seed, name))
            for name, image in zip(names, clean, strict=True)
        ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(args.out, np.asarray(images.contact_sheet(rows, names)))
    print(f"sheet       {args.out}", flush=True)
    return 0


def _levels_of(name: str, constants: str) -> dict[str, Recipe]:
    """A recipe, by its title, for each level of a degradation, a sequence or a corruption."""
    if name in DEGRADATIONS:
        levels = DEGRADATIONS[name].test
        return {
            f"{name} {level:.3g}": Recipe("", "degrade", name, level, BEHAVIORS[0])
            for level in levels
        }
    if name in SEQUENCE_NAMES:
        return {one: Recipe("", "sequence", one) for one in SEQUENCE_NAMES}
    if name in CORRUPTIONS + EXTRA_CORRUPTIONS:
        return {
            f"{name} {severity}": Recipe("", "corrupt", name, severity, constants)
            for severity in range(1, 6)
        }
    known = ", ".join((*DEGRADATIONS, *SEQUENCE_NAMES, *CORRUPTIONS, *EXTRA_CORRUPTIONS))
    raise ValueError(f"--type {name} is unknown; use one of {known}")


if __name__ == "__main__":
    sys.exit(main())
