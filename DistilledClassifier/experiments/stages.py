"""The stages of an experiment: where their runs lie, and how they find each other's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from DDA import fetching, files, ledger
from DistilledClassifier.experiments.compose import exists, kind_of, kind_of_stage, stage_name
from DistilledClassifier.experiments.settings import COMBINED

if TYPE_CHECKING:  # it needs torch
    from DistilledClassifier.experiments.config import Config

BEST, LAST = "model_best.pth", "model_last.pth"
FINISHED = "finished"  # the file, in the folder of a run that spent its budget, with its result


def stage_folder(save_dir: Path, kind: str, degradation: str, name: str) -> Path:
    """Return the folder of the runs of a stage: <degradation>/<kind>/<name>/train."""
    return save_dir / degradation / kind / name / "train"


def of_known(known: Sequence[str]) -> str:
    """Return the folder name of a stage that learns from these degradations."""
    return known[0] if len(known) == 1 else COMBINED


def latest_finished(folder: Path, name: str) -> Path | None:
    """Return a file, such as the best weights, of the latest finished run in a folder, or None."""
    finished = sorted(
        path for path in folder.glob(f"*/{name}") if (path.parent / FINISHED).is_file()
    )
    return finished[-1] if finished else None


@dataclass(frozen=True)
class Inputs:
    """The files of weights that a run starts from, and the settings of its adapted copies."""

    init: Path | None
    teachers: tuple[Path, ...]
    adapted: dict[str, Any] | None

    @cached_property
    def digests(self) -> dict[str, Any]:
        """Return what identifies these inputs, as plain values; each file is hashed once."""
        hashes = {path: files.sha256(path) for path in {self.init, *self.teachers} - {None}}
        return {
            "init": self.init and hashes[self.init],
            "teachers": [hashes[path] for path in self.teachers],
            "adapted": self.adapted,
        }


def find_inputs(config: Config, save_dir: Path) -> Inputs:
    """Return what a run of a config starts from.

    Raises ValueError and FileNotFoundError, which say what to run or fetch first.
    """
    teachers = _find_teachers(config, save_dir)
    adapted = None
    if config.view == "adapted":
        adapted = ledger.read_settings(files.find(config.data.adapted))
    return Inputs(_find_init(config, save_dir), tuple(teachers), adapted)


def _find_teachers(config: Config, save_dir: Path) -> list[Path]:
    """Return the weights of each teacher, in the order of the known degradations."""
    teachers = []
    for name in config.known if config.teachers else ():
        # clean images are not degraded, but may be adapted
        is_clean = name == "clean" and config.teachers == "deg"
        stage = "clean" if is_clean else config.teachers
        teachers.append(_stage_of(config, stage, name, save_dir))
    return list(dict.fromkeys(teachers)) if config.panel.how == "averaged" else teachers


def _find_init(config: Config, save_dir: Path) -> Path | None:
    """Return the file of weights to start from.

    None means that there are none, or that a library fetches them.
    """
    init = config.init
    if not init:
        return None
    is_pretrained = init == "pretrained"
    if is_pretrained and config.pretrained is None:
        if not config.classifier.get("pretrained"):
            raise ValueError(
                "`init` pretrained, but the backbone names no pretrained weights; give a file as "
                "`init`"
            )
        return None
    if not is_pretrained and kind_of_stage(init, ""):
        return _stage_of(config, init, config.known[0], save_dir)
    path = files.find(config.pretrained if is_pretrained else init)
    fetching.ensure(path)
    if path.is_file():
        return path
    if is_pretrained:
        raise FileNotFoundError(
            f"the pretrained weights {path} are missing: the file of this name is in OpenMMLab's "
            "model zoo (mmcls 0.x); put it there, or give other weights as `init`"
        )
    raise FileNotFoundError(
        f"`init` {init} is not a file; give one, or set init=null to start from nothing"
    )


def _stage_of(config: Config, stage: str, degradation: str, save_dir: Path) -> Path:
    """Return the best weights of another stage of this experiment.

    Raises FileNotFoundError that says what to run.
    """
    if stage == "clean" and config.source:
        return files.find(config.source)
    kind = kind_of_stage(stage, config.kind)
    combines = kind_of(kind).combines
    known = ",".join(config.known) if combines else degradation
    if stage == "clean":
        degradation = "clean"
    elif combines:
        degradation = of_known(config.known)
    folder = stage_folder(save_dir, kind, degradation, stage_name(config.raw, stage))
    best = latest_finished(folder, BEST)
    if best is None:
        path = f"configs/{kind}/{config.dataset}/{config.backbone}/{stage}.yaml"
        entries = f"`dataset` {config.dataset} and `backbone` {config.backbone}"
        named = path if exists(Path(path)) else f"a config of the stage {stage} with {entries}"
        chosen = "" if degradation == "clean" else f"`known` {known} and "
        raise FileNotFoundError(
            f"the stage {stage} of {degradation} is missing: {folder} has no finished run. Train "
            f"{named} first, with {chosen}the same `save_dir` {save_dir}"
        )
    return best
