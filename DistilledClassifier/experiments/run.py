"""An experiment as it runs: what it starts from, its task, its folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from DDA import files, tree
from DDA.ranks import World
from DDA.training.loop import State, make_rate, start
from DDA.training.run import RESUME, Run, precision, resume
from DistilledClassifier import classifiers
from DistilledClassifier.data.batches import Steps
from DistilledClassifier.data.views import views
from DistilledClassifier.experiments.config import Config
from DistilledClassifier.experiments.stages import (
    BEST,
    FINISHED,
    LAST,
    Inputs,
    find_inputs,
    of_known,
    stage_folder,
)
from DistilledClassifier.tasks.classify import Classify
from DistilledClassifier.tasks.panel import Panel, check_teachers, needs_of

ADVICE = "lower --lr, or set train.warmup=200 or train.clip_norm=1, and start anew with --new"


@dataclass(frozen=True)
class Options:
    """What does not change what is learnt. resume: a checkpoint whose run goes on; new: start another run where there is one;
    workers: threads that prepare images."""

    save_dir: Path
    resume: Path | None = None
    new: bool = False
    workers: int = 2
    save_minutes: float = 2.0


def train(world: World, config: Config, options: Options, device: torch.device) -> Path:
    """Train the experiment to the end of its budget, from where it was stopped; returns its best weights.

    A finished run with the same config and inputs is not run again.
    """
    inputs = world.together(lambda: find_inputs(config, options.save_dir))
    folder = world.on_root(lambda: find_run(config, inputs, options))
    if folder is not None and (folder / FINISHED).is_file():
        if world.rank == 0:
            print(f"done        before: {folder / BEST}", flush=True)
        return folder / BEST
    experiment = world.together(lambda: Experiment(config, inputs, device))
    found = world.together(lambda: experiment.steps(world, options.workers))
    experiment.state.dtype = world.broadcast(experiment.state.dtype)
    folder = world.on_root(lambda: folder or new_run(config, inputs, options))
    world.together(
        lambda: resume(
            folder, experiment.state, identity(config.raw), "start anew with --new, and without -r"
        )
    )
    if world.rank == 0:
        experiment.show_plan(
            folder, f"{world.size} x {device.type}, {torch.get_num_threads()} threads each"
        )
    run = Run(
        world,
        folder,
        experiment.state,
        identity(config.raw),
        images=config.train.batch_size * len(config.known),
        save_minutes=options.save_minutes,
        on_epoch=lambda is_best: experiment.end_epoch(folder, is_best),
    )
    run.train(
        found,
        config.train,
        make_rate(config.optimizer["lr"], config.schedule, config.train),
        advice=ADVICE,
    )
    if world.rank == 0:
        run.write(lambda: files.write_bytes(folder / FINISHED, b""))
        print(
            f"done        best validation top-1 {experiment.state.best:.2f} %: {folder / BEST}",
            flush=True,
        )
    return folder / BEST


class Experiment:
    """A config with what it starts from: its networks, its images, its state."""

    def __init__(self, config: Config, inputs: Inputs, device: torch.device):
        self._config, self._inputs = config, inputs
        self._classes = tree.class_list(config.data.classes)
        torch.manual_seed(config.train.seed)
        network = classifiers.build(config.classifier)
        contents = {
            path: classifiers.read(path) for path in {inputs.init, *inputs.teachers} - {None}
        }  # each once
        self._left = (
            classifiers.initialise(network, inputs.init, contents[inputs.init])
            if inputs.init
            else []
        )
        network.to(device)
        needs = needs_of(config.loss)
        teachers = tuple(classifiers.load(path, contents[path]) for path in inputs.teachers)
        self.panel = Panel(teachers, needs, config.panel.sees, config.panel.how).to(device)
        check_teachers(self.panel, network, config.preprocess.size, self._classes)
        self._twins = bool(self.panel) and self.panel.sees == "clean"
        self.views, self.held_out = views(config, "train", twins=self._twins), views(config, "val")
        self._check_sizes()
        size = config.preprocess.size
        blank = torch.zeros(8, 3, size, size, device=device)
        task = Classify(
            network,
            config.preprocess,
            config.loss,
            panel=self.panel,
            held_out=self.held_out,
            label_smoothing=config.train.label_smoothing,
        )
        self.state: State = start(
            task, config.train, config.optimizer, precision(config.train, network, (blank,))
        )

    def _check_sizes(self) -> None:
        small = min(self.views, key=lambda view: len(view.examples))
        size = self._config.train.batch_size
        if len(small.examples) < size:
            raise ValueError(
                f"{small.name} has {len(small.examples)} training images, fewer than --bs {size}; lower it"
            )

    def steps(self, world: World, workers: int) -> Steps:
        """The batches of this process."""
        config = self._config
        return Steps(
            self.views,
            config.augment,
            config.preprocess,
            config.train,
            rank=world.rank,
            ranks=world.size,
            threads=workers,
            twins=self._twins,
        )

    def end_epoch(self, folder: Path, is_best: bool) -> None:
        """Say what was measured, and write the checkpoints."""
        config, row = self._config, self.state.epochs[-1]
        each = ", ".join(f"{name} {row[f'{name}_top1']:.1f}" for name in config.known)
        shares = f" ({each})" if len(config.known) > 1 else ""
        best = ", the best" if is_best else ""
        print(
            f"epoch {row['epoch']:.4g}: validation top-1 {row['top1']:.2f} %{shares}{best}",
            file=sys.stderr,
            flush=True,
        )
        for name in (LAST, BEST) if is_best else (LAST,):
            network = self.state.judged.network
            classifiers.save(
                folder / name,
                network,
                config.raw,
                self._classes,
                epoch=row["epoch"],
                metrics=row,
                adapted=self._inputs.adapted,
            )

    def show_plan(self, folder: Path, machine: str) -> None:
        """Print what will be trained, from what, how long, and where it goes."""
        config, state = self._config, self.state
        counts = ", ".join(f"{view.name} {len(view.examples):,}" for view in self.views)
        held_out = ", ".join(f"{len(view.examples):,}" for view in self.held_out)
        print(f"images      {counts}; held out {held_out}: {config.view}")
        parameters = sum(p.numel() for p in state.task.parameters())
        print(
            f"classifier  {config.backbone or config.classifier['type']}, {parameters:,} parameters"
        )
        other = f" (not {', '.join(self._left)}: another number of classes)" if self._left else ""
        print(f"starts from {self._inputs.init or 'nothing'}{other}")
        if self._inputs.teachers:
            print("teachers    " + "\n            ".join(map(str, self._inputs.teachers)))
        budget = [
            f"{value:g} {name}"
            for name in ("epochs", "steps", "minutes")
            if (value := getattr(config.train, name))
        ]
        begun = f", from step {state.step:,}" if state.step else ""
        print(
            f"training    {' or '.join(budget)}, {len(self.views)} x {config.train.batch_size} images a step{begun}"
        )
        print(f"machine     {machine}, {state.dtype}")
        print(f"to          {folder}", flush=True)


# ---------------------------------------------------------------------------------------------- folders of runs


def identity(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a run of a config: all of it but the precision, which is a fact of the machine."""
    return {
        **raw,
        "train": {name: value for name, value in raw.get("train", {}).items() if name != "amp"},
    }


def _runs(config: Config, save_dir: Path) -> Path:
    return stage_folder(save_dir, config.kind or "own", of_known(config.known), config.name)


def find_run(config: Config, inputs: Inputs, options: Options) -> Path | None:
    """The latest run, where it has this very config and inputs; the run of ``options.resume`` where that is given."""
    if options.resume is not None:
        if not (options.resume.parent / RESUME).is_file():
            raise FileNotFoundError(
                f"-r {options.resume}: there is no {RESUME} beside it to go on from"
            )
        return options.resume.parent
    runs = sorted(path.parent for path in _runs(config, options.save_dir).glob("*/inputs.json"))
    if not runs or options.new:
        return None
    same = identity(files.read_yaml(runs[-1] / "config.yaml")) == identity(config.raw)
    return (
        runs[-1] if same and files.read_json(runs[-1] / "inputs.json") == inputs.digests else None
    )


def new_run(config: Config, inputs: Inputs, options: Options) -> Path:
    """The folder of a run that begins now, with its config and what it starts from."""
    import yaml

    folder = _runs(config, options.save_dir) / datetime.now(timezone.utc).strftime(
        "%Y%m%d_%H%M%S_%f"
    )
    folder.mkdir(parents=True)
    files.write_bytes(folder / "config.yaml", yaml.safe_dump(config.raw, sort_keys=False).encode())
    files.write_json(folder / "inputs.json", inputs.digests)
    return folder
