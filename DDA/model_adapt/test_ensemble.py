#!/usr/bin/env python3
"""Evaluate two classifiers on two views of the same images, and their combination.

  test_ensemble.py configs/ensemble/resnet18_ensemble_b64_cifar10c.py STUDENT1.pth \\
      --second_model_prefix STUDENT2.pth --ensemble sum --corruption all --severity all \\
      --data_prefix1 dataset/CIFAR-10-C --data_prefix2 dataset/generated/cifar10c --out eval
  mpiexec -n 2 test_ensemble.py … --launcher mpi
  torchrun --nproc_per_node 2 DDA/model_adapt/test_ensemble.py … --launcher pytorch

Without a second classifier the first one sees both views (DDA's self-ensemble). A classifier is a
checkpoint of this project, weights of mmcls for the config's model, or timm/<name>. OUT gets
<severity>/<corruption>.npz, the scores of every image, from which every table can be made again;
summary.json and summary.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __import__("DDA")  # from here on both signals wait

from typing import Any

from DDA import commands, ranks
from DDA.model_adapt.choices import FITTED_RULES, FUSE_RULES, METRICS, RULES, SCORES
from DDA.sources.cells import LAYOUTS

PROGRAM = "test_ensemble.py"
UNUSED = ("show", "show_dir", "show_options", "gpu_collect", "tmpdir", "out_items", "local_rank")
FLAGS = """
config path:CONFIG  a config of mmcv, such as configs/ensemble/…; a .py config is code and is run,
    .yaml and .json hold values only
first CLASSIFIER  of degraded images: a checkpoint, weights for the config's model, or timm/<name>
--second_model_prefix->second SECOND  the classifier of adapted copies (default: the first one)
--source CLASSIFIER  of clean images, for columns to compare with
--control CLASSIFIER  of degraded images, trained as long without teachers and without adaptation,
    for a column to compare with
--ensemble->rules RULE+  how the scores are combined (default: sum); the first is the result, the
    others are columns beside it
--fit  fit weighted_sum and gate on these known degradations and store them beside SECOND
--scores {SCORES}  what is combined (default: logits; the published numbers are of probabilities)
--metrics {METRICS}+  (default: accuracy)
--corruption NAME+  names, or all (those that are there, without clean)
--severity 1..5+  numbers, or all
--data_prefix1->degraded SOURCE  degraded images: a tree, or a data set's files
--data_prefix2->adapted SOURCE  adapted copies
--dataset->layout {LAYOUTS}  layout of the trees (default: the config's)
--orientation {apply,ignore}  apply: turn degraded photographs as their EXIF data say (default: as
    the copies were made; ignore where they do not tell)
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


def main(argv: list[str] | None = None) -> int:
    """Evaluate and return the exit status."""
    return commands.run_ranks(parser(), argv, _work, "run the same command again")


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    rules = (*RULES, *FITTED_RULES, *FUSE_RULES)
    known = {"SCORES": SCORES, "METRICS": METRICS, "LAYOUTS": LAYOUTS}
    return commands.parser(PROGRAM, __doc__, FLAGS, RULE=rules, **known)


def check(values: dict[str, Any], ranks: int = 1) -> None:
    """Raise ValueError for values that the command would refuse, without opening anything."""
    from DDA.model_adapt.config import settings_of

    others = (*UNUSED, "launcher", "gpu_id", "device")
    settings_of({name: value for name, value in values.items() if name not in others})


def _work(world: ranks.World, values: dict[str, Any], output: commands.Output) -> int:
    if world.rank == 0:
        _say_what_is_unused(world, values, output)
    gpu, device = values.pop("gpu_id"), values.pop("device")

    from DDA.model_adapt.config import settings_of
    from DDA.model_adapt.evaluate import evaluate

    settings = world.on_root(lambda: settings_of(values))
    result = evaluate(settings, device if gpu is None else str(gpu), world, output)
    if world.rank == 0:
        end = "" if settings.fit else f"\nwritten     {settings.out}"
        json_result = {"out": result.out, "text": result.markdown, "top1": result.top1}
        output.result(f"\n{result.markdown}{end}", {**json_result, "summary": result.summary})
    return 0


def _say_what_is_unused(
    world: ranks.World, values: dict[str, Any], output: commands.Output
) -> None:
    """Take the flags that change nothing here, and say so where they were given."""
    unused = [name for name in UNUSED if values.pop(name)]
    launcher = values.pop("launcher")
    fits = {"none": world.size == 1, None: True}.get(launcher, world.size > 1)
    if not fits:
        starters = "mpiexec, torchrun and srun start several"
        output.note(f"--launcher {launcher}, but {world.size} process(es) were started; {starters}")
    if unused:
        output.note(f"--{', --'.join(unused)} changes nothing here")


if __name__ == "__main__":
    sys.exit(main())
