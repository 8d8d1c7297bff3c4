"""The settings of an adaptation by their names on the command line: completed and checked.

No torch here: command lines make these settings before anything slow is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path, PurePath
from typing import Any, get_type_hints

from DDA import inputs, settings, shards, tree
from DDA.fitting import FITS
from DDA.image_adapt.choices import (
    BEHAVIORS,
    DTYPES,
    FORMATS,
    GUIDANCES,
    PROJECTIONS,
    SAMPLERS,
    SPEEDS,
)
from DDA.sources.cells import LAYOUTS, ORIENTATIONS, SPLITS

# What a rung of the speed ladder sets: the setting, its name in `sampler.adapt`, and its value
# where neither the user nor the rung gives one.
PRESET = {
    "N": ("diffusion_range", None),
    "D": ("factor", None),
    "guidance": ("guidance", None),
    "scale": ("scale", 6.0),
    "projection": ("filter", "block"),
    "k": ("k", 1.0),
    "s_y": ("s_y", None),
    "sampler": ("sampler", None),
    "steps": ("steps", None),
    "eta": ("eta", 0.0),
}
# the settings that a guidance or a sampler reads beside those that all read
READ_BY = {
    "gradient": ("D", "scale"),
    "projection": ("D", "projection", "k", "s_y"),
    "none": (),
    "ddim": ("eta",),
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """The settings that decide an adapted copy, beside the prior and the image.

    The names are those of the command line, and the help of image_sample.py explains them.
    `method` completes them from a rung. Raises ValueError for a value that cannot be meant.
    """

    N: int
    D: int
    guidance: str
    sampler: str
    scale: float = 6.0
    projection: str = "block"
    k: float = 1.0
    s_y: float | None = None
    steps: int | None = None
    eta: float = 0.0
    behavior: str = "corrected"
    seed: int = 0
    clip_denoised: bool = True
    timestep_respacing: str = "100"
    predict_xstart: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the prior."""
        for name, known in (
            ("guidance", GUIDANCES),
            ("projection", PROJECTIONS),
            ("sampler", SAMPLERS),
            ("behavior", BEHAVIORS),
        ):
            settings.check_one_of(name, getattr(self, name), known)
        for name, most in (("scale", math.inf), ("k", 1), ("eta", 1), ("s_y", math.inf)):
            value = getattr(self, name)
            if value is not None and not (settings.is_of(value, float) and 0 <= value <= most):
                limit = " and at most 1" if most == 1 else ""
                number = f"a number of at least 0{limit}"
                raise ValueError(f"`{name}` {tree.shown(value)} must be {number}")
        settings.check_kinds(vars(self), get_type_hints(Method))
        settings.check_at_least(1, N=self.N, D=self.D)
        plain = (self.guidance, self.sampler, self.steps) == ("gradient", "ddpm", None)
        if self.behavior == "published" and not plain:
            raise ValueError(
                "`behavior` published has gradient guidance and N steps of DDPM, nothing else"
            )

    def check(self, length: int, image_size: int) -> None:
        """Raise ValueError where a setting does not fit the process or the image.

        length: steps of the respaced process.
        """
        last = length - (self.behavior == "published")
        divisors = [value for value in range(1, image_size + 1) if image_size % value == 0]
        fault = None
        if self.D not in divisors:
            fault = (
                f"`D` {self.D} does not divide the image size {image_size}; use one of "
                f"{', '.join(map(str, divisors))}"
            )
        elif not 1 <= self.N <= last:
            fault = (
                f"`N` {self.N} is outside 1..{last}, the steps of the respaced process "
                f"({self.behavior})"
            )
        if fault is not None:
            swapped = 0 < 5 * self.N <= self.D <= length and image_size % self.N == 0
            hint = f"use `D` {self.N} `N` {self.D}"
            advice = f". Are they swapped? The published README prints it so; {hint}"
            raise ValueError(f"{fault}{advice if swapped else ''}")
        if self.steps is not None and not 1 <= self.steps <= self.N:
            raise ValueError(
                f"`steps` {self.steps} is outside 1..{self.N}, the indices that `N` {self.N} gives"
            )

    def deciding(self) -> dict[str, Any]:
        """Return the settings that the chosen guidance and sampler read, by name."""
        read = (*READ_BY[self.guidance], "sampler", *READ_BY.get(self.sampler, ()))
        names = ("N", "steps", "guidance", *read, "clip_denoised")
        chosen = {name: getattr(self, name) for name in names}
        return chosen | {"steps": self.steps or self.N}

    def arguments(self) -> dict[str, Any]:
        """Return the settings as keyword arguments of `sampler.adapt`."""
        chosen = {name: getattr(self, ours) for ours, (name, _) in PRESET.items()}
        return chosen | {"behavior": self.behavior, "clip_denoised": self.clip_denoised}


def method(speed: str | None = None, **given: Any) -> Method:
    """Complete the settings of an adaptation from a rung of the speed ladder.

    speed: the rung (default: exact). given: settings of `Method`, which win over the rung; None
    means not given. Raises ValueError for an unknown rung or setting, for a value that cannot be
    meant, and for a rung of a process of another length without ``N``: a rung counts in steps of
    100.

    >>> method("fast", N=20).steps
    8
    """
    given = {name: settings.plain(value) for name, value in given.items() if value is not None}
    settings.check_names(given, [item.name for item in fields(Method)])
    if settings.is_of(given.get("timestep_respacing"), int):
        given["timestep_respacing"] = f"{given['timestep_respacing']}"
    settings.check_one_of("speed", speed or "exact", SPEEDS)
    respacing = given.get("timestep_respacing", "100")
    if speed and respacing != "100" and "N" not in given:
        raise ValueError(
            f"`speed` {speed} counts in steps of `timestep_respacing` 100; with {respacing} give "
            "`N` too"
        )
    rung = SPEEDS[speed or "exact"]
    values = {name: rung.get(key, default) for name, (key, default) in PRESET.items()} | given
    if "steps" not in given and values["steps"]:
        values["steps"] = min(values["steps"], values["N"])
    return Method(**values)


def unread(chosen: Method, given: Sequence[str]) -> list[str]:
    """Return the given settings that the chosen guidance and sampler do not read."""
    return [name for name in PRESET if name in given and name not in chosen.deciding()]


def identity(
    prior: Mapping[str, Any],
    chosen: Method,
    *,
    dtype: str,
    same_format: bool,
    batch_size: int,
    fit: str,
    orientation: str | None = None,
    shard_size: int | None = None,
) -> dict[str, Any]:
    """Return everything but an image's pixels and key that decides its copy.

    It is what the settings file of a save folder says. prior: the SHA-256 of the weights and all
    settings of the prior. fit: how images are fitted to it. orientation: how image files were
    turned, where copies are of files. shard_size: the number of images of a shard, where copies
    are in shards. Under published behaviour the batch size is among them.
    """
    names = ("timestep_respacing", "predict_xstart", "seed", "behavior")
    kept = {name: getattr(chosen, name) for name in names}
    batch = {"batch_size": batch_size} if chosen.behavior == "published" else {}
    image = {"format": "same" if same_format else "png"}
    if shard_size is not None:
        image = {"format": shards.FORMAT, "shard_size": shard_size}
    image["fit"] = fit
    if orientation is not None:
        image["orientation"] = orientation
    return {**prior, **kept, **image, **chosen.deciding(), "dtype": dtype, **batch}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The images that the job reads, and where it writes.

    source: a tree or a data set's files. layout: that of the tree. corruption, severity: folders
    of it, or ``all``. train: the split, for layouts that have one. num_samples: at most so many
    images. keys: only these images, or a file that lists them. format: ``png``, ``same`` as the
    source (default: png; under published behaviour: same), or ``webdataset``: shards of
    ``shard_size`` images. verify: read the finished copies, and make damaged ones again.
    orientation: ``apply`` turns photographs as their EXIF data say, ``ignore`` does not (default:
    that of the save folder, else of `orientation_of`). fit: how images are fitted to the prior, a
    way of `DDA.fitting.Fit` (default: that of the save folder, else of the adapter, else of
    `fit_of`). overwrite: make the planned images anew. gallery: a PNG of some images before and
    after. classes: the names of the classes, a built-in list or a file, for labels without names.
    Raises ValueError for values that cannot be meant.
    """

    source: Path
    save_dir: Path
    layout: str = "folder"
    corruption: tuple[str, ...] = ()
    severity: tuple[str, ...] = ()
    train: bool | None = None
    num_samples: int | None = None
    keys: Path | frozenset[str] | None = None
    format: str | None = None
    orientation: str | None = None
    fit: str | None = None
    overwrite: bool = False
    gallery: Path | None = None
    shard_size: int | None = None
    verify: bool = False
    classes: str | PathLike[str] | Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without opening the source."""
        whole = dict.fromkeys(("num_samples", "shard_size"), int | None)
        hints = {"train": bool | None, "overwrite": bool, "verify": bool, **whole}
        settings.check_kinds(vars(self), hints)
        settings.check_one_of("layout", self.layout, LAYOUTS)
        settings.check_one_of("format", self.format, (None, *FORMATS))
        settings.check_one_of("orientation", self.orientation, (None, *ORIENTATIONS))
        settings.check_one_of("fit", self.fit, (None, *FITS))
        settings.check_at_least(1, num_samples=self.num_samples, shard_size=self.shard_size)
        if self.shard_size is not None and self.format != shards.FORMAT:
            raise ValueError(f"`shard_size` is for `format` {shards.FORMAT}; give both")
        for value in self.severity:
            if value != "all" and not value.isdigit():
                raise ValueError(f"`severity` {value} is neither a whole number nor all")
        if self.source.resolve() == self.save_dir.resolve():
            raise ValueError(f"`save_dir` and `source` are the same folder, {self.save_dir}")
        settings.check_writable("save_dir", self.save_dir)
        if self.gallery is not None:
            self._check_gallery(self.gallery)

    def _check_gallery(self, path: Path) -> None:
        for name in ("save_dir", "source"):
            if path.resolve().is_relative_to(getattr(self, name).resolve()):
                raise ValueError(
                    f"`gallery` {path} lies in `{name}`, among the images; put it elsewhere"
                )
        if path.suffix.lower() != ".png":
            raise ValueError(f"`gallery` {path} must end in .png")
        settings.check_writable("gallery", path.parent)

    def unread(self) -> list[str]:
        """Return a notice for each setting that changes nothing under this layout."""
        notices = []
        if self.train is not None and self.layout not in SPLITS:
            notices.append(f"`train` is ignored: `layout` {self.layout} has no splits")
        if self.severity and self.layout not in ("imagenetc", "cifar10c"):
            notices.append(f"`severity` is ignored: `layout` {self.layout} has no severities")
        return notices


def check_machine(*, dtype: str | None, use_fp16: bool, batch_size: int) -> None:
    """Raise ValueError for an unknown or contradictory precision, an empty batch, another kind."""
    values = {"use_fp16": use_fp16, "batch_size": batch_size}
    settings.check_kinds(values, {"use_fp16": bool, "batch_size": int})
    settings.check_one_of("dtype", dtype, (None, *DTYPES))
    if use_fp16 and dtype not in (None, "float16"):
        raise ValueError(f"`use_fp16` True contradicts `dtype` {dtype}; give one of them")
    settings.check_at_least(1, batch_size=batch_size)


def check_fit(fit: str | None, behavior: str) -> None:
    """Raise ValueError for an unknown fit, and for one that the behaviour excludes."""
    settings.check_one_of("fit", fit, (None, *FITS))
    if behavior == "published" and fit not in (None, "square"):
        raise ValueError(f"`behavior` published reads the middle square; leave out `fit` {fit}")


def texts_of(name: str, values: Any, kinds: Any) -> tuple[str, ...]:
    """Return one or several values of a setting as texts.

    values: one value, several of them, an array, or None for none. kinds: the type hint of each.
    Raises ValueError, which names the setting, for a value of another kind.
    """
    if values is None:
        return ()
    values = values.tolist() if hasattr(values, "tolist") else values
    is_list = isinstance(values, Iterable) and not isinstance(values, str | bytes)
    several = [settings.plain(value) for value in (values if is_list else [values])]
    for value in several:
        settings.check_kinds({name: value}, {name: kinds})
    return settings.names_of(several)


def keys_of(keys: Any) -> Path | frozenset[str] | None:
    """Return the keys of a selection, or the file that lists them; None selects all images.

    keys: the path of a file, or a collection of keys, which are texts or paths. Raises ValueError
    for anything else.
    """
    if keys is None:
        return None
    if isinstance(keys, str | PathLike):
        return settings.as_path("keys", keys)
    names = list(keys) if isinstance(keys, Iterable) and not isinstance(keys, bytes) else [keys]
    misfits = [name for name in names if not isinstance(name, str | PurePath)]
    if misfits:
        raise ValueError(
            f"`keys` must be a file or a list of keys, which are texts, not {tree.shown(keys)}"
        )
    return frozenset(inputs.key_text(name) for name in names)
