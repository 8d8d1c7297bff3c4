"""The files that a training of a prior makes: the prior, how well it denoises, and pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from DDA import files, images, tree
from DDA.image_adapt import checkpoints, denoising
from DDA.image_adapt.denoising import Denoising, Pictures
from DDA.image_adapt.noise import NoiseStreams
from DDA.image_adapt.prior import process_of
from DDA.image_adapt.prior_settings import SAMPLE_STEPS, PriorSettings
from DDA.image_adapt.sampler import adapt
from DDA.image_adapt.unet import UNet
from DDA.training.loop import Recipe, State

SAMPLES = 16  # images that are drawn
LEAST_SHOWN = 8  # images that are measured
WRITING = 2.0  # seconds in which charts and the last state are written
LEAST_STEPS = 5  # of DDIM
MOST_OF_BUDGET = 0.2  # share of the budget that the end may take
TUNING = 32  # training images that choose the Gaussian filter


class Ending(NamedTuple):
    """The measurements and pictures of the end of a training.

    shown: the images that are measured. samples, steps: the images that are drawn, and the steps of
    DDIM. seconds: how long all of it takes, by an estimate.
    """

    shown: int = denoising.MOST
    samples: int = SAMPLES
    steps: int = SAMPLE_STEPS
    seconds: float = 0.0


def room_of(recipe: Recipe, pass_seconds: float) -> float:
    """Return how many passes of the network an ending may take.

    pass_seconds: the time of a pass of one image, for a budget in minutes.
    """
    room = math.inf
    if recipe.steps is not None:  # an image of a step costs about as much as three passes
        room = MOST_OF_BUDGET * 3 * recipe.steps * recipe.batch_size
    if recipe.minutes is not None:
        room = min(room, (MOST_OF_BUDGET * 60 * recipe.minutes - WRITING) / pass_seconds)
    return room


def plan_ending(room: float, pass_seconds: float = 0.0) -> Ending:
    """Return an ending that takes at most so many passes of the network, or the least one.

    room: the number of passes, each of one image. pass_seconds: the time of one.

    >>> plan_ending(5000)
    Ending(shown=128, samples=16, steps=50, seconds=2.0)
    >>> plan_ending(100, 0.125)
    Ending(shown=8, samples=4, steps=12, seconds=14.0)
    """
    share, ending = room / _passes(Ending()), Ending()
    if share < 1:
        shown = max(LEAST_SHOWN, int(share * denoising.MOST))
        steps = min(SAMPLE_STEPS, max(LEAST_STEPS, int(share * SAMPLES / 4 * SAMPLE_STEPS)))
        ending = Ending(shown, 4, steps)
    return ending._replace(seconds=pass_seconds * _passes(ending) + WRITING)


def _passes(ending: Ending) -> int:
    """Return how often the network sees an image in an ending."""
    return ending.shown * len(denoising.SHARES) + ending.samples * ending.steps


@torch.no_grad()
def pass_seconds(model: UNet, size: int, device: torch.device) -> float:
    """Return the time in which a network sees one image, measured on a few."""
    blank = torch.zeros(4, 3, size, size, device=device)
    is_learning, seconds = model.training, []
    model.eval()
    for _ in range(2):  # kernels are chosen and memory is taken the first time
        begun = time.perf_counter()
        model(blank, torch.zeros(4, device=device)).cpu()
        seconds.append(time.perf_counter() - begun)
    model.train(is_learning)
    return min(seconds) / len(blank)


class Examples(NamedTuple):
    """The images on which a prior is measured.

    shown: they are measured. tuning: training images that choose the Gaussian filter. held_out:
    whether the prior is never trained on those of ``shown``.
    """

    shown: Pictures
    tuning: Pictures
    held_out: bool


class Results:
    """The files that are made of a run's state: the prior, its entries, and pictures.

    flags: the settings of the network and of the process. examples: returns the images on which
    the prior is measured.
    """

    def __init__(
        self,
        settings: PriorSettings,
        state: State,
        flags: Mapping[str, Any],
        ending: Ending,
        examples: Callable[[], Examples],
    ):
        self._settings, self._state, self._flags = settings, state, flags
        self._folder, self._ending, self._examples = settings.save_dir, ending, examples
        self._sampled = self._drawn = time.monotonic()

    def write(self) -> None:
        """Write the prior. Draw the loss at most once a minute, samples every ten minutes."""
        state_dict = self._state.judged.model.state_dict()
        weights = {name: value.contiguous() for name, value in state_dict.items()}
        entries = {**self._flags, **self._settings.record()}
        checkpoints.save(self._folder / "ema.pt", weights, entries)
        now = time.monotonic()
        if now - self._sampled > 600:
            self._write_samples()
        elif now - self._drawn > 60:
            self._draw_losses()

    def finish(self) -> Denoising:
        """Measure how well the prior denoises, write and return that, and draw all pictures."""
        examples = self._examples()
        last = self._settings.last_timestep()
        model = self._state.judged.model.eval()
        levels = denoising.measure(
            model,
            process_of(self._flags),
            _some(examples.shown, self._ending.shown),
            _some(examples.tuning, TUNING),
            denoising.timesteps(last),
        )
        measured = Denoising(
            error=denoising.UNIT,
            images=min(self._ending.shown, len(examples.shown.keys)),
            held_out=examples.held_out,
            levels=levels,
        )
        checkpoints.add_record(self._folder / "ema.pt", denoising=measured)
        self._draw_denoising(levels)
        self._write_samples()
        return measured

    def _write_samples(self) -> None:
        """Draw what the prior makes, and the curve of the loss."""
        model = self._state.judged.model
        is_learning, device = model.training, next(model.parameters()).device
        if self._settings.record():
            shown = _some(self._examples().shown, 4)
            levels = denoising.timesteps(self._settings.last_timestep())[1::2]
            sheet = draw_denoised(model.eval(), self._flags, shown, levels)
        else:
            ending = self._ending
            sheet = draw_samples(model.eval(), self._flags, device, ending.samples, ending.steps)
        images.write_image(self._folder / "samples.png", sheet)
        model.train(is_learning)
        self._sampled = time.monotonic()
        self._draw_losses()

    def _draw_losses(self) -> None:
        self._drawn = time.monotonic()
        losses = [row["mse"] for row in self._state.losses]
        steps = range(1, len(losses) + 1)
        width = max(1, min(100, len(losses) // 10))
        smooth = np.convolve(losses, np.full(width, 1 / width), "valid")

        def draw(axes: Any) -> None:
            axes.plot(steps, losses, color="lightsteelblue", linewidth=0.6, label="each step")
            label = f"mean of {width} steps"
            axes.plot(range(width, len(losses) + 1), smooth, color="tab:blue", label=label)
            axes.set(xlabel="step", ylabel="mean square error of the noise", yscale="log")

        _chart(self._folder / "loss.png", draw)

    def _draw_denoising(self, levels: list[denoising.Level]) -> None:
        noise = [level["noise"] for level in levels]

        def draw(axes: Any) -> None:
            for name, form in (("prior", "o-"), ("gaussian", "s--"), ("identity", "x:")):
                label = {"gaussian": "tuned Gaussian filter"}.get(name, name)
                axes.plot(noise, [level[name] for level in levels], form, label=label)
            axes.set(xscale="log", yscale="log", xlabel="noise, grey levels of 0 to 255")
            axes.set(ylabel="error of the clean image, grey levels")
            axes.set_xticks(noise, [f"{value:.1f}" for value in noise])
            axes.minorticks_off()
            low, high = axes.get_ylim()
            errors = [value for value in (1, 2, 5, 10, 20, 50, 100) if low <= value <= high]
            axes.set_yticks(errors, [f"{value}" for value in errors])

        _chart(self._folder / "denoising.png", draw)


def _some(pictures: Pictures, count: int) -> Pictures:
    """Return some of the images, evenly spread."""
    places = tree.spread(range(len(pictures.keys)), count)
    return Pictures([pictures.keys[place] for place in places], pictures.pixels[places])


def _chart(path: Path, draw: Callable[[Any], None]) -> None:
    """Draw a chart to a file, where matplotlib is installed; JSON and CSV have the numbers."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    draw(axes)
    axes.legend()
    files.write_with(path, lambda file: figure.savefig(file, dpi=120, format="png"))
    plt.close(figure)


def draw_samples(
    model: UNet,
    flags: Mapping[str, Any],
    device: torch.device,
    count: int = SAMPLES,
    steps: int = SAMPLE_STEPS,
) -> np.ndarray:
    """Draw images from noise alone by DDIM, as a sheet uint8 (H,W,3) with four in a row."""
    size = flags["image_size"]
    streams = NoiseStreams([f"sample {i}" for i in range(count)], seed=0, shape=(3, size, size))
    samples = adapt(
        model,
        process_of(flags, f"{steps}"),
        torch.zeros(count, 3, size, size, device=device),
        diffusion_range=steps,
        factor=1,
        guidance="none",
        sampler="ddim",
        draw_noise=streams,
    )
    pixels = images.to_pixels(samples.cpu().numpy())
    rows = {f"{4 * i + 1}-{4 * i + 4}": list(pixels[4 * i : 4 * i + 4]) for i in range(count // 4)}
    return np.asarray(images.contact_sheet(rows, [""] * 4))


@torch.no_grad()
def draw_denoised(
    model: UNet, flags: Mapping[str, Any], shown: Pictures, levels: list[int]
) -> np.ndarray:
    """Draw images, noised and denoised at some timesteps, as a sheet uint8 (H,W,3).

    A prior of low noise levels alone cannot draw images from noise.
    """
    process, device = process_of(flags), next(model.parameters()).device
    rows = {"clean": list(shown.pixels)}
    for timestep in levels:
        _, x_t = denoising.noised(shown, process, timestep, device)
        views = {"noised": x_t, "denoised": process.predict(model, x_t, timestep).x0}
        for name, view in views.items():
            rows[f"{name}, {timestep}"] = list(images.to_pixels(view.cpu().numpy()))
    return np.asarray(images.contact_sheet(rows, shown.keys))
