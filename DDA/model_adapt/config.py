"""Configs of evaluations: they are searched for, read as plain values, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from DDA import files, settings, tree
from DDA.model_adapt.choices import FITTED_RULES, FUSE_RULES, METRICS, RULES, SCORES
from DDA.model_adapt.settings import Settings
from DDA.sources.cells import LAYOUTS
from DistilledClassifier.classifiers import quietly

# the values that some entries of ``evaluation`` may have
CHOICES = {
    "ensemble": (*RULES, *FITTED_RULES, *FUSE_RULES),
    "scores": SCORES,
    "metrics": METRICS,
}
DATA_CONFIGS = (".yaml", ".yml", ".json")  # configs that hold values; all others are code
# the types of the entries that are read, by their group
KINDS = {
    "": dict.fromkeys(("data", "evaluation", "model"), dict),
    "data": {"test": dict, "samples_per_gpu": int},
    "data.test": {
        "pipeline": list,
        "pipeline2": list,
        **dict.fromkeys(("layout", "classes", "data_prefix1", "data_prefix2"), str | None),
    },
    "evaluation": {"corruption": list, "severity": list},
}


def read_config(path: Path, options: list[str]) -> dict[str, Any]:
    """Return the entries of a config as plain values.

    A .py config is code, which mmcv runs. A .yaml or .json config holds values and nothing else: no
    tag, import or base in it leads to code.

    options: changes, written as NAME=VALUE. Raises FileNotFoundError where there is no config, and
    ValueError for a wrong entry.
    """
    place = _find(path)
    if place.suffix in DATA_CONFIGS and not options:
        content = _data_config(place)
    else:
        content = _read_by_mmcv(place, options)
    _check_entries(content, place)
    return content


def _read_by_mmcv(place: Path, options: list[str]) -> dict[str, Any]:
    """Return the entries of a config that is code, or of one that options change."""
    Config, DictAction = _mmcv()
    is_data = place.suffix in DATA_CONFIGS
    config = Config(_data_config(place)) if is_data else Config.fromfile(str(place))
    changes = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"`cfg_options` {option} is not NAME=VALUE")
        changes[name] = DictAction._parse_iterable(value)
    config.merge_from_dict(changes)
    return _plain(config._cfg_dict)


def _mmcv() -> tuple[Any, Any]:
    """Return mmcv's Config and DictAction. Raises ValueError where they are missing."""
    try:
        with quietly():
            from mmcv import Config, DictAction
    except ImportError as error:
        raise ValueError(
            "configs of mmcls, and options of configs, need mmcv: pip install 'diffaud[mmcls]' "
            f"({error}); configs/ensemble/any.yaml needs neither"
        ) from None
    return Config, DictAction


def _find(path: Path) -> Path:
    """Return a config's path, as it is named from here, from this folder, or from those above."""
    here = Path(__file__).parent
    places = [path, *(folder / path for folder in (here, here.parent, here.parent.parent))]
    for place in places:
        if place.is_file():
            return place
    known = ", ".join(sorted(file.name for file in (here / "configs" / "ensemble").glob("*.*")))
    raise FileNotFoundError(f"{path} does not exist; in configs/ensemble/ there are {known}")


def _data_config(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the entries of a .yaml or .json config over those of its ``_base_``.

    above: the configs that inherit from this one. Raises ValueError for entries that would execute
    code.
    """
    if path.suffix not in DATA_CONFIGS:
        raise files.BadFile(
            f"{above[-1]} inherits from {path}: a config of values inherits "
            f"from {', '.join(DATA_CONFIGS)} only, for any other would be executed"
        )
    if path.resolve() in above:
        raise files.BadFile(f"{path} inherits from itself")
    own = files.read_config_json(path) if path.suffix == ".json" else files.read_yaml(path)
    if "custom_imports" in own:
        raise files.BadFile(
            f"{path} asks for custom_imports, which execute code; only a .py config may"
        )
    bases = settings.as_list(own.pop("_base_", []))
    if not all(isinstance(base, str) for base in bases):
        raise files.BadFile(f"{path}: _base_ is the name of a config, or a list of names")
    if not bases:
        return own
    Config, merged = _mmcv()[0], {}
    for base in bases:
        entries = _data_config(path.parent / base, (*above, path.resolve()))
        merged = Config._merge_a_into_b(entries, merged)
    with files.parsing(path, "config whose entries fit those of its _base_"):
        return Config._merge_a_into_b(own, merged)


def _check_entries(content: dict[str, Any], path: Path) -> None:
    """Raise ValueError for an entry that is missing or has a wrong value."""
    for group, hints in KINDS.items():
        entries = content
        for name in group.split(".") if group else ():
            entries = entries.get(name, {})
        prefix = f"{path}: {group}." if group else f"{path}: "
        settings.check_kinds(entries, hints, prefix)
    data, evaluation = content.get("data", {}), content.get("evaluation", {})
    test = data.get("test", {})
    for name in ("pipeline", "pipeline2"):
        steps = test.get(name, [])
        if not all(isinstance(step, dict) and _is_text(step.get("type")) for step in steps):
            raise files.BadFile(
                f"{path}: data.test.{name} is a list of steps of the form {{type: NAME, …}}"
            )
    for name, known in CHOICES.items():
        for value in settings.as_list(evaluation.get(name, [])):
            if value not in known:
                raise files.BadFile(
                    f"{path}: evaluation.{name} {tree.shown(value)} is unknown; "
                    f"use one of {', '.join(known)}"
                )
    if data.get("samples_per_gpu", 64) < 1 or test.get("layout") not in (None, *LAYOUTS):
        raise files.BadFile(
            f"{path}: data.samples_per_gpu is at least 1, "
            f"and data.test.layout one of {', '.join(LAYOUTS)}"
        )


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Return the settings of a command line over those of its config.

    given: the values of the command line; None overrides nothing. Raises FileNotFoundError and
    ValueError.
    """
    values = dict(given)
    path = values.pop("config")
    entries = read_config(path, values.pop("cfg_options"))
    topk = _topk(values.pop("metric_options"))
    values = {name: value for name, value in values.items() if value is not None}
    data, evaluation = entries.get("data", {}), entries.get("evaluation", {})
    test = data.get("test", {})
    steps = test.get("pipeline", [])
    # the config's corruptions are folders of its own layout
    is_other = values.get("layout") == "folder" != test.get("layout")
    config = {
        "layout": test.get("layout"),
        "degraded": test.get("data_prefix1"),
        "adapted": test.get("data_prefix2"),
        "train": test.get("train", False),
        "classes": test.get("classes"),
        "model": entries.get("model", {}),
        "pipelines": (steps, test.get("pipeline2", steps)),
        "second": values["first"],
        "batch_size": data.get("samples_per_gpu", 64),
        "rules": settings.as_list(evaluation.get("ensemble", "sum")),
        "corruption": [] if is_other else list(evaluation.get("corruption", ["all"])),
        "severity": [str(severity) for severity in evaluation.get("severity", ["all"])],
        "scores": evaluation.get("scores", "logits"),
        "metrics": list(evaluation.get("metrics", ["accuracy"])),
        "topk": topk,
    }
    merged = {**config, **values}
    for name in ("degraded", "adapted"):
        if merged[name] is None:
            raise ValueError(f"`{name}` is missing, and {path} does not name it either")
        merged[name] = files.find(merged[name])
    if merged["fit"]:
        merged["rules"] = ["sum"]
    return Settings(**merged)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _topk(options: list[str]) -> int:
    """Return k of the option ``topk=k``; 5 is the default. Raises ValueError for another option."""
    for option in options:
        name, _, value = option.partition("=")
        number = value.split(",")[-1].strip("() ")
        if name != "topk" or not number.isdigit():
            raise ValueError(f"`metric_options` {option} is unknown; use topk=5")
        return int(number)
    return 5


def _plain(value: Any) -> Any:
    """Return a value of mmcv's Config with Python's own dicts; lists and tuples keep their type."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
