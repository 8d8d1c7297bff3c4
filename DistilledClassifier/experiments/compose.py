"""Configs put together from their parts.

``configs/<kind>/<DATASET>/<BACKBONE>/<stage>.yaml`` names an experiment. It is put together from
these files under ``configs/``. Each holds only what is its own, and later ones win:

    data/<DATASET>.yaml
    backbones/<domain>/<BACKBONE>.yaml
    <kind>/<stage>.yaml
    <kind>/<DATASET>.yaml
    <kind>/<DATASET>/<stage>.yaml
    <kind>/<DATASET>/<BACKBONE>/<stage>.yaml

The last three need not exist. ``own`` is the data set of one's own images, of any size and classes:
their size chooses the domain, and the classifier has as many classes as there are. ``timm/<name>``
is a backbone too. ``source`` is the network of the checkpoint that the entry ``source`` names,
which also brings its preprocessing. A name of three parts, as FusionDistill has them, means the
same: ``configs/ind/CIFAR10/ResNet56_clean.yaml`` is the stage clean of ResNet56, and
``configs/sl/CIFAR10/ResNet56-56.yaml`` is ResNet56, taught by a ResNet56, in the stage that is
called like its kind. A config of one's own, anywhere, names what it changes:
``base: configs/ind/CIFAR10/ResNet18/deg.yaml``.

A kind of experiment is a folder with ``kind.yaml``, which names the program that runs it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from DDA import files, settings, tree
from DDA.progress import printable

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
OWN = "own"  # the data set that is one's own images
SMALL = 64  # pixels, the largest size of images of the domain ``small``
SOURCE = "source"  # the backbone that is the network of the entry of this name
SHORT = re.compile(r"(?P<backbone>[A-Za-z]+\d*)(-(?P<teacher>\d+))?(_(?P<stage>\w+))?")


class Kind(NamedTuple):
    """A kind of experiment.

    program: the command that runs it. combines: whether a run learns from all known degradations.
    """

    program: str = ""
    combines: bool = False


def kinds() -> list[str]:
    """Return the names of the kinds of experiments."""
    return sorted(path.parent.name for path in CONFIGS.glob("*/kind.yaml"))


def kind_of(name: str) -> Kind:
    """Return the entries of a kind's ``kind.yaml``, or the defaults for a config without a kind."""
    if name not in kinds():
        return Kind()
    entries = files.read_yaml(CONFIGS / name / "kind.yaml")
    settings.check_names(entries, Kind._fields, f"configs/{name}/kind.yaml: ")
    settings.check_kinds(entries, {"program": str, "combines": bool}, f"configs/{name}/kind.yaml: ")
    return Kind(**entries)


def kind_of_stage(stage: str, default: str) -> str:
    """Return the kind that a stage belongs to: the folder that holds ``<stage>.yaml``."""
    return next((kind for kind in kinds() if (CONFIGS / kind / f"{stage}.yaml").is_file()), default)


def stage_name(entries: Mapping[str, Any], stage: str) -> str:
    """Return the name of the runs of a stage of an experiment.

    Another ``dataset`` or ``backbone`` keeps the runs apart.
    """
    return f"{entries.get('dataset')}_{str(entries.get('backbone')).replace('/', '-')}_{stage}"


def change(entries: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of entries with some of them set, by their dotted names.

    Raises ValueError where a name leads through an entry that has no entries below it.

    >>> change({"train": {"epochs": 3, "seed": 0}}, {"train.epochs": 20})
    {'train': {'epochs': 20, 'seed': 0}}
    """
    changed = copy.deepcopy(dict(entries))
    for name, value in changes.items():
        *above, last = name.split(".")
        section = changed
        for key in above:
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                raise ValueError(f"`{name}`: {key} has no entries")
        section[last] = copy.deepcopy(value)
    return changed


def compose(path: Path, above: tuple[Path, ...] = (), *, size: int | None = None) -> dict[str, Any]:
    """Return the merged entries of a config and of all that it is put together from.

    above: the configs that led here by their ``base``. size: of the images of a data set that
    names no domain. Raises FileNotFoundError for a part that is
    missing, ValueError for one that is wrong.
    """
    parts = _experiment(path)
    if parts is None:
        return _own(path, above, size)
    kind, dataset, backbone, stage = parts
    data = data_of(dataset)
    if dataset == OWN:
        data["domain"] = domain_of(size)
    network = _backbone(backbone, data.get("domain", ""))
    if dataset == OWN and network:
        model = network["classifier"]
        model.get("head", model)["num_classes"] = None  # as many as there are
    if backbone == SOURCE:  # it brings its preprocessing
        data.pop("preprocess", None)
    names = (f"{dataset}.yaml", f"{dataset}/{stage}.yaml", f"{dataset}/{backbone}/{stage}.yaml")
    own = [CONFIGS / kind / name for name in names if (CONFIGS / kind / name).is_file()]
    merged = {"kind": kind, "dataset": dataset, "backbone": backbone, "stage": stage}
    for part in (data, network, *map(files.read_yaml, (_part(kind, f"{stage}.yaml"), *own))):
        merged = merge(merged, part)
    return merged


def data_of(dataset: str) -> dict[str, Any]:
    """Return the entries of a data set. Raises FileNotFoundError, which lists those there are."""
    return files.read_yaml(_part("data", f"{dataset}.yaml"))


def domain_of(size: int | None) -> str:
    """Return the domain of the backbones for images of a size in pixels."""
    return "large" if isinstance(size, int) and size > SMALL else "small"


def _backbone(name: str, domain: str) -> dict[str, Any]:
    """Return the entries of a backbone. Those of ``source`` come from its checkpoint, later."""
    if name == SOURCE:
        return {}
    is_timm = name.startswith("timm/")
    file = "timm.yaml" if is_timm else f"{name}.yaml"
    network = files.read_yaml(_part(f"backbones/{domain}", file, extra=("timm/<name>", SOURCE)))
    if is_timm:
        network["classifier"]["name"] = name.removeprefix("timm/")
    return network


def exists(path: Path) -> bool:
    """Tell whether all parts of a config exist."""
    try:
        compose(path)
    except FileNotFoundError:
        return False
    return True


def _own(path: Path, above: tuple[Path, ...], size: int | None) -> dict[str, Any]:
    """Return the entries of a config of one's own, on top of its ``base``."""
    file = next((place for place in (path, CONFIGS.parent / path) if place.is_file()), None)
    if file is None:
        names = f"configs/{{{','.join(kinds())}}}/<DATASET>/<BACKBONE>/<stage>.yaml"
        raise FileNotFoundError(
            f"`config` {printable(str(path))} does not exist; experiments are {names} "
            "(DistilledClassifier/README.md)"
        )
    own = files.read_yaml(file)
    base = own.pop("base", None)
    if base is None:
        unnamed = {"kind": "", "dataset": "", "backbone": ""}
        return {**unnamed, "stage": file.stem, "name": file.stem, **own}
    if not isinstance(base, str):
        raise ValueError(f"{file}: `base`: {tree.shown(base)} is not the name of a config")
    if file in above:
        raise ValueError(f"{file}: `base`: the config is put together from itself")
    seen = own.get("preprocess")
    size = size or (seen.get("size") if isinstance(seen, dict) else None)
    return merge(compose(Path(base), (*above, file), size=size), own)


def _experiment(path: Path) -> tuple[str, str, str, str] | None:
    """Return the kind, data set, backbone and stage that a path names.

    None means a file of one's own.
    """
    inside = path.resolve()
    if not inside.is_relative_to(CONFIGS):
        if path.is_file() or "configs" not in path.parts:
            return None
        inside = CONFIGS.joinpath(*path.parts[path.parts.index("configs") + 1 :])
    parts = inside.relative_to(CONFIGS).with_suffix("").parts
    if len(parts) < 3 or parts[0] not in kinds():
        return None
    if len(parts) > 3:
        return parts[0], parts[1], "/".join(parts[2:-1]), parts[-1]
    short = SHORT.fullmatch(parts[2])
    return short and (parts[0], parts[1], short["backbone"], short["stage"] or parts[0])


def _part(folder: str, name: str, extra: Sequence[str] = ()) -> Path:
    """Return the path of a part. Raises FileNotFoundError, which lists the parts that exist."""
    path = CONFIGS / folder / name
    if not path.is_file():
        stems = sorted({file.stem for file in (CONFIGS / folder).glob("*.yaml")} - {"timm", "kind"})
        known = ", ".join((*stems, *extra))
        raise FileNotFoundError(
            f"configs/{folder} has no {printable(path.stem)}; there are {known}"
        )
    return path


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of both, where ``above`` wins.

    Mappings are merged, but one of another ``type`` replaces the whole.
    """
    merged = copy.deepcopy(dict(below))
    for name, value in above.items():
        old = merged.get(name)
        alike = (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get("type", old.get("type")) == old.get("type")
        )
        merged[name] = merge(old, value) if alike and name != "loss" else copy.deepcopy(value)
    return merged
