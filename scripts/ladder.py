#!/usr/bin/env python3
"""Accuracy against cost: adapt labelled images with several settings and score them with a classifier.

  scripts/ladder.py --model_path prior.pt --classifier resnet56.th --base_samples cifar10c_open.npz --dataset cifar10c \\
      --corruption gaussian_noise pixelate --severity 3 5 --out ladder --ranks 2 --setting exact balanced fast one-shot
  scripts/ladder.py … --setting exact "n20: --speed fast --N 20 --k 0.8"

A setting is a rung of image_sample.py's --speed, or "name: flags" of image_sample.py. The first is the baseline of the paired
intervals. OUT gets a tree for each setting, ladder.json, ladder.md and ladder.png; finished trees are used again.

Views: adapted, the classifier on the adapted images; self-ensemble, the mean of its probabilities on the degraded and on the
adapted image (DDA). Intervals, here and in ladder.json, are half the width of the 95 % bootstrap interval over images; an image
under several corruptions is drawn as a whole. Network calls are counted and images/s are measured on --timing_images of the
images, the settings taking turns.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from DDA import commands, files, images, metrics, sources, tree
from DDA.devices import pick_device
from DDA.image_adapt import prior
from DDA.image_adapt.sampler import SPEEDS
from DDA.image_adapt.scripts import image_sample
from DDA.sources.cells import LAYOUTS, cells_of, one_severity
from DistilledClassifier import classifiers, make_data
from DistilledClassifier.classifiers import Classifier

PROGRAM = "ladder.py"
VIEWS = ("adapted", "self-ensemble")
OURS = (
    "--model_path",
    "--base_samples",
    "--save_dir",
    "--dataset",
    "--corruption",
    "--severity",
    "--train",
    "--num_samples",
    "--batch_size",
    "--gallery",
    "--overwrite",
    "--dry_run",
    "--format",
)


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 for wrong input, or the status of an adaptation job that failed."""
    parser = commands.parser(PROGRAM, __doc__, FLAGS, LAYOUTS=LAYOUTS)
    return commands.run(lambda: _main(parser.parse_args(argv), argv), PROGRAM)


def _main(args: argparse.Namespace, argv: list[str] | None) -> int:
    settings = read_settings(args.setting)
    for name, flags in settings.items():
        image_sample.parser().parse_args(
            adapt_flags(args, args.base_samples, name, flags)
        )  # ends here for a wrong flag
    classifier = classifiers.load(args.classifier)
    source = sources.Folder(tree_of(args))
    cells = cells_of(source, args.dataset, args.corruption, args.severity, train=True)
    examples = label(source, cells, classifier)
    if status := adapt_all(args, source.path, settings):
        return status
    rows = score(examples, classifier, settings, args.out)
    cost = measure(args, source.path, settings, examples.names)
    cells = sorted({_cell(name) for name in examples.names})
    result = {
        **protocol(args, PROGRAM, argv, examples, cells),
        "threads": torch.get_num_threads(),
        "timing_images": args.timing_images,
        "rows": [{**row, **cost.get(row["setting"], {})} for row in rows],
    }
    write(args.out / "ladder", result, table(result))
    if cost:
        chart(result, args.out / "ladder.png")
    print(f"written     {args.out}/ladder.json, .md" + (", .png" if cost else ""))
    return 0


FLAGS = """
--model_path FILE!  the prior
--classifier FILE!  a classifier's checkpoint
--base_samples PATH!  labelled tree, or npz/npy files of a data set
--out DIR!
--ranks INT = 1  run the jobs under mpiexec -n INT (default: 1)
--batch_size INT = 16
--dataset {LAYOUTS} = cifar10c  layout of the tree
--corruption NAME+ = [all]
--severity 1..5+ = [all]
--setting SETTING+ = [exact,balanced,fast,one-shot]  (default: the four rungs)
--timing_images INT = 16  0: measure no time
"""


def read_settings(texts: list[str]) -> dict[str, list[str]]:
    """Name to flags of image_sample.py. Raises ValueError for a double name and for the ladder's own flags."""
    settings: dict[str, list[str]] = {}
    for name, flags in map(_setting, texts):
        if name in settings:
            raise ValueError(
                f"--setting {name} is there twice; give each setting a name of its own"
            )
        check_flags(f"--setting {name}", flags)
        settings[name] = flags
    return settings


def check_flags(where: str, flags: list[str]) -> None:
    """Raise ValueError for flags of image_sample.py that decide which images are adapted: settings must not differ in them."""
    ours = [flag for flag in flags if flag.split("=")[0] in OURS]
    if ours:
        raise ValueError(
            f"{where}: {ours[0]} is not for some settings alone; give it to the command, or not"
        )


def _setting(text: str) -> tuple[str, list[str]]:
    name, colon, flags = text.partition(":")
    if colon:
        if not name.strip() or "/" in name:
            raise ValueError(
                f'--setting "{text}" has no name that can be a folder; write "name: flags"'
            )
        return name.strip(), shlex.split(flags)
    if name not in SPEEDS:
        raise ValueError(
            f'--setting {name} is no rung ({", ".join(SPEEDS)}); write other settings as "name: flags"'
        )
    return name, ["--speed", name]


def tree_of(args: argparse.Namespace) -> Path:
    """The labelled tree; files of a data set are written out first."""
    if args.base_samples.is_dir() and tree.list_images(args.base_samples)[0]:
        return args.base_samples
    written = args.out / "source"
    severity = one_severity(args.severity)
    flags = [] if severity is None else ["--severity", severity]
    command = [
        make_data.__file__,
        "prepare",
        "--base_samples",
        args.base_samples,
        "--save_dir",
        written,
        *flags,
    ]
    if commands.call([sys.executable, *map(str, command)]):
        raise ValueError(f"--base_samples {args.base_samples} could not be written to {written}")
    return written


def adapt_all(args: argparse.Namespace, source: Path, settings: dict[str, list[str]]) -> int:
    """A tree of adapted copies for each setting; returns 0, or the status of the first job that failed."""
    for name, flags in settings.items():
        job = [
            *launcher(args.ranks),
            sys.executable,
            image_sample.__file__,
            *adapt_flags(args, source, name, flags),
        ]
        print(f"{name}: {shlex.join(job)}", flush=True)
        if status := commands.call(job):
            print(f"{name} failed; run the same command again to go on", file=sys.stderr)
            return status
    return 0


def launcher(ranks: int) -> list[str]:
    """What starts a command as so many ranks."""
    return ["mpiexec", "-n", str(ranks)] if ranks > 1 else []


def adapt_flags(args: argparse.Namespace, source: Path, name: str, flags: list[str]) -> list[str]:
    return [
        "--model_path",
        str(args.model_path),
        "--base_samples",
        str(source),
        "--dataset",
        args.dataset,
        "--corruption",
        *args.corruption,
        "--severity",
        *args.severity,
        "--batch_size",
        str(args.batch_size),
        "--save_dir",
        str(args.out / name),
        *flags,
    ]


# ---------------------------------------------------------------------------------------------- accuracy


class Examples(NamedTuple):
    """The labelled images of some cells of a tree, by key. names: paths in the tree; labels: (N,), indices of its classes."""

    source: sources.Folder
    cells: Sequence[str]
    names: list[str]
    labels: np.ndarray


def label(source: sources.Folder, cells: Sequence[str], classifier: Classifier) -> Examples:
    """The images of some cells. Raises ValueError where their classes are unknown, or others than the classifier's."""
    if source.classes is None:
        raise ValueError(
            f"{source.path} has no {tree.CLASSES}, which tells the classes of its images"
        )
    if classifier.classes and classifier.classes != source.classes:
        raise ValueError(
            f"{classifier.path} has the classes {', '.join(classifier.classes[:3])}, …, but {source.path} has "
            f"{', '.join(source.classes[:3])}, …: labels would be taken for others"
        )
    names = sorted((name for cell in cells for name in source.list(cell)[0]), key=tree.key_of)
    if not names:
        raise ValueError(f"{source.path} has no images in {', '.join(cells)}")
    return Examples(source, cells, names, tree.labels_of(names, source.classes, source.where))


def score(
    examples: Examples, classifier: Classifier, settings: Mapping[str, list[str]], out: Path
) -> list[dict]:
    """One row for the images as they are, and one for each setting, whose copies lie below ``out``.

    settings: their names and flags. Raises ValueError for scores that are none.
    """
    images = np.array([name[len(_cell(name)) + 1 :] for name in map(tree.key_of, examples.names)])
    degraded = classifiers.score(classifier, examples.source, examples.names)
    rows = [
        {
            "setting": "source",
            "adapted": _statistics(metrics.hits(degraded, examples.labels), None, images),
        }
    ]
    baseline: dict[str, np.ndarray] = {}
    for name, flags in settings.items():
        copies = tree.saved_images(out / name, examples.cells)
        names = [copies[tree.key_of(own)] for own in examples.names]
        adapted = classifiers.score(classifier, sources.Folder(out / name), names)
        both = sum(torch.from_numpy(scores).softmax(1) for scores in (degraded, adapted)).numpy()
        right = {
            view: metrics.hits(scores, examples.labels)
            for view, scores in zip(VIEWS, (adapted, both), strict=True)
        }
        baseline = baseline or right
        rows.append(
            {
                "setting": name,
                "flags": shlex.join(flags),
                **{view: _statistics(right[view], baseline[view], images) for view in VIEWS},
            }
        )
    return rows


def protocol(
    args: argparse.Namespace,
    program: str,
    argv: list[str] | None,
    examples: Examples,
    cells: Sequence[str],
) -> dict[str, Any]:
    """What the numbers of a script are of, and the command that made them."""
    return {
        "protocol": f"{len(examples.names)} images in {len(cells)} cells of {args.base_samples.name}, {args.classifier.stem}",
        "command": shlex.join([f"scripts/{program}", *(sys.argv[1:] if argv is None else argv)]),
        "cells": cells,
    }


def _cell(name: str) -> str:
    return "/".join(name.split("/")[:2])


def _statistics(
    right: np.ndarray, baseline: np.ndarray | None, images: np.ndarray
) -> dict[str, float]:
    """Accuracy in per cent, and the difference from the baseline, each with half of its interval.

    right: whether each image is (N,). baseline: the same of the setting that the difference is from. images: their names.
    """
    values = {"accuracy": ("interval", 100.0 * right)}
    if baseline is not None:
        values["difference"] = ("difference_interval", 100.0 * right - 100.0 * baseline)
    numbers = {}
    for name, (span, each) in values.items():
        low, high = metrics.interval(each, images)
        numbers |= {name: float(each.mean()), span: (high - low) / 2}
    return numbers


# ---------------------------------------------------------------------------------------------- cost


def measure(
    args, source: Path, settings: dict, paths: list[str], rounds: int = 3
) -> dict[str, dict]:
    """Network calls, forward and backward, and images a second of each setting, on the same images in turns."""
    if not args.timing_images:
        return {}
    jobs = {
        name: _Timed(image_sample.parse(adapt_flags(args, source, name, flags)))
        for name, flags in settings.items()
    }
    paths = tree.spread(paths, args.timing_images)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds):
        for name, job in jobs.items():
            seconds[name].append(job.run(source, paths))
            print(
                f"{PROGRAM}: timing {name}, round {turn + 1} of {rounds}: {seconds[name][-1]:.1f} s",
                flush=True,
            )
    fastest = {name: min(times) for name, times in seconds.items()}
    first = fastest[next(iter(jobs))]
    return {
        name: {
            "forward": job.forward,
            "backward": job.backward,
            "images_per_second": len(paths) / fastest[name],
            "speedup": first / fastest[name],
        }
        for name, job in jobs.items()
    }


class _Timed:
    """The function that a job would call with these flags, with its network's calls counted; nothing is written."""

    def __init__(self, args: argparse.Namespace):
        self._args = args
        device = pick_device(args.device)
        ddpm = prior.load(args.model_path, vars(args))
        network = ddpm.network(device, image_sample.pick_dtype(args, device)[0])
        network.register_forward_hook(self._count)
        self._size = ddpm.settings["image_size"]
        self._adapt = image_sample.make_adapt_batch(network, ddpm, args, device)
        self.forward = self.backward = 0

    def _count(self, module, inputs, output: torch.Tensor) -> None:
        self.forward += 1
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: torch.Tensor) -> None:
        self.backward += 1

    def run(self, source: Path, paths: list[str]) -> float:
        """Seconds for the images, in batches; the counts are those of one batch."""
        pixels = np.stack(
            [images.fit_square(images.read_rgb(source / path), self._size) for path in paths]
        )
        begun = time.perf_counter()
        for i in range(0, len(paths), self._args.batch_size):
            self.forward = self.backward = 0
            part = slice(i, i + self._args.batch_size)
            self._adapt([*map(tree.key_of, paths[part])], pixels[part])
        return time.perf_counter() - begun


# ---------------------------------------------------------------------------------------------- what people look at


def table(result: dict) -> str:
    """Markdown; what a setting costs stands there where it was measured."""
    rows = result["rows"]
    base = rows[1]["setting"]
    cost = ["network calls", f"images/s, times {base}"] if "speedup" in rows[1] else []
    heads = ["setting", "adapted %", f"minus {base}", "self-ensemble %", f"minus {base}", *cost]
    lines = []
    for row in rows:
        cells = [row["setting"]]
        for numbers in (row.get(view, {}) for view in VIEWS):
            cells.append(
                f"{numbers['accuracy']:.1f} ± {numbers['interval']:.1f}" if numbers else ""
            )
            is_gap = "difference" in numbers and row["setting"] != base
            cells.append(
                f"{numbers['difference']:+.1f} ± {numbers['difference_interval']:.1f}"
                if is_gap
                else ""
            )
        if "speedup" in row:
            back = f" (+ {row['backward']} backward)" if row["backward"] else ""
            cells += [f"{row['forward']}{back}", f"{row['speedup']:.1f}"]
        else:
            cells += [""] * len(cost)
        lines.append(cells)
    return (
        f"{result['protocol']}: {', '.join(result['cells'])}. 95 % intervals; differences are paired with {base}.\n\n"
        f"{commands.grid(heads, lines)}"
    )


def chart(result: dict, path: Path) -> None:
    """Accuracy of both views against the time an image takes, relative to the baseline."""
    rows = result["rows"][1:]
    base = rows[0]["setting"]
    axes = empty_chart(result["protocol"], f"time an image, {base} = 1", "accuracy, %")
    source = result["rows"][0]["adapted"]["accuracy"]
    axes.axhline(source, color="dimgray", linestyle="--", linewidth=1)
    axes.text(
        0.45,
        source,
        "source, not adapted",
        va="bottom",
        ha="center",
        color="dimgray",
        fontsize=8,
        transform=axes.get_yaxis_transform(),
    )
    for view, marker, color in zip(VIEWS, "os", ("tab:blue", "tab:orange"), strict=True):
        points = sorted(
            (1 / row["speedup"], row[view]["accuracy"], row[view]["interval"]) for row in rows
        )
        x, y, error = zip(*points, strict=True)
        axes.errorbar(
            x, y, yerr=error, marker=marker, color=color, capsize=3, linewidth=1.2, label=view
        )
    for row in rows:
        top = max(row[view]["accuracy"] + row[view]["interval"] for view in VIEWS)
        calls = "+".join(str(row[way]) for way in ("forward", "backward") if row[way])
        label = f"{row['setting']}\n{calls} call{'s' * (calls != '1')}"
        axes.annotate(
            label,
            (1 / row["speedup"], top),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.18)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 112))
    axes.legend(loc="lower left", fontsize=8)
    axes.figure.savefig(path, dpi=130)


def empty_chart(title: str, x: str, y: str) -> Any:
    """The axes of a figure, with names; nothing is shown on a screen."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7, 4.2), layout="constrained").subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=9)
    return axes


def write(path: Path, result: dict, text: str) -> None:
    """Write a result as JSON and Markdown under a path without suffix, and print the text."""
    files.write_json(path.with_suffix(".json"), result)
    files.write_bytes(path.with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    sys.exit(main())
