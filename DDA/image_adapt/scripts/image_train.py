#!/usr/bin/env python3
"""Train a prior: a DDPM on a folder of images, or on a data set's files.

  image_train.py --base_samples photos --save_dir prior --image_size 64 --minutes 60
  mpiexec -n 2 image_train.py --base_samples cifar-10-python.tar.gz --cell clean/cifar_train --save_dir prior \\
      --num_channels 128 --channel_mult 1,2,2 --steps 100000
  torchrun --nproc_per_node 8 DDA/image_adapt/scripts/image_train.py …

SAVE_DIR gets ema.pt with ema.json beside it, which image_sample.py takes as --model_path; samples.png, loss.png and loss.csv;
and resume.pt, from which the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[3])

import numpy as np
import torch

from DDA import commands, files, images, ranks, sources, tree
from DDA.devices import pick_device
from DDA.image_adapt.checkpoints import DIFFUSION, NETWORK
from DDA.image_adapt.diffusion import FIXED_VARIANCES, NOISE_SCHEDULES
from DDA.image_adapt.noise import NoiseStreams
from DDA.image_adapt.prior import process_of
from DDA.image_adapt.prior_task import PriorBatches, PriorTask
from DDA.image_adapt.sampler import adapt
from DDA.image_adapt.scripts.image_sample import check_writable
from DDA.image_adapt.unet import UNet, create_unet
from DDA.training.loop import Recipe, State, make_rate, start
from DDA.training.run import RESUME, Run, is_foreign, precision, resume

PROGRAM = "image_train.py"
# of the recipe, beside its budget
RECIPE = ("batch_size", "accumulate", "warmup", "clip_norm", "ema", "seed")
# what identifies a run, beside its images, its network and its process: all but the budget
SETTINGS = (*RECIPE, "lr", "weight_decay", "anneal", "anneal_steps", "flip")


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 when the budget is spent, 130 when it was interrupted, 1 or 2 for errors."""
    return ranks.run(
        lambda world: _main(world, argv), PROGRAM, "run the same command again to go on"
    )


def _main(world: ranks.World, argv: list[str] | None) -> int:
    args = world.on_root(lambda: parse(argv, world.size))
    torch.set_num_threads(world.cpu_threads())
    device = world.together(lambda: pick_device(args.device, world.local_rank))
    data = world.together(lambda: Images(args))
    flags = chosen(args, *NETWORK, *DIFFUSION, "dropout") | {"image_size": data.size}
    world.together(
        lambda: check_attention(args.attention_resolutions, args.channel_mult, data.size)
    )
    recipe = Recipe(**chosen(args, "steps", "minutes", *RECIPE), amp=args.bf16)
    torch.manual_seed(args.seed)
    model = world.together(lambda: make_model(flags, device))
    diffusion = process_of(flags)
    example = (
        torch.rand(8, 3, data.size, data.size, device=device),
        torch.zeros(8, dtype=torch.long, device=device),
    )
    dtype = world.broadcast(precision(recipe, model, example))
    state = start(
        PriorTask(model, diffusion),
        recipe,
        {"type": "AdamW", **chosen(args, "lr", "weight_decay")},
        dtype,
    )
    settings = {**flags, **chosen(args, *SETTINGS), "images": data.count, "source": data.digest}
    world.together(lambda: resume(args.save_dir, state, settings, "choose another --save_dir"))
    if world.rank == 0:
        say_plan(
            args,
            data,
            model,
            state,
            f"{world.size} x {device.type}, {torch.get_num_threads()} threads each",
        )
        args.save_dir.mkdir(parents=True, exist_ok=True)
    batches = PriorBatches(
        data.load,
        data.count,
        len(diffusion),
        recipe,
        flip=args.flip,
        rank=world.rank,
        ranks=world.size,
        threads=0 if data.is_cached and device.type == "cpu" else 2,
    )
    results = Results(args.save_dir, state, flags)
    run = Run(
        world,
        args.save_dir,
        state,
        settings,
        images=recipe.batch_size,
        save_minutes=args.save_minutes,
        losses="loss.csv",
        on_save=results.write,
    )
    advice = "lower --lr or raise --warmup and start anew in another --save_dir"
    run.train(batches, recipe, make_rate(args.lr, schedule_of(args), recipe), advice=advice)
    if world.rank == 0:
        run.write(results.write_samples)
        print(
            f"done        {state.step:,} steps in all; the prior is {args.save_dir / 'ema.pt'}",
            flush=True,
        )
    return 0


def chosen(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The values of these flags."""
    return {name: getattr(args, name) for name in names}


def schedule_of(args: argparse.Namespace) -> dict[str, Any]:
    return (
        {"type": "linear", "steps": args.anneal_steps or 0} if args.anneal else {"type": "constant"}
    )


# ---------------------------------------------------------------------------------------------- the command line


def parse(argv: list[str] | None, ranks_: int) -> argparse.Namespace:
    """The checked command line. Raises ValueError for values that cannot be meant."""
    args = parser().parse_args(argv)
    if args.steps is None and args.minutes is None:
        raise ValueError("give a budget: --steps INT or --minutes FLOAT")
    above_0 = chosen(
        args,
        "steps",
        "minutes",
        "batch_size",
        "accumulate",
        "lr",
        "diffusion_steps",
        "save_minutes",
    )
    for name, value in above_0.items():
        if value is not None and value <= 0:
            raise ValueError(f"--{name} {value} must be above 0")
    if not 0 <= args.ema < 1:
        raise ValueError(f"--ema {args.ema} is outside 0..1")
    parts = ranks_ * args.accumulate
    if args.batch_size % parts:
        raise ValueError(
            f"--batch_size {args.batch_size} cannot be shared by {ranks_} ranks in --accumulate "
            f"{args.accumulate} parts; use a multiple of {parts}"
        )
    check_writable("save_dir", args.save_dir)
    if is_foreign(args.save_dir):
        raise ValueError(
            f"--save_dir {args.save_dir} holds other files and no {RESUME}; choose another folder"
        )
    return args


def check_attention(attention_resolutions: str, channel_mult: str, image_size: int) -> None:
    """Raise ValueError for a size that no level of the network has: it would get no attention."""
    sizes = [image_size // 2**level for level in range(len(channel_mult.split(",")))]
    odd = [
        part for part in attention_resolutions.split(",") if part.strip() and int(part) not in sizes
    ]
    if odd:
        raise ValueError(
            f"--attention_resolutions {odd[0]} is no size of the network's levels: {', '.join(map(str, sizes))}"
        )


FLAGS = """
[images]
--base_samples find:PATH!  folder of images, or a data set's files
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
--channel_mult 1,2,2 = 1,2,2
--attention_resolutions 16,8 = 8
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
[training]
--steps INT  the budget in steps
--minutes FLOAT  the budget in minutes; whichever ends first
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
"""


def parser() -> argparse.ArgumentParser:
    p = commands.parser(
        PROGRAM, __doc__, FLAGS, NOISE_SCHEDULES=NOISE_SCHEDULES, FIXED_VARIANCES=FIXED_VARIANCES
    )
    p.set_defaults(class_cond=False)
    return p


# ---------------------------------------------------------------------------------------------- data and network


class Images:
    """The training images, decoded once where memory allows. Raises ValueError for what cannot be trained on."""

    def __init__(self, args: argparse.Namespace):
        self._source = sources.open_source(args.base_samples)
        if (
            args.cell != "."
            and args.base_samples.is_dir()
            and not (args.base_samples / args.cell).is_dir()
        ):
            raise ValueError(
                f"--cell {args.cell} is no folder of --base_samples {args.base_samples}"
            )
        self._names = self._source.list(args.cell)[0]
        if not self._names:
            where = "" if args.cell == "." else f" in --cell {args.cell}"
            raise ValueError(f"--base_samples {args.base_samples} has no images{where}")
        self._pool = ThreadPoolExecutor(8, "images")
        self._sample = tree.spread(self._names, 64)  # these are looked at before anything is done
        self.count = len(self._names)
        self.size = args.image_size or self._own_size()
        self.digest = self._source.digest(self._names[0])
        self.is_cached = self.count * self.size**2 * 3 <= args.cache_gib * 2**30
        # where they do not all fit, at least a sample of them is checked
        self._pixels = self._decode(self._names if self.is_cached else self._sample)

    def _own_size(self) -> int:
        sizes = {self._source.read(name).size for name in self._sample}
        if len(sizes) > 1 or len(set(min(sizes))) > 1:
            shown = ", ".join(f"{w}x{h}" for w, h in sorted(sizes)[:4])
            raise ValueError(
                f"the images are of several sizes or not square ({shown}): give --image_size, and they are resized and cropped"
            )
        return min(sizes)[0]

    def _decode(self, names: Iterable[str]) -> np.ndarray:
        def read(name: str) -> np.ndarray | str:
            try:
                image = self._source.read(name)
            except Exception as error:  # PIL and its plugins raise many types for damaged files
                return f"{self._source.where(name)}: {error}"
            if min(image.size) < self.size:
                return f"{self._source.where(name)} is {image.width}x{image.height}, smaller than --image_size {self.size}"
            return images.fit_square(image, self.size)

        found = list(self._pool.map(read, names))
        wrong = [outcome for outcome in found if isinstance(outcome, str)]
        if wrong:
            raise ValueError(
                f"{len(wrong)} of {len(found)} images cannot be used; remove them or choose another size: "
                + "; ".join(wrong[:3])
            )
        return np.stack(found)

    def load(self, rows: np.ndarray) -> np.ndarray:
        """uint8 (b,S,S,3)."""
        return (
            self._pixels[rows] if self.is_cached else self._decode(self._names[row] for row in rows)
        )


def make_model(flags: dict[str, Any], device: torch.device) -> UNet:
    model = create_unet(
        **{name: value for name, value in flags.items() if name not in DIFFUSION}
    ).to(device)
    return model.to(memory_format=torch.channels_last) if device.type == "cpu" else model


# ---------------------------------------------------------------------------------------------- what is saved


class Results:
    """What is made of a run's state: the prior with its flags, and pictures now and then."""

    def __init__(self, folder: Path, state: State, flags: dict[str, Any]):
        self._folder, self._state, self._flags = folder, state, flags
        self._sampled = self._drawn = time.monotonic()

    def write(self) -> None:
        """The prior, the curve of the loss once a minute, samples every ten."""
        weights = {
            name: value.contiguous()
            for name, value in self._state.judged.model.state_dict().items()
        }
        files.write_with(self._folder / "ema.pt", lambda file: torch.save(weights, file))
        files.write_json(self._folder / "ema.json", self._flags)
        now = time.monotonic()
        if now - self._sampled > 600:
            self.write_samples()
        elif now - self._drawn > 60:
            self._draw_losses()

    def write_samples(self) -> None:
        model = self._state.judged.model
        is_learning, device = model.training, next(model.parameters()).device
        images.write_image(
            self._folder / "samples.png", draw_samples(model.eval(), self._flags, device)
        )
        model.train(is_learning)
        self._sampled = time.monotonic()
        self._draw_losses()

    def _draw_losses(self) -> None:
        self._drawn = time.monotonic()
        try:
            import matplotlib
        except ImportError:
            return  # loss.csv has the numbers
        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        losses = [row["mse"] for row in self._state.losses]
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        axes.plot(
            range(1, len(losses) + 1),
            losses,
            color="lightsteelblue",
            linewidth=0.6,
            label="each step",
        )
        width = max(1, min(100, len(losses) // 10))
        smooth = np.convolve(losses, np.full(width, 1 / width), "valid")
        axes.plot(
            range(width, len(losses) + 1), smooth, color="tab:blue", label=f"mean of {width} steps"
        )
        axes.set(xlabel="step", ylabel="mean square error of the noise", yscale="log")
        axes.legend()
        files.write_with(
            self._folder / "loss.png", lambda file: figure.savefig(file, dpi=120, format="png")
        )
        plt.close(figure)


def draw_samples(
    model: UNet, flags: dict[str, Any], device: torch.device, count: int = 16
) -> np.ndarray:
    """Images from noise alone by 50 steps of DDIM, as a sheet: uint8 (H,W,3)."""
    size = flags["image_size"]
    diffusion = process_of(flags, "50")
    streams = NoiseStreams([f"sample {i}" for i in range(count)], seed=0, shape=(3, size, size))
    blank = torch.zeros(count, 3, size, size, device=device)
    drawn = adapt(
        model,
        diffusion,
        blank,
        diffusion_range=50,
        factor=1,
        guidance="none",
        sampler="ddim",
        draw_noise=streams,
    )
    pixels = images.to_pixels(drawn.cpu().numpy())
    rows = {f"{4 * i + 1}-{4 * i + 4}": list(pixels[4 * i : 4 * i + 4]) for i in range(count // 4)}
    return np.asarray(images.contact_sheet(rows, [""] * 4))


def say_plan(args, data: Images, model: UNet, state: State, machine: str) -> None:
    budget = " or ".join(
        f"{value:,g} {name}" for name, value in chosen(args, "steps", "minutes").items() if value
    )
    print(f"images      {data.count:,} of {args.base_samples}, {data.size} x {data.size}")
    print(f"network     {sum(p.numel() for p in model.parameters()):,} parameters")
    print(
        f"training    {budget} of {args.batch_size} images"
        + (f", from step {state.step:,}" if state.step else "")
    )
    print(f"machine     {machine}, {state.dtype}")
    print(f"to          {args.save_dir}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
