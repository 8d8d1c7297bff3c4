#!/usr/bin/env python3
"""The whole method from one YAML: prepare, degrade, adapt, train, distil, evaluate, report.

  scripts/pipeline.py scripts/pipelines/digits.yaml
  scripts/pipeline.py mine.yaml --dry_run             prints the commands
  scripts/pipeline.py mine.yaml --set out=elsewhere prior.minutes=10

Every stage is one or more of the project's commands, printed before it runs. Finished stages are skipped, a stopped one goes
on; a stage whose command changed is run again, and those after it; trees made otherwise are refused, not replaced: give
another out. The first failure stops the pipeline and says what to do.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ladder import launcher

from DDA import commands, files, settings, sources, tree
from DDA.model_adapt.config import as_list
from DDA.model_adapt.ensemble import OURS
from DDA.progress import duration
from DistilledClassifier import train
from DistilledClassifier.degradations import DEGRADATIONS
from DistilledClassifier.experiments.config import change, stage_name
from DistilledClassifier.experiments.stages import BEST, latest_finished, of_known, stage_folder

PROGRAM = "pipeline.py"
SCRIPTS = {
    Path(script).name: script
    for script in (
        "DistilledClassifier/make_data.py",
        "DistilledClassifier/train.py",
        "DistilledClassifier/train_all_deg.py",
        "DDA/image_adapt/scripts/image_train.py",
        "DDA/image_adapt/scripts/image_sample.py",
        "DDA/model_adapt/test_ensemble.py",
        "DDA/model_adapt/report.py",
    )
}
# Entries of the YAML, and what each may hold. ranks: processes that adapt; threads: of all of them together, and of a stage of
# one process (default: the cores); data.held_out: share of the training images from which no classifier learns here, for
# validation and for the weights of the sum; data.known_samples: adapt so many copies of each known degradation to learn from
# (default: all training images)
COMMANDS = (
    "prior",
    "adaptation",
    "evaluation",
    "report",
)  # they hold flags of a command, by their names
HINTS = {
    "out": str,
    "data": Any,
    "known": Any,
    "degraded": Any,
    **dict.fromkeys(COMMANDS, Any),
    "training": dict,
    "ranks": int,
    "threads": int | None,
    "seed": int,
    "source": str | None,
}
DATA_HINTS = {
    **dict.fromkeys(("base_samples", "experiment", "backbone", "train", "test"), str),
    "held_out": float,
    "known_samples": int | None,
}
TRAININGS = ("all", "clean", "teachers", "students", "adapted_teachers", "adapted_student")
DEFAULTS = {
    "ranks": 1,
    "threads": None,
    "seed": 0,
    "source": None,
    "evaluation": None,
    "report": None,
    "training": {},
}
DATA_DEFAULTS = {"held_out": 0.1, "known_samples": None}


@dataclass(frozen=True)
class Stage:
    """Commands that belong together: argument lists, the first word being one of SCRIPTS; ranks: under mpiexec."""

    title: str
    commands: tuple[tuple[str, ...], ...]
    ranks: int = 1


FLAGS = """
config YAML
--set NAME=VALUE+ = []  entries of the YAML
--dry_run  print the commands and stop
"""


def main(argv: list[str] | None = None) -> int:
    """Returns 0, the status of the stage that failed, 130 when it was interrupted, 2 for wrong input."""
    parser = commands.parser(PROGRAM, __doc__, FLAGS)
    return commands.run(
        lambda: _main(parser.parse_args(argv)), PROGRAM, "run the same pipeline again to go on"
    )


def _main(args: argparse.Namespace) -> int:
    config = read_config(args.config, train.assignments(args.set))
    stages = plan(config)
    check(stages)
    if args.dry_run:
        return show(stages)
    check_inputs(config, args.config)
    return run(stages, Path(config["out"]), config["threads"])


def read_config(path: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The checked entries. Raises FileNotFoundError, ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; scripts/pipelines/ has examples")
    config = files.read_yaml(path)
    change(config, changes)
    try:
        return check_entries(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_entries(config: dict[str, Any]) -> dict[str, Any]:
    """The entries with what they are where they are not given. Raises ValueError for those that cannot be meant."""
    config = {**DEFAULTS, **config}
    settings.check_names(config, HINTS)
    settings.check_kinds(config, HINTS)
    config |= {name: _section(name, config[name]) for name in ("data", *COMMANDS) if name in config}
    data = {**DATA_DEFAULTS, **config.get("data", {})}
    settings.check_names(data, DATA_HINTS, "data.")
    settings.check_names(config["training"], TRAININGS, "training.")
    training = {
        name: _section(f"training.{name}", value) for name, value in config["training"].items()
    }
    missing = [name for name in HINTS if name not in config] + [
        f"data.{name}" for name in DATA_HINTS if name not in data
    ]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    settings.check_kinds(data, DATA_HINTS, "data.")
    for name in ("train", "test", "experiment", "backbone"):
        tree.check_name(data[name], f"data.{name}:")  # they become folders
    known = config["known"]
    if (
        not isinstance(known, list)
        or not known
        or any(name not in ("clean", *DEGRADATIONS) for name in known)
    ):
        raise ValueError(
            f"known is {tree.shown(known)}, but it is a list of some of clean, {', '.join(DEGRADATIONS)}"
        )
    _check_degraded(config["degraded"])
    for name in COMMANDS:
        flags(config[name], f"{name}.")
    numbers = {**config, "data.known_samples": data["known_samples"]}
    for name, least in (("ranks", 1), ("threads", 1), ("seed", 0), ("data.known_samples", 1)):
        if numbers[name] is not None and numbers[name] < least:
            raise ValueError(f"{name} {numbers[name]} must be at least {least}")
    if not config["out"]:
        raise ValueError("out is empty; name the folder of the results")
    return {**config, "data": data, "training": training}


def _check_degraded(degraded: Any) -> None:
    entries = as_list(degraded) or [None]
    wanted = "base_samples" if isinstance(degraded, dict) else "command"
    if not all(isinstance(entry, dict) and isinstance(entry.get(wanted), str) for entry in entries):
        raise ValueError(
            "degraded is {base_samples: TREE, …}, or a list of {command: degrade or corrupt, …}"
        )
    for entry in entries:
        flags(entry, "degraded.")


def _section(name: str, value: Any) -> dict[str, Any]:
    """Entries, of which there may be none. Raises ValueError."""
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}, but it holds entries, such as {{batch_size: 16}}")
    return value or {}


# ---------------------------------------------------------------------------------------------- the stages


def plan(config: Mapping[str, Any]) -> list[Stage]:
    """The commands of a config, in order."""
    steps = _Steps(config)
    return [*steps.of_clean_images(), *steps.adaptation(), *steps.training(), *steps.evaluation()]


class _Steps:
    """The stages of a config, and the names of what they leave for each other."""

    def __init__(self, config: Mapping[str, Any]):
        self._config, self._data, self._known = config, config["data"], config["known"]
        self._out, self._ranks = Path(config["out"]), config["ranks"]
        self._clean, self._saved = f"{self._out / 'clean'}", f"{self._out / 'saved'}"
        self._seed = ("--seed", f"{config['seed']}")
        prior = dict(config["prior"])
        self._prior = f"{prior.pop('model_path', self._out / 'prior/ema.pt')}"
        self._prior_flags = flags(prior)
        degraded, cells = (
            config["degraded"],
            {"dataset": "imagenetc", "corruption": "all", "severity": "all"},
        )
        is_there = isinstance(degraded, dict)  # a tree, or files, that are there already
        self._degraded = degraded["base_samples"] if is_there else f"{self._out / 'degraded'}"
        self._cells = flags(cells | (_without(degraded, "base_samples") if is_there else {}))
        self._known_cells = (
            "--dataset",
            self._data["experiment"].lower(),
            "--train",
            "True",
            "--corruption",
            *self._known,
        )

    def of_clean_images(self) -> Iterator[Stage]:
        data = self._data
        yield Stage(
            "the images, as a tree",
            (
                (
                    "make_data.py",
                    "prepare",
                    "--base_samples",
                    data["base_samples"],
                    "--save_dir",
                    self._clean,
                ),
            ),
        )
        if self._config["source"] is None:
            yield Stage(
                "a classifier of clean images",
                (self._train("train.py", "ind", "clean", ("clean",)),),
            )
        if "model_path" not in self._config["prior"]:
            yield Stage(
                "a prior of clean images",
                (
                    (
                        "image_train.py",
                        "--base_samples",
                        self._clean,
                        "--cell",
                        f"clean/{data['train']}",
                        "--save_dir",
                        f"{self._out / 'prior'}",
                        *self._seed,
                        *self._prior_flags,
                    ),
                ),
                self._ranks,
            )

    def adaptation(self) -> Iterator[Stage]:
        data, degrade = self._data, ("make_data.py", "degrade", "--base_samples", self._clean)
        if isinstance(self._config["degraded"], list):
            yield Stage(
                "held-out images, degraded",
                tuple(
                    (
                        "make_data.py",
                        entry["command"],
                        "--base_samples",
                        self._clean,
                        "--split",
                        data["test"],
                        "--save_dir",
                        self._degraded,
                        *self._seed,
                        *flags(_without(entry, "command")),
                    )
                    for entry in self._config["degraded"]
                ),
            )
        yield self._adapt("their adapted copies", self._degraded, self._cells, "adapted")
        part = (
            () if data["known_samples"] is None else ("--num_samples", f"{data['known_samples']}")
        )
        yield Stage(
            "known degradations of training images",
            tuple(
                (
                    *degrade,
                    "--split",
                    data["train"],
                    *part,
                    "--save_dir",
                    self._clean,
                    *self._seed,
                    "--type",
                    name,
                )
                for name in self._known
                if name != "clean"
            ),
        )
        yield self._adapt(
            "their adapted copies, to learn from", self._clean, self._known_cells, "known_adapted"
        )

    def _adapt(self, title: str, source: str, cells: Iterable[str], target: str) -> Stage:
        adapt = (
            "image_sample.py",
            "--model_path",
            self._prior,
            *self._seed,
            *flags(self._config["adaptation"]),
        )
        return Stage(
            title,
            ((*adapt, "--base_samples", source, *cells, "--save_dir", f"{self._out / target}"),),
            self._ranks,
        )

    def training(self) -> Iterator[Stage]:
        stages = (("deg", ("teachers",)), ("adapt", ("teachers", "adapted_teachers")))
        yield Stage(
            "teachers, one for each known degradation and view",
            tuple(
                self._train("train.py", "ind", stage, groups, "--dt", name)
                for name in self._known
                for stage, groups in stages
                if (name, stage) != ("clean", "deg")
            ),
        )
        stages = (("degDistill", ("students",)), ("adaptDistill", ("students", "adapted_student")))
        yield Stage(
            "two students, for degraded and for adapted images",
            tuple(
                self._train(
                    "train_all_deg.py", "deg_all", stage, groups, "--dt", ",".join(self._known)
                )
                for stage, groups in stages
            ),
        )

    def _train(
        self, program: str, kind: str, stage: str, groups: tuple[str, ...], *more: str
    ) -> tuple[str, ...]:
        config, data = self._config, self._data
        entries = {
            "data.root": self._clean,
            "data.adapted": self._out / "known_adapted",
            "data.train": data["train"],
            "data.held_out": data["held_out"],
            "train.seed": config["seed"],
        }
        entries |= {} if config["source"] is None else {"source": config["source"]}
        for group in ("all", *groups):
            entries |= _dotted(config["training"].get(group, {}))
        path = f"configs/{kind}/{data['experiment']}/{data['backbone']}/{stage}.yaml"
        chosen = [f"{name}={_yaml(value)}" for name, value in entries.items()]
        return (program, "-c", path, "--save_dir", self._saved, *more, "--set", *chosen)

    def evaluation(self) -> Iterator[Stage]:
        config, known = self._config, of_known(self._known)
        source = config["source"] or self._best("clean", "ind", "clean")
        evaluate = (
            "test_ensemble.py",
            "configs/ensemble/resnet18_ensemble_b64_cifar10c.py",
            self._best(known, "deg_all", "degDistill"),
            "--second_model_prefix",
            self._best(known, "deg_all", "adaptDistill"),
        )
        if set(OURS) & set(as_list(config["evaluation"].get("ensemble", []))):
            yield Stage(
                "weights and gate, fitted on known degradations of held-out images",
                (
                    (
                        *evaluate,
                        "--fit",
                        "--data_prefix1",
                        self._clean,
                        "--data_prefix2",
                        f"{self._out / 'known_adapted'}",
                        *self._known_cells,
                        "--out",
                        f"{self._out / 'fit'}",
                    ),
                ),
            )
        yield Stage(
            "the classifiers on both views",
            (
                (
                    *evaluate,
                    "--source",
                    source,
                    "--data_prefix1",
                    self._degraded,
                    "--data_prefix2",
                    f"{self._out / 'adapted'}",
                    *self._cells,
                    "--out",
                    f"{self._out / 'eval'}",
                    *flags(config["evaluation"]),
                ),
            ),
        )
        yield Stage(
            "the report", (("report.py", f"{self._out / 'eval'}", *flags(config["report"])),)
        )

    def _best(self, degradation: str, kind: str, stage: str) -> str:
        """A pattern of the best weights of the runs of a stage."""
        experiment = (
            self._config["training"].get("all", {}).get("dataset", self._data["experiment"])
        )
        name = stage_name({"dataset": experiment, "backbone": self._data["backbone"]}, stage)
        return f"{stage_folder(Path(self._saved), kind, degradation, name)}/*/{BEST}"


def _without(entries: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in entries.items() if other != name}


def check(stages: Iterable[Stage]) -> None:
    """Raise ValueError for what a command would refuse on reading its command line or config: before the first one runs."""
    for stage in stages:
        for command in stage.commands:
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    _parse(*command)
            except SystemExit:
                raise ValueError(
                    f"{stage.title}: {said.getvalue().strip().splitlines()[-1]}"
                ) from None
            except (ValueError, OSError) as error:
                raise ValueError(f"{stage.title}: {command[0]}: {error}") from None


def _parse(name: str, *flags: str) -> None:
    if name in ("train.py", "train_all_deg.py"):
        train.read_config(train.parser(name, "").parse_args(flags), name, 1)
    else:
        module = importlib.import_module(SCRIPTS[name].removesuffix(".py").replace("/", "."))
        module.parser().parse_args(flags)


def check_inputs(config: Mapping[str, Any], path: Path) -> None:
    """Raise FileNotFoundError for a file that the YAML names and that is not there."""
    degraded = config["degraded"]
    named = {
        "data.base_samples": config["data"]["base_samples"],
        "source": config["source"],
        "prior.model_path": config["prior"].get("model_path"),
        "degraded.base_samples": degraded["base_samples"] if isinstance(degraded, dict) else None,
    }
    for name, value in named.items():
        if value not in (None, sources.DIGITS) and not files.find(value).exists():
            raise FileNotFoundError(f"{path}: {name} is {value}, which does not exist")


def _dotted(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a training by their dotted names: a section such as train, where it is written as one, replaces no other."""
    found = {}
    for name, value in entries.items():
        if name in ("data", "preprocess", "augment", "train") and isinstance(value, dict):
            found |= {f"{name}.{entry}": content for entry, content in value.items()}
        else:
            found[name] = value
    return found


def _yaml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list | None) else str(value)


def flags(entries: Mapping[str, Any], where: str = "") -> list[str]:
    """Entries of the YAML as flags of a command. Raises ValueError for values that no flag takes."""
    found = []
    for name, value in entries.items():
        values = as_list(value)
        if not values or not all(isinstance(one, str | int | float) for one in values):
            raise ValueError(
                f"{where}{name} is {tree.shown(value)}, but a flag takes a value, or a list of values"
            )
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            found += [f"--{name}", *map(str, values)]
    return found


# ---------------------------------------------------------------------------------------------- running them


def show(stages: Iterable[Stage]) -> int:
    for stage in stages:
        print(f"# {stage.title}")
        for command in stage.commands:
            print(shlex.join((*launcher(stage.ranks), *command)))
    return 0


def run(stages: list[Stage], out: Path, threads: int | None = None) -> int:
    """Run what is not finished; ``pipeline.json`` in the folder tells what is, and which images were made.

    Raises ValueError where the folder has images that these stages do not make: they would be taken for theirs.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = out / "pipeline.json"
    told = files.read_json(state) if state.is_file() else {}
    finished, made = told.get("finished", {}), told.get("made", [])
    ours = [text for stage in stages for command in stage.commands for text in _made(command, out)]
    strange = [command for command in made if command not in ours]
    if strange:
        raise ValueError(
            f"{out} has images of another YAML, made by: {strange[0]}; give another out, or remove this one"
        )
    begun, digest = time.monotonic(), ""
    for number, stage in enumerate(stages, start=1):
        digest = hashlib.sha256(json.dumps([digest, stage.commands]).encode()).hexdigest()
        where = f"{number} of {len(stages)}: {stage.title}"
        if finished.get(stage.title) == digest:
            print(f"== {where}: done before", flush=True)
            continue
        print(f"\n== {where} ({duration(time.monotonic() - begun)})", flush=True)
        for later in stages[number - 1 :]:  # they are made anew, whatever becomes of this run
            finished.pop(later.title, None)
        for command in stage.commands:
            made = list(dict.fromkeys((*made, *_made(command, out))))
            files.write_json(state, {"finished": finished, "made": made})
            if status := _run(command, stage.ranks, threads):
                print(
                    f"{PROGRAM}: stage {where} ended with status {status}; what it said above tells why. Mend it and run the "
                    "same pipeline again: it goes on from here",
                    file=sys.stderr,
                )
                return status
        finished[stage.title] = digest
        files.write_json(state, {"finished": finished, "made": made})
    print(
        f"\n== finished in {duration(time.monotonic() - begun)}: {out / 'eval' / 'report.html'}",
        flush=True,
    )
    return 0


def _made(command: tuple[str, ...], out: Path) -> list[str]:
    """What is noted of a command that makes images, wherever ``out`` lies; nothing of others."""
    return [shlex.join(command).replace(str(out), "OUT")] if command[0] == "make_data.py" else []


def _run(command: tuple[str, ...], ranks: int, threads: int | None) -> int:
    name, *rest = command
    rest = list(map(_latest, rest))
    print(f"$ {shlex.join((name, *rest))}", flush=True)
    env = {} if threads is None else {"OMP_NUM_THREADS": str(max(1, threads // ranks))}
    return commands.call([*launcher(ranks), sys.executable, str(ROOT / SCRIPTS[name]), *rest], env)


def _latest(part: str) -> str:
    """A pattern's last file: that of the newest finished run of a stage."""
    if "*" not in part:
        return part
    above, _, pattern = part.partition("/*/")
    found = latest_finished(Path(above), pattern)
    if found is None:
        raise FileNotFoundError(
            f"{part}: no finished run has such a file; was the stage before removed?"
        )
    return str(found)


if __name__ == "__main__":
    sys.exit(main())
