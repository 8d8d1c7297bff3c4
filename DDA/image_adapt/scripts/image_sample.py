#!/usr/bin/env python3
"""Adapt degraded images: every image of a tree is pulled towards the domain of a DDPM and written to another tree.

  mpiexec -n 2 image_sample.py --model_path ckpt/256x256_diffusion_uncond.pt --base_samples dataset/imagenetc_5k \\
      --dataset imagenetc --corruption gaussian_noise --severity 5 --save_dir dataset/generated/imagenetc_5k --use_fp16 True
  image_sample.py --model_path prior.pt --base_samples photos --dataset folder --save_dir photos_adapted --gallery look.png

Run the same command again to go on where it stopped. Without mpiexec it is one process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[3])

import torch

from DDA import commands, images, ranks, sources, tree
from DDA.devices import DTYPES, pick_device, relative_speed
from DDA.image_adapt import job, prior, settings
from DDA.image_adapt.diffusion import FIXED_VARIANCES, NOISE_SCHEDULES
from DDA.image_adapt.low_pass import PROJECTIONS
from DDA.image_adapt.prior import Prior
from DDA.image_adapt.sampler import BEHAVIORS, GUIDANCES, SAMPLERS, SPEEDS
from DDA.image_adapt.unet import UNet
from DDA.sources.cells import LAYOUTS, SPLITS, cells_of, one_severity

PROGRAM = "image_sample.py"


def main(argv: list[str] | None = None) -> int:
    """Run the adaptation job; returns 0 when every planned image is there, 1 where some failed, 2 for wrong input."""
    ranks.interrupt_on_sigterm()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    again = "without --overwrite " if "--overwrite" in (sys.argv if argv is None else argv) else ""
    return ranks.run(
        lambda world: _main(world, argv), PROGRAM, f"run the same command again {again}to go on"
    )


def _main(world: ranks.World, argv: list[str] | None) -> int:
    args = world.on_root(lambda: parse(argv))
    torch.set_num_threads(world.cpu_threads())
    device = world.together(lambda: pick_device(args.device, world.local_rank))
    dtype, notices = pick_dtype(args, device)
    if len(set(world.gather(dtype))) > 1:
        raise ranks.SharedError(
            "some ranks have a GPU and others do not, and --use_fp16 means another precision there; give --dtype"
        )
    notices += unused(args)
    ddpm = world.together(
        lambda: prior.load(
            args.model_path, {**vars(args), "channel_mult": args.channel_mult or None}
        )
    )
    plan, identity = world.on_root(lambda: prepare(args, ddpm, dtype))
    if world.rank == 0:
        machine = f"{world.size} x {device.type}, {torch.get_num_threads()} threads each, {dtype}"
        say_plan(args, plan, ddpm, machine, notices)
    if args.dry_run:
        return 0

    network = world.together(lambda: ddpm.network(device, dtype)) if plan.todo else None
    started = time.time()
    facts = about(args, world, device)
    world.on_root(lambda: job.begin(plan, identity, facts))
    failures: dict[str, str] = {}
    if plan.todo:
        adapt_batch = make_adapt_batch(network, ddpm, args, device)
        failures = job.run(
            world,
            plan,
            adapt_batch,
            batch_size=args.batch_size,
            image_size=ddpm.settings["image_size"],
            threads=min(8, 2 * torch.get_num_threads()),
        )
    facts["seconds"] = round(time.time() - started, 1)
    return world.on_root(lambda: finish(args, plan, ddpm.settings["image_size"], failures, facts))


# ---------------------------------------------------------------------------------------------- the command line


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The checked command line, with the flags that --speed sets; ``given``: those of them that the user gave.

    Raises ValueError for values that cannot be meant.
    """
    args = parser().parse_args(argv)
    args.corruption, args.severity = _names(args.corruption), _names(args.severity)
    for value in args.severity:
        if value != "all" and not value.isdigit():
            raise ValueError(f"--severity {value} is neither a number nor all")
    commands.at_least_1(args, "batch_size", "num_samples")
    if args.use_ddim and args.sampler not in (None, "ddim"):
        raise ValueError(f"--use_ddim True contradicts --sampler {args.sampler}")
    args.sampler = "ddim" if args.use_ddim else args.sampler
    args.given = {
        name: value for name in settings.PRESET if (value := getattr(args, name)) is not None
    }
    vars(args).update(settings.complete(args.given, args.speed, args.timestep_respacing))
    if args.behavior == "published" and (args.guidance, args.sampler, args.steps) != (
        "gradient",
        "ddpm",
        None,
    ):
        raise ValueError(
            "--behavior published has gradient guidance and N steps of DDPM, nothing else"
        )
    if args.base_samples.resolve() == args.save_dir.resolve():
        raise ValueError(f"--save_dir and --base_samples are the same folder, {args.save_dir}")
    check_writable("save_dir", args.save_dir)
    if args.gallery is not None:
        for name in ("save_dir", "base_samples"):
            if args.gallery.resolve().is_relative_to(getattr(args, name).resolve()):
                raise ValueError(
                    f"--gallery {args.gallery} lies in --{name}, among the images; put it elsewhere"
                )
        if args.gallery.suffix.lower() != ".png":
            raise ValueError(f"--gallery {args.gallery} must end in .png")
        check_writable("gallery", args.gallery.parent)
    if args.format is None:
        args.format = "same" if args.behavior == "published" else "png"
    return args


FLAGS = """
[images]
--base_samples find:PATH!  tree of degraded images, or the files of a data set: CIFAR-10-C as .npy, an
    .npy or .npz of images (dataset/README.md)
--save_dir find:DIR!  tree to write: the same keys, and JSON
--dataset {LAYOUTS} = folder  layout of the tree: imagenet <deg>/{train,val}/<class>, imagenetc
    <corruption>/<severity>/<class>, cifar10 <deg>/{cifar_train,cifar_test}, cifar10c
    <corruption>/<severity>, folder any
--corruption NAME+ = []  one or several folders of the tree, or all
--severity 1..5+ = []  one or several, or all; for layouts with severities (default: 5, and 0 for
    sequences); one number also tells of which severity a .npy is that holds one
--train BOOL  the training or the test split, for layouts with splits (default: True)
--num_samples INT  at most so many images, the first by key (default: all)
--keys FILE  only the images whose keys it lists, one a line (gate.py)
--format {png,same}  same: the source's format (JPEG is compressed again) (default: png; published
    behaviour: same)
--gallery find:PNG  also write some degraded and adapted images side by side
--overwrite  make the planned images anew
[method]
--speed {SPEEDS}  a rung of the speed ladder: sets those of the next ten flags that are not given
    (default: exact)
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
--behavior {BEHAVIORS} = corrected  published: one guidance norm over the batch and noising to
    index N, as the reference code
--seed INT = 0  of every image's noise
--use_ddim BOOL = False  the same as --sampler ddim
--clip_denoised BOOL = True  clamp the predicted clean image to its range
--timestep_respacing SPEC = 100  steps of the whole process: "100", "10,20,30" or "ddim25"
[prior] Whatever the checkpoint tells need not be given; a flag that contradicts it is an error.
--model_path find:FILE!  guided-diffusion or improved-diffusion .pt
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
--device auto|cpu|cuda|cuda:0 = auto  auto: the GPU of this rank's place within its node, else the
    CPU
--dry_run  check everything, print the plan and stop
"""


def parser() -> argparse.ArgumentParser:
    return commands.parser(
        PROGRAM,
        __doc__,
        FLAGS,
        LAYOUTS=LAYOUTS,
        SPEEDS=SPEEDS,
        GUIDANCES=GUIDANCES,
        PROJECTIONS=PROJECTIONS,
        SAMPLERS=SAMPLERS,
        BEHAVIORS=BEHAVIORS,
        NOISE_SCHEDULES=NOISE_SCHEDULES,
        FIXED_VARIANCES=FIXED_VARIANCES,
        DTYPES=DTYPES,
    )


def _names(values: list[str]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def check_writable(flag: str, folder: Path) -> None:
    """Raise ValueError where ``folder`` cannot be made or written to."""
    there = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"--{flag} {folder} cannot be a folder: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--{flag} {folder} cannot be written: no permission for {there}")


def unused(args: argparse.Namespace) -> list[str]:
    """A notice for each flag that was given and changes nothing here."""
    notices = [
        f"--{name} changes nothing"
        for name in ("dropout", "use_checkpoint", "save_latents")
        if getattr(args, name)
    ]
    notices += [
        f"--{name} is ignored by --guidance {args.guidance} with --sampler {args.sampler}"
        for name in settings.PRESET
        if name in args.given and name not in settings.deciding(vars(args))
    ]
    if args.train is not None and args.dataset not in SPLITS:
        notices.append(f"--train is ignored: --dataset {args.dataset} has no splits")
    if args.severity and args.dataset not in ("imagenetc", "cifar10c"):
        notices.append(f"--severity is ignored: --dataset {args.dataset} has no severities")
    return notices


# ---------------------------------------------------------------------------------------------- preparation


def pick_dtype(args: argparse.Namespace, device: torch.device) -> tuple[str, list[str]]:
    """The name of the network's dtype, and what the user should know of it."""
    if args.dtype is None and args.use_fp16 and device.type == "cpu":
        return "float32", ["--use_fp16 True is float32 on a CPU"]
    name = args.dtype or ("float16" if args.use_fp16 else "float32")
    speed = relative_speed(device, DTYPES[name])
    slow = f"--dtype {name} is slower than float32 on this {device.type}: {speed:.2g} times its speed, as measured"
    return name, [slow] if speed < 1 else []


def prepare(args: argparse.Namespace, ddpm: Prior, dtype: str) -> tuple[job.Plan, dict[str, Any]]:
    """Check everything and list the images: the plan, and what the settings file will say."""
    try:
        settings.check(
            vars(args),
            prior.process_of(ddpm.settings, args.timestep_respacing),
            ddpm.settings["image_size"],
        )
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    source = sources.open_source(args.base_samples, severity=one_severity(args.severity))
    train = args.train is not False
    cells = cells_of(
        source, args.dataset, args.corruption, args.severity, train=train, leave_out=args.save_dir
    )
    fixed_batch = args.batch_size if args.behavior == "published" else None
    keys = None if args.keys is None else tree.read_keys(args.keys)
    plan = job.make_plan(
        source,
        args.save_dir,
        cells,
        num_samples=args.num_samples,
        keys=keys,
        fixed_batch=fixed_batch,
        same_format=args.format == "same",
        anew=args.overwrite,
    )
    identity = settings.identity(ddpm, vars(args), dtype)
    job.check_settings(plan, identity)
    job.check_source(plan)
    return plan, identity


def say_plan(
    args: argparse.Namespace, plan: job.Plan, ddpm: Prior, machine: str, notices: list[str]
) -> None:
    """Print what will be done."""
    print(
        f"images      {plan.total:,} in {len(plan.cells)} cell(s) of {plan.source.path}: {_some(plan.cells)}"
    )
    if args.num_samples is not None:
        print(
            f"            --num_samples {args.num_samples:,} keeps at most so many, the first by key"
        )
    if plan.elsewhere:
        print(
            f"            {plan.elsewhere:,} keys of --keys are of images outside these cells and are left alone"
        )
    if plan.not_images:
        print(
            f"            {len(plan.not_images):,} other files are left alone: {_some(plan.not_images)}"
        )
    print(
        f"done        {len(plan.replaced or plan.done):,}{', to be made anew' if plan.replaced else ''}"
    )
    print(f"to do       {plan.todo:,} -> {plan.save_dir}")
    chosen = settings.deciding(vars(args))
    method = ", ".join(
        f"{name} {value}"
        for name, value in chosen.items()
        if name not in ("N", "steps") and value is not None
    )
    print(
        f"steps       {chosen['steps']} from {args.N} of {args.timestep_respacing} ({args.behavior}, seed {args.seed})"
    )
    print(f"method      {method}")
    known = "{image_size} pixels, {noise_schedule} schedule of {diffusion_steps}".format_map(
        ddpm.settings
    )
    print(f"prior       {args.model_path}: {known}, sha256 {ddpm.sha256[:12]}")
    print(f"machine     {machine}, batch {args.batch_size}")
    for notice in [*notices, *_resized(plan, ddpm.settings["image_size"])]:
        print(f"note        {notice}")
    sys.stdout.flush()


def _resized(plan: job.Plan, size: int) -> list[str]:
    """What the user should know of the first image's size."""
    path = next(plan.work(), None)
    with contextlib.suppress(Exception):  # a damaged image is named later
        width, height = plan.source.read(path).size
        if (width, height) != (size, size):
            return [
                f"images are cropped to their middle square and resized to {size} pixels: {path} has {width} x {height}"
            ]
    return []


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def about(args: argparse.Namespace, world: ranks.World, device: torch.device) -> dict[str, Any]:
    """What a manifest says of the run."""
    return {
        "versions": job.versions(),
        "command": shlex.join(sys.argv),
        "ranks": world.size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "batch_size": args.batch_size,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def make_adapt_batch(
    network: UNet, ddpm: Prior, args: argparse.Namespace, device: torch.device
) -> job.AdaptBatch:
    """The function that the job calls with the keys and pixels of a batch."""
    process = prior.process_of(ddpm.settings, args.timestep_respacing, args.predict_xstart)
    return prior.batch_adapter(
        network, process, device, seed=args.seed, **settings.arguments(vars(args))
    )


# ---------------------------------------------------------------------------------------------- afterwards


def finish(
    args: argparse.Namespace,
    plan: job.Plan,
    image_size: int,
    failures: dict[str, str],
    facts: dict[str, Any],
) -> int:
    """Complete the manifests, say what is there and what is not, write the gallery; returns the exit status."""
    lost = job.end_manifests(plan, failures, facts)
    print(
        f"{plan.total - len(failures) - len(lost):,} of {plan.total:,} adapted images are in {plan.save_dir}",
        flush=True,
    )
    for names, word in ((sorted(failures), "failed"), (lost, "are missing")):
        if names:
            said = f"{len(names)} of {plan.total} images {word}: {_some(names, 10)}"
            why = f"the reasons are in {plan.save_dir}/manifest*.json, and the same command tries them again"
            ranks.say(PROGRAM, f"{said}; {why}")
    status = 1 if failures or lost else 0
    if args.gallery is not None:
        try:
            sheet = job.gallery(plan, {*failures, *lost}, image_size)
            args.gallery.parent.mkdir(parents=True, exist_ok=True)
            images.write_image(args.gallery, sheet)
            print(f"gallery     {args.gallery}", flush=True)
        except (OSError, ValueError) as error:
            ranks.say(PROGRAM, f"no --gallery: {error}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
