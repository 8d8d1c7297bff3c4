"""Accuracy against cost: adapt labelled images with several settings and score the copies."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from DDA import commands, files, images, metrics, settings, sources, tree
from DDA.image_adapt.adapter import Adapter
from DDA.image_adapt.choices import SPEEDS
from DDA.image_adapt.scripts import image_sample
from DDA.progress import Show
from DDA.sources.cells import cells_of, fit_of, one_severity, orientation_of
from DistilledClassifier import classifiers, make_data
from DistilledClassifier.classifiers import Classifier

VIEWS = ("adapted", "self-ensemble")
# flags of image_sample.py in which settings must not differ
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
    "--orientation",
)


class FailedJob(RuntimeError):
    """An adaptation job that failed; ``status`` is its exit status."""

    def __init__(self, name: str, status: int):
        super().__init__(f"{name} failed; run the same command again to go on")
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Study:
    """The prior, the images and the classifier of a ladder or a search.

    source: a labelled tree, or a data set's files. ranks: the number of processes of a job.
    """

    model_path: Path
    classifier: Path
    source: Path
    out: Path
    ranks: int = 1
    batch_size: int = 16
    layout: str = "cifar10c"
    corruption: Sequence[str] = ("all",)
    severity: Sequence[str] = ("all",)

    def __post_init__(self) -> None:
        """Check the numbers."""
        settings.check_at_least(1, ranks=self.ranks, batch_size=self.batch_size)

    def adapt_flags(self, source: Path, name: str, flags: Sequence[str]) -> list[str]:
        """Return the flags of image_sample.py for one setting."""
        own = {
            "--model_path": [self.model_path],
            "--base_samples": [source],
            "--dataset": [self.layout],
            "--corruption": self.corruption,
            "--severity": self.severity,
            "--orientation": [orientation_of(self.layout)],
            "--batch_size": [self.batch_size],
            "--save_dir": [self.out / name],
        }
        words = [word for flag, values in own.items() for word in (flag, *map(str, values))]
        return [*words, *flags]


def run(
    study: Study, texts: Sequence[str], *, timing_images: int, command: str, show: Show
) -> dict[str, Any]:
    """Adapt, score and time each setting; write ladder.json, ladder.md and ladder.png.

    texts: rungs of the speed ladder, or ``name: flags``; the first is the baseline of the paired
    intervals. timing_images: the number of images that are timed; 0 measures no time. command: the
    command that the result names as its maker. Raises ValueError for wrong settings, and
    `FailedJob`.
    """
    chosen = read_settings(texts)
    settings.check_at_least(0, timing_images=timing_images)
    for name, flags in chosen.items():  # a wrong flag ends the study here
        image_sample.parser().read(study.adapt_flags(study.source, name, flags))
    classifier = classifiers.load(study.classifier, setting="classifier")
    upright = orientation_of(study.layout) == "apply"
    source = sources.Folder(tree_of(study, show), upright=upright)
    cells = cells_of(source, study.layout, study.corruption, study.severity, train=True)
    examples = label(source, cells, classifier)
    adapt_all(study, source.path, chosen, show)
    rows = score(examples, classifier, chosen, study.out, show)
    cost = measure(study, source.path, chosen, examples.names, timing_images, show)
    named = sorted({_cell(name) for name in examples.names})
    result = {
        **protocol(study, command, examples, named),
        "threads": torch.get_num_threads(),
        "timing_images": timing_images,
        "rows": [{**row, **cost.get(row["setting"], {})} for row in rows],
    }
    write(study.out / "ladder", result, table(result))
    if cost:
        chart(result, study.out / "ladder.png")
    return result


def read_settings(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the flags of image_sample.py for each setting, by its name.

    Raises ValueError for a name that is given twice and for flags that all settings share.
    """
    chosen: dict[str, list[str]] = {}
    for name, flags in map(_setting, texts):
        if name in chosen:
            raise ValueError(f"`setting` {name} is given twice; give each a name of its own")
        check_flags(f"`setting` {name}", flags)
        chosen[name] = flags
    return chosen


def check_flags(where: str, flags: Sequence[str]) -> None:
    """Raise ValueError for flags that decide which images are adapted."""
    ours = [flag for flag in flags if flag.split("=")[0] in OURS]
    if ours:
        raise ValueError(
            f"{where}: {ours[0]} is not for some settings alone; give it to the command, or not"
        )


def _setting(text: str) -> tuple[str, list[str]]:
    """Return the name and the flags of one setting. Raises ValueError for a wrong text."""
    name, colon, flags = text.partition(":")
    if colon:
        if not name.strip() or "/" in name:
            raise ValueError(
                f'`setting` "{text}" has no name that can be a folder; write "name: flags"'
            )
        return name.strip(), shlex.split(flags)
    if name not in SPEEDS:
        raise ValueError(
            f"`setting` {name} is no rung ({', '.join(SPEEDS)}); "
            'write other settings as "name: flags"'
        )
    return name, ["--speed", name]


def tree_of(study: Study, show: Show) -> Path:
    """Return the labelled tree.

    A data set's files are first written as a tree. Raises ValueError where that fails.
    """
    if study.source.is_dir() and tree.list_images(study.source)[0]:
        return study.source
    written = study.out / "source"
    severity = one_severity(study.severity)
    paths = ["--base_samples", study.source, "--save_dir", written]
    flags = [] if severity is None else ["--severity", severity]
    command = [make_data.__file__, "prepare", *paths, *flags]
    if commands.call([sys.executable, *map(str, command)], show=show):
        raise ValueError(f"`source` {study.source} could not be written to {written}")
    return written


def adapt_all(study: Study, source: Path, chosen: Mapping[str, Sequence[str]], show: Show) -> None:
    """Adapt a tree of copies for each setting. Raises `FailedJob`."""
    for name, flags in chosen.items():
        words = study.adapt_flags(source, name, flags)
        job = [*launcher(study.ranks), sys.executable, image_sample.__file__, *words]
        show.say(f"{name}: {shlex.join(job)}")
        if status := commands.call(job, show=show):
            raise FailedJob(name, status)


def launcher(ranks: int) -> list[str]:
    """Return the words that start a command with a number of ranks."""
    return ["mpiexec", "-n", str(ranks)] if ranks > 1 else []


# ------------------------------------------------------------------------------------- accuracy


class Examples(NamedTuple):
    """The labelled images of some cells of a tree, by key.

    names: paths in the tree. labels: (N,), indices of its classes.
    """

    source: sources.Folder
    cells: Sequence[str]
    names: list[str]
    labels: np.ndarray


def label(source: sources.Folder, cells: Sequence[str], classifier: Classifier) -> Examples:
    """Return the images of some cells with their labels.

    Raises ValueError where their classes are unknown, or others than the classifier's.
    """
    if source.classes is None:
        raise ValueError(f"{source.path} has no {tree.CLASSES}, which tells its classes")
    if classifier.classes and classifier.classes != source.classes:
        theirs = f"{classifier.path} has the classes {', '.join(classifier.classes[:3])}, …"
        own = f"{source.path} has {', '.join(source.classes[:3])}, …"
        raise ValueError(f"{theirs}, but {own}: labels would be taken for others")
    names = sorted((name for cell in cells for name in source.list(cell)[0]), key=tree.key_of)
    if not names:
        instead = sources.found_instead(source, cells)
        raise ValueError(f"{source.path} has no images in {', '.join(cells)}{instead}")
    return Examples(source, cells, names, tree.labels_of(names, source.classes, source.where))


def score(
    examples: Examples,
    classifier: Classifier,
    chosen: Mapping[str, Sequence[str]],
    out: Path,
    show: Show,
) -> list[dict[str, Any]]:
    """Return a row for the images as they are, and one for each setting with copies below ``out``.

    Raises ValueError for scores that are not finite.
    """
    keys = [tree.key_of(name) for name in examples.names]
    image_names = np.array([key[len(_cell(key)) + 1 :] for key in keys])
    total = len(keys) * (1 + len(chosen))
    judge = partial(classifiers.score, classifier, progress=show.progress(total))
    degraded = judge(examples.source, examples.names)
    hits = metrics.hits(degraded, examples.labels)
    rows: list[dict[str, Any]] = [
        {"setting": "source", "adapted": _statistics(hits, None, image_names)}
    ]
    baseline: dict[str, np.ndarray] = {}
    for name, flags in chosen.items():
        copies = tree.saved_images(out / name, examples.cells)
        names = [copies[key] for key in keys]
        adapted = judge(sources.Folder(out / name), names)
        chances = [torch.from_numpy(scores).softmax(1) for scores in (degraded, adapted)]
        views = zip(VIEWS, (adapted, sum(chances).numpy()), strict=True)
        right = {view: metrics.hits(scores, examples.labels) for view, scores in views}
        baseline = baseline or right
        numbers = {view: _statistics(right[view], baseline[view], image_names) for view in VIEWS}
        rows.append({"setting": name, "flags": shlex.join(flags), **numbers})
    return rows


def protocol(
    study: Study, command: str, examples: Examples, cells: Sequence[str]
) -> dict[str, Any]:
    """Return the images and the classifier that the numbers belong to, and the command."""
    count = f"{len(examples.names)} images in {len(cells)} cells"
    text = f"{count} of {study.source.name}, {study.classifier.stem}"
    return {"protocol": text, "command": command, "cells": list(cells)}


def _cell(name: str) -> str:
    return "/".join(name.split("/")[:2])


def _statistics(
    right: np.ndarray, baseline: np.ndarray | None, image_names: np.ndarray
) -> dict[str, float]:
    """Return the accuracy in per cent and its difference from the baseline, with half intervals.

    right: whether each image is classified rightly, (N,). baseline: the same for the setting from
    which the difference is taken.
    """
    values = {"accuracy": ("interval", 100.0 * right)}
    if baseline is not None:
        values["difference"] = ("difference_interval", 100.0 * right - 100.0 * baseline)
    numbers = {}
    for name, (span, each) in values.items():
        low, high = metrics.interval(each, image_names)
        numbers |= {name: float(each.mean()), span: (high - low) / 2}
    return numbers


# ----------------------------------------------------------------------------------------- cost


def measure(
    study: Study,
    source: Path,
    chosen: Mapping[str, Sequence[str]],
    paths: Sequence[str],
    count: int,
    show: Show,
    rounds: int = 3,
) -> dict[str, dict[str, Any]]:
    """Count the network's calls and time each setting, on the same images in turns.

    count: the number of images that are timed; 0 measures nothing. rounds: the number of times that
    each setting is timed; the fastest counts.
    """
    if not count:
        return {}
    jobs = {}
    for name, flags in chosen.items():
        values = image_sample.parser().read(study.adapt_flags(source, name, flags))[0]
        jobs[name] = _Timed(values)
    paths = tree.spread(paths, count)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds):
        for name, job in jobs.items():
            seconds[name].append(job.run(source, paths))
            took = f"{seconds[name][-1]:.1f} s"
            show.say(f"timing {name}, round {turn + 1} of {rounds}: {took}")
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
    """An adapter of a job's settings that writes nothing and counts its network's calls."""

    def __init__(self, values: dict[str, Any]):
        for name in (*image_sample.UNUSED, "dry_run"):
            values.pop(name)
        selection, arguments = image_sample.settings_of(values)
        published = arguments["behavior"] == "published"
        fit = selection.fit or fit_of(selection.layout, published=published)
        self._adapter = Adapter(**arguments, fit=fit)
        self._adapter.network.register_forward_hook(self._count)
        self.forward = self.backward = 0

    def _count(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        self.forward += 1
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: torch.Tensor) -> None:
        self.backward += 1

    def run(self, source: Path, paths: Sequence[str]) -> float:
        """Return the seconds for the images, in batches.

        Afterwards ``forward`` and ``backward`` are the counts of one batch.
        """
        fit, batch = self._adapter.fitting(), self._adapter.batch_size
        pixels = [fit(images.read_rgb(source / path)).image for path in paths]
        begun = time.perf_counter()
        for first in range(0, len(paths), batch):
            self.forward = self.backward = 0
            part = slice(first, first + batch)
            self._adapter.pixels(pixels[part], [*map(tree.key_of, paths[part])])
        return time.perf_counter() - begun


# -------------------------------------------------------------------------- what people look at


def table(result: Mapping[str, Any]) -> str:
    """Return a table in Markdown, with the cost of a setting where it was measured."""
    rows = result["rows"]
    base = rows[1]["setting"]
    cost = ["network calls", f"images/s, times {base}"] if "speedup" in rows[1] else []
    heads = ["setting", "adapted %", f"minus {base}", "self-ensemble %", f"minus {base}", *cost]
    lines = []
    for row in rows:
        cells = [row["setting"]]
        for view in VIEWS:
            cells += _accuracy_cells(row.get(view, {}), row["setting"] == base)
        if "speedup" in row:
            back = f" (+ {row['backward']} backward)" if row["backward"] else ""
            cells += [f"{row['forward']}{back}", f"{row['speedup']:.1f}"]
        else:
            cells += [""] * len(cost)
        lines.append(cells)
    head = f"{result['protocol']}: {', '.join(result['cells'])}."
    intervals = f"95 % intervals; differences are paired with {base}."
    return f"{head} {intervals}\n\n{commands.grid(heads, lines)}"


def _accuracy_cells(numbers: Mapping[str, float], is_base: bool) -> list[str]:
    """Return an accuracy and its difference from the baseline as texts, each with its interval."""
    if not numbers:
        return ["", ""]
    accuracy = f"{numbers['accuracy']:.1f} ± {numbers['interval']:.1f}"
    if is_base or "difference" not in numbers:
        return [accuracy, ""]
    return [accuracy, f"{numbers['difference']:+.1f} ± {numbers['difference_interval']:.1f}"]


def chart(result: Mapping[str, Any], path: Path) -> None:
    """Draw the accuracy of both views against the time of an image, relative to the baseline."""
    rows = result["rows"][1:]
    base = rows[0]["setting"]
    axes = empty_chart(result["protocol"], f"time an image, {base} = 1", "accuracy, %")
    source = result["rows"][0]["adapted"]["accuracy"]
    axes.axhline(source, color="dimgray", linestyle="--", linewidth=1)
    style = {"fontsize": 8, "ha": "center"}
    place = {"transform": axes.get_yaxis_transform(), "va": "bottom", "color": "dimgray"}
    axes.text(0.45, source, "source, not adapted", **style, **place)
    for view, marker, color in zip(VIEWS, "os", ("tab:blue", "tab:orange"), strict=True):
        points = [(1 / r["speedup"], r[view]["accuracy"], r[view]["interval"]) for r in rows]
        x, y, error = zip(*sorted(points), strict=True)
        line = {"marker": marker, "color": color, "capsize": 3, "linewidth": 1.2}
        axes.errorbar(x, y, yerr=error, label=view, **line)
    for row in rows:
        top = max(row[view]["accuracy"] + row[view]["interval"] for view in VIEWS)
        calls = "+".join(str(row[way]) for way in ("forward", "backward") if row[way])
        text = f"{row['setting']}\n{calls} call{'' if calls == '1' else 's'}"
        offset = {"xytext": (0, 4), "textcoords": "offset points"}
        axes.annotate(text, (1 / row["speedup"], top), **offset, **style)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.18)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 112))
    axes.legend(loc="lower left", fontsize=8)
    write_chart(path, axes)


def empty_chart(title: str, x: str, y: str) -> Any:
    """Return the axes of a figure, with names; nothing is shown on a screen."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7, 4.2), layout="constrained").subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=9)
    return axes


def write_chart(path: Path, axes: Any) -> None:
    """Write the figure of some axes as PNG."""
    files.write_with(path, lambda file: axes.figure.savefig(file, dpi=130, format="png"))


def write(path: Path, result: Mapping[str, Any], text: str) -> None:
    """Write a result as JSON and Markdown under a path without a suffix."""
    files.write_json(path.with_suffix(".json"), dict(result))
    files.write_text(path.with_suffix(".md"), text)
