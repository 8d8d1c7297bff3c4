#!/usr/bin/env python3
"""Two classifiers on two views of the same images, and their combination, per corruption and severity.

  test_ensemble.py configs/ensemble/resnet18_ensemble_b64_cifar10c.py STUDENT1.pth --second_model_prefix STUDENT2.pth \\
      --ensemble sum --corruption all --severity all --data_prefix1 dataset/CIFAR-10-C \\
      --data_prefix2 dataset/generated/cifar10c --out eval
  mpiexec -n 2 test_ensemble.py … --launcher mpi
  torchrun --nproc_per_node 2 DDA/model_adapt/test_ensemble.py … --launcher pytorch

Without a second classifier the first one sees both views (DDA's self-ensemble). A classifier is a checkpoint of this project,
weights of mmcls for the config's model, or timm/<name>. OUT gets <severity>/<corruption>.npz, the scores of every image,
from which every table can be made again; summary.json and summary.md.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch

from DDA import commands, files, ranks, sources, tree
from DDA.devices import pick_device
from DDA.model_adapt import metrics, models, results
from DDA.model_adapt.ensemble import FITS, FUSE_RULES, OURS, RULES, fuse_images, fuse_weights
from DDA.model_adapt.models import Model
from DDA.model_adapt.paired import Cell, join
from DDA.progress import Progress
from DDA.sources import Source
from DDA.sources.cells import LAYOUTS, SPLITS, cells_of, one_severity
from DDA.tree import is_held_out
from DistilledClassifier.classifiers import quietly
from DistilledClassifier.degradations import DEGRADATIONS

PROGRAM = "test_ensemble.py"
METRICS = ("accuracy", "precision", "recall", "f1_score", "support", "calibration", "flips", "mCE")
SCORES = ("logits", "probabilities")
DATA_CONFIGS = (".yaml", ".yml", ".json")  # configs that hold values; all others are code
IGNORED = {"show": False, "show_dir": None, "show_options": None, "gpu_collect": False, "tmpdir": None, "out_items": None,
           "local_rank": None}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Evaluate; returns 0, 130 when it was interrupted, 1 or 2 for errors."""
    return ranks.run(lambda world: _main(world, argv), PROGRAM, "run the same command again")


def _main(world: ranks.World, argv: list[str] | None) -> int:
    args = world.on_root(lambda: parse(argv, world))
    torch.set_num_threads(world.cpu_threads())
    device = world.together(lambda: device_of(args, world.local_rank))
    job = world.together(lambda: _Job(args, device))
    if world.rank == 0:
        job.say_plan(world.size)
    todo = world.on_root(lambda: job.missing(args.out))  # name to digest
    progress = Progress(sum(len(cell.keys) for cell in job.cells if cell.name in todo), world.size)
    if world.rank == 0 and len(todo) < len(job.cells):
        print(f"done        {len(job.cells) - len(todo)} cells are in {args.out} already", flush=True)
    for cell, part in job.run([cell for cell in job.cells if cell.name in todo], world):
        parts = world.gather(part)
        if world.rank == 0:
            whole = {name: _interleave([part[name] for part in parts], len(cell.keys)) for name in parts[0]}
            results.write(args.out, cell, whole, todo[cell.name])
            progress.add(world.reports())
    if world.rank == 0 and args.fit:
        progress.add(world.reports())
        print(f"\n{job.fit()}", flush=True)
    elif world.rank == 0:
        progress.add(world.reports())
        text = results.summarise(args.out, job.facts())
        print(f"\n{text}\nwritten     {args.out}", flush=True)
    return 0


def _interleave(parts: list[np.ndarray], count: int) -> np.ndarray:
    """Rank r had the rows r, r + ranks, …"""
    whole = np.empty((count, *parts[0].shape[1:]), parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


# ---------------------------------------------------------------------------------------------- the command line


def parser() -> argparse.ArgumentParser:
    p = commands.Parser(PROGRAM, description=__doc__)
    p.add_argument("config", type=Path, metavar="CONFIG", help="a config of mmcv, such as configs/ensemble/…; a .py config is "
                   "code and is run, .yaml and .json hold values only")  # fmt: skip
    p.add_argument("checkpoint", metavar="FIRST", help="the classifier of degraded images")
    p.add_argument("--second_model_prefix", metavar="SECOND", help="the classifier of adapted copies (default: the first one)")
    p.add_argument("--source", metavar="FILE", help="a classifier of clean images, for columns to compare with")
    p.add_argument("--ensemble", nargs="+", choices=(*RULES, *OURS, *FUSE_RULES), metavar="RULE",
                   help=f"how the scores are combined: {', '.join((*RULES, *OURS, *FUSE_RULES))} (default: sum); the first "
                   "is the result, the others are columns beside it")  # fmt: skip
    p.add_argument("--fit", action="store_true", help=f"fit {' and '.join(OURS)} on these known degradations and store them "
                   "beside SECOND")  # fmt: skip
    p.add_argument("--scores", choices=SCORES, help="of what (default: logits; the published numbers are of probabilities)")
    p.add_argument("--metrics", nargs="+", choices=METRICS, help="(default: accuracy)")
    p.add_argument("--corruption", nargs="+", metavar="NAME", help="names, or all (of what is there, without clean)")
    p.add_argument("--severity", nargs="+", metavar="1..5", help="numbers, or all")
    p.add_argument("--data_prefix1", metavar="PATH", help="degraded images: a tree, or a data set's files")
    p.add_argument("--data_prefix2", metavar="PATH", help="adapted copies")
    p.add_argument("--dataset", choices=LAYOUTS, help="layout of the trees (default: the config's)")
    p.add_argument("--train", type=commands.boolean, metavar="True|False", help="split of layouts that have one")
    p.add_argument("--num_samples", type=int, metavar="INT", help="at most so many images a cell, the first by key")
    p.add_argument("--out", type=Path, default=Path("eval"), metavar="DIR", help="(default: eval)")
    p.add_argument("--batch_size", type=int, metavar="INT", help="(default: the config's samples_per_gpu)")
    p.add_argument("--baseline", metavar="NAME", choices=("alexnet",), help="of mCE: AlexNet's published ImageNet-C errors")
    p.add_argument("--metric-options", nargs="+", default=[], metavar="NAME=VALUE", help="topk=5")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="NAME=VALUE", help="entries of the config")
    p.add_argument("--device", metavar="auto|cpu|cuda", help="(default: auto)")
    p.add_argument("--gpu-id", type=int, metavar="INT", help="the number of a GPU")
    p.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), help="accepted: the launcher is recognised")
    for name in ("--show", "--gpu-collect"):
        p.add_argument(name, action="store_true", help="accepted, and changes nothing")
    for name in ("--show-dir", "--tmpdir", "--local_rank", "--local-rank"):
        p.add_argument(name, help="accepted, and changes nothing")
    for name in ("--show-options", "--out-items"):
        p.add_argument(name, nargs="+", help="accepted, and changes nothing")
    return p


def parse(argv: list[str] | None, world: ranks.World) -> argparse.Namespace:
    """The command line over the config: a flag that was not given overrides nothing. Raises ValueError."""
    args = parser().parse_args(argv)
    config = read_config(args.config, args.cfg_options)
    test, evaluation = config["data"]["test"], config.get("evaluation", {})
    chosen = {
        "ensemble": _as_list(evaluation.get("ensemble", "sum")), "scores": evaluation.get("scores", "logits"),
        "metrics": list(evaluation.get("metrics", ["accuracy"])), "corruption": list(evaluation.get("corruption", ["all"])),
        "severity": [str(severity) for severity in evaluation.get("severity", ["all"])], "dataset": test.get("layout"),
        "data_prefix1": test.get("data_prefix1"), "data_prefix2": test.get("data_prefix2"), "train": test.get("train", False),
        "batch_size": config["data"].get("samples_per_gpu", 64), "device": "auto",
    }  # fmt: skip
    if args.dataset == "folder" != chosen["dataset"]:
        chosen["corruption"] = []  # all of the tree; the config's are of its own layout
    for name, value in chosen.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.model, args.pipelines = config.get("model", {}), (test["pipeline"], test.get("pipeline2", test["pipeline"]))
    args.classes = test.get("classes")
    for name in ("data_prefix1", "data_prefix2"):
        if getattr(args, name) is None:
            raise ValueError(f"--{name} is missing, and {args.config} does not name it either")
        setattr(args, name, files.find(getattr(args, name)))
    if args.fit:
        args.ensemble = ["sum"]
    check(args)
    args.topk = _topk(args.metric_options)
    launched = {"none": world.size == 1, None: True}.get(args.launcher, world.size > 1)
    if not launched:
        print(f"{PROGRAM}: note: --launcher {args.launcher}, but {world.size} process(es) were started; mpiexec, torchrun and "
              "srun start several", file=sys.stderr)  # fmt: skip
    ignored = [name for name, default in IGNORED.items() if getattr(args, name) not in (default, None)]
    if ignored:
        print(f"{PROGRAM}: note: --{', --'.join(ignored)} changes nothing here", file=sys.stderr)
    return args


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for what does not go together."""
    if args.batch_size < 1 or (args.num_samples is not None and args.num_samples < 1):
        raise ValueError("--batch_size and --num_samples must be at least 1")
    odd = sorted(set(args.corruption) - {"clean", *DEGRADATIONS})
    if args.fit and (odd or not args.corruption):
        raise ValueError(f"--fit learns from known degradations only: --corruption of {', '.join(DEGRADATIONS)}"
                         + (f", not {odd[0]}" if odd else ""))  # fmt: skip
    if args.fit and args.dataset in SPLITS and not args.train:
        raise ValueError(f"--fit learns: on the training images of --dataset {args.dataset}, --train True")
    fitted, blends = ([rule for rule in args.ensemble if rule in group] for group in (OURS, FUSE_RULES))
    if fitted and args.scores != "logits":
        raise ValueError(f"--ensemble {fitted[0]} is of logits; leave --scores out")
    if len(set(args.ensemble)) < len(args.ensemble) or (blends and len(args.ensemble) > 1):
        raise ValueError(f"--ensemble {' '.join(args.ensemble)}: each rule once, and rules that blend images alone")
    if "mCE" in args.metrics and args.baseline is None:
        raise ValueError("mCE is relative to a classifier's errors: name it, --baseline alexnet for ImageNet-C")


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]


def _topk(options: list[str]) -> int:
    for option in options:
        name, _, value = option.partition("=")
        if name != "topk" or not value.split(",")[-1].strip("() ").isdigit():
            raise ValueError(f"--metric-options {option} is unknown; use topk=5")
        return int(value.split(",")[-1].strip("() "))
    return 5


def read_config(path: Path, options: list[str]) -> dict[str, Any]:
    """The entries of a config as plain values.

    A .py config is code: mmcv runs it. A .yaml or .json config holds values and nothing else: no tag, import or base in it
    leads to code. Raises FileNotFoundError, ValueError.
    """
    try:
        with quietly():
            from mmcv import Config, DictAction
    except ImportError as error:
        raise ValueError(f"configs need mmcv and mmcls: pip install 'diffaud[mmcls]' ({error})") from None
    here = Path(__file__).parent
    found = next(
        (place for place in (path, here / path, here.parent / path, here.parent.parent / path) if place.is_file()), None
    )
    if found is None:
        there = ", ".join(sorted(file.stem for file in (here / "configs" / "ensemble").glob("*.py")))
        raise FileNotFoundError(f"{path} does not exist; in configs/ensemble/ there are {there}")
    config = Config(_data_config(found)) if found.suffix in DATA_CONFIGS else Config.fromfile(str(found))
    changes = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"--cfg-options {option} is not NAME=VALUE")
        changes[name] = DictAction._parse_iterable(value)
    config.merge_from_dict(changes)
    content = models.plain(config._cfg_dict.to_dict())
    _check_entries(content, found)
    return content


def _data_config(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The entries of a .yaml or .json config over those of its ``_base_``. Raises ValueError for what would execute code."""
    from mmcv import Config

    if path.suffix not in DATA_CONFIGS:
        raise files.BadFile(f"{above[-1]} inherits from {path}: a config of values inherits from {', '.join(DATA_CONFIGS)} "
                            "only, for any other would be executed")  # fmt: skip
    if path.resolve() in above:
        raise files.BadFile(f"{path} inherits from itself")
    own = files.read_config_json(path) if path.suffix == ".json" else files.read_yaml(path)
    if "custom_imports" in own:
        raise files.BadFile(f"{path} asks for custom_imports, which execute code; only a .py config may")
    bases = _as_list(own.pop("_base_", []))
    if not all(isinstance(base, str) for base in bases):
        raise files.BadFile(f"{path}: _base_ is the name of a config, or a list of names")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = Config._merge_a_into_b(_data_config(path.parent / base, (*above, path.resolve())), merged)
    with files.parsing(path, "config whose entries fit those of its _base_"):
        return Config._merge_a_into_b(own, merged)


def _check_entries(content: dict[str, Any], path: Path) -> None:
    """Raise ValueError for entries that are missing or of another kind than those that are read here."""

    def entry(name: str, default: Any, kind: type, words: str) -> Any:
        *above, last = name.split(".")
        value = content
        for part in above:
            value = value.get(part, {})
        value = value.get(last, default)
        if not isinstance(value, kind):
            raise files.BadFile(f"{path}: {name} is {tree.shown(value)}, but it is {words}")
        return value

    for name in ("data", "data.test", "evaluation", "model"):
        entry(name, {}, dict, "a group of entries")
    for name, default in (("data.test.pipeline", None), ("data.test.pipeline2", [])):
        steps = entry(name, default, list | tuple, "a list of steps")
        if not all(isinstance(step, dict) and isinstance(step.get("type"), str) for step in steps):
            raise files.BadFile(f"{path}: {name} is a list of steps of the form {{type: NAME, …}}")
    size = entry("data.samples_per_gpu", 64, int, "a whole number")
    known = {"ensemble": (*RULES, *OURS, *FUSE_RULES), "scores": SCORES, "metrics": METRICS}
    for name, values in known.items():
        for value in _as_list(content.get("evaluation", {}).get(name, [])):
            if value not in values:
                raise files.BadFile(f"{path}: evaluation.{name} {tree.shown(value)} is unknown; use one of {', '.join(values)}")
    for name in ("corruption", "severity"):
        entry(f"evaluation.{name}", [], list | tuple, "a list of names, or of numbers")
    for name in ("layout", "classes", "data_prefix1", "data_prefix2"):
        entry(f"data.test.{name}", None, str | None, "text")
    if size < 1 or entry("data.test.layout", None, str | None, "text") not in (None, *LAYOUTS):
        raise files.BadFile(f"{path}: data.samples_per_gpu is at least 1, and data.test.layout one of {', '.join(LAYOUTS)}")


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    found = {}
    for name in ("diffaud", "torch", "numpy", "mmcls", "timm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def device_of(args: argparse.Namespace, local_rank: int) -> torch.device:
    return pick_device(str(args.gpu_id) if args.gpu_id is not None else args.device, local_rank)


# ---------------------------------------------------------------------------------------------- the work


class _Job:
    """The cells, and what every classifier says of their images."""

    def __init__(self, args: argparse.Namespace, device: torch.device):
        self._args, self._device = args, device
        first, second = args.pipelines
        self._first = models.load(args.checkpoint, args.model, first, device)
        self._second = models.load(args.second_model_prefix or args.checkpoint, args.model, second, device)
        self._source = models.load(args.source, args.model, first, device) if args.source else None
        self.classes = self._first.classes or tree.class_list(args.classes)
        for model in (self._second, self._source):
            if model is not None and model.classes and tuple(model.classes) != tuple(self.classes):
                raise ValueError(f"{model.name} has other classes than {self._first.name}: train both on one class list")
        self._views = (self._open(args.data_prefix1), self._open(args.data_prefix2))
        if isinstance(self._views[1], sources.Folder):
            self._second.check_adapted(self._views[1].path)
        severities = args.severity if args.dataset not in SPLITS else []
        paths = {model.path for model, _ in self.columns().values() if model.path is not None}
        self._weights = {path: files.sha256(path) for path in paths}
        self._rule = args.ensemble[0]
        if args.fit:
            models.fitted_path(self._first, self._second)  # before the work
        self.params = models.read_fitted(self._first, self._second, [rule for rule in args.ensemble if rule in OURS])
        names = cells_of(self._views[0], args.dataset, args.corruption, severities, train=args.train,
                               leave_out=args.data_prefix2)  # fmt: skip
        if "all" in args.corruption and "clean" not in args.corruption:
            names = [name for name in names if name.split("/")[0] != "clean"]
        if "mCE" in args.metrics:
            metrics.check_mce(names)
        gated = args.ensemble == ["gate"]
        self.cells = [join(*self._views, name, self.classes, partial(self._choose, name), gated) for name in names]

    def _choose(self, cell: str, keys: list[str]) -> list[str]:
        """To fit, only images that neither classifier was trained on, where their checkpoints tell which."""
        share = self._held_out() if self._args.fit else None
        keys = [key for key in keys if share is None or is_held_out(key.removeprefix(f"{cell}/"), share)]
        return keys[: self._args.num_samples]

    def _held_out(self) -> float | None:
        shares = [model.held_out for model in (self._first, self._second) if model.held_out is not None]
        return min(shares, default=None)

    def fit(self) -> str:
        """Fit what has parameters on the cells' scores, and store it."""
        parts = [results.read(self._args.out, cell.name) for cell in self.cells]
        first, second, labels = (torch.from_numpy(np.concatenate([part[name] for part in parts]))
                                 for name in ("first", "second", "labels"))  # fmt: skip
        found = {rule: fit(first, second, labels) for rule, fit in FITS.items()}
        path = models.fitted_path(self._first, self._second)
        told = {"images": len(labels), "cells": [cell.name for cell in self.cells], "degraded": str(self._args.data_prefix1),
                "held_out": self._held_out()}  # fmt: skip
        files.write_json(path, {**found, **told, **models.fitted_for(self._first, self._second)})
        said = "; ".join(f"{rule}: {results.say_params(params)}" for rule, params in found.items())
        return f"fitted      {said}\n            on {len(labels):,} images: {path}"

    def _open(self, path: Path) -> Source:
        if not path.exists():
            flag = "--data_prefix1" if path == self._args.data_prefix1 else "--data_prefix2"
            raise FileNotFoundError(f"{flag} {path} does not exist; make_data.py and image_sample.py make such trees")
        return sources.open_source(path, None if path.is_dir() else self.classes, one_severity(self._args.severity))

    def missing(self, out: Path) -> dict[str, str]:
        """The cells whose scores are not there yet, or are of other weights or images: name to digest."""
        digests = {cell.name: self.digest(cell) for cell in self.cells}
        return {cell.name: digests[cell.name] for cell in self.cells if not results.is_there(out, cell, digests[cell.name])}

    def digest(self, cell: Cell) -> str:
        """Of all that decides a cell's scores: the weights, the images, what is blended. Files are told by size and time."""
        args = self._args
        blends = [self._rule, args.scores] if self._rule in FUSE_RULES else []
        looks = [[model.name, self._weights.get(model.path), view] for model, view in self.columns().values()]
        pipelines = [[str(step) for step in steps] for steps in args.pipelines]
        stamps = []
        for view, names in zip(self._views, (cell.first, cell.second), strict=True):
            there = [name for name in names if name is not None]
            held = [view.path] if view.path.is_file() else sorted(path for path in view.path.glob("*") if path.is_file())
            paths = [view.path / name for name in there] if isinstance(view, sources.Folder) else held
            stamps += [(str(path), (told := path.stat()).st_size, told.st_mtime_ns) for path in paths]
        return hashlib.sha256(json.dumps([looks, blends, pipelines, cell.keys, cell.second, stamps]).encode()).hexdigest()

    def columns(self) -> dict[str, tuple[Model, int]]:
        """Which classifier sees which view (0 degraded, 1 adapted)."""
        found = {"first": (self._first, 0), "second": (self._second, 1)}
        if self._source is not None:
            found |= {"source": (self._source, 0), "source_adapted": (self._source, 1)}
        return found

    @torch.inference_mode()
    def run(self, cells: list[Cell], world: ranks.World) -> Iterator[tuple[Cell, dict[str, np.ndarray]]]:
        """For each cell the logits (n,K) of each column, and of blended images, for this rank's share of its images."""
        size, names = self._args.batch_size, [*self.columns(), *(["combined"] if self._rule in FUSE_RULES else [])]
        batches = [(cell, rows[i : i + size]) for cell in cells for rows in [range(world.rank, len(cell.keys), world.size)]
                   for i in range(0, max(1, len(rows)), size)]  # fmt: skip
        said: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for number, ((cell, rows), prepared) in enumerate(zip(batches, self._reads(batches), strict=True)):
            for name, logits in (self._judge(prepared) if rows else {}).items():
                said[name].append(logits.cpu().numpy().astype(np.float32))
                who = self.columns().get(name, (self._first, 0))[0].name
                models.check_scores(who, said[name][-1], self.classes, [cell.keys[row] for row in rows])
                if name in ("second", "source_adapted"):  # nobody was heard of copies that are not there
                    said[name][-1][[cell.second[row] is None for row in rows]] = np.nan
            world.report((len(rows), 0))
            if number + 1 == len(batches) or batches[number + 1][0] is not cell:
                nothing = np.empty((0, len(self.classes)), np.float32)
                yield cell, {name: np.concatenate(parts or [nothing]) for name, parts in said.items()}
                said = {name: [] for name in names}

    def _reads(self, batches: list[tuple[Cell, range]]) -> Iterator[dict[str, list[np.ndarray]]]:
        """What `_read` gives of each. While another device works the next are read; a CPU has no core to spare for that."""
        if self._device.type == "cpu":
            yield from (self._read(*batch) for batch in batches)
            return
        with ThreadPoolExecutor(1) as pool:
            ahead: deque[Future] = deque()
            for batch in batches:
                ahead.append(pool.submit(self._read, *batch))
                if len(ahead) > 3:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _judge(self, prepared: dict[str, list[np.ndarray]]) -> dict[str, torch.Tensor]:
        inputs = {name: model.batch(prepared[name]) for name, (model, _) in self.columns().items()}
        found = {name: model.logits(inputs[name]) for name, (model, _) in self.columns().items()}
        if self._rule in FUSE_RULES:
            scores = [results.as_scores(found[name], self._args.scores) for name in ("first", "second")]
            weights = fuse_weights(*scores, self._rule)
            found["combined"] = self._first.logits(fuse_images(inputs["first"], self._first.batch(prepared["blend"]), weights))
        return found

    def _read(self, cell: Cell, rows: range) -> dict[str, list[np.ndarray]]:
        degraded = [sources.read_pixels(self._views[0], cell.first[row]) for row in rows]
        adapted = [degraded[i] if cell.second[row] is None else sources.read_pixels(self._views[1], cell.second[row])
                   for i, row in enumerate(rows)]  # fmt: skip
        pixels = degraded, adapted
        prepared = {name: [model.prepare(image) for image in pixels[view]] for name, (model, view) in self.columns().items()}
        if self._rule in FUSE_RULES:
            prepared["blend"] = [self._first.prepare(image) for image in pixels[1]]
        return prepared

    def facts(self) -> dict[str, Any]:
        """What stands beside every number."""
        args = self._args
        return {
            "first": args.checkpoint, "second": args.second_model_prefix or args.checkpoint, "source": args.source,
            "ensemble": self._rule, "beside": args.ensemble[1:], "params": self.params,
            "partial": any(None in cell.second for cell in self.cells), "scores": args.scores,
            "metrics": list(args.metrics), "topk": args.topk, "baseline": args.baseline,
            "degraded": str(args.data_prefix1), "adapted": str(args.data_prefix2), "layout": args.dataset,
            "severity": one_severity(args.severity), "num_samples": args.num_samples, "classes": list(self.classes),
            "cells": [cell.name for cell in self.cells], "versions": versions(),
        }  # fmt: skip

    def say_plan(self, size: int) -> None:
        count = sum(len(cell.keys) for cell in self.cells)
        print(f"images      {count:,} in {len(self.cells)} cells of {self._args.data_prefix1} and {self._args.data_prefix2}")
        for name, (model, view) in self.columns().items():
            print(f"{name:11} {model.name} on {('degraded', 'adapted')[view]} images")
        print(f"combined    {', '.join(self._args.ensemble)} of {self._args.scores}")
        print(f"machine     {size} process(es), {torch.get_num_threads()} threads each", flush=True)


if __name__ == "__main__":
    sys.exit(main())
