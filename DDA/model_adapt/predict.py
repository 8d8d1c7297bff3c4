#!/usr/bin/env python3
"""Classify images without labels, from two views: as they are, and their adapted copies.

  predict.py STUDENT1.pth --second_model_prefix STUDENT2.pth --data_prefix1 photos \\
      --model_path prior.pt --out said.csv
  predict.py STUDENT1.pth --second_model_prefix STUDENT2.pth --data_prefix1 photos \\
      --data_prefix2 photos_adapted --out said.csv

The copies are made on the way by a prior, or were made before by image_sample.py. OUT has a line
for each image: its key, the class of the combination and its probability (the softmax of the
combined scores), the class that each classifier alone gives, and a status: ok, or why there is no
class. Without a second classifier the first one sees both views. With a prior, copies are kept
under --cache by the digest of all that decides them, so a second run makes none, and the folder may
be removed at any time. --ensemble gate adapts only the images of which FIRST is unsure; it is the
default where a gate is fitted. With labels, test_ensemble.py measures how good the classes are.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __import__("DDA")  # from here on both signals wait

from typing import Any

from DDA import commands
from DDA.image_adapt.choices import SPEEDS
from DDA.model_adapt.choices import FITTED_RULES, FUSE_RULES, RULES
from DDA.model_adapt.settings import Prediction

PROGRAM = "predict.py"
FLAGS = """
first FIRST  the classifier of the images as they are: a checkpoint, or timm/<name>
--second_model_prefix->second SECOND  the classifier of adapted copies (default: the first one)
--data_prefix1->degraded find:PATH!  the images: a folder, one image, a pattern, a zip, …
--data_prefix2->adapted find:PATH  their adapted copies
--model_path->prior find:PATH  a prior, which makes the copies
--speed {SPEED}  the rung at which it makes them (default: one-shot)
--seed INT  of its noise (default: 0)
--fit {square,whole,pad}  what it adapts: the middle square, all of the image, or all of it within a
    square (default: whole)
--cache PATH  the folder that keeps its copies (default: diffaud/ in the user's cache folder)
--ensemble->rule RULE  how the scores are combined (default: sum; gate where one is fitted)
--classes LIST  a built-in list or a file, where FIRST does not tell its classes
--severity int:1..5  that of a .npy of a corruption that holds one
--orientation {apply,ignore}  apply: turn photographs as their EXIF data say (default: as the copies
    in --data_prefix2 were made, and ignore where these do not tell; without copies apply)
--out CSV!
--batch_size INT = 64
--device auto|cpu|cuda = auto
"""


def main(argv: list[str] | None = None) -> int:
    """Write the classes and return the exit status."""
    return commands.run(parser(), argv, _work, "nothing was written, run the same command again")


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    rules = (*RULES, *FITTED_RULES, *FUSE_RULES)
    return commands.parser(PROGRAM, __doc__, FLAGS, RULE=rules, SPEED=tuple(SPEEDS))


def _work(values: dict[str, Any], output: commands.Output) -> int:
    settings = Prediction(**values)
    from DDA.model_adapt.unlabelled import classify

    predicted = classify(settings, output)
    failed = predicted.failed
    result = {"images": len(predicted.rows), "failed": failed, "rule": predicted.rule}
    output.result(f"{predicted}", {**result, "out": predicted.out, "cache": predicted.cache})
    for key, reason in list(failed.items())[:10]:
        output.warn(f"{key}: {reason}")
    if failed:
        output.warn(f"{len(failed)} of {len(predicted.rows)} images have no class; see `out`")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
