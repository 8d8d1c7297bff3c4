"""The whole method from one YAML: prepare, degrade, adapt, train, distil, evaluate, report.

Every stage is one or more of the project's commands, run as processes. Finished stages are skipped,
and a stopped one goes on. A stage whose command changed is run again, and so are those that need
its results.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from DDA import commands, files, settings, sources, tree
from DDA.image_adapt.prior_settings import PriorSettings
from DDA.model_adapt.choices import FITTED_RULES
from DDA.progress import Show
from DDA.studies.stages import SCRIPTS, Command, Outcome, Stage, outlook, run_stages
from DistilledClassifier import splits, train
from DistilledClassifier.degradations import DEGRADATIONS
from DistilledClassifier.experiments.compose import (
    OWN,
    SOURCE,
    change,
    data_of,
    domain_of,
    stage_name,
)
from DistilledClassifier.experiments.stages import BEST, of_known, stage_folder

if TYPE_CHECKING:  # it needs torch
    from DistilledClassifier.experiments.config import Config

TRAIN = ("train.py", "train_all_deg.py")
# entries of the config that hold flags of a command, by their names; docs/pipeline.md explains all
COMMANDS = ("prior", "adaptation", "evaluation", "report")
TRAININGS = (
    *("all", "clean", "teachers", "students", "adapted_teachers", "adapted_student", "control"),
)
# the backbone where none is named, by the domain of the images
BACKBONES = {"small": "ResNet18", "large": "ResNet50"}
OWN_LAYOUT = "digits"  # the layout of a tree of one's own images, which has the same splits
HINTS = {
    "out": str,
    "training": dict,
    "ranks": int,
    "threads": int | None,
    "seed": int,
    "source": str | None,
    "control": bool,
    **dict.fromkeys(("data", "known", "degraded", *COMMANDS), Any),
}
DATA_HINTS = {
    "base_samples": str,
    **dict.fromkeys(("experiment", "backbone", "train", "test", "classes", "labels"), str | None),
    "size": int | None,
    **dict.fromkeys(("mean", "std"), list | None),
    "held_out": float,
    "known_samples": int | None,
}
DEFAULTS = {
    "ranks": 1,
    "threads": None,
    "seed": 0,
    "source": None,
    "control": True,
    "evaluation": None,
    "report": None,
    "training": {},
}
DATA_DEFAULTS = {**dict.fromkeys(DATA_HINTS), "held_out": 0.1}
LEAST = {"ranks": 1, "threads": 1, "seed": 0, "data.known_samples": 1, "data.size": 8}
# the stages, by their titles
IMAGES = "the images, as a tree"
CLASSIFIER = "a classifier of clean images"
PRIOR = "a prior of clean images"
DEGRADED = "held-out images, degraded"
ADAPTED = "their adapted copies"
KNOWN = "known degradations of training images"
KNOWN_ADAPTED = "their adapted copies, to learn from"
TEACHERS = "teachers, one for each known degradation and view"
STUDENTS = "two students, for degraded and for adapted images"
CONTROL = "the control, trained as long without teachers and without adaptation"
FIT = "weights and gate, fitted on known degradations of held-out images"
EVALUATION = "the classifiers on both views"
REPORT = "the report"


def run(
    config: str | PathLike[str] | Mapping[str, Any],
    *,
    changes: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Run the whole method: prepare, degrade, adapt, train, distil, evaluate, report.

    Every stage runs commands of this project as processes. Finished stages are skipped, so the same
    call goes on after a failure or an interruption.

    Args:
        config: a YAML, or its entries. docs/pipeline.md lists them, scripts/pipelines/ has
            examples.
        changes: entries by their dotted names, such as ``{"prior.minutes": 10}``. They win over
            those of the config.
        dry_run: check everything and run nothing. The outcome has the commands, and the time of
            those that can be measured now.
        quiet: print errors only.

    Returns:
        What became of each stage, and the path of the report. A stage that fails is no exception:
        ``status`` is then that of its command.

    Raises:
        FileNotFoundError: the YAML, or a file that the config names, does not exist.
        ValueError: an entry is wrong, a command would refuse it, or the folder holds images of
            another config.
        KeyboardInterrupt: the run was stopped, after the running command saved its state.

    Example:
        >>> from DDA.studies import pipeline
        >>> planned = pipeline.run(digits_yaml, changes={"seed": 1}, dry_run=True)
        >>> planned.stages["the images, as a tree"]["commands"]
        ['make_data.py prepare --base_samples digits --save_dir runs/quickstart/clean']
    """
    return run_config(config, changes or {}, dry_run=dry_run, show=Show(quiet=quiet))


def run_config(
    config: str | PathLike[str] | Mapping[str, Any],
    changes: Mapping[str, Any],
    *,
    dry_run: bool,
    show: Show,
) -> Outcome:
    """Run the whole method as `run` does. show: where the plan is printed."""
    config = config if isinstance(config, Mapping) else Path(config)
    entries = read_config(config, changes)
    stages, out = plan(entries), Path(entries["out"])
    check_inputs(entries, _name(config))
    images = own_images(entries, _name(config))
    trainings = check(stages, images)
    check_source(entries, trainings)
    check_data(entries, trainings, _name(config), images)
    if dry_run:
        return outlook(stages, out, entries["threads"], show)
    return run_stages(stages, out, entries["threads"], show)


def read_config(config: Path | Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked entries of a config. Raises FileNotFoundError and ValueError."""
    entries = config
    if isinstance(config, Path):
        if not config.is_file():
            raise FileNotFoundError(f"{config} is not a file; scripts/pipelines/ has examples")
        entries = files.read_yaml(config)
    try:
        return check_entries(change(entries, changes))
    except ValueError as error:
        raise ValueError(f"{_name(config)}: {error}") from None


def _name(config: Path | Mapping[str, Any]) -> str:
    """Return the name of a config for messages."""
    return f"{config}" if isinstance(config, Path) else "config"


def check_entries(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries with the defaults of those that are not given.

    Raises ValueError for an entry that is unknown, missing or cannot be meant.
    """
    config = {**DEFAULTS, **entries}
    settings.check_names(config, HINTS)
    settings.check_kinds(config, HINTS)
    sections = [name for name in ("data", *COMMANDS) if name in config]
    config |= {name: _section(name, config[name]) for name in sections}
    data = {**DATA_DEFAULTS, **config.get("data", {})}
    settings.check_names(data, DATA_HINTS, "data.")
    settings.check_names(config["training"], TRAININGS, "training.")
    training = {
        name: _section(f"training.{name}", value) for name, value in config["training"].items()
    }
    missing = [name for name in HINTS if name not in config]
    missing += ["data.base_samples"] if data["base_samples"] is None else []
    if missing:
        raise ValueError(f"`{missing[0]}` is missing")
    settings.check_kinds(data, DATA_HINTS, "data.")
    for name in ("train", "test", "experiment", "backbone"):
        if data[name] is not None:
            tree.check_name(data[name], f"`data.{name}`:")  # they become folders
    data = _completed(data, config["source"], has_prior="model_path" in config["prior"])
    _check_known(config["known"])
    _check_degraded(config["degraded"])
    for name in COMMANDS:
        flags(config[name], f"{name}.")
    for name in ("dataset", "train", "corruption", "severity"):
        if name in config["adaptation"]:
            raise ValueError(f"`adaptation.{name}` is that of `degraded`; leave it out")
    _check_numbers(config, data)
    if not config["out"]:
        raise ValueError("`out` is empty; name the folder of the results")
    return {**config, "data": data, "training": training}


def _completed(data: Mapping[str, Any], source: str | None, *, has_prior: bool) -> dict[str, Any]:
    """Return the entries of ``data`` with the experiment, the backbone and the splits.

    has_prior: whether a prior is given, so that none is trained. Raises ValueError where the size
    of one's own images is missing, and FileNotFoundError for an experiment that is unknown.
    """
    if data["experiment"] in (None, OWN):
        is_given = has_prior and source is not None and data["backbone"] in (None, SOURCE)
        if data["size"] is None and not is_given:
            raise ValueError(
                "`data.size` is missing: the side in pixels of the images, as a prior makes them "
                "and as a classifier sees them that is trained here"
            )
        domain, known = domain_of(data["size"]), {"experiment": OWN}
    else:
        shipped = data_of(data["experiment"])
        domain = shipped["domain"]
        known = {"train": shipped["data"]["train"], "test": shipped["data"]["val"]}
    known["backbone"] = SOURCE if source is not None else BACKBONES[domain]
    return {**data, **{name: data[name] or value for name, value in known.items()}}


def _check_known(known: Any) -> None:
    """Raise ValueError unless ``known`` lists degradations."""
    names = ("clean", *DEGRADATIONS)
    if not isinstance(known, list) or not known or any(name not in names for name in known):
        raise ValueError(
            f"`known` is {tree.shown(known)}, but it is a list of some of {', '.join(names)}"
        )


def _check_degraded(degraded: Any) -> None:
    """Raise ValueError unless ``degraded`` is a tree or a list of commands."""
    entries = settings.as_list(degraded) or [None]
    wanted = "base_samples" if isinstance(degraded, dict) else "command"
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get(wanted), str):
            raise ValueError(
                "`degraded` is {base_samples: TREE, …}, "
                "or a list of {command: degrade or corrupt, …}"
            )
        flags(entry, "degraded.")


def _check_numbers(config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise ValueError for a number that is too small."""
    numbers = {**config, "data.known_samples": data["known_samples"], "data.size": data["size"]}
    for name, least in LEAST.items():
        if numbers[name] is not None and numbers[name] < least:
            raise ValueError(f"`{name}` {numbers[name]} must be at least {least}")
    if not 0 < data["held_out"] < 1:
        raise ValueError(f"`data.held_out` {data['held_out']} is no share between 0 and 1")


def _section(name: str, value: Any) -> dict[str, Any]:
    """Return the entries of a section, which may be empty. Raises ValueError for anything else."""
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"`{name}` is {value!r}, but it holds entries, such as {{batch_size: 16}}")
    return value or {}


# ----------------------------------------------------------------------------------- the stages


def plan(config: Mapping[str, Any]) -> list[Stage]:
    """Return the stages of a config, in order."""
    steps = _Steps(config)
    return [
        *steps.clean_images(),
        *steps.adaptation(),
        *steps.training(),
        *steps.evaluation(),
    ]


def _command(*words: str, **values: Any) -> Command:
    """Return a command: its words, then its flags by their names."""
    return (*words, *flags(values))


class _Steps:
    """The stages of a config, and the names of the files that they leave for each other."""

    def __init__(self, config: Mapping[str, Any]):
        self._config, self._data, self._known = config, config["data"], config["known"]
        self._is_own = self._data["experiment"] == OWN
        named = (splits.TRAIN, splits.TEST)
        self._splits = named if self._is_own else (self._data["train"], self._data["test"])
        self._out, self._ranks = Path(config["out"]), config["ranks"]
        self._clean, self._saved = f"{self._out / 'clean'}", f"{self._out / 'saved'}"
        self._seed = {"seed": config["seed"]}
        prior = dict(config["prior"])
        self._prior = f"{prior.pop('model_path', self._out / 'prior/ema.pt')}"
        self._prior_entries = prior
        degraded = config["degraded"]
        self._cells = {"dataset": "imagenetc", "corruption": "all", "severity": "all"}
        self._degraded = f"{self._out / 'degraded'}"
        if isinstance(degraded, dict):  # the degraded images exist already
            self._degraded = degraded["base_samples"]
            self._cells |= _without(degraded, "base_samples")
        self._known_cells = {
            "dataset": OWN_LAYOUT if self._is_own else self._data["experiment"].lower(),
            "train": "True",
            "corruption": self._known,
        }

    def clean_images(self) -> Iterator[Stage]:
        """Prepare the images; train a classifier and a prior where none is given."""
        data = self._data
        paths = {"base_samples": data["base_samples"], "save_dir": self._clean}
        chosen = {"classes": data["classes"], "labels": data["labels"]}
        if self._is_own:
            chosen["classes"] = data["classes"] or splits.FOLDERS
            chosen |= {"test_share": data["held_out"]}
            chosen |= {"train": data["train"], "test": data["test"]}
        paths |= {name: value for name, value in chosen.items() if value is not None}
        yield Stage(IMAGES, (_command("make_data.py", "prepare", **paths),))
        if self._config["source"] is None:
            classifier = self._train("train.py", "ind", "clean", ("clean",))
            yield Stage(CLASSIFIER, (classifier,), needs=(IMAGES,))
        if "model_path" not in self._config["prior"]:
            size = {} if data["size"] is None else {"image_size": data["size"]}
            paths = {
                "base_samples": self._clean,
                "cell": f"clean/{self._splits[0]}",
                "save_dir": self._out / "prior",
            }
            entries = {**paths, **self._seed, **size, **self._prior_entries}
            yield Stage(PRIOR, (_command("image_train.py", **entries),), self._ranks, (IMAGES,))

    def adaptation(self) -> Iterator[Stage]:
        """Degrade the test images and the training images, and adapt both."""
        (train, test), degraded = self._splits, self._config["degraded"]
        if isinstance(degraded, list):
            shared = {
                "base_samples": self._clean,
                "split": test,
                "save_dir": self._degraded,
                **self._seed,
            }
            made = []
            for entry in degraded:
                own = _without(entry, "command")
                made.append(_command("make_data.py", entry["command"], **{**shared, **own}))
            yield Stage(DEGRADED, tuple(made), needs=(IMAGES,))
        cells = self._cells
        if self._is_own and isinstance(degraded, dict):  # that tree may not tell its classes
            cells = {"classes": f"{self._clean}/{tree.CLASSES}", **cells}
        copies = self._adapt(self._degraded, cells, "adapted")
        yield Stage(ADAPTED, (copies,), self._ranks, (PRIOR, DEGRADED))
        shared = {"base_samples": self._clean, "split": train, "save_dir": self._clean}
        if self._data["known_samples"] is not None:
            shared["num_samples"] = self._data["known_samples"]
        kinds = [name for name in self._known if name != "clean"]
        degrade = partial(_command, "make_data.py", "degrade", **shared, **self._seed)
        made = tuple(degrade(type=name) for name in kinds)
        yield Stage(KNOWN, made, needs=(IMAGES,))
        copies = self._adapt(self._clean, self._known_cells, "known_adapted")
        yield Stage(KNOWN_ADAPTED, (copies,), self._ranks, (PRIOR, KNOWN))

    def _adapt(self, source: str, cells: Mapping[str, Any], target: str) -> Command:
        """Return the command that adapts some cells of a source."""
        paths = {"model_path": self._prior, "base_samples": source, "save_dir": self._out / target}
        fit = {"fit": "whole"} if self._is_own else {}  # photographs are of any shape
        method = {**self._seed, **fit, **self._config["adaptation"]}
        return _command("image_sample.py", **{**paths, **method, **cells})

    def training(self) -> Iterator[Stage]:
        """Train teachers of each known degradation and view, a student of each view, a control."""
        teachers = []
        views = (("deg", ("teachers",)), ("adapt", ("teachers", "adapted_teachers")))
        for name, (stage, groups) in itertools.product(self._known, views):
            if (name, stage) != ("clean", "deg"):
                teachers.append(self._train("train.py", "ind", stage, groups, dt=name))
        yield Stage(TEACHERS, tuple(teachers), needs=(CLASSIFIER, KNOWN_ADAPTED))
        train = partial(self._train, "train_all_deg.py", "deg_all", dt=",".join(self._known))
        views = (("degDistill", ("students",)), ("adaptDistill", ("students", "adapted_student")))
        students = tuple(train(stage, groups) for stage, groups in views)
        yield Stage(STUDENTS, students, needs=(TEACHERS,))
        if self._config["control"]:
            control = train("deg_all", ("students", "control"), no_teachers=True)
            yield Stage(CONTROL, (control,), needs=(CLASSIFIER, IMAGES))

    def _train(
        self,
        program: str,
        kind: str,
        stage: str,
        groups: tuple[str, ...],
        *,
        no_teachers: bool = False,
        **more: str,
    ) -> Command:
        """Return the command of a training.

        groups: the entries of ``training`` that it takes beside those of ``all``. no_teachers:
        leave out what these say of losses and teachers.
        """
        config, data = self._config, self._data
        entries = {
            "data.root": self._clean,
            "data.adapted": self._out / "known_adapted",
            "data.train": self._splits[0],
            "data.held_out": data["held_out"],
            "train.seed": config["seed"],
        }
        entries |= {} if config["source"] is None else {"source": config["source"]}
        entries |= self._preprocess()
        for group in ("all", *groups):
            entries |= _dotted(config["training"].get(group, {}))
        if no_teachers:
            taught = ("loss", "panel", "teachers")
            entries = {n: value for n, value in entries.items() if n.split(".")[0] not in taught}
        path = f"configs/{kind}/{data['experiment']}/{data['backbone']}/{stage}.yaml"
        chosen = [f"{name}={_yaml(value)}" for name, value in entries.items()]
        return _command(program, config=path, save_dir=self._saved, **more, set=chosen)

    def _preprocess(self) -> dict[str, Any]:
        """Return the entries of a training that ``data`` says of classes and preprocessing."""
        data = self._data
        size = None if data["backbone"] == SOURCE else data["size"]
        seen = {"size": size, "mean": data["mean"], "std": data["std"]}
        entries = {f"preprocess.{name}": value for name, value in seen.items() if value is not None}
        if data["classes"] is not None and not self._is_own:
            entries["data.classes"] = data["classes"]
        return entries

    def evaluation(self) -> Iterator[Stage]:
        """Fit the rules that have parameters, evaluate both students on both views, and report."""
        config, known = self._config, of_known(self._known)
        students = [self._best(known, "deg_all", s) for s in ("degDistill", "adaptDistill")]
        words = ("configs/ensemble/any.yaml", students[0])
        evaluate = ("test_ensemble.py", *words, "--second_model_prefix", students[1])
        rules = settings.as_list(config["evaluation"].get("ensemble", []))
        if set(FITTED_RULES) & set(rules):
            views = {
                "data_prefix1": self._clean,
                "data_prefix2": self._out / "known_adapted",
                "out": self._out / "fit",
            }
            fit = _command(*evaluate, "--fit", **views, **self._known_cells)
            yield Stage(FIT, (fit,), needs=(STUDENTS,))
        control = {"control": self._best(known, "deg_all", "deg_all")} if config["control"] else {}
        views = {
            "source": config["source"] or self._best("clean", "ind", "clean"),
            **control,
            "data_prefix1": self._degraded,
            "data_prefix2": self._out / "adapted",
            "out": self._out / "eval",
        }
        compare = _command(*evaluate, **{**views, **self._cells, **config["evaluation"]})
        yield Stage(EVALUATION, (compare,), needs=(ADAPTED, STUDENTS, CONTROL, FIT))
        report = _command("report.py", f"{self._out / 'eval'}", **config["report"])
        yield Stage(REPORT, (report,), needs=(EVALUATION,))

    def _best(self, degradation: str, kind: str, stage: str) -> str:
        """Return a pattern of the best weights of the runs of a stage."""
        shared = self._config["training"].get("all", {})
        experiment = shared.get("dataset", self._data["experiment"])
        entries = {"dataset": experiment, "backbone": self._data["backbone"]}
        folder = stage_folder(Path(self._saved), kind, degradation, stage_name(entries, stage))
        return f"{folder}/*/{BEST}"


def _without(entries: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in entries.items() if other != name}


def check(stages: Iterable[Stage], images: OwnImages | None = None) -> list[Config]:
    """Raise ValueError for anything that a command would refuse, before the first one runs.

    images: those of one's own, which tell the classes of the tree that is not made yet. Returns the
    configs of the trainings.
    """
    classes = {} if images is None else {"data.classes": list(images.source.classes)}
    trainings: list[Config] = []
    priors: dict[str, PriorSettings] = {}
    for stage in stages:
        for command in stage.commands:
            errors = io.StringIO()
            name, *words = command
            parser = _parser(name)
            try:
                with contextlib.redirect_stderr(errors):
                    values, _ = parser.read(words)
                if name in TRAIN:
                    trainings.append(_check_training(name, values, classes))
                else:
                    _check_values(name, values, stage.ranks, priors)
            except SystemExit:
                last = errors.getvalue().strip().splitlines()[-1]
                raise ValueError(f"{stage.title}: {last}") from None
            except (ValueError, OSError) as error:
                text = commands.with_flags(f"{error}", parser.flags)
                raise ValueError(f"{stage.title}: {name}: {text}") from None
    return trainings


def _parser(name: str) -> commands.Parser:
    """Return the parser of one of SCRIPTS."""
    if name in TRAIN:
        return train.parser(name)
    return _module(name).parser()


def _module(name: str) -> Any:
    """Return the module of one of SCRIPTS."""
    return importlib.import_module(SCRIPTS[name].removesuffix(".py").replace("/", "."))


def _check_values(
    name: str, values: dict[str, Any], ranks: int, priors: dict[str, PriorSettings]
) -> None:
    """Raise ValueError for values that a command would refuse; nothing is opened.

    priors: the settings of the priors that are trained before, by their files; that of this command
    is added.
    """
    if name == "make_data.py":
        from DistilledClassifier import making

        making.check(values.pop("command"), values)
    elif name == "image_sample.py":
        unused = _module(name).UNUSED
        chosen = {one: values[one] for one in values if one not in unused}
        _check_timesteps(_module(name).settings_of(chosen)[1], priors)
    elif name == "image_train.py":
        trained = _module(name).check(values, ranks)
        priors[f"{trained.save_dir / 'ema.pt'}"] = trained
    else:
        _module(name).check(values, ranks)


def _check_timesteps(arguments: Mapping[str, Any], priors: Mapping[str, PriorSettings]) -> None:
    """Raise ValueError where an adaptation needs timesteps that its prior is not trained for."""
    trained = priors.get(f"{arguments['model_path']}")
    if trained is None or not trained.record():
        return
    from DDA.image_adapt import prior
    from DDA.image_adapt.settings import Method, method

    names = [item.name for item in fields(Method)]
    chosen = method(arguments["speed"], **{name: arguments[name] for name in names})
    process = prior.process_of(trained.flags(trained.image_size or 1), chosen.timestep_respacing)
    path = trained.save_dir / "ema.pt"
    prior.check_timesteps(path, trained.record()["timesteps"], process, chosen)


def _check_training(name: str, values: dict[str, Any], classes: Mapping[str, Any]) -> Config:
    """Return the config of a training. Raises ValueError and FileNotFoundError for a wrong one.

    classes: the entry of classes that are known before their tree is made.
    """
    from DistilledClassifier.experiments.config import configure

    training = train.settings_of(values)
    return configure(replace(training, changes={**classes, **training.changes}), program=name)


class OwnImages(NamedTuple):
    """One's own images: their source, which tells the classes, and their division."""

    source: sources.Source
    division: splits.Division


def own_images(config: Mapping[str, Any], where: str) -> OwnImages | None:
    """Return one's own images as `make_data.py prepare` divides them; None for a published set.

    where: the name of the config. Raises ValueError where they cannot be divided.
    """
    data = config["data"]
    if data["experiment"] != OWN:
        return None
    from DistilledClassifier.making import Originals, divided

    path, classes = files.find(data["base_samples"]), data["classes"] or splits.FOLDERS
    labels = None if data["labels"] is None else files.find(data["labels"])
    try:
        originals = Originals(path, classes=classes, labels=labels)
        return OwnImages(*divided(originals, data["held_out"], data["train"], data["test"]))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{where}: `data`: {error}") from None


def check_inputs(config: Mapping[str, Any], where: str) -> None:
    """Raise FileNotFoundError for a file that the config names and that does not exist.

    where: the name of the config.
    """
    degraded = config["degraded"]
    named = {
        "data.base_samples": config["data"]["base_samples"],
        "data.labels": config["data"]["labels"],
        "source": config["source"],
        "prior.model_path": config["prior"].get("model_path"),
        "degraded.base_samples": degraded["base_samples"] if isinstance(degraded, dict) else None,
    }
    for name, value in named.items():
        if value == "":
            raise ValueError(f"{where}: `{name}` is empty; name a file or a folder")
        path = None if value is None else files.find(value)
        if path is not None and not (sources.exists(path) or files.is_there(path)):
            raise FileNotFoundError(f"{where}: `{name}` is {value}, which does not exist")


def check_source(config: Mapping[str, Any], trainings: Sequence[Config]) -> None:
    """Raise ValueError where a training could not use the source, before the first one runs.

    It must tell its architecture, its classes must be those of the data, and its weights must fit
    the classifiers that start from it.
    """
    if config["source"] is None:
        return
    from DistilledClassifier import classifiers

    path, training = files.find(config["source"]), trainings[0]
    classes = training.data.class_names
    with _named("source"):
        content = classifiers.read(path)
        source = classifiers.load(path, content)
        own = source.classes
        count = source.scores([]).shape[1]
        if count != len(classes) or (own is not None and own != classes):
            theirs = f"{count} classes" if own is None else f"the classes {tree.shown(own)}"
            raise ValueError(
                f"{path} has {theirs}, but the data have {tree.shown(classes)}, in this order; "
                "name the same list as data.classes"
            )
    if training.init == "clean" and training.backbone != SOURCE:
        network = classifiers.build(classifiers.unfilled(training.classifier))
        with _named("source", "; leave out data.backbone to train the source's own network"):
            classifiers.initialise(network, path, content)


@contextlib.contextmanager
def _named(entry: str, advice: str = "") -> Iterator[None]:
    """Name the entry of the config in an error about its value, and say what to do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"`{entry}`: {error}{advice}") from None


def check_data(
    config: Mapping[str, Any],
    trainings: Iterable[Config],
    where: str,
    images: OwnImages | None = None,
) -> None:
    """Raise ValueError where the images have no such splits, or other classes than a training.

    Too few of one's own images for a batch are refused too. where: the name of the config.
    """
    from DistilledClassifier.data.views import check_classes

    if images is not None:
        for training in trainings:
            check_classes(images.source, training.data.class_names)
            _check_counts(config, training, images.division, where)
        return

    source = sources.open_official(files.find(config["data"]["base_samples"]))
    folders = {name.removeprefix("clean/").partition("/")[0] for name in source.names}
    for name in ("train", "test"):
        if config["data"][name] not in folders:
            known = ", ".join(sorted(folders)[:5])
            more = f", … ({len(folders)} in all)" if len(folders) > 5 else ""
            raise ValueError(
                f"{where}: `data.{name}` {config['data'][name]} is no folder of {source.path}; "
                f"there are {known}{more}"
            )
    for training in trainings:
        check_classes(source, training.data.class_names)


def _check_counts(
    config: Mapping[str, Any], training: Config, division: splits.Division, where: str
) -> None:
    """Raise ValueError where a training has no validation image, or fewer images than a batch."""
    keys, share = sorted(division.keys(splits.TRAIN)), training.data.held_out
    if training.view == "adapted" and config["data"]["known_samples"] is not None:
        keys = tree.spread(keys, config["data"]["known_samples"])
    if share is None:
        return
    held_out = sum(tree.is_held_out(key, share) for key in keys)
    if not held_out:
        raise ValueError(
            f"{where}: `data.held_out` {share:g} leaves none of the {len(keys)} training images to "
            "validate on; raise it, or add images"
        )
    if len(keys) - held_out < training.train.batch_size:
        raise ValueError(
            f"{where}: the stage {training.stage} trains on {len(keys) - held_out} images, fewer "
            f"than its `train.batch_size` {training.train.batch_size}; lower it, for all stages as "
            "`training.all.train.batch_size`"
        )


def _dotted(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a training by their dotted names.

    A whole section, such as train, becomes its entries: it changes these and leaves the others.
    """
    dotted = {}
    for name, value in entries.items():
        if name in ("data", "preprocess", "augment", "train") and isinstance(value, dict):
            dotted |= {f"{name}.{entry}": content for entry, content in value.items()}
        else:
            dotted[name] = value
    return dotted


def _yaml(value: Any) -> str:
    if isinstance(value, dict | list | None):
        return json.dumps(value)
    text = str(value)
    # YAML takes 1e-05 for text, and 1.0e-05 for a number
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text


def flags(entries: Mapping[str, Any], where: str = "") -> list[str]:
    """Return entries as flags of a command. Raises ValueError for values that no flag takes."""
    words = []
    for name, value in entries.items():
        values = settings.as_list(value)
        if not values or not all(isinstance(one, str | int | float | Path) for one in values):
            raise ValueError(
                f"`{where}{name}` is {tree.shown(value)}, "
                "but a flag takes a value, or a list of values"
            )
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, values)]
    return words
