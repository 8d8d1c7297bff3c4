#!/usr/bin/env python3
"""Tell whether adaptation helps a classifier on labelled images, at which rung and at what cost.

  advise.py mine.pth --model_path prior.pt --base_samples labelled --out advice
  advise.py mine.pth --model_path prior.pt --base_samples imagenet-c --dataset imagenetc \\
      --corruption fog jpeg_compression --severity 3 --student student.pth

The images are classified as they are, and with copies of each rung: by the copy alone, and by the
sum of the scores of both. The best way is chosen on one half of the images and judged on the other.
Adaptation helps where the 95 % interval of its gain on these is above 0. The time of an image is
measured on this machine. OUT gets advice.html, advice.md and advice.json. Copies are kept under
--cache, as those of predict.py, so the same command run again goes on.
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
from DDA.model_adapt.settings import Trial
from DDA.sources.cells import LAYOUTS

PROGRAM = "advise.py"
FLAGS = """
classifier CLASSIFIER  a checkpoint, or timm/<name>
--model_path->prior find:PATH!  the prior, which makes the copies
--base_samples->source find:PATH!  the labelled images: a tree with a folder for each class, or the
  files of a data set
--out DIR = advice
--student FILE  a student of degraded images, to compare with
--dataset->layout {LAYOUTS} = folder  layout of the tree
--corruption NAME+ = []  its folders (default: the whole tree, where --dataset is folder)
--severity 1..5+ = []
--train BOOL = False  the training split, for layouts that have splits
--speed->speeds {SPEED}+ = [one-shot,fast]  the rungs to try
--num_samples INT = 1000  at most so many images, evenly spread
--classes LIST  a built-in list or a file, where CLASSIFIER does not tell its classes
--seed INT = 0  of the noise
--fit {square,whole,pad}  what is adapted: the middle square, all of the image, or all of it within
  a square (default: whole where --dataset is folder, else square)
--cache PATH  the folder that keeps the copies (default: diffaud/ in the user's cache folder)
--batch_size INT = 16
--device auto|cpu|cuda = auto
"""


def main(argv: list[str] | None = None) -> int:
    """Write the advice and return the exit status."""
    return commands.run(parser(), argv, _work)


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS, LAYOUTS=LAYOUTS, SPEED=tuple(SPEEDS))


def _work(values: dict[str, Any], output: commands.Output) -> int:
    trial = Trial(**values)
    from DDA.model_adapt.advice import advise

    advice = advise(trial, output)
    output.result(f"{advice}", advice.facts)
    for name, reason in list(advice.failed.items())[:10]:
        output.warn(f"{name}: {reason}")
    if advice.failed:
        output.warn(f"{len(advice.failed)} images could not be read and were left out")
    return 1 if advice.failed else 0


if __name__ == "__main__":
    sys.exit(main())
