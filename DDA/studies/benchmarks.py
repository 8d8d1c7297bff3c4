"""Benchmarks: the costs of the project beside the work that cannot be avoided.

Each benchmark returns its figures by name. Figures are ratios of times that were measured in the
same run, and peaks of memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from DDA import commands, ranks
from DDA.image_adapt import job
from DDA.progress import Show
from DDA.settings import check_at_least
from DDA.sources import Folder

ROOT = Path(__file__).resolve().parents[2]
Figures = dict[str, float]


def plan(count: int) -> Figures:
    """Time the plan of a job of many images, and its division among 8 ranks.

    The images lie in 75 cells, and a tenth of them are done. The baseline is making and sorting the
    same names.

    count: the number of images, at least 1.
    """
    check_at_least(1, count=count)
    cells = [f"corruption_{c:02}/{s}" for c in range(15) for s in range(1, 6)]
    each = count // len(cells)
    begun = time.perf_counter()
    listed = []
    for cell in cells:
        names = (f"{cell}/n{i % 1000:08}/ILSVRC2012_val_{i:08}.JPEG" for i in range(each))
        listed.append(sorted(names))
    done = {path[:-5]: path for paths in listed for path in paths[::10]}
    middle = time.perf_counter()
    settings = {"num_samples": None, "fixed_batch": None, "same_format": False, "not_images": []}
    places = {"source": Folder(Path("a")), "save_dir": Path("b"), "cells": cells}
    made = job.plan_of(listed, done, **settings, **places)
    shares = [made.share(rank, 8) for rank in range(8)]
    end = time.perf_counter()
    sizes = [sum(map(len, share)) for share in shares]
    if sum(sizes) != made.todo or max(sizes) - min(sizes) > 1:
        raise AssertionError("the shares do not cover the plan evenly")
    return {
        "keys": made.total,
        "to do": made.todo,
        "times making and sorting the names": (end - middle) / (middle - begun),
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def memory(model_path: Path) -> Figures:
    """Compare the peak memory of a job of 200 images with that of 2,000."""
    peaks = {}
    for count in (200, 2000):
        peaks[count] = run_job(model_path, count, "--N", "2", "--batch_size", "16")[1] / 1024
    named = {f"peak MiB of {count} images": peak for count, peak in peaks.items()}
    return {**named, "ratio": peaks[2000] / peaks[200]}


def overhead(model_path: Path) -> Figures:
    """Compare the whole job with the network alone, medians of 3.

    The job's own clock starts after the network is loaded, so both exclude the start of Python.
    """
    import torch

    from DDA.image_adapt import prior
    from DDA.image_adapt.sampler import adapt

    count, batch = 128, 32
    ddpm = prior.load(model_path)
    model, diffusion = ddpm.network(torch.device("cpu")), prior.process_of(ddpm.settings, "100")
    x = torch.linspace(-1, 1, batch * 3 * 32 * 32).reshape(batch, 3, 32, 32)
    settings = {"diffusion_range": 5, "factor": 4, "scale": 6.0}

    def sample() -> None:
        for _ in range(count // batch):
            adapt(model, diffusion, x, **settings, draw_noise=lambda k: torch.zeros_like(x))

    bare = [_seconds(sample) for _ in range(3)]
    flags = ("--N", "5", "--batch_size", str(batch))
    whole = [run_job(model_path, count, *flags)[0] for _ in range(3)]
    return {"whole job over the bare sampler": float(np.median(whole) / np.median(bare))}


def data() -> Figures:
    """Compare the known degradations with the library calls under them, and time a glass blur.

    The times are processor time, the least of 9 rounds in which our function and the library's call
    take turns.
    """
    from DistilledClassifier.corruptions import corrupt
    from DistilledClassifier.degradations import DEGRADATIONS

    rng = np.random.default_rng(0)
    figures = {}
    x = np.zeros((1, 1, 3), np.uint8)
    for size in (32, 224):
        x = _smooth(rng, size)
        for name, (level, library, call) in _calls(rng).items():
            own = partial(_call_degradation, DEGRADATIONS[name], level, rng)
            rounds = [(_many(own, x), _many(call, x)) for _ in range(9)]
            ours, theirs = (min(column) for column in zip(*rounds, strict=True))
            figures[f"{size} pixels, {name}, times {library}"] = ours / theirs
    blur = partial(corrupt, x, "glass_blur", 4, rng=rng)
    seconds = min(_seconds(blur, time.process_time) for _ in range(5))
    return {**figures, "224 pixels, glass_blur, severity 4, seconds of one core": seconds}


def _calls(rng: np.random.Generator) -> dict[str, tuple[float, str, Callable[..., Any]]]:
    """Return the level, the library and its call under each known degradation."""
    from scipy import ndimage

    def pillow(x: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(x).save(buffer, "JPEG", quality=30)
        return np.array(Image.open(buffer))

    def blur(x: np.ndarray) -> np.ndarray:
        settings = {"mode": "nearest", "truncate": 3.0, "output": np.float32}
        return ndimage.gaussian_filter(x, (2, 2, 0), **settings)

    def normal(x: np.ndarray) -> np.ndarray:
        return rng.standard_normal(x.shape, dtype=np.float32)

    def uniform(x: np.ndarray) -> np.ndarray:
        return rng.random(x.shape, dtype=np.float32)

    return {
        "jpeg": (30, "Pillow's save and load", pillow),
        "blur": (2, "scipy's gaussian_filter", blur),
        "noise": (25, "numpy's standard_normal", normal),
        "saltpepper": (10, "numpy's random", uniform),
    }


def _call_degradation(
    function: Callable[..., Any], level: float, rng: np.random.Generator, x: np.ndarray
) -> Any:
    return function(x, level, rng)


def _many(call: Callable[[np.ndarray], Any], x: np.ndarray) -> float:
    """Return the processor time of many calls, since that of one is too short to measure."""
    turns = 20 * (224 // len(x)) ** 2
    return _seconds(lambda: [call(x) for _ in range(turns)], time.process_time)


def _smooth(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a smooth random image uint8 (size,size,3)."""
    small = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def train() -> Figures:
    """Tell the share of a training's time that is not spent waiting for images.

    A ResNet-20 learns from 3 x 128 images of 32 pixels a step, which 2 threads degrade on the fly.
    """
    from DistilledClassifier import classifiers, experiments

    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for split, count in (("train", 1280), ("val", 10)):
            images = Path(folder) / f"tree/clean/{split}"
            images.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(_smooth(rng, 32)).save(images / f"cat_{i:05}.png")
        changes = {"data.root": f"{folder}/tree", "data.train": "train", "data.val": "val"}
        changes |= {"init": None, "train.steps": 60}
        config = "configs/deg_all/CIFAR10/ResNet20/deg_all.yaml"
        budget = {"batch_size": 128, "workers": 2, "quiet": True}
        trained = experiments.train(config, changes=changes, save_dir=folder, **budget)
        state = classifiers.read(trained.folder / "resume.pt")
    share = 1 - state["waited"] / state["seconds"]
    return {"share of the time not spent waiting for images": share, "steps": state["step"]}


def sweep(classifier: Path, degraded: Path) -> Figures:
    """Compare an evaluation of all cells with the forward passes of its two classifiers.

    Both are measured in turns, five times, in this process. The copies are the images themselves,
    and both classifiers are the same. The bare passes are those of the module as its checkpoint has
    it; the evaluation's own passes (`classifiers.still`) stand beside them. The figures are shares
    of the evaluation's time.
    """
    import torch

    from DistilledClassifier import classifiers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    own = classifiers.load(classifier)
    plain = classifiers.build(own.config["classifier"])
    classifiers.initialise(plain, classifier)
    plain.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.rand(64, 32, 32, 3).permute(0, 3, 1, 2)
    whole, within, bare, count = [], [], {"plain": [], "own": []}, 0
    for _ in range(6):  # the first, which also imports, does not count
        with _timed_passes() as passes:
            seconds, count = _evaluate(classifier, degraded)
        whole.append(seconds)
        within.append(sum(passes))
        for name, network in (("plain", plain), ("own", own.network)):
            with torch.inference_mode():
                each = (_seconds(partial(network, x)) for _ in range(2 * count // 64))
                bare[name].append(sum(each))
    total = sum(whole[1:])
    return {
        "images": count,
        "bare forward passes of two classifiers as published": sum(bare["plain"][1:]) / total,
        "bare forward passes as the evaluation runs them": sum(bare["own"][1:]) / total,
        "the evaluation's passes within it": sum(within[1:]) / total,
    }


@contextlib.contextmanager
def _timed_passes() -> Iterator[list[float]]:
    """Yield a list that gets the seconds of every forward pass of a classifier."""
    from DistilledClassifier.classifiers import Classifier

    logits, seconds = Classifier.logits, []

    def timed(classifier: Classifier, batch: Any) -> Any:
        begun = time.perf_counter()
        scores = logits(classifier, batch)
        seconds.append(time.perf_counter() - begun)
        return scores

    Classifier.logits = timed
    try:
        yield seconds
    finally:
        Classifier.logits = logits


def _evaluate(classifier: Path, degraded: Path) -> tuple[float, int]:
    """Return the seconds of an evaluation with one source as both views, and its image count."""
    from DDA.model_adapt.evaluate import evaluate
    from DDA.model_adapt.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        views = {"degraded": degraded, "adapted": degraded, "layout": "cifar10c"}
        both = {"first": classifier, "second": classifier, "classes": "cifar10"}
        settings = Settings(**both, **views, out=Path(folder))
        begun = time.perf_counter()
        ranks.alone(lambda world: evaluate(settings, world=world, show=Show(quiet=True)))
        seconds = time.perf_counter() - begun
        return seconds, sum(len(np.load(path)["labels"]) for path in Path(folder).rglob("*.npz"))


def _seconds(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    begun = clock()
    call()
    return clock() - begun


def run_job(model_path: Path, count: int, *flags: str) -> tuple[float, int]:
    """Adapt ``count`` random images in a process of its own.

    Returns the seconds of its work and its peak memory in KiB. Raises ValueError where it fails;
    its own message then stands on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        rng = np.random.default_rng(0)
        for i in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(source / f"{i:05}.png")
        script = ROOT / "DDA/image_adapt/scripts/image_sample.py"
        paths = ["--base_samples", source, "--save_dir", f"{folder}/out"]
        command = [sys.executable, script, "--model_path", model_path, *paths, *flags]
        process = subprocess.Popen([*map(str, command), "--quiet"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            code = os.waitstatus_to_exitcode(status)
            raise ValueError(f"the job ended with status {code}; its message above tells why")
        manifest = (Path(folder) / "out/manifest.json").read_text()
        return float(re.search(r'"seconds": ([0-9.]+)', manifest)[1]), usage.ru_maxrss


def table(figures: Figures) -> str:
    """Return figures as a table in Markdown."""
    return commands.grid(("figure", "value"), [(n, f"{v:,.4g}") for n, v in figures.items()])
