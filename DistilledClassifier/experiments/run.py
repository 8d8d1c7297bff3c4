"""An experiment as it runs: what it starts from, its task, its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import torch

from DDA import files, ranks, shapes
from DDA.devices import pick_device
from DDA.progress import Estimate, Show
from DDA.ranks import World
from DDA.settings import as_path, check_one_of, check_writable
from DDA.training.loop import State, make_rate, start
from DDA.training.run import RESUME, Run, precision
from DDA.training.run import estimate as run_estimate
from DDA.training.run import resume as resume_state
from DistilledClassifier import classifiers
from DistilledClassifier.data.batches import Steps
from DistilledClassifier.data.measured import settled
from DistilledClassifier.data.views import views
from DistilledClassifier.experiments.config import Config, configure
from DistilledClassifier.experiments.settings import Training, known_of
from DistilledClassifier.experiments.stages import (
    BEST,
    FINISHED,
    LAST,
    Inputs,
    find_inputs,
    of_known,
    stage_folder,
)
from DistilledClassifier.tasks import TASKS
from DistilledClassifier.tasks.panel import Panel, check_teachers, needs_of

ADVICE = "lower `lr`, or set train.warmup=200 or train.clip_norm=1, and start anew with `new`"


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    folder: the run. best: its best weights, for `classifiers.load`. top1: their top-1 on the
    validation images, in per cent. epochs, steps: the length of the training. estimate: of a dry
    run, how long it would take; what is not known then is 0.
    """

    folder: Path
    top1: float
    epochs: float
    steps: int
    estimate: Estimate | None = None

    def __repr__(self) -> str:
        length = f"epochs={self.epochs:g}, steps={self.steps}"
        return f"Trained(top1={self.top1:.2f}, {length}, folder='{self.folder}')"

    @property
    def best(self) -> Path:
        """Return the file of the best weights."""
        return self.folder / BEST


def train(
    config: str | PathLike[str],
    *,
    known: str | Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
    save_dir: str | PathLike[str] = "saved",
    init: str | PathLike[str] | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    resume: str | PathLike[str] | None = None,
    new: bool = False,
    workers: int = 2,
    save_minutes: float = 2.0,
    device: str | torch.device | None = "auto",
    world: World | None = None,
    quiet: bool = False,
    dry_run: bool = False,
) -> Trained:
    """Train a classifier: of clean images, of one known degradation, or of all of them.

    A run that was stopped goes on where it stopped, and a finished one is not run again.

    Args:
        config: an experiment, such as ``configs/ind/CIFAR10/ResNet18/deg.yaml``, or a config of
            your own. Its kind says whether it learns from one degradation or from several.
        known: the known degradation, such as ``"jpeg"``, or a list of them (default: the config's).
        changes: entries of the config by their dotted names, such as ``{"data.root": "photos"}``.
        save_dir: the folder of all runs. Stages find each other's weights there.
        init: the weights to start from: a file of any origin, or the name of a stage.
        lr: the learning rate, above 0.
        batch_size: images of each degradation in a step, over all processes.
        seed: the seed of all that is random.
        epochs: the budget in epochs.
        minutes: the budget in minutes, 0 for no limit. Whichever budget ends first ends the
            training.
        resume: a checkpoint whose run goes on.
        new: start a new run where there is one already.
        workers: threads that prepare images, 0 for none.
        save_minutes: the time between saved states, in minutes.
        device: auto, cpu, cuda, the numbers of GPUs, or a `torch.device`.
        world: the processes that share the work (default: this one).
        quiet: print nothing.
        dry_run: check everything, print the plan and an estimate by a few steps, and stop.

    Returns:
        The run's folder, its best weights, and their top-1 in per cent.

    Raises:
        FileNotFoundError: a config, an image folder or the weights of another stage are missing.
        ValueError: a setting or an entry of the config is wrong, something does not fit, or the
            loss is not finite. With several processes all of these are a `ranks.SharedError`.
        KeyboardInterrupt: the training was stopped, after its state was saved.

    Example:
        >>> from DistilledClassifier import classifiers, experiments
        >>> run = experiments.train(tiny_config, save_dir=saved, epochs=1, quiet=True)
        >>> classifiers.load(run.best).scores(np.zeros((2, 8, 8, 3), np.uint8)).shape
        torch.Size([2, 3])
    """
    settings = Training(
        config=as_path("config", config),
        known=known_of(known),
        changes={} if changes is None else changes,
        init=None if init is None else str(as_path("init", init)),
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs,
        minutes=minutes,
        save_dir=files.find(as_path("save_dir", save_dir)),
        resume=None if resume is None else files.find(as_path("resume", resume)),
        new=new,
        workers=workers,
        save_minutes=save_minutes,
        device=device,
    )
    show = Show(quiet=quiet)
    if world is None:
        return ranks.alone(lambda world: run_training(settings, world, show, dry_run=dry_run))
    return run_training(settings, world, show, dry_run=dry_run)


def run_training(
    settings: Training,
    world: World,
    show: Show,
    program: str | None = None,
    *,
    dry_run: bool = False,
) -> Trained:
    """Train to the end of the budget, as `train`; every process of ``world`` calls it.

    program: the command that asks for it, None in Python. dry_run: estimate how long it takes, and
    write nothing.
    """
    torch.set_num_threads(world.cpu_threads())
    device = world.together(lambda: pick_device(settings.device, world.local_rank))
    composed = world.together(lambda: configure(settings, world.size, program))
    config = world.on_root(lambda: settled(composed, settings.save_dir, keep=not dry_run))
    inputs = world.together(lambda: find_inputs(config, settings.save_dir))
    folder = world.on_root(lambda: find_run(config, inputs, settings))
    finished = world.on_root(lambda: _read_result(folder))
    if finished is not None:
        if world.rank == 0:
            show.say(f"training    was finished before, in {folder}")
        return finished
    world.on_root(lambda: check_writable("save_dir", settings.save_dir))
    experiment = world.together(lambda: Experiment(config, inputs, device))
    steps = world.together(lambda: experiment.steps(world, settings.workers))
    experiment.state.dtype = world.broadcast(experiment.state.dtype)
    if not dry_run:
        folder = world.on_root(lambda: folder or new_run(config, inputs, settings))
    if folder is None:
        folder = _runs(config, settings.save_dir)
    else:
        experiment.go_on(folder, world)
    if world.rank == 0:
        threads = torch.get_num_threads()
        experiment.say_plan(show, folder, f"{world.size} x {device.type}, {threads} threads each")
    if dry_run:
        return _estimate(experiment, steps, folder, world, show)
    return _fit(experiment, steps, folder, settings, world, show)


def _estimate(
    experiment: Experiment, steps: Steps, folder: Path, world: World, show: Show
) -> Trained:
    """Say how long a training would take, by some steps that are not kept."""
    config, state = experiment.config, experiment.state
    before = Trained(folder, state.best or 0.0, state.step / steps.per_epoch, state.step)
    rate = make_rate(config.optimizer["lr"], config.schedule, config.train)
    estimate = run_estimate(world, state, steps, config.train, rate)
    if world.rank == 0:
        show.say(f"estimate    {estimate}; validations come on top")
    return replace(before, estimate=estimate)


def _fit(
    experiment: Experiment,
    steps: Steps,
    folder: Path,
    settings: Training,
    world: World,
    show: Show,
) -> Trained:
    """Train an experiment in its folder and write its result there."""
    config, state = experiment.config, experiment.state
    running = Run(
        world,
        folder,
        state,
        identity(config.raw),
        images=config.train.batch_size * len(config.known),
        save_minutes=settings.save_minutes,
        on_epoch=lambda is_best: experiment.end_epoch(folder, is_best, show),
        show=show,
    )
    rate = make_rate(config.optimizer["lr"], config.schedule, config.train)
    running.train(steps, config.train, rate, advice=ADVICE)
    result = Trained(folder, state.best, state.epochs[-1]["epoch"], state.step)
    if world.rank == 0:
        _write_result(result)
    return result


class Experiment:
    """A config with what it starts from: its networks, its images, its state."""

    def __init__(self, config: Config, inputs: Inputs, device: torch.device):
        check_one_of("task", config.task, TASKS)
        self.config, self._inputs = config, inputs
        self._classes = config.data.class_names
        torch.manual_seed(config.train.seed)
        fetches = inputs.init is None
        model = config.classifier if fetches else classifiers.unfilled(config.classifier)
        network = classifiers.build(model)
        named = dict.fromkeys(inputs.teachers, "teachers") | {inputs.init: "init"}
        contents = {  # each file once
            path: classifiers.read(path, setting) for path, setting in named.items() if path
        }
        self._unfilled: list[str] = []
        if inputs.init is not None:
            self._unfilled = classifiers.initialise(network, inputs.init, contents[inputs.init])
        network.to(device)
        needs = needs_of(config.loss)
        teachers = tuple(classifiers.load(path, contents[path]) for path in inputs.teachers)
        self.panel = Panel(teachers, needs, config.panel.sees, config.panel.how).to(device)
        size = config.preprocess.size
        check_teachers(self.panel, network, size, self._classes)
        self._twins = bool(self.panel) and self.panel.sees == "clean"
        self.views, self.held_out = views(config, "train", twins=self._twins), views(config, "val")
        self._check_sizes()
        task = TASKS[config.task](
            network,
            config.preprocess,
            config.loss,
            panel=self.panel,
            held_out=self.held_out,
            label_smoothing=config.train.label_smoothing,
        )
        blank = torch.zeros(8, 3, size, size, device=device)
        dtype = precision(config.train, network, (blank,))
        self.state: State = start(task, config.train, config.optimizer, dtype)

    def _check_sizes(self) -> None:
        """Raise ValueError where a view has fewer images than a batch."""
        smallest = min(self.views, key=lambda view: len(view.examples))
        count, size = len(smallest.examples), self.config.train.batch_size
        if count < size:
            raise ValueError(
                f"{smallest.name} has {count} training images, fewer than `batch_size` {size}; "
                "lower it"
            )

    def steps(self, world: World, workers: int) -> Steps:
        """Return the batches of this process."""
        config = self.config
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

    def go_on(self, folder: Path, world: World) -> None:
        """Go on from the state in a run's folder, where there is one."""
        advice = "start anew with `new`, and without `resume`"
        settings = identity(self.config.raw)
        world.together(lambda: resume_state(folder, self.state, settings, advice))

    def end_epoch(self, folder: Path, is_best: bool, show: Show) -> None:
        """Say what was measured, and write the checkpoints."""
        config, row = self.config, self.state.epochs[-1]
        each = ", ".join(f"{name} {row[f'{name}_top1']:.1f}" for name in config.known)
        shares = f" ({each})" if len(config.known) > 1 else ""
        best = ", the best" if is_best else ""
        show.step(f"epoch {row['epoch']:.4g}: validation top-1 {row['top1']:.2f} %{shares}{best}")
        for name in (LAST, BEST) if is_best else (LAST,):
            classifiers.save(
                folder / name,
                self.state.judged.network,
                config.raw,
                self._classes,
                epoch=row["epoch"],
                metrics=row,
                adapted=self._inputs.adapted,
            )

    def say_plan(self, show: Show, folder: Path, machine: str) -> None:
        """Say what will be trained, from what, how long, and where it goes."""
        config, state = self.config, self.state
        counts = ", ".join(f"{view.name} {len(view.examples):,}" for view in self.views)
        held_out = ", ".join(f"{len(view.examples):,}" for view in self.held_out)
        show.say(f"images      {counts}; held out {held_out}: {config.view}")
        name = config.backbone or config.classifier["type"]
        parameters = sum(p.numel() for p in state.task.parameters())
        show.say(f"classifier  {name}, {parameters:,} parameters")
        names = ", ".join(self._unfilled)
        other = f" (not {names}: another number of classes)" if names else ""
        show.say(f"starts from {self._inputs.init or 'nothing'}{other}")
        if self._inputs.teachers:
            show.say("teachers    " + "\n            ".join(map(str, self._inputs.teachers)))
        limits = {name: getattr(config.train, name) for name in ("epochs", "steps", "minutes")}
        budget = " or ".join(f"{value:g} {name}" for name, value in limits.items() if value)
        begun = f", from step {state.step:,}" if state.step else ""
        images = f"{len(self.views)} x {config.train.batch_size} images a step"
        show.say(f"training    {budget}, {images}{begun}")
        show.say(f"machine     {machine}, {state.dtype}")
        show.say(f"to          {folder}")


# ------------------------------------------------------------------------------ folders of runs


def identity(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a run of a config.

    The precision is left out, because it is a fact of the machine.
    """
    train = {name: value for name, value in raw.get("train", {}).items() if name != "amp"}
    return {**raw, "train": train}


def _runs(config: Config, save_dir: Path) -> Path:
    return stage_folder(save_dir, config.kind or "own", of_known(config.known), config.name)


def find_run(config: Config, inputs: Inputs, settings: Training) -> Path | None:
    """Return the folder of the run that goes on, or None where a new one begins.

    It is the run of ``settings.resume``, or the latest one, if that has this very config and these
    inputs. Raises FileNotFoundError where there is no state beside the checkpoint to resume.
    """
    if settings.resume is not None:
        if not (settings.resume.parent / RESUME).is_file():
            raise FileNotFoundError(
                f"`resume` {settings.resume}: there is no {RESUME} beside it to go on from"
            )
        return settings.resume.parent
    folders = _runs(config, settings.save_dir).glob("*/inputs.json")
    latest = max((path.parent for path in folders), default=None)
    if latest is None or settings.new:
        return None
    before = shapes.read_yaml(latest / "config.yaml", Composed)
    same = identity(before) == identity(config.raw)
    same = same and shapes.read_json(latest / "inputs.json", dict) == inputs.digests
    return latest if same else None


def new_run(config: Config, inputs: Inputs, settings: Training) -> Path:
    """Make the folder of a run that begins now, with its config and what it starts from."""
    import yaml

    time = datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S_%f")
    folder = _runs(config, settings.save_dir) / time
    files.make_folder(folder)
    files.write_bytes(folder / "config.yaml", yaml.safe_dump(config.raw, sort_keys=False).encode())
    files.write_json(folder / "inputs.json", inputs.digests)
    return folder


class Composed(TypedDict, total=False):
    """The part of a run's ``config.yaml`` that is read again."""

    train: dict[str, Any]


class Finished(TypedDict):
    """The content of the file that marks a run as finished."""

    top1: float
    epochs: float
    steps: int


def _write_result(result: Trained) -> None:
    """Mark a run as finished."""
    values = {name: getattr(result, name) for name in Finished.__annotations__}
    files.write_json(result.folder / FINISHED, values)


def _read_result(folder: Path | None) -> Trained | None:
    """Return the result of a run, or None where it is not finished."""
    path = None if folder is None else folder / FINISHED
    if path is None or not path.is_file() or not path.stat().st_size:
        return None
    values = shapes.read_json(path, Finished, "remove it, and the same training goes on")
    return Trained(folder, values["top1"], values["epochs"], values["steps"])
