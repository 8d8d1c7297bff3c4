#!/usr/bin/env python3
"""Choose the sampler's settings on known degradations, never on those that will judge them.

  make_data.py degrade --base_samples clean --split train --num_samples 100 --type jpeg \\
      --level 10 20 40 --save_dir T
  scripts/search.py --model_path prior.pt --classifier resnet56.th --base_samples T --out search \\
      --ranks 2 --flags="--speed one-shot" --N 4 6 8 12 16 --D 2 4 --k 0.5 0.75 1

--base_samples is a tree of known degradations, <degradation>/<level>; others are refused. Each
combination of the given values is adapted with --flags beside it and scored with the classifier:
the mean of its accuracy on the adapted copies and of the self-ensemble. OUT gets a tree for each,
search.json, search.md and search.png, the curves; finished trees are used again.
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

PROGRAM = "search.py"
AXES = ("N", "D", "k", "scale", "steps", "eta", "sampler")
FLAGS = """
--model_path FILE!  the prior
--classifier FILE!  a classifier's checkpoint
--base_samples->source PATH!  a labelled tree, <degradation>/<level>
--out DIR!
--ranks INT = 1  run the jobs under mpiexec -n INT
--batch_size INT = 16
--flags FLAGS = ''  of image_sample.py, for all: --flags="--speed one-shot"
[values to try]
--N VALUE+
--D VALUE+
--k VALUE+
--scale VALUE+
--steps VALUE+
--eta VALUE+
--sampler VALUE+
"""


def main(argv: list[str] | None = None) -> int:
    """Measure the combinations and return the exit status, or that of a job that failed."""
    words = sys.argv[1:] if argv is None else argv
    return commands.run(parser(), words, lambda *given: _work(words, *given))


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS)


def _work(argv: list[str], values: dict[str, Any], output: commands.Output) -> int:
    from DDA.studies import ladder, search

    command = shlex.join([f"scripts/{PROGRAM}", *argv])
    flags, axes = values.pop("flags"), {name: values.pop(name) for name in AXES}
    study = ladder.Study(**values)
    try:
        result = search.run(study, axes, flags, command=command, show=output)
    except ladder.FailedJob as error:
        output.warn(f"{error}")
        return error.status
    best = f"best        {flags} {result['rows'][0]['flags']}"
    written = f"written     {study.out}/search.json, .md, .png"
    output.result(f"{search.table(result)}\n{best}\n{written}", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
