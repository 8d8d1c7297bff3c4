#!/usr/bin/env python3
"""Measure one classifier on corrupted images, corruption by corruption, severity by severity.

  test_corrupt.py -c configs/deg_all/CIFAR10/ResNet18/degDistill.yaml -r model_best.pth
  test_corrupt.py -c configs/deg_all/CIFAR10/ResNet18/degDistill.yaml -r model_best.pth \\
      --ct sequence --dd dataset/cifar_10_seq
  test_corrupt.py -c configs/ind/CIFAR10/ResNet20/clean.yaml -r resnet20.th \\
      --dd cifar10c.npz --sev 3,5 --out eval

-r is a checkpoint of this project, or weights of any origin that fit the config's classifier. --dd
is a tree <corruption>/<severity>/…, or a data set's files. OUT gets corrupt.json and corrupt.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("DDA")  # from here on both signals wait

from typing import Any

from DDA import commands
from DistilledClassifier.experiments.settings import Evaluation

PROGRAM = "test_corrupt.py"
UNUSED = ("dl", "lr", "dt", "rs")  # flags of FusionDistill that change nothing here


def main(argv: list[str] | None = None) -> int:
    """Measure the classifier and return the exit status."""
    return commands.run(parser(), argv, _work, "run the same command again")


def _work(values: dict[str, Any], output: commands.Output) -> int:
    unused = [name for name in UNUSED if values.pop(name) is not None]
    if unused:
        names = ", ".join(f"`{name}`" for name in unused)
        output.note(f"{names} changes nothing; what lies at `images` is recognised")
    settings = settings_of(values)
    from DistilledClassifier.experiments.corrupted import evaluate

    accuracy = evaluate(settings, output)
    output.result(f"{accuracy}", accuracy.as_dict())
    return 0


def settings_of(values: dict[str, Any]) -> Evaluation:
    """Return the settings of a command line. Raises ValueError."""
    kept = {name: value for name, value in values.items() if name != "ct"}
    kept |= {
        "sequences": values["ct"] == "sequence",
        "corruption": tuple(values["corruption"]),
        "severity": tuple(values["severity"].split(",")),
    }
    return Evaluation(**kept)


FLAGS = """
-c, --config YAML!  an experiment, or a config of your own
-r, --resume FILE!  the classifier
-d, --device INDICES = auto  auto, cpu, or the number of a GPU (default: auto)
--bs, --batch_size->batch_size INT = 128  batch size
--ct {single,sequence} = single  common corruptions, or the sequences
--sev->severity 1,2,3,4,5 = all  severities (default: those that are there)
--corruption NAME+ = [all]  (default: those that are there)
--dd->images find:PATH  corrupted images (default: data.corrupted, data.sequences)
--dl LOADER  accepted, and changes nothing: layouts are recognised
--lr, --learning_rate->lr LR  accepted, and changes nothing: it is for training
--dt, --deg_type->dt DT  accepted, and changes nothing: it is for training
--rs, --random_seed->rs RS  accepted, and changes nothing: it is for training
--out DIR  also write the table there
"""


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS)


if __name__ == "__main__":
    sys.exit(main())
