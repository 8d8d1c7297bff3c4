#!/usr/bin/env python3
"""Measure what the project costs beside the work that cannot be avoided.

benchmark.py plan                           plan and shard 1,000,000 made-up keys
benchmark.py memory --model_path PRIOR      peak memory of 200 and of 2,000 images
benchmark.py overhead --model_path PRIOR    the whole job over the network alone (N = 5)
benchmark.py data                           known degradations over library calls; glass blur
benchmark.py train                          share of a training not spent waiting for images
benchmark.py sweep --classifier RESNET.th --degraded CIFAR10C.npz
                                            an evaluation over its forward passes
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
__import__("DDA")  # from here on both signals wait

from typing import Any

from DDA import commands

PROGRAM = "benchmark.py"
NEEDS = {  # the flags that each benchmark takes
    "plan": ("count",),
    "memory": ("model_path",),
    "overhead": ("model_path",),
    "data": (),
    "train": (),
    "sweep": ("classifier", "degraded"),
}
FLAGS = """
what {NEEDS}
--model_path FILE  a prior for 32 pixels
--classifier FILE  a CIFAR ResNet's checkpoint
--degraded PATH  CIFAR-10-C as files or as a tree
--count INT = 1000000  keys to plan
"""


def main(argv: list[str] | None = None) -> int:
    """Run a benchmark and return the exit status."""
    return commands.run(parser(), argv, _work)


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS, NEEDS=NEEDS)


def _work(values: dict[str, Any], output: commands.Output) -> int:
    what = values["what"]
    arguments = {name: values[name] for name in NEEDS[what]}
    missing = [f"`{name}`" for name, value in arguments.items() if value is None]
    if missing:
        raise ValueError(f"{what} needs {' and '.join(missing)}")
    from DDA.studies import benchmarks

    figures = getattr(benchmarks, what)(**arguments)
    output.result(benchmarks.table(figures), figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
