#!/usr/bin/env python3
"""Benchmarks of the adaptation job: what it costs beside the network.

scripts/benchmark.py plan                           plan and shard 1,000,000 made-up keys: seconds and peak memory
scripts/benchmark.py memory --model_path PRIOR      peak memory of a job of 200 and of one of 2,000 images (N = 2)
scripts/benchmark.py overhead --model_path PRIOR    seconds of the whole job over those of the network alone (N = 5)
scripts/benchmark.py data                           known degradations over the library calls under them; glass blur
scripts/benchmark.py train                          share of a training step that is not spent waiting for degraded images
scripts/benchmark.py sweep --classifier RESNET.th --degraded CIFAR10C.npz
                                               test_ensemble.py over all cells, two classifiers, against their forward passes
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from DDA import commands
from DDA.image_adapt import job
from DDA.sources import Folder

FLAGS = """
what {plan,memory,overhead,data,train,sweep}
--model_path FILE  a prior for 32 pixels
--classifier FILE  a CIFAR ResNet's checkpoint
--degraded PATH  CIFAR-10-C as files or as a tree
--count INT = 1000000  keys to plan
"""


def main(argv: list[str] | None = None) -> int:
    p = commands.parser("benchmark.py", __doc__, FLAGS)
    args = p.parse_args(argv)
    if args.what in ("memory", "overhead") and args.model_path is None:
        p.error(f"{args.what} needs --model_path")
    if args.what == "sweep" and (args.classifier is None or args.degraded is None):
        p.error("sweep needs --classifier and --degraded")
    globals()[args.what](args)
    return 0


def plan(args: argparse.Namespace) -> None:
    """75 cells, a tenth of the keys done, 8 ranks; the baseline is making and sorting the same names."""
    cells = [f"corruption_{c:02}/{s}" for c in range(15) for s in range(1, 6)]
    each = args.count // len(cells)
    begun = time.perf_counter()
    listed = [
        sorted(f"{cell}/n{i % 1000:08}/ILSVRC2012_val_{i:08}.JPEG" for i in range(each))
        for cell in cells
    ]
    done = {path[:-5]: path for paths in listed for path in paths[::10]}
    middle = time.perf_counter()
    made = job.plan_of(
        listed,
        done,
        num_samples=None,
        fixed_batch=None,
        source=Folder(Path("a")),
        save_dir=Path("b"),
        cells=cells,
        same_format=False,
        not_images=[],
    )
    shares = [made.share(rank, 8) for rank in range(8)]
    end = time.perf_counter()
    sizes = [sum(map(len, share)) for share in shares]
    if sum(sizes) != made.todo or max(sizes) - min(sizes) > 1:
        raise AssertionError("the shares do not cover the plan evenly")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{made.total:,} keys, {made.todo:,} to do, 8 ranks: {end - middle:.1f} s to plan and shard "
        f"({(end - middle) / (middle - begun):.2f} times making and sorting the names), peak {peak:.0f} MiB"
    )


def memory(args: argparse.Namespace) -> None:
    peaks = {
        count: run_job(args.model_path, count, "--N", "2", "--batch_size", "16")[1]
        for count in (200, 2000)
    }
    for count, peak in peaks.items():
        print(f"{count:5} images: peak {peak / 1024:.0f} MiB")
    print(f"ratio {peaks[2000] / peaks[200]:.3f}")


def overhead(args: argparse.Namespace) -> None:
    """The job's own clock starts after the network is loaded, so both exclude the start of Python."""
    import torch

    from DDA.image_adapt import prior
    from DDA.image_adapt.sampler import adapt

    count, batch = 128, 32
    ddpm = prior.load(args.model_path)
    model, diffusion = ddpm.network(torch.device("cpu")), prior.process_of(ddpm.settings, "100")
    x = torch.linspace(-1, 1, batch * 3 * 32 * 32).reshape(batch, 3, 32, 32)

    def sample() -> None:
        for _ in range(count // batch):
            adapt(
                model,
                diffusion,
                x,
                diffusion_range=5,
                factor=4,
                scale=6.0,
                draw_noise=lambda k: torch.zeros_like(x),
            )

    bare = [_seconds(sample) for _ in range(3)]
    whole = [
        run_job(args.model_path, count, "--N", "5", "--batch_size", str(batch))[0] for _ in range(3)
    ]
    print(
        f"whole job over the bare sampler: {np.median(whole) / np.median(bare):.3f} (medians of 3, {count} images)"
    )


def data(args: argparse.Namespace) -> None:
    """Processor time: the least of 9 rounds in which our function and the library's call take turns."""
    import io

    from scipy import ndimage

    from DistilledClassifier.corruptions import corrupt
    from DistilledClassifier.degradations import DEGRADATIONS

    rng = np.random.default_rng(0)

    def pillow(x: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(x).save(buffer, "JPEG", quality=30)
        return np.array(Image.open(buffer))

    under = {
        "jpeg": (30, "Pillow's save and load", pillow),
        "blur": (
            2,
            "scipy's gaussian_filter",
            lambda x: ndimage.gaussian_filter(
                x, (2, 2, 0), mode="nearest", truncate=3.0, output=np.float32
            ),
        ),
        "noise": (
            25,
            "numpy's standard_normal",
            lambda x: rng.standard_normal(x.shape, dtype=np.float32),
        ),
        "saltpepper": (10, "numpy's random", lambda x: rng.random(x.shape, dtype=np.float32)),
    }

    def seconds(call, x: np.ndarray) -> float:
        return _seconds(
            lambda: [call(x) for _ in range(20 * (224 // len(x)) ** 2)], time.process_time
        )

    for size in (32, 224):
        small = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
        x = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))
        for name, (level, library, call) in under.items():
            rounds = [
                (
                    seconds(lambda x, f=DEGRADATIONS[name], v=level: f(x, v, rng), x),
                    seconds(call, x),
                )
                for _ in range(9)
            ]
            ours, theirs = (min(column) for column in zip(*rounds, strict=True))
            print(f"{size} pixels, {name}: {ours / theirs:.2f} times {library}")
    times = [
        _seconds(lambda: corrupt(x, "glass_blur", 4, rng=rng), time.process_time) for _ in range(5)
    ]
    print(f"224 pixels, glass_blur, severity 4: {min(times):.3f} s of one core an image")


def train(args: argparse.Namespace) -> None:
    """ResNet-20, 3 x 128 images of 32 pixels a step, degraded on the fly by 2 threads."""
    from DistilledClassifier import classifiers
    from DistilledClassifier.train_all_deg import main as train_all_deg

    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for split, count in (("train", 1280), ("val", 10)):
            images = Path(folder) / f"tree/clean/{split}"
            images.mkdir(parents=True)
            for i in range(count):
                pixels = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
                    (32, 32)
                )
                pixels.save(images / f"cat_{i:05}.png")
        changes = [
            f"data.root={folder}/tree",
            "data.train=train",
            "data.val=val",
            "init=null",
            "train.steps=60",
        ]
        flags = [
            "-c",
            "configs/deg_all/CIFAR10/ResNet20/deg_all.yaml",
            "--save_dir",
            folder,
            "--workers",
            "2",
            "--bs",
            "128",
        ]
        if train_all_deg([*flags, "--set", *changes]):
            raise RuntimeError("the training failed")
        (state,) = Path(folder).rglob("resume.pt")
        told = classifiers.read(state)
    print(
        f"{1 - told['waited'] / told['seconds']:.3f} of {told['step']} steps' time was not spent waiting for images"
    )


def sweep(args: argparse.Namespace) -> None:
    """One process, five rounds in turns. The copies are the images themselves, the classifiers are the same.

    Its bare passes are those of the module as its checkpoint has it; the command's own (`classifiers.still`) stand beside.
    """
    import torch

    from DDA.model_adapt.test_ensemble import main as evaluate
    from DistilledClassifier import classifiers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    own = classifiers.load(args.classifier)
    plain = classifiers.build(own.config["classifier"])
    classifiers.initialise(plain, args.classifier)
    plain.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.rand(64, 32, 32, 3).permute(0, 3, 1, 2)
    logits, within = classifiers.Classifier.logits, []

    def timed(classifier: classifiers.Classifier, batch: torch.Tensor) -> torch.Tensor:
        begun = time.perf_counter()
        scores = logits(classifier, batch)
        within[-1] += time.perf_counter() - begun
        return scores

    classifiers.Classifier.logits = timed
    whole, bare, count = [], {"plain": [], "own": []}, 0
    for _ in range(6):  # the first, which also imports, does not count
        within.append(0.0)
        with tempfile.TemporaryDirectory() as folder:
            flags = [
                "configs/ensemble/resnet18_ensemble_b64_cifar10c.py",
                args.classifier,
                "--data_prefix1",
                args.degraded,
                "--data_prefix2",
                args.degraded,
                "--dataset",
                "cifar10c",
                "--out",
                folder,
            ]
            begun = time.perf_counter()
            if evaluate([*map(str, flags)]):
                raise RuntimeError("the evaluation failed")
            whole.append(time.perf_counter() - begun)
            count = sum(len(np.load(path)["labels"]) for path in Path(folder).rglob("*.npz"))
        for name, network in (("plain", plain), ("own", own.network)):
            with torch.inference_mode():
                bare[name].append(
                    sum(_seconds(partial(network, x)) for _ in range(2 * count // 64))
                )
    print(f"{count:,} images; of the whole command's time, all rounds (least of each):")
    for name, said in (
        ("plain", "bare forward passes of two classifiers as published"),
        ("own", "as the command runs them"),
    ):
        print(
            f"  {sum(bare[name][1:]) / sum(whole[1:]):.2f} ({min(bare[name][1:]) / min(whole[1:]):.2f}) {said}"
        )
    print(f"  {sum(within[1:]) / sum(whole[1:]):.2f} the command's passes within it")


def _seconds(call, clock=time.perf_counter) -> float:
    begun = clock()
    call()
    return clock() - begun


def run_job(model_path: Path, count: int, *flags: str) -> tuple[float, int]:
    """Adapt ``count`` random images in a process of its own; the seconds of its work and its peak memory in KiB."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        rng = np.random.default_rng(0)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                source / f"{i:05}.png"
            )
        script = ROOT / "DDA/image_adapt/scripts/image_sample.py"
        command = [
            sys.executable,
            script,
            "--model_path",
            model_path,
            "--base_samples",
            source,
            "--save_dir",
            f"{folder}/out",
        ]
        process = subprocess.Popen(
            [*map(str, command), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"the job ended with status {os.waitstatus_to_exitcode(status)}")
        manifest = (Path(folder) / "out/manifest.json").read_text()
        return float(re.search(r'"seconds": ([0-9.]+)', manifest)[1]), usage.ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
