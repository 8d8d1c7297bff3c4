#!/usr/bin/env python3
"""Choose the images that need an adapted copy: those of which a classifier is unsure.

  gate.py STUDENT1.pth --fitted STUDENT2.fitted.json --base_samples photos --out keys.txt
  image_sample.py --base_samples photos --keys keys.txt --save_dir adapted …
  test_ensemble.py CONFIG STUDENT1.pth --second_model_prefix STUDENT2.pth --ensemble gate \\
      --data_prefix1 photos --data_prefix2 adapted …

STUDENT2.fitted.json holds the threshold. test_ensemble.py --fit writes it, from known degradations.
--threshold names another.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __import__("DDA")  # from here on both signals wait

from typing import Any

from DDA import commands
from DDA.model_adapt.settings import Gate
from DDA.sources.cells import LAYOUTS

PROGRAM = "gate.py"
FLAGS = """
classifier find:FIRST  the classifier of degraded images
--base_samples->source find:PATH!  degraded images: a tree, or a data set's files
--dataset->layout {LAYOUTS} = folder  layout of the tree
--corruption NAME+ = []  names, or all
--severity 1..5+ = []  numbers, or all (default: 5)
--orientation {apply,ignore}  apply: turn photographs as their EXIF data say (default: that of
    image_sample.py)
--train bool:True|False = False  split of layouts that have one
--fitted JSON  the file that test_ensemble.py --fit wrote; this or --threshold
--threshold float:0..1  of the largest probability
--out FILE!  the keys, one a line
--batch_size INT = 128
--device auto|cpu|cuda = auto
"""


def main(argv: list[str] | None = None) -> int:
    """Write the keys and return the exit status."""
    return commands.run(parser(), argv, _work, "nothing was written, run the same command again")


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS, LAYOUTS=LAYOUTS)


def _work(values: dict[str, Any], output: commands.Output) -> int:
    settings = Gate(**values)
    from DDA.model_adapt.unlabelled import choose

    chosen = choose(settings, output)
    result = {"doubtful": len(chosen.keys), "total": chosen.total, "out": chosen.out}
    output.result(f"{chosen}", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
