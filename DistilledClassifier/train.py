#!/usr/bin/env python3
"""Train a classifier of one view: a clean one, or a teacher of one known degradation.

  train.py -c configs/ind/CIFAR10/ResNet18/clean.yaml
  train.py -c configs/ind/CIFAR10/ResNet18/deg.yaml --dt jpeg
  train.py -c configs/ind/CIFAR10/timm/resnet26/adapt.yaml --dt noise \\
      --set train.epochs=20 data.root=dataset/mine
  torchrun --nproc_per_node 8 train.py …

It writes SAVE_DIR/<degradation>/<kind>/<name>/train/<time>/: model_best.pth, model_last.pth,
config.yaml, losses.csv, epochs.csv, machine.json, TensorBoard's events, and resume.pt, from which
the same command goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("DDA")  # from here on both signals wait

from typing import Any

from DDA import commands, ranks
from DistilledClassifier.experiments.settings import Training, assignments, known_of

PROGRAM = "train.py"


def main(argv: list[str] | None = None) -> int:
    """Train a classifier and return the exit status."""
    return run(parser(), argv)


def run(parser: commands.Parser, argv: list[str] | None) -> int:
    """Run a command that trains experiments and return its exit status."""

    def work(world: ranks.World, values: dict[str, Any], output: commands.Output) -> int:
        return _work(world, values, output, parser.prog)

    return commands.run_ranks(parser, argv, work)


def _work(world: ranks.World, values: dict[str, Any], output: commands.Output, program: str) -> int:
    dry_run = values["dry_run"]
    settings = world.on_root(lambda: settings_of(values))
    from DistilledClassifier.experiments.run import run_training

    trained = run_training(settings, world, output, program, dry_run=dry_run)
    if world.rank == 0:
        result = {
            "best": trained.best,
            "folder": trained.folder,
            "top1": trained.top1,
            "epochs": trained.epochs,
            "steps": trained.steps,
            "estimate": trained.estimate,
        }
        text = f"best validation top-1 {trained.top1:.2f} %: {trained.best}"
        if trained.estimate is not None:
            text = f"nothing, `dry_run`; {trained.steps:,} steps are in {trained.folder}"
        output.result(f"done        {text}", result)
    return 0


def settings_of(values: dict[str, Any]) -> Training:
    """Return the settings of a command line. Raises ValueError."""
    known, changes = known_of(values["known"]), assignments(values["changes"])
    kept = {name: value for name, value in values.items() if name != "dry_run"}
    return Training(**{**kept, "known": known, "changes": changes})


FLAGS = """
-c, --config YAML!  an experiment, or a config of your own
-r, --resume FILE  go on with the run that this checkpoint belongs to
-d, --device INDICES = auto  auto, cpu, cuda, or the numbers of GPUs
--lr, --learning_rate->lr FLOAT
--bs, --batch_size->batch_size INT  batch size of each degradation, over all processes
--dt, --deg_type->known NAME  one known degradation, or several separated by commas where the
    program learns from all (combined_deg: the config's)
--rs, --random_seed->seed INT
--init FILENAME  weights to start from, of any origin
--epochs FLOAT  the budget in epochs
--minutes FLOAT  the budget in minutes; whichever ends first
--save_dir find:DIR = saved
--set->changes NAME=VALUE+ = []  any entry of the config, such as data.root=photos
--new  start a new run where there is one already
--workers INT = 2  threads that prepare images
--save_minutes FLOAT = 2.0  between saved states
--dry_run  check everything, print the plan and how long it takes by a few steps, and stop
"""


def parser(program: str = PROGRAM, about: str | None = __doc__) -> commands.Parser:
    """Return the parser of a command that trains experiments."""
    return commands.parser(program, about, FLAGS)


if __name__ == "__main__":
    sys.exit(main())
