"""The settings of evaluations, and the facts that stand beside their numbers; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from DDA import settings
from DDA.fitting import FITS
from DDA.image_adapt.choices import SPEEDS
from DDA.model_adapt.choices import FITTED_RULES, FUSE_RULES, METRICS, RULES, SCORES
from DDA.sources.cells import LAYOUTS, ORIENTATIONS, SPLITS

LEAST_IMAGES = 20  # fewer cannot be split in halves that say anything


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The views and the classifiers of an evaluation.

    The help of test_ensemble.py explains the names.

    first, second, source: the classifiers of degraded images, of adapted copies and of clean
    images (or None), as `classifiers.open_classifier` takes them. control: one of degraded images
    that was trained as long, without teachers and without adaptation (or None). model, pipelines:
    for weights of mmcls, the model and the pipelines of both views. degraded, adapted: the two
    views, of one layout. orientation: how the degraded view is turned (default: as the copies were
    made, else ignore). rules: the first rule gives the result, the others are columns beside it.
    classes: a list by its name, a file or the names, where no classifier tells them. num_samples:
    at most so many images a cell. fit: fit the rules that have parameters instead of making tables.
    Raises ValueError for what does not go together.
    """

    first: Any
    second: Any
    degraded: Path
    adapted: Path
    out: Path
    layout: str
    corruption: Sequence[str] = ("all",)
    severity: Sequence[str] = ("all",)
    source: Any = None
    control: Any = None
    rules: Sequence[str] = ("sum",)
    scores: str = "logits"
    metrics: Sequence[str] = ("accuracy",)
    topk: int = 5
    baseline: str | None = None
    train: bool = False
    num_samples: int | None = None
    orientation: str | None = None
    batch_size: int = 64
    classes: str | Sequence[str] | None = None
    fit: bool = False
    params: Mapping[str, Mapping[str, Any]] | None = None
    model: Mapping[str, Any] | None = None
    pipelines: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]] = ((), ())

    def __post_init__(self) -> None:
        """Check what can be checked without opening anything."""
        settings.check_one_of("layout", self.layout, LAYOUTS)
        settings.check_one_of("scores", self.scores, SCORES)
        settings.check_one_of("orientation", self.orientation, (None, *ORIENTATIONS))
        settings.check_at_least(1, batch_size=self.batch_size, num_samples=self.num_samples)
        for view in ("degraded", "adapted"):
            if self.out.resolve() == getattr(self, view).resolve():
                raise ValueError(f"`out` {self.out} is the `{view}` tree; give another folder")
        for rule in self.rules:
            settings.check_one_of("rules", rule, (*RULES, *FITTED_RULES, *FUSE_RULES))
        for metric in self.metrics:
            settings.check_one_of("metrics", metric, METRICS)
        if self.fit:
            self._check_fit()
        fitted = [rule for rule in self.rules if rule in FITTED_RULES]
        blends = [rule for rule in self.rules if rule in FUSE_RULES]
        if fitted and self.scores != "logits":
            raise ValueError(f"`rules` {fitted[0]} is of logits; leave `scores` out")
        if len(set(self.rules)) < len(self.rules) or (blends and len(self.rules) > 1):
            raise ValueError(
                f"`rules` {' '.join(self.rules)}: each rule once, and rules that blend images alone"
            )
        if "mCE" in self.metrics and self.baseline is None:
            raise ValueError(
                "mCE is relative to a classifier's errors: name it, `baseline` alexnet for "
                "ImageNet-C"
            )

    def _check_fit(self) -> None:
        """Raise ValueError where parameters would be fitted on what they are judged by."""
        from DistilledClassifier.degradations import DEGRADATIONS

        unknown = sorted(set(self.corruption) - {"clean", *DEGRADATIONS})
        if unknown or not self.corruption:
            known = f"`corruption` of {', '.join(DEGRADATIONS)}"
            instead = f", not {unknown[0]}" if unknown else ""
            raise ValueError(f"`fit` learns from known degradations only: {known}{instead}")
        if self.layout in SPLITS and not self.train:
            raise ValueError(
                f"`fit` learns: on the training images of `layout` {self.layout}, `train` True"
            )


@dataclass(frozen=True)
class Facts:
    """The facts that stand beside every number of an evaluation, in memory and in summary.json.

    ensemble: the rule of the result. beside: rules whose columns stand beside it. params: the
    parameters of fitted rules. partial: some images have no adapted copy. severity: that of a
    file that holds one. orientation: how the degraded view was turned. cells: the names of the
    cells that were evaluated.
    """

    first: str = ""
    second: str = ""
    source: str | None = None
    control: str | None = None
    scores: str = "logits"
    topk: int = 5
    baseline: str | None = None
    layout: str = "folder"
    num_samples: int | None = None
    ensemble: str = "sum"
    beside: Sequence[str] = ()
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    partial: bool = False
    metrics: Sequence[str] = ("accuracy",)
    degraded: str = ""
    adapted: str = ""
    severity: int | None = None
    orientation: str = "ignore"
    classes: Sequence[str] = ()
    cells: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, entries: Mapping[str, Any]) -> Facts:
        """Return the facts of a summary; entries of other versions are left out."""
        names = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in entries.items() if name in names})

    @property
    def rules(self) -> dict[str, str]:
        """Return the rule of each combined column.

        The result is ``combined``; a column beside it has the name of its rule.
        """
        return {"combined": self.ensemble, **{rule: rule for rule in self.beside}}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The settings of gate.py: a classifier, a threshold or the file that holds it, and images.

    Raises ValueError unless one of ``fitted`` and ``threshold`` is given.
    """

    classifier: Path
    source: Path
    out: Path
    layout: str = "folder"
    corruption: Sequence[str] = ()
    severity: Sequence[str] = ()
    train: bool = False
    fitted: Path | None = None
    threshold: float | None = None
    orientation: str | None = None
    batch_size: int = 128
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without opening anything."""
        if (self.fitted is None) == (self.threshold is None):
            raise ValueError("give one of `fitted` and `threshold`")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"`threshold` {self.threshold} is outside 0..1: it is a probability")
        settings.check_at_least(1, batch_size=self.batch_size)
        settings.check_one_of("orientation", self.orientation, (None, *ORIENTATIONS))
        has_severities = self.layout in ("imagenetc", "cifar10c") or self.source.suffix == ".npy"
        if self.severity and not has_severities:
            raise ValueError(f"`severity`: `layout` {self.layout} has none; leave it out")
        if self.train and self.layout not in SPLITS:
            raise ValueError(f"`train`: `layout` {self.layout} has no splits; leave it out")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The settings of predict.py: two classifiers, and two views of images without labels.

    adapted: the copies; or prior: a checkpoint that makes them, at the rung ``speed``, with
    ``seed`` and ``fit`` (default: whole). cache: the folder that keeps such copies (default: that
    of the user). rule: by default the gate where one is fitted and a prior is given, else the sum.
    orientation: how the images are turned (default: as the copies were made, ignore with copies
    that do not tell, else apply). Raises ValueError for what does not go together.
    """

    first: str
    degraded: Path
    out: Path
    adapted: Path | None = None
    prior: Path | None = None
    speed: str | None = None
    seed: int | None = None
    fit: str | None = None
    cache: Path | None = None
    second: str | None = None
    rule: str | None = None
    classes: str | None = None
    severity: int | None = None
    orientation: str | None = None
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without opening anything."""
        if self.rule is not None:
            settings.check_one_of("rule", self.rule, (*RULES, *FITTED_RULES, *FUSE_RULES))
        settings.check_one_of("orientation", self.orientation, (None, *ORIENTATIONS))
        if (self.adapted is None) == (self.prior is None) and self.rule != "first":
            raise ValueError(
                "give one of `adapted`, the copies of the images, and `prior`, which makes them"
            )
        settings.check_one_of("fit", self.fit, (None, *FITS))
        given = [
            name for name in ("speed", "seed", "fit", "cache") if getattr(self, name) is not None
        ]
        if given and self.prior is None:
            raise ValueError(f"`{given[0]}` is of copies that a `prior` makes; give one")
        settings.check_at_least(1, batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The settings of advise.py: a classifier, a prior, and labelled images to try them on.

    student: a classifier of degraded images, to compare with. speeds: the rungs that are tried.
    fit: how images are fitted to the prior (default: that of the layout). num_samples: at most so
    many images, evenly spread. cache: the folder that keeps the copies (default: that of the user).
    Raises ValueError for what cannot be meant.
    """

    classifier: Any
    prior: Path
    source: Path
    out: Path
    student: Any = None
    layout: str = "folder"
    corruption: Sequence[str] = ()
    severity: Sequence[str] = ()
    train: bool = False
    speeds: Sequence[str] = ("one-shot", "fast")
    num_samples: int = 1000
    classes: str | Sequence[str] | None = None
    seed: int = 0
    fit: str | None = None
    cache: Path | None = None
    batch_size: int = 16
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without opening anything."""
        settings.check_one_of("layout", self.layout, LAYOUTS)
        settings.check_one_of("fit", self.fit, (None, *FITS))
        settings.check_at_least(1, batch_size=self.batch_size)
        settings.check_at_least(LEAST_IMAGES, num_samples=self.num_samples)
        for speed in self.speeds:
            settings.check_one_of("speeds", speed, SPEEDS)
        if not self.speeds or len(set(self.speeds)) < len(self.speeds):
            raise ValueError(f"`speeds` {' '.join(self.speeds)}: name each rung once")
