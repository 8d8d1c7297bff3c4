#!/usr/bin/env python3
"""Classify images without labels, from two views: as they are, and their adapted copies.

  image_sample.py --model_path prior.pt --base_samples photos --save_dir photos_adapted
  predict.py STUDENT1.pth --second_model_prefix STUDENT2.pth --data_prefix1 photos \\
      --data_prefix2 photos_adapted --out said.csv

OUT has a line for each image: its key, the class of the combination and its probability (the
softmax of the combined logits), and the class that each classifier alone gives. Without a second
classifier the first one sees both views. --ensemble gate needs copies of those images alone that
gate.py lists. With labels, test_ensemble.py measures how good the classes are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from DDA import commands
from DDA.model_adapt.choices import FITTED_RULES, RULES
from DDA.model_adapt.settings import Prediction

PROGRAM = "predict.py"
FLAGS = """
first FIRST  the classifier of the images as they are: a checkpoint, or timm/<name>
--second_model_prefix->second SECOND  the classifier of adapted copies (default: the first one)
--data_prefix1->degraded find:PATH!  the images: a folder, or arrays
--data_prefix2->adapted find:PATH!  their adapted copies
--ensemble->rule RULE = sum  how the scores are combined
--classes LIST  a built-in list or a file, where FIRST does not tell its classes
--severity int:1..5  that of a .npy of a corruption that holds one
--out CSV!
--batch_size INT = 64
--device auto|cpu|cuda = auto
"""


def main(argv: list[str] | None = None) -> int:
    """Write the classes and return the exit status."""
    return commands.run(parser(), argv, _work, "nothing was written, run the same command again")


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS, RULE=(*RULES, *FITTED_RULES))


def _work(values: dict[str, Any], output: commands.Output) -> int:
    settings = Prediction(**values)
    from DDA.model_adapt.unlabelled import classify

    predicted = classify(settings, output)
    result = {"images": len(predicted.rows), "rule": predicted.rule, "out": predicted.out}
    output.result(f"{predicted}", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
