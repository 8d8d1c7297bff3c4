#!/usr/bin/env python3
"""Train a classifier of one view: a clean one, or a teacher of one known degradation.

  train.py -c configs/ind/CIFAR10/ResNet18/clean.yaml
  train.py -c configs/ind/CIFAR10/ResNet18/deg.yaml --dt jpeg
  train.py -c configs/ind/CIFAR10/timm/resnet26/adapt.yaml --dt noise --set train.epochs=20 data.root=dataset/mine
  torchrun --nproc_per_node 8 train.py …

It writes SAVE_DIR/<degradation>/<kind>/<name>/train/<time>/: model_best.pth, model_last.pth, config.yaml, losses.csv,
epochs.csv, TensorBoard's events, and resume.pt, from which the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from DDA import commands, files, ranks, tree
from DDA.devices import pick_device
from DDA.progress import duration
from DistilledClassifier import classifiers, trainer
from DistilledClassifier import config as configs
from DistilledClassifier.config import Config
from DistilledClassifier.data.views import View, views
from DistilledClassifier.degradations import DEGRADATIONS
from DistilledClassifier.trainer import Ranks, State

DISTILLED = ("deg_all", "degDistill", "adaptDistill")  # stages of train_all_deg.py
RESUME, BEST, LAST = "resume.pt", "model_best.pth", "model_last.pth"


def main(argv: list[str] | None = None) -> int:
    """Train one degradation; returns 0 when the budget is spent, 130 when it was interrupted, 1 or 2 for errors."""
    return run(argv, "train.py", "ind", __doc__)


def run(argv: list[str] | None, program: str, kind: str, about: str) -> int:
    return ranks.run(lambda world: _main(world, argv, program, kind, about), program, "run the same command again to go on")


def _main(world: ranks.World, argv: list[str] | None, program: str, kind: str, about: str) -> int:
    args = world.on_root(lambda: parser(program, kind, about).parse_args(argv))
    torch.set_num_threads(world.cpu_threads())
    device = world.together(lambda: pick_device(args.device, world.local_rank))
    config = world.together(lambda: read_config(args, kind, world.size, device))
    inputs = world.together(lambda: find_inputs(config, args.save_dir))
    folder = world.on_root(lambda: find_run(args, config, inputs))
    if folder is not None and (folder / "finished").is_file():
        if world.rank == 0:
            print(f"done        before: {folder / BEST}", flush=True)
        return 0
    torch.manual_seed(config.train.seed)
    state, left = world.together(lambda: start(config, inputs, device))
    teachers = world.together(lambda: load_teachers(config, inputs, state.network, device))
    found = world.together(lambda: views(config, "train"))
    held_out = world.together(lambda: views(config, "val"))
    world.together(lambda: check_sizes(config, found))
    folder = world.on_root(lambda: folder or new_run(args, config, inputs))
    world.together(lambda: resume(folder, state, config))
    if world.size > 1:
        world.process_group(device.type)
    job = _Job(world, args, config, inputs, folder, state, Ranks(world.rank, world.size, device))
    if world.rank == 0:
        job.say_plan(found, held_out, teachers, left)
    try:
        finished = trainer.train(
            state, config, found, held_out, teachers, ranks=job.ranks, workers=args.workers,
            after_look=job.after_look, after_epoch=job.after_epoch,
        )  # fmt: skip
    except FloatingPointError as error:
        raise ranks.SharedError(
            f"{error}: lower --lr, or set train.warmup=200 or train.clip_norm=1, and start anew with --new; the same command "
            "goes on from the last saved step"
        ) from None
    finally:
        if world.size > 1:
            torch.distributed.destroy_process_group()
    job.save()
    if not finished:
        raise KeyboardInterrupt
    if world.rank == 0:
        job.say_end()
    return 0


# ---------------------------------------------------------------------------------------------- the command line


def parser(program: str, kind: str, about: str) -> argparse.ArgumentParser:
    p = commands.Parser(program, description=about)
    p.add_argument("-c", "--config", type=Path, required=True, metavar="YAML", help="an experiment, or a config of your own")
    p.add_argument("-r", "--resume", type=Path, metavar="FILE", help="go on with the run that this checkpoint belongs to")
    p.add_argument(
        "-d", "--device", default="auto", metavar="INDICES", help="auto, cpu, or the number of a GPU (default: auto)"
    )
    p.add_argument("--lr", "--learning_rate", type=float, dest="lr", metavar="FLOAT")
    p.add_argument(
        "--bs", "--batch_size", type=int, dest="bs", metavar="INT", help="batch size of each degradation, over all processes"
    )
    of = f"one of {', '.join(DEGRADATIONS)}" if kind == "ind" else "combined_deg, or degradations separated by commas"
    p.add_argument("--dt", "--deg_type", dest="dt", metavar="NAME", help=of)
    p.add_argument("--rs", "--random_seed", type=int, dest="rs", metavar="INT")
    p.add_argument("--init", metavar="FILE", help="weights to start from, of any origin")
    p.add_argument("--epochs", type=float, metavar="FLOAT", help="the budget in epochs")
    p.add_argument("--minutes", type=float, metavar="FLOAT", help="the budget in minutes; whichever ends first")
    p.add_argument("--save_dir", type=files.find, default=files.find("saved"), metavar="DIR", help="(default: saved)")
    p.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="any entry of the config, such as data.root=photos"
    )
    p.add_argument("--new", action="store_true", help="start a new run where there is one already")
    p.add_argument("--workers", type=int, default=2, metavar="INT", help="threads that prepare images (default: %(default)s)")
    p.add_argument(
        "--save_minutes", type=float, default=2.0, metavar="FLOAT", help="between saved states (default: %(default)s)"
    )
    return p


def read_config(args: argparse.Namespace, kind: str, size: int, device: torch.device) -> Config:
    """The config with what the command line changes. Raises ValueError, FileNotFoundError."""
    changes = assignments(args.set)
    given = {"optimizer.lr": args.lr, "train.batch_size": args.bs, "train.seed": args.rs, "train.epochs": args.epochs,
             "train.minutes": args.minutes, "init": args.init}  # fmt: skip
    changes |= {name: value for name, value in given.items() if value is not None}
    if args.dt is not None and args.dt != "combined_deg":
        changes["known"] = args.dt.split(",")
    config = configs.load(args.config, changes)
    if config.kind not in ("", kind):
        raise ValueError(f"-c {args.config} is a config of {'train.py' if config.kind == 'ind' else 'train_all_deg.py'}")
    if kind == "ind" and config.view != "clean" and args.dt is None and "known" not in config.raw:
        raise ValueError(f"--dt is missing: which known degradation? One of {', '.join(DEGRADATIONS)}")
    if kind == "ind" and (len(config.known) > 1 or config.teachers):
        raise ValueError("train.py trains one degradation and no student; use train_all_deg.py")
    if config.view == "clean" and config.known != ("clean",):
        if args.dt is not None:
            raise ValueError(f"--dt {args.dt} does not go with a config of clean images")
        raise ValueError("known: a config of clean images has no degradations")
    if config.train.batch_size % size:
        raise ValueError(f"--bs {config.train.batch_size} cannot be shared by {size} processes; use a multiple of {size}")
    if args.workers < 0:
        raise ValueError(f"--workers {args.workers} must be 0 or more")
    return config


def assignments(texts: list[str]) -> dict[str, Any]:
    import yaml

    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {text} is not NAME=VALUE, such as train.epochs=20")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set {text}: {value} is no value") from None
    return found


# ---------------------------------------------------------------------------------------------- stages find each other


def stage_folder(save_dir: Path, kind: str, degradation: str, name: str) -> Path:
    """Where the runs of a stage lie: <degradation>/<kind>/<name>/train."""
    return save_dir / degradation / kind / name / "train"


def of_known(known: Sequence[str]) -> str:
    """What the folder of a stage that learns from these degradations is called."""
    return known[0] if len(known) == 1 else "combined_deg"


def latest_best(save_dir: Path, kind: str, degradation: str, name: str) -> Path | None:
    """The best weights of the latest finished run of a stage."""
    runs = sorted(stage_folder(save_dir, kind, degradation, name).glob(f"*/{BEST}"))
    finished = [path for path in runs if (path.parent / "finished").is_file()]
    return (finished or [None])[-1]


def _stage_of(config: Config, stage: str, degradation: str, save_dir: Path) -> Path:
    """The best weights of another stage of this experiment. Raises FileNotFoundError that names the command to run."""
    if stage == "clean" and config.source:
        return files.find(config.source)
    name = configs.stage_name(config.raw, stage)
    kind, program = ("deg_all", "train_all_deg.py") if stage in DISTILLED else ("ind", "train.py")
    found = latest_best(save_dir, kind, degradation, name)
    if found is None:
        command = f"{program} -c configs/{kind}/{config.dataset}/{config.backbone}/{stage}.yaml --save_dir {save_dir}"
        known = ",".join(config.known) if stage in DISTILLED else degradation
        raise FileNotFoundError(
            f"the stage {stage} of {degradation} is missing: {stage_folder(save_dir, kind, degradation, name)} has no "
            f"finished run. Run first: {command}" + ("" if degradation == "clean" else f" --dt {known}")
        )
    return found


@dataclass(frozen=True)
class Inputs:
    """What a run starts from: files of weights, and how the adapted copies were made that it learns from."""

    init: Path | None
    teachers: tuple[Path, ...]
    adapted: dict[str, Any] | None

    def digests(self) -> dict[str, Any]:
        """What tells these inputs from others, as plain values."""
        return {"init": self.init and files.sha256(self.init), "teachers": [files.sha256(path) for path in self.teachers],
                "adapted": self.adapted}  # fmt: skip


def find_inputs(config: Config, save_dir: Path) -> Inputs:
    """Raises ValueError and FileNotFoundError, which say what to run or fetch first."""
    init = config.init
    if init == "pretrained":
        if config.pretrained is None and not config.classifier.get("pretrained"):
            raise ValueError("init: pretrained, but the backbone names no pretrained weights; give --init FILE")
        init = config.pretrained and files.find(config.pretrained)
        if init and not init.is_file():
            raise FileNotFoundError(
                f"the pretrained weights {init} are missing: the file of this name is in OpenMMLab's model zoo (mmcls 0.x); "
                "put it there, or give other weights with --init FILE"
            )
    elif init in ("clean", "deg", "adapt", *DISTILLED):
        of = {"clean": "clean", **dict.fromkeys(DISTILLED, of_known(config.known))}
        init = _stage_of(config, init, of.get(init, config.known[0]), save_dir)
    elif init and not files.find(init).is_file():
        raise FileNotFoundError(f"init: {init} is not a file; give --init FILE, or init=null to start from nothing")
    taught = config.known if config.teachers else ()
    stages = {"clean": "clean"} if config.teachers == "deg" else {}  # clean images are not degraded, but may be adapted
    teachers = [_stage_of(config, stages.get(name, config.teachers), name, save_dir) for name in taught]
    settings = files.find(config.data.adapted) / tree.SETTINGS if config.view == "adapted" else None
    return Inputs(files.find(init) if init else None, tuple(teachers),
                  files.read_json(settings) if settings and settings.is_file() else None)  # fmt: skip


def start(config: Config, inputs: Inputs, device: torch.device) -> tuple[State, list[str]]:
    """The network with the weights that it starts from, and the names of those that did not fit."""
    network = classifiers.build(config.classifier)
    left = classifiers.initialise(network, inputs.init) if inputs.init else []
    network.to(device)
    return State(network, configs.make_optimizer(config, network.parameters())), left


def load_teachers(
    config: Config, inputs: Inputs, student: classifiers.Network, device: torch.device
) -> list[classifiers.Classifier]:
    """One for each known degradation, frozen. Raises ValueError for one that does not go with the student."""
    blank = torch.zeros(2, 3, config.preprocess.size, config.preprocess.size, device=device)
    found = []
    for path in inputs.teachers:
        teacher = classifiers.load(path)
        if teacher.classes and len(teacher.classes) != len(tree.class_list(config.data.classes)):
            raise ValueError(f"the teacher {path} has {len(teacher.classes)} classes, but {config.data.classes} has "
                             f"{len(tree.class_list(config.data.classes))}; train it anew")  # fmt: skip
        teacher.network.to(device)
        try:
            with torch.no_grad():
                widths = [network.eval().features(blank).shape[1] for network in (student, teacher.network)]
        except RuntimeError as error:
            raise ValueError(f"the classifier does not take images of {config.preprocess.size} pixels: {error}") from None
        if widths[0] != widths[1] or teacher.preprocess.size != config.preprocess.size:
            raise ValueError(f"the teacher {path} has {widths[1]} features of {teacher.preprocess.size} pixels, the student "
                             f"{widths[0]} of {config.preprocess.size}; use the same backbone and size")  # fmt: skip
        found.append(teacher)
    return found


def check_sizes(config: Config, found: list[View]) -> None:
    small = min(found, key=lambda view: len(view.examples))
    if len(small.examples) < config.train.batch_size:
        raise ValueError(
            f"{small.name} has {len(small.examples)} training images, fewer than --bs {config.train.batch_size}; lower it"
        )


# ---------------------------------------------------------------------------------------------- runs


def _runs(args: argparse.Namespace, config: Config) -> Path:
    return stage_folder(args.save_dir, config.kind or "own", of_known(config.known), config.name)


def find_run(args: argparse.Namespace, config: Config, inputs: Inputs) -> Path | None:
    """The latest run, where it has this very config and inputs; with -r, the run that the checkpoint belongs to."""
    if args.resume is not None:
        if not (args.resume.parent / RESUME).is_file():
            raise FileNotFoundError(f"-r {args.resume}: there is no {RESUME} beside it to go on from")
        return args.resume.parent
    runs = sorted(path.parent for path in _runs(args, config).glob("*/inputs.json"))
    if not runs or args.new:
        return None
    same = files.read_yaml(runs[-1] / "config.yaml") == config.raw
    return runs[-1] if same and files.read_json(runs[-1] / "inputs.json") == inputs.digests() else None


def new_run(args: argparse.Namespace, config: Config, inputs: Inputs) -> Path:
    import yaml

    folder = _runs(args, config) / datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S_%f")
    folder.mkdir(parents=True)
    files.write_bytes(folder / "config.yaml", yaml.safe_dump(config.raw, sort_keys=False).encode())
    files.write_json(folder / "inputs.json", inputs.digests())
    return folder


def resume(folder: Path, state: State, config: Config) -> None:
    """Go on from the state that is there. Raises ValueError where it is damaged, or of another config."""
    path = folder / RESUME
    if not path.is_file():
        return
    content = classifiers.read(path)
    if content.get("config") != config.raw:
        theirs = content.get("config", {})
        differ = sorted(name for name in {*theirs, *config.raw} if theirs.get(name) != config.raw.get(name))
        raise ValueError(f"{folder} is a run with other settings ({', '.join(differ)}); leave -r out to start a new one")
    try:
        state.load(content)
    except (KeyError, ValueError, RuntimeError):
        raise ValueError(f"{path} is damaged; remove {folder} to start anew") from None


class _Job:
    """What happens between the steps: progress, saving, stopping."""

    def __init__(self, world, args, config: Config, inputs: Inputs, folder: Path, state: State, ranks_: Ranks):
        self._world, self._args, self._config, self._folder, self._state = world, args, config, folder, state
        self.ranks, self._inputs = ranks_, inputs
        self._stop = ranks.Stop()  # the step is finished first, so that the saved state is whole
        self._saved = self._said = time.monotonic()
        self._first = (state.step, state.seconds)
        self._per_epoch = 0
        self._events = _events(folder, state.step) if world.rank == 0 else None
        self._told = len(state.losses)

    def after_look(self, state: State) -> bool:
        now = time.monotonic()
        due = now - self._saved > 60 * self._args.save_minutes
        asked, due = (value > 0 for value in self.ranks.total([bool(self._stop), due]))
        if self._world.rank == 0 and now - self._said > 15:
            self._said = now
            self._say()
        if due and not asked:
            self.save()
        return asked

    def after_epoch(self, state: State, is_best: bool) -> None:
        if self._world.rank != 0:
            return
        row = state.epochs[-1]
        each = (
            ", ".join(f"{name} {row[f'{name}_top1']:.1f}" for name in self._config.known) if len(self._config.known) > 1 else ""
        )
        print(f"epoch {row['epoch']:.4g}: validation top-1 {row['top1']:.2f} %" + (f" ({each})" if each else "")
              + (", the best" if is_best else ""), file=sys.stderr, flush=True)  # fmt: skip
        for name in (LAST, BEST) if is_best else (LAST,):
            self._guarded(lambda name=name: classifiers.save(
                self._folder / name, state.network, self._config.raw, tree.class_list(self._config.data.classes),
                epoch=row["epoch"], metrics=row, adapted=self._inputs.adapted,
            ))  # fmt: skip
        if self._events is not None:
            for name, value in row.items():
                self._events.add_scalar(f"validation/{name}", value, state.step)

    def _say(self) -> None:
        state, (first, before) = self._state, self._first
        if state.step == first:
            return
        per = self._config.train.batch_size * len(self._config.known)
        rate = (state.step - first) * per / max(state.seconds - before, 1e-9)
        spent = trainer.progress(self._config, self._per_epoch, state)
        left = f", {duration(state.seconds / spent * (1 - spent))} left" if spent else ""
        loss = np.mean([row["loss"] for row in state.losses[-50:]])
        print(f"step {state.step:,}, loss {loss:.4f}, {rate:.3g} images/s{left}", file=sys.stderr, flush=True)

    def say_plan(self, found: list[View], held_out: list[View], teachers: list, left: list[str]) -> None:
        config = self._config
        self._per_epoch = min(len(view.examples) for view in found) // config.train.batch_size
        parameters = sum(p.numel() for p in self._state.network.parameters())
        print(f"images      {', '.join(f'{view.name} {len(view.examples):,}' for view in found)}; held out "
              f"{', '.join(f'{len(view.examples):,}' for view in held_out)}: {config.view}")  # fmt: skip
        print(f"classifier  {config.backbone or config.classifier['type']}, {parameters:,} parameters")
        other = f" (not {', '.join(left)}: another number of classes)" if left else ""
        print(f"starts from {self._inputs.init or 'nothing'}{other}")
        if teachers:
            print("teachers    " + "\n            ".join(str(teacher.path) for teacher in teachers))
        budget = [f"{value:g} {name}" for name in ("epochs", "steps", "minutes") if (value := getattr(config.train, name))]
        print(f"training    {' or '.join(budget)}, {len(found)} x {config.train.batch_size} images a step"
              + (f", from step {self._state.step:,}" if self._state.step else ""))  # fmt: skip
        print(f"machine     {self.ranks.size} x {self.ranks.device.type}, {torch.get_num_threads()} threads each, "
              f"{'bfloat16' if config.train.amp else 'float32'}")  # fmt: skip
        print(f"to          {self._folder}", flush=True)

    def say_end(self) -> None:
        self._guarded(lambda: files.write_bytes(self._folder / "finished", b""))
        print(f"done        best validation top-1 {self._state.best:.2f} %: {self._folder / BEST}", flush=True)

    def save(self) -> None:
        """The state and the logs, by rank 0, each file whole."""
        self._saved = time.monotonic()
        if self._world.rank != 0:
            return
        content = {**self._state.as_dict(), "config": self._config.raw}
        self._guarded(lambda: files.write_with(self._folder / RESUME, lambda file: torch.save(content, file)))
        self._guarded(lambda: files.write_bytes(self._folder / "losses.csv", trainer.as_csv(self._state.losses)))
        self._guarded(lambda: files.write_bytes(self._folder / "epochs.csv", trainer.as_csv(self._state.epochs, "epoch")))
        if self._events is not None:
            for step in range(self._told, len(self._state.losses)):
                for name, value in self._state.losses[step].items():
                    self._events.add_scalar(f"training/{name}", value, step + 1)
            self._told = len(self._state.losses)
            self._events.flush()

    def _guarded(self, write) -> None:
        try:
            write()
        except OSError as error:
            raise OSError(f"cannot write to {self._folder}: {error.strerror or error}; make room") from error


def _events(folder: Path, step: int):
    """TensorBoard's writer, where it is installed; the CSV files have the same numbers."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


if __name__ == "__main__":
    sys.exit(main())
