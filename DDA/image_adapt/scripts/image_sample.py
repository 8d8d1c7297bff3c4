#!/usr/bin/env python3
"""Adapt degraded images: pull every image of a tree towards the domain of a DDPM.

  mpiexec -n 2 image_sample.py --model_path ckpt/256x256_diffusion_uncond.pt \\
      --base_samples dataset/imagenetc_5k --dataset imagenetc --corruption gaussian_noise \\
      --severity 5 --save_dir dataset/generated/imagenetc_5k --use_fp16 True
  image_sample.py --model_path prior.pt --base_samples photos --save_dir photos_adapted

The same command goes on where it stopped. Without mpiexec it is one process."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[3])
    __import__("DDA")  # from here on both signals wait

from dataclasses import asdict, fields
from typing import Any

from DDA import commands, ranks
from DDA.image_adapt import choices
from DDA.image_adapt.settings import Method, Selection, check_machine, method
from DDA.settings import names_of
from DDA.sources.cells import LAYOUTS

PROGRAM = "image_sample.py"
UNUSED = ("dropout", "use_checkpoint", "save_latents")  # published flags that change nothing here
ARGUMENTS = ("model_path", "speed", "device", "dtype", "use_fp16", "batch_size")


def main(argv: list[str] | None = None) -> int:
    """Run the adaptation job and return its exit status."""
    again = "without --overwrite " if "--overwrite" in (sys.argv if argv is None else argv) else ""
    go_on = f"run the same command again {again}to go on"
    return commands.run_ranks(parser(), argv, _work, go_on)


def _work(world: ranks.World, values: dict[str, Any], output: commands.Output) -> int:
    unused = [name for name in UNUSED if values.pop(name)]
    dry_run = values.pop("dry_run")
    selection, arguments = world.on_root(lambda: settings_of(values))
    from DDA.image_adapt.adapter import Adapter

    adapter = world.together(lambda: Adapter(**arguments, world=world))
    report = adapter.run(selection, world, output, dry_run=dry_run, unused=unused)
    if world.rank == 0:
        for fault in report.faults():
            output.warn(fault)
        output.result(f"{report}", asdict(report))
    return 0 if report.complete else 1


def settings_of(values: dict[str, Any]) -> tuple[Selection, dict[str, Any]]:
    """Return what is adapted, and the arguments of the adapter. Raises ValueError."""
    kept = {name: values.pop(name) for name in [item.name for item in fields(Selection)]}
    for name in ("corruption", "severity"):
        kept[name] = names_of(kept[name])
    if values.pop("use_ddim"):
        if values["sampler"] not in (None, "ddim"):
            raise ValueError(f"--use_ddim True contradicts `sampler` {values['sampler']}")
        values["sampler"] = "ddim"
    arguments = {name: values.pop(name) for name in ARGUMENTS}
    chosen = {item.name: values.pop(item.name) for item in fields(Method)}
    method(arguments["speed"], **chosen)
    check_machine(**{name: arguments[name] for name in ("dtype", "use_fp16", "batch_size")})
    prior = values | {"channel_mult": values["channel_mult"] or None}
    return Selection(**kept), {**arguments, **chosen, "prior": prior}


FLAGS = """
[images]
--base_samples->source find:PATH!  degraded images: folder, zip, data set, … (dataset/README.md)
--save_dir find:DIR!  tree to write: the same keys, and JSON
--dataset->layout {LAYOUTS} = folder  layout of the tree: imagenet <deg>/{train,val}/<class>,
    imagenetc <corruption>/<severity>/<class>, cifar10 <deg>/{cifar_train,cifar_test}, cifar10c
    <corruption>/<severity>, folder any
--corruption NAME+ = []  one or several folders of the tree, or all
--severity 1..5+ = []  one or several, or all (default: 5; sequences: 0); also that of an .npy
--train BOOL  the training or the test split, for layouts with splits (default: True)
--num_samples INT  at most so many images, the first by key (default: all)
--keys FILE  only the images whose keys it lists, one a line (gate.py)
--format {FORMATS}  same: as the source; webdataset: tar shards (default: png; published: same)
--shard_size INT  images of a tar shard (default: 1000)
--orientation {apply,ignore}  apply: turn photographs as their EXIF data say (default: that of
    --save_dir; anew: apply for --dataset folder, ignore for others and published behaviour)
--fit {square,whole,pad}  what is adapted: the middle square, all of the image, or all of it within
    a square (default as --orientation: anew whole for --dataset folder, square for others)
--classes LIST  a built-in list or a file, for labels that have no names
--gallery find:PNG  also write some degraded and adapted images side by side
--overwrite  make the planned images anew
--verify  read every finished copy or shard again; damaged ones are made anew
[method]
--speed {SPEEDS}  a rung: sets those of the next ten flags that are not given (default: exact)
--N INT  reverse steps, in steps of --timestep_respacing (exact: 50)
--D INT  low-pass factor: what survives shrinking by D is kept (exact: 4)
--guidance {GUIDANCES}  projection needs no gradient (exact: gradient)
--scale FLOAT  weight of the gradient (exact: 6)
--projection {PROJECTIONS}  the low-pass filter of the projection (default: block)
--k float:0..1  strength of the projection (default: 1)
--s_y FLOAT  weaken it late, as for low frequencies with noise of this size
--sampler {SAMPLERS}  the step rule (exact: ddpm)
--steps INT  network calls from index N-1 down to 0 (exact: N)
--eta float:0..1  noise of the DDIM steps (default: 0)
--behavior {BEHAVIORS} = corrected  published: one norm over the batch, noised to index N
--seed INT = 0  of every image's noise
--use_ddim BOOL = False  the same as --sampler ddim
--clip_denoised BOOL = True  clamp the predicted clean image to its range
--timestep_respacing SPEC = 100  steps of the whole process: "100", "10,20,30" or "ddim25"
[prior] Whatever the checkpoint tells need not be given; a flag that contradicts it is an error.
--model_path find:FILE!  guided-diffusion or improved-diffusion .pt, or a name (DDA/ckpt/README.md)
--image_size INT
--num_channels INT
--num_res_blocks INT
--num_heads INT
--num_head_channels INT
--num_heads_upsample INT
--diffusion_steps INT
--channel_mult 1,2,2
--attention_resolutions 16,8
--class_cond BOOL
--learn_sigma BOOL
--use_scale_shift_norm BOOL
--resblock_updown BOOL
--use_new_attention_order BOOL
--rescale_timesteps BOOL
--noise_schedule {NOISE_SCHEDULES}
--fixed_variance {FIXED_VARIANCES}  of priors that learn no variance
--predict_xstart BOOL = False  the prior predicts x_0, not noise
--dropout float:VALUE  accepted, changes nothing (training only)
--use_checkpoint bool:VALUE  accepted, changes nothing (training only)
--save_latents bool:VALUE  accepted, changes nothing (nothing to save)
[machine]
--batch_size INT = 4  images at once; changes speed and memory only
--dtype {DTYPES}  of the network's body (default: float32)
--use_fp16 BOOL = False  float16 on a GPU, float32 on a CPU
--device auto|cpu|cuda|cuda:0 = auto  auto: this rank's GPU of its node, else the CPU
--dry_run  check everything, print the plan and how long it takes by one batch, and stop
"""


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS, LAYOUTS=LAYOUTS, **vars(choices))


if __name__ == "__main__":
    sys.exit(main())
