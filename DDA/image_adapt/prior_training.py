"""Train a prior: a DDPM on a folder of images or on a data set's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from DDA import files, images, ranks, sources, tree
from DDA.devices import pick_device
from DDA.image_adapt import denoising, job
from DDA.image_adapt.denoising import Denoising, Pictures
from DDA.image_adapt.prior import process_of, rungs
from DDA.image_adapt.prior_results import (
    Ending,
    Examples,
    Results,
    pass_seconds,
    plan_ending,
    room_of,
)
from DDA.image_adapt.prior_settings import IDENTITY, PROCESS, RECIPE, PriorSettings
from DDA.image_adapt.prior_task import PriorBatches, PriorTask
from DDA.image_adapt.unet import UNet, create_unet
from DDA.progress import Estimate, Show, duration
from DDA.settings import as_path, check_kinds, check_names, plain
from DDA.training.loop import Recipe, make_rate, start
from DDA.training.run import RESUME, Run, is_foreign, precision, resume
from DDA.training.run import estimate as run_estimate

MOST_HELD_OUT = 0.05  # share of the images that are held out
LEAST_HELD_OUT = 8  # images that are measured at least


@dataclass(frozen=True)
class TrainedPrior:
    """A prior after its training.

    path: the file of the weights. steps: the steps of all runs in the folder. loss: the mean of the
    last 50 steps. seconds: the time of training. denoising: how well it denoises, as the file
    beside the weights has it; None on other ranks than the first. estimate: of a dry run, how long
    it would take.
    """

    path: Path
    steps: int
    loss: float
    seconds: float
    denoising: Denoising | None = None
    estimate: Estimate | None = None


def train_prior(
    source: str | PathLike[str],
    save_dir: str | PathLike[str],
    *,
    device: str | torch.device = "auto",
    quiet: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> TrainedPrior:
    """Train a prior on a folder of images.

    A run that was stopped goes on, and with a budget in steps it ends with the same weights. With a
    larger budget (steps, minutes) a finished run goes on too; any other setting that differs from
    those of the run is an error.

    Args:
        source: a folder of images, or a data set's files (dataset/README.md).
        save_dir: the folder of the run, which gets ``ema.pt`` with ``ema.json`` beside it.
        device: auto, cpu, cuda, or cuda with a number, as text or as a torch.device.
        quiet: print nothing.
        dry_run: check everything, print the plan and an estimate by a few steps, and stop.
        settings: settings of `PriorSettings`, among them a budget: steps (above 0), minutes (above
            0) or both. image_size is that of the images, where it is not given.

    Returns:
        The path of the weights, which `DDA.Adapter` takes, and how far the training came.

    Raises:
        ValueError: a setting is unknown, a setting or an image cannot be used, or the folder holds
            another run.
        OSError: the folder cannot be written.
        KeyboardInterrupt: the user stopped it, after its state was saved.

    Example:
        >>> prior = train_prior(photos, out, steps=2, quiet=True, **tiny_network)
        >>> prior.steps, prior.path.name
        (2, 'ema.pt')
    """
    check_names(settings, [item.name for item in fields(PriorSettings)])
    check_kinds({"quiet": quiet, "dry_run": dry_run}, {"quiet": bool, "dry_run": bool})
    chosen = PriorSettings(
        source=files.find(as_path("source", source)),
        save_dir=files.find(as_path("save_dir", save_dir)),
        **{name: plain(value) for name, value in settings.items()},
    )
    show = Show(quiet=quiet)
    how = {"device": str(device), "dry_run": dry_run}
    return ranks.alone(lambda world: train(chosen, world, show, **how))


def train(
    settings: PriorSettings,
    world: ranks.World,
    show: Show,
    *,
    device: str = "auto",
    dry_run: bool = False,
) -> TrainedPrior:
    """Train a prior under one process or several. Each process calls this.

    dry_run: estimate how long it takes, and write nothing.
    Returns what `train_prior` returns, on every rank. Raises `ranks.SharedError` on all ranks for
    input that cannot be used.
    """
    torch.set_num_threads(world.cpu_threads())
    world.on_root(lambda: _check(settings, world.size))
    place = world.together(lambda: pick_device(device, world.local_rank))
    data = world.together(lambda: Images(settings))
    world.together(lambda: settings.check_attention(data.size))
    training = world.together(lambda: _Training(settings, data, world, place))
    if world.rank == 0:
        training.say_plan(show)
    if dry_run:
        return training.estimate(show)
    if world.rank == 0:
        files.make_folder(settings.save_dir)
    return training.run(show)


def _check(settings: PriorSettings, processes: int) -> None:
    """Raise ValueError where the batch cannot be shared or the folder holds other things."""
    settings.check_ranks(processes)
    folder = settings.save_dir
    if is_foreign(folder):
        raise ValueError(
            f"`save_dir` {folder} holds other files and no {RESUME}; choose another folder"
        )


class _Training:
    """The network, the state and the results of a run, in one process."""

    def __init__(
        self, settings: PriorSettings, data: Images, world: ranks.World, device: torch.device
    ) -> None:
        self._settings, self._data, self._world, self._device = settings, data, world, device
        self._flags = settings.flags(data.size)
        budget = settings.chosen("steps", "minutes", *RECIPE)
        self._recipe = Recipe(**budget, amp=settings.bf16)
        torch.manual_seed(settings.seed)
        self._model = make_model(self._flags, device)
        self._process = process_of(self._flags)
        blank = torch.rand(8, 3, data.size, data.size, device=device)
        example = (blank, torch.zeros(8, dtype=torch.long, device=device))
        dtype = world.broadcast(precision(self._recipe, self._model, example))
        optimizer = {"type": "AdamW", **settings.chosen("lr", "weight_decay")}
        task = PriorTask(self._model, self._process)
        self._state = start(task, self._recipe, optimizer, dtype)
        self._ending = world.broadcast(self._plan_ending())
        images_of = {"images": data.count + len(data.held_out.keys), "source": data.digest}
        images_of |= {"held_out": len(data.held_out.keys)} if data.held_out.keys else {}
        chosen = {**settings.chosen(*IDENTITY), **settings.record()}
        self._identity = {**self._flags, **chosen, **images_of}
        folder = settings.save_dir
        resume(folder, self._state, self._identity, "choose another `save_dir`")

    def _plan_ending(self) -> Ending:
        """Return what is measured and drawn at the end: more after a longer training.

        A budget in minutes includes it.
        """
        seconds = 0.0
        if self._recipe.minutes is not None:
            seconds = pass_seconds(self._model, self._data.size, self._device)
        ending = plan_ending(room_of(self._recipe, seconds), seconds)
        most = len(self._data.held_out.keys) or self._data.count
        return ending._replace(shown=min(ending.shown, most))

    def say_plan(self, show: Show) -> None:
        """Say what will be trained, how long, and where it goes."""
        settings, data, state = self._settings, self._data, self._state
        limits = settings.chosen("steps", "minutes").items()
        budget = " or ".join(f"{value:,g} {name}" for name, value in limits if value)
        begun = f", from step {state.step:,}" if state.step else ""
        threads = f"{torch.get_num_threads()} threads each"
        parameters = sum(parameter.numel() for parameter in self._model.parameters())
        held_out = (
            f"; {len(data.held_out.keys):,} others are held out" if data.held_out.keys else ""
        )
        of_source = f"{data.count:,} of {settings.source}, {data.size} x {data.size}"
        show.say(f"images      {of_source}{held_out}")
        show.say(f"network     {parameters:,} parameters")
        show.say(f"training    {budget} of {settings.batch_size} images{begun}")
        if self._recipe.minutes is not None:
            ending = self._ending
            work = f"{ending.shown} images are measured, {ending.samples} drawn"
            show.say(f"the end     about {duration(ending.seconds)} of it: {work}")
        if settings.record():
            last = settings.last_timestep()
            fitting = ", ".join(rungs(settings.diffusion_steps, last)) or "none"
            show.say(f"timesteps   0-{last}; rungs of `speed` that it can do: {fitting}")
        show.say(f"machine     {self._world.size} x {self._device.type}, {threads}, {state.dtype}")
        show.say(f"to          {settings.save_dir}")
        if settings.batch_size > data.count:
            often = f"each step sees some of the {data.count:,} images several times"
            show.note(
                f"`batch_size` {settings.batch_size:,}: {often}; lower it or give more images"
            )

    def _batches(self) -> PriorBatches:
        """Return the batches of this process."""
        waits = self._data.is_cached and self._device.type == "cpu"
        return PriorBatches(
            self._data.load,
            self._data.count,
            self._settings.last_timestep() + 1,
            self._recipe,
            flip=self._settings.flip,
            rank=self._world.rank,
            ranks=self._world.size,
            threads=0 if waits else 2,
        )

    def estimate(self, show: Show) -> TrainedPrior:
        """Say how long the training would take, by some steps that are not kept."""
        settings, state = self._settings, self._state
        before = TrainedPrior(settings.save_dir / "ema.pt", state.step, 0.0, state.seconds)
        rate = make_rate(settings.lr, settings.schedule(), self._recipe)
        estimate = run_estimate(self._world, state, self._batches(), self._recipe, rate)
        if self._world.rank == 0:
            show.say(f"estimate    {estimate}")
        return replace(before, estimate=estimate)

    def run(self, show: Show) -> TrainedPrior:
        """Train to the end of the budget."""
        settings, world, state = self._settings, self._world, self._state
        recipe, end = self._recipe, 0.0
        if recipe.minutes is not None:
            end = min(self._ending.seconds, 60 * recipe.minutes / 2)
        results = Results(settings, state, self._flags, self._ending, self._data.examples)
        run = Run(
            world,
            settings.save_dir,
            state,
            self._identity,
            images=settings.batch_size,
            save_minutes=settings.save_minutes,
            end_seconds=end,
            losses="loss.csv",
            on_save=results.write,
            show=show,
        )
        rate = make_rate(settings.lr, settings.schedule(), recipe)
        advice = "lower `lr` or raise `warmup` and start anew in another `save_dir`"
        run.train(self._batches(), recipe, rate, advice=advice)
        measured = results.finish() if world.rank == 0 else None
        if measured is not None:
            # no rung of the speed ladder begins above the half of the timesteps
            _say_denoising(measured, range(settings.diffusion_steps // 2), show)
        loss = float(np.mean([row["loss"] for row in state.losses[-50:]])) if state.losses else 0.0
        path = settings.save_dir / "ema.pt"
        return TrainedPrior(path, state.step, loss, state.seconds, measured)


def _say_denoising(measured: Denoising, used: Sequence[int], show: Show) -> None:
    """Say how well a prior denoises, and where it does not.

    used: the timesteps at which adaptation may use it.
    """
    kind = "held-out images" if measured["held_out"] else "training images"
    show.say(f"denoising   {measured['images']} {kind}; {measured['error']}")
    for line in denoising.table(measured["levels"]):
        show.say(f"            {line}")
    if not measured["held_out"]:
        show.note("there are too few images to hold some out, so these errors may be too low")
    fault = denoising.shortfall(measured["levels"], used)
    if fault is not None:
        show.note(f"{fault}. Train it longer; adaptation with it says the same")


# ----------------------------------------------------------------------------- data and network


class Images:
    """The training images, decoded once where memory allows.

    Raises ValueError for images that cannot be trained on.
    """

    def __init__(self, settings: PriorSettings):
        source, cell = settings.source, settings.cell
        self._source = sources.open_source(source, upright=sources.is_upright(source))
        try:
            self._names = self._source.list(cell)[0]
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"`cell` {cell} is no folder of `source` {source}") from None
        if not self._names:
            where = "" if cell == "." else f" in `cell` {cell}"
            instead = sources.found_instead(self._source, [cell])
            raise ValueError(f"`source` {source} has no images{where}{instead}")
        self._pool = ThreadPoolExecutor(8, "images")
        self._sample = tree.spread(self._names, 64)  # these are looked at before anything is done
        self.size = settings.image_size or self._own_size()
        self.digest = self._source.digest(self._names[0])
        held_out = _held_out(self._names, cell)
        self._names = [name for name in self._names if name not in held_out]
        self.count = len(self._names)
        self.is_cached = self.count * self.size**2 * 3 <= settings.cache_gib * 2**30
        # where they do not all fit, at least a sample of them is checked
        checked = self._names if self.is_cached else self._sample
        pixels = self._decode([*checked, *held_out])
        self._pixels = pixels[: len(checked)]
        self.held_out = Pictures([*held_out], pixels[len(checked) :])

    def _own_size(self) -> int:
        """Return the side of the images where all of the sample are squares of one size.

        Images that cannot be read are left out here and named when all are decoded.
        """
        outcomes = list(self._pool.map(self._open, self._sample))
        faults = [outcome for outcome in outcomes if isinstance(outcome, str)]
        sizes = {outcome.size for outcome in outcomes if not isinstance(outcome, str)}
        if not sizes:
            raise _unusable(faults, len(outcomes))
        if len(sizes) > 1 or len(set(min(sizes))) > 1:
            shown = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:4])
            raise ValueError(
                f"the images are of several sizes or not square ({shown}): give `image_size`, "
                "and they are resized and cropped"
            )
        return min(sizes)[0]

    def _decode(self, names: Iterable[str]) -> np.ndarray:
        """Return images uint8 (n,S,S,3). Raises ValueError that names those that cannot be used."""
        outcomes = list(self._pool.map(self._read, names))
        faults = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if faults:
            raise _unusable(faults, len(outcomes))
        return np.stack(outcomes)

    def _read(self, name: str) -> np.ndarray | str:
        """Return an image uint8 (S,S,3), or why it cannot be used."""
        image = self._open(name)
        if isinstance(image, str):
            return image
        if min(image.size) < self.size:
            small = f"{image.width}x{image.height}, smaller than `image_size` {self.size}"
            return f"{self._source.where(name)} is {small}"
        return images.fit_square(image, self.size)

    def _open(self, name: str) -> Image.Image | str:
        """Return an image as RGB, or why it cannot be read."""
        try:
            return self._source.read(name)
        except Exception as error:  # PIL and its plugins raise many types for damaged files
            place = self._source.where(name)
            return f"{place}: {job.reason(place, error)}"

    def load(self, rows: np.ndarray) -> np.ndarray:
        """Return the images of these rows, uint8 (b,S,S,3)."""
        return self._pixels[rows] if self.is_cached else self._decode(self._names[i] for i in rows)

    def examples(self) -> Examples:
        """Return the images on which a prior is measured: training images where none is held out.

        Raises ValueError for images that cannot be read any more.
        """
        rows = np.array(tree.spread(range(self.count), denoising.MOST))
        trained = Pictures([self._names[row] for row in rows], self.load(rows))
        return Examples(
            self.held_out if self.held_out.keys else trained, trained, bool(self.held_out.keys)
        )


def _held_out(names: Sequence[str], cell: str) -> dict[str, None]:
    """Return the images that are never trained on, by their keys: some 128, 5 % at most.

    So few that they say nothing are none.
    """
    share = min(MOST_HELD_OUT, denoising.MOST / len(names))
    chosen = [
        name
        for name in names
        if tree.is_held_out(tree.key_of(name.removeprefix(f"{cell}/")), share)
    ]
    return dict.fromkeys(chosen if len(chosen) >= LEAST_HELD_OUT else ())


def _unusable(faults: Sequence[str], total: int) -> ValueError:
    """Return the error that names images that cannot be used, each with its reason."""
    shown = "; ".join(faults[:10])
    rest = f"; … ({len(faults)} in all)" if len(faults) > 10 else ""
    return ValueError(
        f"{len(faults)} of {total} images cannot be used; remove them or choose another size: "
        f"{shown}{rest}"
    )


def make_model(flags: Mapping[str, Any], device: torch.device) -> UNet:
    """Return a network with fresh weights, in the memory layout in which it is fastest."""
    network = {name: value for name, value in flags.items() if name not in PROCESS}
    model = create_unet(**network).to(device)
    return model.to(memory_format=torch.channels_last) if device.type == "cpu" else model
