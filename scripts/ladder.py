#!/usr/bin/env python3
"""Compare settings of the adaptation by accuracy and cost, on labelled images.

  scripts/ladder.py --model_path prior.pt --classifier resnet56.th --base_samples cifar10c.npz \\
      --corruption gaussian_noise pixelate --severity 3 5 --out ladder --ranks 2
  scripts/ladder.py … --setting exact "n20: --speed fast --N 20 --k 0.8"

A setting is a rung of image_sample.py's --speed, or "name: flags" of image_sample.py. The first is
the baseline of the paired intervals. OUT gets a tree for each setting, ladder.json, ladder.md and
ladder.png; finished trees are used again.

Views: adapted, the classifier on the adapted images; self-ensemble, the mean of its probabilities
on the degraded and on the adapted image (DDA). Intervals, here and in ladder.json, are half the
width of the 95 % bootstrap interval over images; an image under several corruptions is drawn as a
whole. Network calls are counted and images/s are measured on --timing_images of the images, the
settings taking turns.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
__import__("DDA")  # from here on both signals wait

import shlex
from typing import Any

from DDA import commands
from DDA.sources.cells import LAYOUTS

PROGRAM = "ladder.py"
FLAGS = """
--model_path FILE!  the prior
--classifier FILE!  a classifier's checkpoint
--base_samples->source PATH!  labelled tree, or npz/npy files of a data set
--out DIR!
--ranks INT = 1  run the jobs under mpiexec -n INT (default: 1)
--batch_size INT = 16
--dataset->layout {LAYOUTS} = cifar10c  layout of the tree
--corruption NAME+ = [all]
--severity 1..5+ = [all]
--setting SETTING+ = [exact,balanced,fast,one-shot]  (default: the four rungs)
--timing_images INT = 16  0: measure no time
"""


def main(argv: list[str] | None = None) -> int:
    """Measure the settings and return the exit status, or that of a job that failed."""
    words = sys.argv[1:] if argv is None else argv
    return commands.run(parser(), words, lambda *given: _work(words, *given))


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS, LAYOUTS=LAYOUTS)


def _work(argv: list[str], values: dict[str, Any], output: commands.Output) -> int:
    from DDA.studies import ladder

    command = shlex.join([f"scripts/{PROGRAM}", *argv])
    texts, count = values.pop("setting"), values.pop("timing_images")
    study = ladder.Study(**values)
    try:
        result = ladder.run(study, texts, timing_images=count, command=command, show=output)
    except ladder.FailedJob as error:
        output.warn(f"{error}")
        return error.status
    kinds = ".json, .md, .png" if count else ".json, .md"
    output.result(f"{ladder.table(result)}\nwritten     {study.out}/ladder{kinds}", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
