"""How the stages of an experiment find each other's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from DDA import files, tree
from DistilledClassifier.experiments.compose import kind_of, kind_of_stage
from DistilledClassifier.experiments.config import Config, stage_name

BEST, LAST = "model_best.pth", "model_last.pth"
FINISHED = "finished"  # an empty file in the folder of a run that spent its budget


def stage_folder(save_dir: Path, kind: str, degradation: str, name: str) -> Path:
    """Where the runs of a stage lie: <degradation>/<kind>/<name>/train."""
    return save_dir / degradation / kind / name / "train"


def of_known(known: Sequence[str]) -> str:
    """What the folder of a stage that learns from these degradations is called."""
    return known[0] if len(known) == 1 else "combined_deg"


def latest_finished(folder: Path, name: str) -> Path | None:
    """A file, such as the best weights, of the latest finished run among those in a folder."""
    finished = sorted(
        path for path in folder.glob(f"*/{name}") if (path.parent / FINISHED).is_file()
    )
    return finished[-1] if finished else None


def _stage_of(config: Config, stage: str, degradation: str, save_dir: Path) -> Path:
    """The best weights of another stage of this experiment. Raises FileNotFoundError that names the command to run."""
    if stage == "clean" and config.source:
        return files.find(config.source)
    kind = kind_of_stage(stage, config.kind)
    program, combines = kind_of(kind)
    degradation = (
        "clean" if stage == "clean" else of_known(config.known) if combines else degradation
    )
    folder = stage_folder(save_dir, kind, degradation, stage_name(config.raw, stage))
    best = latest_finished(folder, BEST)
    if best is None:
        command = f"{program} -c configs/{kind}/{config.dataset}/{config.backbone}/{stage}.yaml --save_dir {save_dir}"
        known = ",".join(config.known) if combines else degradation
        raise FileNotFoundError(
            f"the stage {stage} of {degradation} is missing: {folder} has no finished run. Run first: {command}"
            + ("" if degradation == "clean" else f" --dt {known}")
        )
    return best


@dataclass(frozen=True)
class Inputs:
    """What a run starts from: files of weights, and how the adapted copies were made that it learns from."""

    init: Path | None
    teachers: tuple[Path, ...]
    adapted: dict[str, Any] | None

    @cached_property
    def digests(self) -> dict[str, Any]:
        """What identifies these inputs, as plain values; each file is hashed once."""
        hashes = {path: files.sha256(path) for path in {self.init, *self.teachers} - {None}}
        return {
            "init": self.init and hashes[self.init],
            "teachers": [hashes[path] for path in self.teachers],
            "adapted": self.adapted,
        }


def find_inputs(config: Config, save_dir: Path) -> Inputs:
    """Raises ValueError and FileNotFoundError, which say what to run or fetch first."""
    stages = (
        {"clean": "clean"} if config.teachers == "deg" else {}
    )  # clean images are not degraded, but may be adapted
    taught = config.known if config.teachers else ()
    teachers = [
        _stage_of(config, stages.get(name, config.teachers), name, save_dir) for name in taught
    ]
    if config.panel.how == "averaged":
        teachers = list(dict.fromkeys(teachers))
    settings = files.find(config.data.adapted) / tree.SETTINGS if config.view == "adapted" else None
    adapted = files.read_json(settings) if settings and settings.is_file() else None
    return Inputs(_find_init(config, save_dir), tuple(teachers), adapted)


def _find_init(config: Config, save_dir: Path) -> Path | None:
    init = config.init
    if not init:
        return None
    is_pretrained = init == "pretrained"
    if is_pretrained and config.pretrained is None:
        if not config.classifier.get("pretrained"):
            raise ValueError(
                "init: pretrained, but the backbone names no pretrained weights; give --init FILE"
            )
        return None  # its library fetches them
    if not is_pretrained and kind_of_stage(init, ""):
        return _stage_of(config, init, config.known[0], save_dir)
    path = files.find(config.pretrained if is_pretrained else init)
    if path.is_file():
        return path
    raise FileNotFoundError(
        f"the pretrained weights {path} are missing: the file of this name is in OpenMMLab's model zoo (mmcls 0.x); "
        "put it there, or give other weights with --init FILE"
        if is_pretrained
        else f"init: {init} is not a file; give --init FILE, or init=null to start from nothing"
    )
