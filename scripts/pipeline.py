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
import io
import json
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from DDA import commands, files, settings, sources, tree
from DDA.model_adapt.ensemble import OURS
from DDA.progress import duration
from DistilledClassifier.degradations import DEGRADATIONS
from DistilledClassifier.experiments.config import change
from DistilledClassifier.experiments.stages import BEST, of_known, stage_folder
from DistilledClassifier.train import assignments

PROGRAM = "pipeline.py"
SCRIPTS = {
    "make_data.py": "DistilledClassifier/make_data.py",
    "train.py": "DistilledClassifier/train.py",
    "train_all_deg.py": "DistilledClassifier/train_all_deg.py",
    "image_train.py": "DDA/image_adapt/scripts/image_train.py",
    "image_sample.py": "DDA/image_adapt/scripts/image_sample.py",
    "test_ensemble.py": "DDA/model_adapt/test_ensemble.py",
    "report.py": "DDA/model_adapt/report.py",
}
# Entries of the YAML, and what each may hold; None: flags of a command, by their names. ranks: processes that adapt; threads:
# of all of them together, and of a stage of one process (default: the cores); data.held_out: share of the training images
# from which no classifier learns here, for validation and for the weights of the sum; data.known_samples: adapt so many copies
# of each known degradation to learn from (default: all training images)
ENTRIES: dict[str, tuple[str, ...] | None] = {
    "out": (), "ranks": (), "threads": (), "seed": (), "known": (), "source": (), "degraded": (),
    "data": ("base_samples", "experiment", "backbone", "train", "test", "held_out", "known_samples"),
    "prior": None, "adaptation": None, "evaluation": None, "report": None,
    "training": ("all", "clean", "teachers", "students", "adapted_teachers", "adapted_student"),
}  # fmt: skip
HINTS = {"out": str, "ranks": int, "threads": int | None, "seed": int, "source": str | None, "training": dict}
DATA_HINTS = {"base_samples": str, "experiment": str, "backbone": str, "train": str, "test": str, "held_out": float,
              "known_samples": int | None}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Commands that belong together: argument lists, the first word being one of SCRIPTS; ranks: under mpiexec."""

    title: str
    commands: tuple[tuple[str, ...], ...]
    ranks: int = 1


def main(argv: list[str] | None = None) -> int:
    """Returns 0, the status of the stage that failed, 130 when it was interrupted, 2 for wrong input."""
    p = commands.Parser(PROGRAM, description=__doc__)
    p.add_argument("config", type=Path, metavar="YAML")
    p.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="entries of the YAML")
    p.add_argument("--dry_run", action="store_true", help="print the commands and stop")
    args = p.parse_args(argv)
    return commands.run(lambda: _main(args), PROGRAM, "run the same pipeline again to go on")


def _main(args: argparse.Namespace) -> int:
    config = read_config(args.config, assignments(args.set))
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
    settings.check_names(config, ENTRIES)
    settings.check_kinds(config, HINTS)
    for name, inside in ENTRIES.items():
        if inside != () and name in config:
            config[name] = _section(name, config[name])
            settings.check_names(config[name], inside or config[name], f"{name}.")
    training = {name: _section(f"training.{name}", value) for name, value in config.get("training", {}).items()}
    missing = [name for name in ("out", "data", "known", "prior", "adaptation", "degraded") if name not in config]
    optional = ("held_out", "known_samples")
    missing += [f"data.{name}" for name in ENTRIES["data"] if name not in config.get("data", {}) and name not in optional]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    settings.check_kinds(config["data"], DATA_HINTS, "data.")
    for name in ("train", "test", "experiment", "backbone"):
        tree.check_name(config["data"][name], f"data.{name}:")  # they become folders
    known = config["known"]
    if not isinstance(known, list) or not known or any(name not in ("clean", *DEGRADATIONS) for name in known):
        raise ValueError(f"known is {tree.shown(known)}, but it is a list of some of clean, {', '.join(DEGRADATIONS)}")
    _check_degraded(config["degraded"])
    for name in ("prior", "adaptation", "evaluation", "report"):
        flags(config.get(name, {}), f"{name}.")
    data = {"held_out": 0.1, "known_samples": None, **config["data"]}
    least = {"ranks": 1, "threads": 1, "seed": 0}
    for name, value in [*((name, config.get(name)) for name in least), ("data.known_samples", data["known_samples"])]:
        if value is not None and value < least.get(name, 1):
            raise ValueError(f"{name} {value} must be at least {least.get(name, 1)}")
    if not config["out"]:
        raise ValueError("out is empty; name the folder of the results")
    return {"ranks": 1, "threads": None, "seed": 0, "source": None, "evaluation": {}, "report": {}, **config, "data": data,
            "training": training}  # fmt: skip


def _check_degraded(degraded: Any) -> None:
    entries = [degraded] if isinstance(degraded, dict) else degraded if isinstance(degraded, list) and degraded else [None]
    wanted = "base_samples" if isinstance(degraded, dict) else "command"
    if not all(isinstance(entry, dict) and isinstance(entry.get(wanted), str) for entry in entries):
        raise ValueError("degraded is {base_samples: TREE, …}, or a list of {command: degrade or corrupt, …}")
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
    out, data, ranks, known = Path(config["out"]), config["data"], config["ranks"], config["known"]
    clean, saved, seed = out / "clean", out / "saved", ("--seed", f"{config['seed']}")
    stages = [Stage("the images, as a tree", (
        ("make_data.py", "prepare", "--base_samples", data["base_samples"], "--save_dir", f"{clean}"),))]  # fmt: skip

    def train(program: str, kind: str, stage: str, groups: tuple[str, ...], *more: str) -> tuple[str, ...]:
        entries = {"data.root": clean, "data.adapted": out / "known_adapted", "data.train": data["train"],
                   "data.held_out": data["held_out"], "train.seed": config["seed"]}  # fmt: skip
        entries |= {} if config["source"] is None else {"source": config["source"]}
        for group in ("all", *groups):
            entries |= _dotted(config["training"].get(group, {}))
        settings = [f"{name}={_yaml(value)}" for name, value in entries.items()]
        path = f"configs/{kind}/{data['experiment']}/{data['backbone']}/{stage}.yaml"
        return (program, "-c", path, "--save_dir", f"{saved}", *more, "--set", *settings)

    if config["source"] is None:
        stages.append(Stage("a classifier of clean images", (train("train.py", "ind", "clean", ("clean",)),)))
    prior = dict(config["prior"])
    model = prior.pop("model_path", None)
    if model is None:
        model = f"{out}/prior/ema.pt"
        stages.append(Stage("a prior of clean images", (
            ("image_train.py", "--base_samples", f"{clean}", "--cell", f"clean/{data['train']}", "--save_dir", f"{out}/prior",
             *seed, *flags(prior)),), ranks))  # fmt: skip
    adapt = ("image_sample.py", "--model_path", f"{model}", *seed, *flags(config["adaptation"]))
    degraded = config["degraded"]
    if isinstance(degraded, dict):  # a tree, or files, that are there already
        tree = Path(degraded["base_samples"])
        cells = flags({"dataset": "imagenetc", "corruption": "all", "severity": "all",
                       **{name: value for name, value in degraded.items() if name != "base_samples"}})  # fmt: skip
    else:
        tree, cells = out / "degraded", flags({"dataset": "imagenetc", "corruption": "all", "severity": "all"})
        stages.append(Stage("held-out images, degraded", tuple(
            ("make_data.py", entry["command"], "--base_samples", f"{clean}", "--split", data["test"], "--save_dir", f"{tree}",
             *seed, *flags({name: value for name, value in entry.items() if name != "command"}))
            for entry in degraded)))  # fmt: skip
    stages.append(Stage("their adapted copies", (
        (*adapt, "--base_samples", f"{tree}", *cells, "--save_dir", f"{out}/adapted"),), ranks))  # fmt: skip
    made = [name for name in known if name != "clean"]
    part = () if data["known_samples"] is None else ("--num_samples", f"{data['known_samples']}")
    stages.append(Stage("known degradations of training images", tuple(
        ("make_data.py", "degrade", "--base_samples", f"{clean}", "--split", data["train"], *part, "--save_dir", f"{clean}",
         *seed, "--type", name) for name in made)))  # fmt: skip
    known_cells = ("--dataset", data["experiment"].lower(), "--train", "True", "--corruption", *known)
    stages.append(Stage("their adapted copies, to learn from", (
        (*adapt, "--base_samples", f"{clean}", *known_cells, "--save_dir", f"{out}/known_adapted"),), ranks))  # fmt: skip
    stages.append(Stage("teachers, one for each known degradation and view", tuple(
        train("train.py", "ind", stage, groups, "--dt", name) for name in known
        for stage, groups in (("deg", ("teachers",)), ("adapt", ("teachers", "adapted_teachers")))
        if (name, stage) != ("clean", "deg"))))  # fmt: skip
    stages.append(Stage("two students, for degraded and for adapted images", tuple(
        train("train_all_deg.py", "deg_all", stage, groups, "--dt", ",".join(known))
        for stage, groups in (("degDistill", ("students",)), ("adaptDistill", ("students", "adapted_student"))))))  # fmt: skip

    def best(degradation: str, kind: str, stage: str) -> str:
        backbone = data["backbone"].replace("/", "-")
        return f"{stage_folder(saved, kind, degradation, f'{_experiment(config)}_{backbone}_{stage}')}/*/{BEST}"

    source = config["source"] or best("clean", "ind", "clean")
    evaluate = ("test_ensemble.py", "configs/ensemble/resnet18_ensemble_b64_cifar10c.py",
                best(of_known(known), "deg_all", "degDistill"), "--second_model_prefix",
                best(of_known(known), "deg_all", "adaptDistill"))  # fmt: skip
    rules = config["evaluation"].get("ensemble", [])
    if set(OURS) & set(rules if isinstance(rules, list) else [rules]):
        stages.append(Stage("weights and gate, fitted on known degradations of held-out images", (
            (*evaluate, "--fit", "--data_prefix1", f"{clean}", "--data_prefix2", f"{out}/known_adapted", *known_cells, "--out",
             f"{out}/fit"),)))  # fmt: skip
    stages.append(Stage("the classifiers on both views", (
        (*evaluate, "--source", f"{source}", "--data_prefix1", f"{tree}", "--data_prefix2", f"{out}/adapted", *cells, "--out",
         f"{out}/eval", *flags(config["evaluation"])),)))  # fmt: skip
    return [*stages, Stage("the report", (("report.py", f"{out}/eval", *flags(config["report"])),))]


def check(stages: Iterable[Stage]) -> None:
    """Raise ValueError for what a command would refuse on reading its command line or config: before the first one runs."""
    for stage in stages:
        for command in stage.commands:
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    _parse(*command)
            except SystemExit:
                raise ValueError(f"{stage.title}: {said.getvalue().strip().splitlines()[-1]}") from None
            except (ValueError, OSError) as error:
                raise ValueError(f"{stage.title}: {command[0]}: {error}") from None


def _parse(name: str, *flags: str) -> None:
    from DDA.image_adapt.scripts import image_sample, image_train
    from DDA.model_adapt import report, test_ensemble
    from DistilledClassifier import make_data, train

    if name in ("train.py", "train_all_deg.py"):
        train.read_config(train.parser(name, "").parse_args(flags), name, 1)
        return
    parsers = {"make_data.py": make_data, "image_train.py": image_train, "image_sample.py": image_sample,
               "test_ensemble.py": test_ensemble, "report.py": report}  # fmt: skip
    parsers[name].parser().parse_args(flags)


def check_inputs(config: Mapping[str, Any], path: Path) -> None:
    """Raise FileNotFoundError for a file that the YAML names and that is not there."""
    degraded = config["degraded"]
    named = {"data.base_samples": config["data"]["base_samples"], "source": config["source"],
             "prior.model_path": config["prior"].get("model_path"),
             "degraded.base_samples": degraded["base_samples"] if isinstance(degraded, dict) else None}  # fmt: skip
    for name, value in named.items():
        if value not in (None, sources.DIGITS) and not files.find(value).exists():
            raise FileNotFoundError(f"{path}: {name} is {value}, which does not exist")


def _dotted(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a training by their dotted names: a section such as train, where it is written as one, replaces no other."""
    found = {}
    for name, value in entries.items():
        inside = value if name in ("data", "preprocess", "augment", "train") and isinstance(value, dict) else None
        found |= {name: value} if inside is None else {f"{name}.{entry}": content for entry, content in inside.items()}
    return found


def _yaml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list | None) else str(value)


def _experiment(config: Mapping[str, Any]) -> str:
    return config["training"].get("all", {}).get("dataset", config["data"]["experiment"])


def flags(entries: Mapping[str, Any], where: str = "") -> list[str]:
    """Entries of the YAML as flags of a command. Raises ValueError for values that no flag takes."""
    found = []
    for name, value in entries.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(one, str | int | float) for one in values):
            raise ValueError(f"{where}{name} is {tree.shown(value)}, but a flag takes a value, or a list of values")
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            found += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return found


# ---------------------------------------------------------------------------------------------- running them


def show(stages: Iterable[Stage]) -> int:
    for stage in stages:
        print(f"# {stage.title}")
        for command in stage.commands:
            print(shlex.join((*(("mpiexec", "-n", str(stage.ranks)) if stage.ranks > 1 else ()), *command)))
    return 0


def run(stages: list[Stage], out: Path, threads: int | None = None) -> int:
    """Run what is not finished; ``pipeline.json`` in the folder tells what is, and which images were made.

    Raises ValueError where the folder has images that these stages do not make: they would be taken for theirs.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = out / "pipeline.json"
    told = files.read_json(state) if state.is_file() else {}
    finished, made = told.get("finished", {}), told.get("made", [])
    ours = {_made(command, out) for stage in stages for command in stage.commands}
    strange = [command for command in made if command not in ours]
    if strange:
        raise ValueError(f"{out} has images of another YAML, made by: {strange[0]}; give another out, or remove this one")
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
            made += [text for text in [_made(command, out)] if text and text not in made]
            files.write_json(state, {"finished": finished, "made": made})
            status = _run(command, stage.ranks, threads)
            if status:
                print(f"{PROGRAM}: stage {where} ended with status {status}; what it said above tells why. Mend it and run the "
                      "same pipeline again: it goes on from here", file=sys.stderr)  # fmt: skip
                return status
        finished[stage.title] = digest
        files.write_json(state, {"finished": finished, "made": made})
    print(f"\n== finished in {duration(time.monotonic() - begun)}: {out / 'eval' / 'report.html'}", flush=True)
    return 0


def _made(command: tuple[str, ...], out: Path) -> str:
    """What is noted of a command that makes images, wherever ``out`` lies; nothing of others."""
    return shlex.join(command).replace(str(out), "OUT") if command[0] == "make_data.py" else ""


def _run(command: tuple[str, ...], ranks: int, threads: int | None) -> int:
    name, *rest = command
    rest = [_latest(part) for part in rest]
    print(f"$ {shlex.join((name, *rest))}", flush=True)
    launcher = ["mpiexec", "-n", str(ranks)] if ranks > 1 else []
    env = {} if threads is None else {"OMP_NUM_THREADS": str(max(1, threads // ranks))}
    return commands.call([*launcher, sys.executable, str(ROOT / SCRIPTS[name]), *rest], env)


def _latest(part: str) -> str:
    """A pattern's last file: that of the newest finished run of a stage."""
    if "*" not in part:
        return part
    above, _, pattern = part.partition("/*/")
    found = sorted(path for path in Path(above).glob(f"*/{pattern}") if (path.parent / "finished").is_file())
    if not found:
        raise FileNotFoundError(f"{part}: no finished run has such a file; was the stage before removed?")
    return str(found[-1])


if __name__ == "__main__":
    sys.exit(main())
