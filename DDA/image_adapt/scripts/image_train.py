#!/usr/bin/env python3
"""Train a prior: a DDPM on a folder of images, or on a data set's files.

  image_train.py --base_samples photos --save_dir prior --image_size 64 --minutes 60
  mpiexec -n 2 image_train.py --base_samples cifar-10-python.tar.gz --cell clean/cifar_train \\
      --save_dir prior --num_channels 128 --channel_mult 1,2,2 --steps 100000
  torchrun --nproc_per_node 8 DDA/image_adapt/scripts/image_train.py …

SAVE_DIR gets ema.pt with ema.json beside it, which image_sample.py takes as --model_path;
samples.png, denoising.png, loss.png and loss.csv; and resume.pt, from which the same command goes
on where it stopped. At the end it prints how well the prior denoises images that were held out.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[3])
    __import__("DDA")  # from here on both signals wait

from dataclasses import asdict
from typing import Any

from DDA import commands, ranks
from DDA.image_adapt import choices
from DDA.image_adapt.prior_settings import PriorSettings

PROGRAM = "image_train.py"
FLAGS = """
[images]
--base_samples->source find:PATH!  a folder, a zip, shards, parquet, … (dataset/README.md)
--cell FOLDER = .  only this folder of it, such as clean/cifar_train
--flip yes|no = no  mirror half of the images (default: no)
--save_dir find:DIR!
[network] As in guided-diffusion.
--image_size INT  (default: that of the images, where it is one)
--num_channels INT = 64
--num_res_blocks INT = 2
--num_heads INT = 4
--num_head_channels INT = -1
--num_heads_upsample INT = -1
--channel_mult 1,2,2  width of each level (default: three or more levels, down to 16 pixels)
--attention_resolutions 16,8  (default: the size of the smallest level)
--dropout FLOAT = 0.0
--use_scale_shift_norm yes|no = yes
--resblock_updown yes|no = no
--use_new_attention_order yes|no = no
--learn_sigma yes|no = no
[process]
--diffusion_steps INT = 1000
--noise_schedule {NOISE_SCHEDULES} = linear
--rescale_timesteps yes|no = no
--fixed_variance {FIXED_VARIANCES} = small  of samples, without --learn_sigma
--timesteps 0-200  train only these, the lowest noise levels: 0-71 is enough for --speed one-shot,
    0-111 for fast and 0-151 for balanced, of 1000 --diffusion_steps (default: all)
[training]
--steps INT  the budget in steps
--minutes FLOAT  the budget in minutes, with what is measured and drawn at the end; whichever ends
    first
--batch_size INT = 64  of a step, over all ranks
--accumulate INT = 1  parts of a rank's batch
--lr FLOAT = 0.0004
--weight_decay FLOAT = 0.0
--warmup INT = 200  steps of rising learning rate
--anneal yes|no = yes  lower the learning rate linearly to 0 (default: yes)
--anneal_steps INT  as if over so many steps (default: over the budget)
--clip_norm FLOAT = 1.0  of the gradient; 0: not
--ema FLOAT = 0.9999  decay of the average
--seed INT = 0
[machine]
--device auto|cpu|cuda = auto
--bf16 yes|no  compute in bfloat16 (default: where the device is fast at it)
--save_minutes FLOAT = 2.0  between saved states
--cache_gib FLOAT = 8.0  decoded images kept in memory
--dry_run  check everything, print the plan and how long it takes by a few steps, and stop
"""


def main(argv: list[str] | None = None) -> int:
    """Train a prior and return the exit status."""
    return commands.run_ranks(parser(), argv, _work)


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS, **vars(choices))


def check(values: dict[str, Any], ranks: int = 1) -> PriorSettings:
    """Return the settings of the training, without opening anything.

    Raises ValueError for values that the command would refuse.
    """
    for name in ("device", "dry_run"):
        values.pop(name)
    settings = PriorSettings(**values)
    settings.check_ranks(ranks)
    return settings


def _work(world: ranks.World, values: dict[str, Any], output: commands.Output) -> int:
    how = {name: values.pop(name) for name in ("device", "dry_run")}
    settings = world.on_root(lambda: PriorSettings(**values))
    from DDA.image_adapt.prior_training import train

    prior = train(settings, world, output, **how)
    if world.rank == 0:
        text = f"done        {prior.steps:,} steps in all; the prior is {prior.path}"
        if how["dry_run"]:
            text = (
                f"done        nothing, `dry_run`; {prior.steps:,} steps are in {prior.path.parent}"
            )
        output.result(text, asdict(prior))
    return 0


if __name__ == "__main__":
    sys.exit(main())
