#!/usr/bin/env python3
"""Train a classifier of one view: a clean one, or a teacher of one known degradation.

  train.py -c configs/ind/CIFAR10/ResNet18/clean.yaml
  train.py -c configs/ind/CIFAR10/ResNet18/deg.yaml --dt jpeg
  train.py -c configs/ind/CIFAR10/timm/resnet26/adapt.yaml --dt noise --set train.epochs=20 data.root=dataset/mine
  torchrun --nproc_per_node 8 train.py …

It writes SAVE_DIR/<degradation>/<kind>/<name>/train/<time>/: model_best.pth, model_last.pth, config.yaml, losses.csv,
epochs.csv, machine.json, TensorBoard's events, and resume.pt, from which the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from DDA import commands, ranks
from DDA.devices import pick_device
from DistilledClassifier.degradations import DEGRADATIONS
from DistilledClassifier.experiments import config as configs
from DistilledClassifier.experiments.compose import kind_of
from DistilledClassifier.experiments.config import Config
from DistilledClassifier.experiments.run import Options, train

PROGRAM = "train.py"


def main(argv: list[str] | None = None) -> int:
    """Train one degradation; returns 0 when the budget is spent, 130 when it was interrupted, 1 or 2 for errors."""
    return run(argv, PROGRAM, __doc__)


def run(argv: list[str] | None, program: str, about: str) -> int:
    """The command of a program that trains experiments."""
    return ranks.run(
        lambda world: _main(world, argv, program, about),
        program,
        "run the same command again to go on",
    )


def _main(world: ranks.World, argv: list[str] | None, program: str, about: str) -> int:
    args = world.on_root(lambda: parser(program, about).parse_args(argv))
    torch.set_num_threads(world.cpu_threads())
    device = world.together(lambda: pick_device(args.device, world.local_rank))
    config = world.together(lambda: read_config(args, program, world.size))
    train(
        world,
        config,
        Options(args.save_dir, args.resume, args.new, args.workers, args.save_minutes),
        device,
    )
    return 0


# ---------------------------------------------------------------------------------------------- the command line


FLAGS = """
-c, --config YAML!  an experiment, or a config of your own
-r, --resume FILE  go on with the run that this checkpoint belongs to
-d, --device INDICES = auto  auto, cpu, cuda, or the numbers of GPUs
--lr, --learning_rate FLOAT
--bs, --batch_size INT  batch size of each degradation, over all processes
--dt, --deg_type NAME  one known degradation, or several separated by commas where the program learns
    from all (combined_deg: the config's)
--rs, --random_seed INT
--init FILENAME  weights to start from, of any origin
--epochs FLOAT  the budget in epochs
--minutes FLOAT  the budget in minutes; whichever ends first
--save_dir find:DIR = saved
--set NAME=VALUE+ = []  any entry of the config, such as data.root=photos
--new  start a new run where there is one already
--workers INT = 2  threads that prepare images
--save_minutes FLOAT = 2.0  between saved states
"""


def parser(program: str, about: str | None) -> argparse.ArgumentParser:
    return commands.parser(program, about, FLAGS)


def read_config(args: argparse.Namespace, program: str, size: int) -> Config:
    """The config with what the command line changes. Raises ValueError, FileNotFoundError."""
    changes = assignments(args.set)
    given = {
        "optimizer.lr": args.lr,
        "train.batch_size": args.bs,
        "train.seed": args.rs,
        "train.epochs": args.epochs,
        "train.minutes": args.minutes,
        "init": args.init,
    }
    changes |= {name: value for name, value in given.items() if value is not None}
    if args.dt is not None and args.dt != "combined_deg":
        changes["known"] = args.dt.split(",")
    config = configs.load(args.config, changes)
    check_program(config, args, program)
    if config.view == "clean" and config.known != ("clean",):
        if args.dt is not None:
            raise ValueError(f"--dt {args.dt} does not go with a config of clean images")
        raise ValueError("known: a config of clean images has no degradations")
    share = size * config.train.accumulate
    if config.train.batch_size % share:
        parts = f" in {config.train.accumulate} parts" if config.train.accumulate > 1 else ""
        raise ValueError(
            f"--bs {config.train.batch_size} cannot be shared by {size} processes{parts}; use a multiple of {share}"
        )
    if args.workers < 0:
        raise ValueError(f"--workers {args.workers} must be 0 or more")
    return config


def check_program(config: Config, args: argparse.Namespace, program: str) -> None:
    """Raise ValueError where another program runs experiments of this kind, or --dt is missing."""
    own = kind_of(config.kind).program
    if own not in ("", program):
        raise ValueError(f"-c {args.config} is a config of {own}")
    if program != PROGRAM:
        return
    if config.view != "clean" and args.dt is None and "known" not in config.raw:
        raise ValueError(
            f"--dt is missing: which known degradation? One of {', '.join(DEGRADATIONS)}"
        )
    if len(config.known) > 1:
        raise ValueError("train.py trains one degradation; use train_all_deg.py")


def assignments(texts: list[str]) -> dict[str, Any]:
    import yaml

    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {text} is not NAME=VALUE, such as train.epochs=20")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set {text}: {value} is no value") from None
    return found


if __name__ == "__main__":
    sys.exit(main())
