#!/usr/bin/env python3
"""Two classifiers on two views of the same images, and their combination, per corruption and severity.

  test_ensemble.py configs/ensemble/resnet18_ensemble_b64_cifar10c.py STUDENT1.pth --second_model_prefix STUDENT2.pth \\
      --ensemble sum --corruption all --severity all --data_prefix1 dataset/CIFAR-10-C \\
      --data_prefix2 dataset/generated/cifar10c --out eval
  mpiexec -n 2 test_ensemble.py … --launcher mpi
  torchrun --nproc_per_node 2 DDA/model_adapt/test_ensemble.py … --launcher pytorch

Without a second classifier the first one sees both views (DDA's self-ensemble). A classifier is a checkpoint of this project,
weights of mmcls for the config's model, or timm/<name>. OUT gets <severity>/<corruption>.npz, the scores of every image,
from which every table can be made again; summary.json and summary.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from DDA import commands, files, ranks
from DDA.devices import pick_device
from DDA.model_adapt.config import METRICS, SCORES, as_list, read_config
from DDA.model_adapt.ensemble import FUSE_RULES, OURS, RULES
from DDA.model_adapt.evaluate import Settings, evaluate
from DDA.sources.cells import LAYOUTS, SPLITS
from DistilledClassifier.degradations import DEGRADATIONS

PROGRAM = "test_ensemble.py"
IGNORED = ("show", "show_dir", "show_options", "gpu_collect", "tmpdir", "out_items", "local_rank")


def main(argv: list[str] | None = None) -> int:
    """Evaluate; returns 0, 130 when it was interrupted, 1 or 2 for errors."""
    return ranks.run(lambda world: _main(world, argv), PROGRAM, "run the same command again")


def _main(world: ranks.World, argv: list[str] | None) -> int:
    settings, device = world.on_root(lambda: parse(argv, world))
    torch.set_num_threads(world.cpu_threads())
    device = world.together(lambda: pick_device(device, world.local_rank))
    text = evaluate(settings, device, world, say)
    if world.rank == 0:
        say(f"\n{text}" if settings.fit else f"\n{text}\nwritten     {settings.out}")
    return 0


def say(text: str) -> None:
    """Print without delay."""
    print(text, flush=True)


FLAGS = """
config path:CONFIG  a config of mmcv, such as configs/ensemble/…; a .py config is code and is run, .yaml
    and .json hold values only
first CLASSIFIER  of degraded images: a checkpoint, weights for the config's model, or timm/<name>
--second_model_prefix->second SECOND  the classifier of adapted copies (default: the first one)
--source CLASSIFIER  of clean images, for columns to compare with
--ensemble->rules RULE+  how the scores are combined (default: sum); the first is the result, the others
    are columns beside it
--fit  fit weighted_sum and gate on these known degradations and store them beside SECOND
--scores {SCORES}  of what (default: logits; the published numbers are of probabilities)
--metrics {METRICS}+  (default: accuracy)
--corruption->corruptions NAME+  names, or all (of what is there, without clean)
--severity->severities 1..5+  numbers, or all
--data_prefix1->degraded SOURCE  degraded images: a tree, or a data set's files
--data_prefix2->adapted SOURCE  adapted copies
--dataset->layout {LAYOUTS}  layout of the trees (default: the config's)
--train bool:True|False  split of layouts that have one
--num_samples INT  at most so many images a cell, the first by key
--out DIR = eval
--batch_size INT  (default: the config's samples_per_gpu)
--baseline {alexnet}  of mCE: AlexNet's published ImageNet-C errors
--metric-options NAME=VALUE+ = []  topk=5
--cfg-options NAME=VALUE+ = []  entries of the config
--device auto|cpu|cuda = auto
--gpu-id INT  the number of a GPU
--launcher {none,pytorch,slurm,mpi}  accepted: the launcher is recognised
[accepted, and changes nothing]
--show
--gpu-collect
--show-dir DIRECTORY
--tmpdir DIRECTORY
--local_rank NUMBER
--local-rank NUMBER
--show-options NAME=VALUE+
--out-items NAME+
"""


def parser() -> argparse.ArgumentParser:
    rules = (*RULES, *OURS, *FUSE_RULES)
    return commands.parser(
        PROGRAM, __doc__, FLAGS, RULE=rules, SCORES=SCORES, METRICS=METRICS, LAYOUTS=LAYOUTS
    )


def parse(argv: list[str] | None, world: ranks.World) -> tuple[Settings, str]:
    """What the command line asks for, and the device. Raises ValueError."""
    args = parser().parse_args(argv)
    settings = settings_of(args, read_config(args.config, args.cfg_options))
    check(settings)
    launched = {"none": world.size == 1, None: True}.get(args.launcher, world.size > 1)
    if not launched:
        print(
            f"{PROGRAM}: note: --launcher {args.launcher}, but {world.size} process(es) were started; mpiexec, torchrun and "
            "srun start several",
            file=sys.stderr,
        )
    ignored = [name for name in IGNORED if getattr(args, name)]
    if ignored:
        print(f"{PROGRAM}: note: --{', --'.join(ignored)} changes nothing here", file=sys.stderr)
    return settings, args.device if args.gpu_id is None else str(args.gpu_id)


def settings_of(args: argparse.Namespace, config: dict[str, Any]) -> Settings:
    """The command line over the config: a flag that was not given overrides nothing. Raises ValueError."""
    test, evaluation = config["data"]["test"], config.get("evaluation", {})
    is_other = (
        args.layout == "folder" != test.get("layout")
    )  # the config's corruptions are of its own layout
    values = {
        "layout": test.get("layout"),
        "degraded": test.get("data_prefix1"),
        "adapted": test.get("data_prefix2"),
        "train": test.get("train", False),
        "classes": test.get("classes"),
        "model": config.get("model", {}),
        "pipelines": (test["pipeline"], test.get("pipeline2", test["pipeline"])),
        "second": args.first,
        "batch_size": config["data"].get("samples_per_gpu", 64),
        "rules": as_list(evaluation.get("ensemble", "sum")),
        "corruptions": [] if is_other else list(evaluation.get("corruption", ["all"])),
        "severities": [str(severity) for severity in evaluation.get("severity", ["all"])],
        "scores": evaluation.get("scores", "logits"),
        "metrics": list(evaluation.get("metrics", ["accuracy"])),
        "topk": _topk(args.metric_options),
    }
    names = [field.name for field in fields(Settings)]
    values |= {
        name: value for name, value in vars(args).items() if name in names and value is not None
    }
    for flag, name in (("--data_prefix1", "degraded"), ("--data_prefix2", "adapted")):
        if values[name] is None:
            raise ValueError(f"{flag} is missing, and {args.config} does not name it either")
        values[name] = files.find(values[name])
    if args.fit:
        values["rules"] = ["sum"]
    return Settings(**values)


def check(settings: Settings) -> None:
    """Raise ValueError for what does not go together."""
    if settings.batch_size < 1 or (settings.num_samples is not None and settings.num_samples < 1):
        raise ValueError("--batch_size and --num_samples must be at least 1")
    unknown = sorted(set(settings.corruptions) - {"clean", *DEGRADATIONS})
    if settings.fit and (unknown or not settings.corruptions):
        raise ValueError(
            f"--fit learns from known degradations only: --corruption of {', '.join(DEGRADATIONS)}"
            + (f", not {unknown[0]}" if unknown else "")
        )
    if settings.fit and settings.layout in SPLITS and not settings.train:
        raise ValueError(
            f"--fit learns: on the training images of --dataset {settings.layout}, --train True"
        )
    rules = settings.rules
    fitted, blends = ([rule for rule in rules if rule in group] for group in (OURS, FUSE_RULES))
    if fitted and settings.scores != "logits":
        raise ValueError(f"--ensemble {fitted[0]} is of logits; leave --scores out")
    if len(set(rules)) < len(rules) or (blends and len(rules) > 1):
        raise ValueError(
            f"--ensemble {' '.join(rules)}: each rule once, and rules that blend images alone"
        )
    if "mCE" in settings.metrics and settings.baseline is None:
        raise ValueError(
            "mCE is relative to a classifier's errors: name it, --baseline alexnet for ImageNet-C"
        )


def _topk(options: list[str]) -> int:
    for option in options:
        name, _, value = option.partition("=")
        number = value.split(",")[-1].strip("() ")
        if name != "topk" or not number.isdigit():
            raise ValueError(f"--metric-options {option} is unknown; use topk=5")
        return int(number)
    return 5


if __name__ == "__main__":
    sys.exit(main())
