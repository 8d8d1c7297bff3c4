"""The settings of a training and of an evaluation, as commands and Python give them.

No torch here: command lines make these settings before anything slow is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from DDA import settings

COMBINED = "combined_deg"  # for `known`: the degradations that the config names
# what kind of value each setting of a training holds, where it is not made by this package
KINDS = {
    "lr": float | None,
    "batch_size": int | None,
    "seed": int | None,
    "epochs": float | None,
    "minutes": float | None,
    "new": bool,
    "workers": int,
    "save_minutes": float,
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """The settings of one training. Raises ValueError for a value that cannot be meant.

    config: the experiment. known: its degradations, None for those that the config names. changes:
    entries of the config by their dotted names; lr, batch_size, seed, epochs, minutes and init are
    such entries too, and win. minutes: 0 means no limit. resume: a checkpoint
    whose run goes on. new: start a new run where there is one. workers: threads that prepare
    images. save_minutes: the time between saved states.
    """

    config: Path
    known: tuple[str, ...] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    lr: float | None = None
    batch_size: int | None = None
    seed: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    save_dir: Path = Path("saved")
    resume: Path | None = None
    new: bool = False
    workers: int = 2
    save_minutes: float = 2.0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without the config."""
        settings.check_kinds(vars(self), KINDS)
        settings.check_at_least(0, workers=self.workers, save_minutes=self.save_minutes)
        changes = self.changes
        if not isinstance(changes, Mapping) or any(not isinstance(name, str) for name in changes):
            raise ValueError(
                "`changes` must map dotted names of entries to values, such as "
                f"{{'train.epochs': 3}}, not {changes!r:.80}"
            )

    @property
    def entries(self) -> dict[str, Any]:
        """Return what these settings change in the config, by dotted names, as plain values."""
        named = {
            "optimizer.lr": self.lr,
            "train.batch_size": self.batch_size,
            "train.seed": self.seed,
            "train.epochs": self.epochs,
            "train.minutes": self.minutes,
            "init": self.init,
            "known": self.known,
        }
        given = {name: value for name, value in named.items() if value is not None}
        return {name: _plain(value) for name, value in {**self.changes, **given}.items()}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The settings with which one classifier is measured on corrupted images.

    config: an experiment, which tells the classes and where the images are. resume: the classifier.
    images: the images, None for those that the config names. sequences: whether these are
    sequences of degradations instead of common corruptions. corruption, severity: the names and
    numbers that are wanted, or ``all``. out: a folder for the table. Raises ValueError.
    """

    config: Path
    resume: Path
    images: Path | None = None
    sequences: bool = False
    corruption: tuple[str, ...] = ("all",)
    severity: tuple[str, ...] = ("all",)
    batch_size: int = 128
    device: str = "auto"
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without the images."""
        settings.check_at_least(1, batch_size=self.batch_size)


def known_of(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the degradations of a list, or of a text with commas; None for those of the config.

    Raises ValueError for what is neither.

    >>> known_of("jpeg,blur")
    ('jpeg', 'blur')
    >>> known_of("combined_deg")
    """
    if names is None or names == COMBINED:
        return None
    if not isinstance(names, str | list | tuple):
        raise ValueError(f"`known` {names!r} is neither a name nor a list of names")
    return tuple(names.split(",") if isinstance(names, str) else names)


def assignments(texts: Iterable[str]) -> dict[str, Any]:
    """Return entries by their names, from texts NAME=VALUE; a value is read as YAML.

    Raises ValueError for a text of another form.

    >>> assignments(["train.epochs=20", "known=[jpeg, blur]"])
    {'train.epochs': 20, 'known': ['jpeg', 'blur']}
    """
    import yaml

    entries = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"`changes` {text} is not NAME=VALUE, such as train.epochs=20")
        try:
            entries[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"`changes` {text}: {value} is no value in YAML") from None
    return entries


def _plain(value: Any) -> Any:
    """Return a value as YAML holds it: paths as text, tuples as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return settings.plain(value)
