#!/usr/bin/env python3
"""Make data: trees of data sets, degraded and corrupted copies, checks and contact sheets.

  make_data.py prepare  --base_samples cifar-10-python.tar.gz --save_dir dataset/cifar_10
  make_data.py degrade  --base_samples dataset/cifar_10 --save_dir dataset/cifar_10 --type jpeg blur
  make_data.py sequence --base_samples dataset/cifar_10 --split cifar_test --save_dir dataset/seq
  make_data.py corrupt  --base_samples dataset/cifar_10 --save_dir dataset/CIFAR-10-C
  make_data.py verify   --save_dir dataset/cifar_10
  make_data.py sheet    --base_samples photos --type blur --out blur.png

Run a command again to go on. --base_samples is a folder of images or a data set as downloaded."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("DDA")  # from here on both signals wait

import os
from dataclasses import asdict, fields
from typing import Any

from DDA import commands
from DistilledClassifier import making
from DistilledClassifier.degradations import BEHAVIORS, COMBINED, DEGRADATIONS, SEQUENCE_NAMES
from DistilledClassifier.making import Originals, Target
from DistilledClassifier.trees import LostFolder, LostWorker

PROGRAM = "make_data.py"
FROM = """
--base_samples->source PATH!  a folder, a pattern, a zip, shards, parquet (dataset/README.md)
--split NAME  only this part of it, such as cifar_test, train, val
--num_samples INT  at most so many images, spread evenly (default: all)
--orientation {apply,ignore}  apply: turn as EXIF says (default for a folder of one's own)
"""
NAMES = """
--classes LIST  class names: a file, one a line, or a built-in list; where the data do not tell
--labels FILE  a CSV of files and labels, or a flat ImageNet's list (dataset/README.md)
--list FILE  only the images that it names, one a line
"""
DIVIDE = """
--test_share FLOAT  write clean/train and clean/test: by the images' folders (train; test, val,
    valid, validation), else by key, this share of each class (--classes folders: their names)
--train FOLDER  of the training images
--test FOLDER  of the test images
"""
NPY = "--severity->file_severity int:1..5  that of a .npy of a corruption that holds one\n"
TO = f"""
--save_dir DIR!  the tree to write
--workers INT = {os.cpu_count()}  processes
--seed INT = 0  of every image's stream
"""
DEGRADE = """
--type {TYPES}+!  combined: one of them by chance
--level LEVEL+ = []  fixed levels instead, each in <type>/<level>/; test: the papers' five
--behavior {BEHAVIORS} = corrected  published: the quirks of the reference code
"""
NAME = "--name {NAMES}+ = [weak_seq,medium_seq,strong_seq]  (default: as documented)\n"
CORRUPT = """
--corruption NAME+ = [all]  all: the 15; extra: the other 4 (default: all)
--severity 1..5+ = [all]
--constants {CONSTANTS} = auto  auto: CIFAR's up to 64 pixels
--format {FORMATS} = png  npy: <corruption>.npy and labels.npy of equal sizes
"""
VERIFY = """
--save_dir DIR!  the tree to check
--base_samples->source PATH  clean images that every cell without a manifest must have
--split NAME  of the clean images
"""
SHEET = """
--type NAME!  a degradation, a sequence or a corruption
--constants {CONSTANTS} = auto  of a corruption
--out PNG!
--seed INT = 0
"""
FLAGS = {
    "prepare": FROM + NAMES + NPY + DIVIDE + TO,
    "degrade": FROM + NAMES + NPY + TO + DEGRADE,
    "sequence": FROM + NAMES + NPY + TO + NAME,
    "corrupt": FROM + NAMES + TO + CORRUPT,
    "verify": NAMES + NPY + VERIFY,
    "sheet": FROM + NAMES + NPY + SHEET,
}
ABOUT = {
    "prepare": "Write a data set as a tree: pixels as PNG, image files as they are.",
    "degrade": "Write copies with known degradations; the level is drawn for each image.",
    "sequence": "Write copies with blur, then noise, then JPEG, in <name>/0/.",
    "corrupt": "Write the common corruptions as trees or as the official arrays.",
    "verify": "Count and check a tree: missing, extra, damaged and mislabelled images.",
    "sheet": "Draw some images under a degradation at all its levels, as one picture.",
}


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand and return the exit status."""
    return commands.run(parser(), argv, _work)


def parser() -> commands.Parser:
    """Return the parser of the command line, with its subcommands."""
    p = commands.Parser(PROGRAM, description=__doc__)
    choices = {"TYPES": (*DEGRADATIONS, COMBINED), "BEHAVIORS": BEHAVIORS, "NAMES": SEQUENCE_NAMES}
    choices |= {"CONSTANTS": making.CONSTANTS, "FORMATS": making.FORMATS}
    subcommands = p.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, flags in FLAGS.items():
        command = subcommands.add_parser(name, help=ABOUT[name], description=ABOUT[name])
        commands.add_flags(command, flags + commands.OUTPUT, **choices)
    return p


def _work(values: dict[str, Any], output: commands.Output) -> int:
    command = values.pop("command")
    if command == "verify":
        return _verify(values, output)
    if command == "sheet":
        path = making.sheet(_take(Originals, values), **values)
        output.result(f"sheet       {path}", {"path": path})
        return 0
    originals, target = _take(Originals, values), _take(Target, values)
    try:
        made = getattr(making, command)(originals, target, show=output, **values)
    except (LostWorker, LostFolder) as error:
        output.warn(f"error: {error}")
        return 1
    if made.failed:
        output.warn(made.fault())
    output.result(f"{made}", {**asdict(made), "done": made.done})
    return 1 if made.failed else 0


def _verify(values: dict[str, Any], output: commands.Output) -> int:
    originals = None if values["source"] is None else _take(Originals, values)
    checked = making.verify(values["save_dir"], originals)
    for name, fault in sorted(checked.faults.items()):
        output.warn(f"{name}: {fault}")
    output.result(f"{checked}", asdict(checked))
    return 1 if checked.faults else 0


def _take(kind: type, values: dict[str, Any]) -> Any:
    """Make settings of the values that belong to them, and remove these from the values."""
    names = [item.name for item in fields(kind) if item.name in values]
    return kind(**{name: values.pop(name) for name in names})


if __name__ == "__main__":
    sys.exit(main())
