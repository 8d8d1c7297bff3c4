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

from DDA import commands, files, ranks
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
    return ranks.run(lambda world: _main(world, argv, program, about), program, "run the same command again to go on")


def _main(world: ranks.World, argv: list[str] | None, program: str, about: str) -> int:
    args = world.on_root(lambda: parser(program, about).parse_args(argv))
    torch.set_num_threads(world.cpu_threads())
    device = world.together(lambda: pick_device(args.device, world.local_rank))
    config = world.together(lambda: read_config(args, program, world.size))
    train(world, config, Options(args.save_dir, args.resume, args.new, args.workers, args.save_minutes), device)
    return 0


# ---------------------------------------------------------------------------------------------- the command line


def parser(program: str, about: str) -> argparse.ArgumentParser:
    p = commands.Parser(program, description=about)
    p.add_argument("-c", "--config", type=Path, required=True, metavar="YAML", help="an experiment, or a config of your own")
    p.add_argument("-r", "--resume", type=Path, metavar="FILE", help="go on with the run that this checkpoint belongs to")
    p.add_argument(
        "-d", "--device", default="auto", metavar="INDICES", help="auto, cpu, or the number of a GPU (default: auto)"
    )
    p.add_argument("--lr", "--learning_rate", type=float, dest="lr", metavar="FLOAT")
    p.add_argument(
        "--bs", "--batch_size", type=int, dest="bs", metavar="INT", help="batch size of each degradation, over all processes"
    )
    of = f"one of {', '.join(DEGRADATIONS)}" if program == PROGRAM else "combined_deg, or degradations separated by commas"
    p.add_argument("--dt", "--deg_type", dest="dt", metavar="NAME", help=of)
    p.add_argument("--rs", "--random_seed", type=int, dest="rs", metavar="INT")
    p.add_argument("--init", metavar="FILE", help="weights to start from, of any origin")
    p.add_argument("--epochs", type=float, metavar="FLOAT", help="the budget in epochs")
    p.add_argument("--minutes", type=float, metavar="FLOAT", help="the budget in minutes; whichever ends first")
    p.add_argument("--save_dir", type=files.find, default=files.find("saved"), metavar="DIR", help="(default: saved)")
    p.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="any entry of the config, such as data.root=photos"
    )
    p.add_argument("--new", action="store_true", help="start a new run where there is one already")
    p.add_argument("--workers", type=int, default=2, metavar="INT", help="threads that prepare images (default: %(default)s)")
    p.add_argument(
        "--save_minutes", type=float, default=2.0, metavar="FLOAT", help="between saved states (default: %(default)s)"
    )
    return p


def read_config(args: argparse.Namespace, program: str, size: int) -> Config:
    """The config with what the command line changes. Raises ValueError, FileNotFoundError."""
    changes = assignments(args.set)
    given = {"optimizer.lr": args.lr, "train.batch_size": args.bs, "train.seed": args.rs, "train.epochs": args.epochs,
             "train.minutes": args.minutes, "init": args.init}  # fmt: skip
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
        raise ValueError(f"--dt is missing: which known degradation? One of {', '.join(DEGRADATIONS)}")
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
