"""The settings of an adaptation, by their names on the command line: completed, checked, and what of them identifies a copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.low_pass import check_factor
from DDA.image_adapt.prior import Prior
from DDA.image_adapt.sampler import SPEEDS, check_range

# what a rung of the speed ladder sets: its name in `sampler.adapt`, and its value where neither the user nor the rung says it
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
READ_BY = {
    "gradient": ("D", "scale"),
    "projection": ("D", "projection", "k", "s_y"),
    "none": (),
    "ddim": ("eta",),
}


def complete(given: Mapping[str, Any], speed: str | None, respacing: str) -> dict[str, Any]:
    """All settings of PRESET: those that are ``given``, the others of the rung.

    Raises ValueError for a rung, whose N counts in steps of a process of 100, of a process of another length.
    """
    if speed and respacing != "100" and "N" not in given:
        raise ValueError(
            f"--speed {speed} counts in steps of --timestep_respacing 100; with {respacing} give --N too"
        )
    rung = SPEEDS[speed or "exact"]
    settings = {name: rung.get(ours, default) for name, (ours, default) in PRESET.items()} | given
    if "steps" not in given and settings["steps"]:
        settings["steps"] = min(settings["steps"], settings["N"])
    return settings


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide how an image is adapted, without those that the chosen guidance and sampler do not read."""
    read = (*READ_BY[settings["guidance"]], "sampler", *READ_BY.get(settings["sampler"], ()))
    names = ("N", "steps", "guidance", *read, "clip_denoised")
    return {name: settings[name] for name in names} | {"steps": settings["steps"] or settings["N"]}


def arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as keyword arguments of `sampler.adapt`."""
    same = {name: settings[name] for name in ("behavior", "clip_denoised")}
    return {ours: settings[name] for name, (ours, _) in PRESET.items()} | same


def check(settings: Mapping[str, Any], process: Diffusion, image_size: int) -> None:
    """Raise ValueError, which begins with the setting's name, where one does not fit the process or the image."""
    low_pass, first = settings["D"], settings["N"]
    try:
        check_factor(image_size, low_pass)
        check_range(process, first, settings["behavior"])
    except ValueError as error:
        swapped = 0 < 5 * first <= low_pass <= len(process) and image_size % first == 0
        hint = (
            f". Are they swapped? The published README prints it so; use --D {first} --N {low_pass}"
            if swapped
            else ""
        )
        raise ValueError(f"{error}{hint}") from None
    if settings["steps"] is not None and not 1 <= settings["steps"] <= first:
        raise ValueError(
            f"steps {settings['steps']} is outside 1..{first}, the indices that --N {first} gives"
        )
    for name, most in (("scale", np.inf), ("k", 1), ("eta", 1), ("s_y", np.inf)):
        value = settings[name]
        if value is not None and not (np.isfinite(value) and 0 <= value <= most):
            raise ValueError(
                f"{name} {value} must be a number of at least 0"
                + (" and at most 1" if most == 1 else "")
            )


def identity(prior: Prior, settings: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Everything but an image's pixels and key that decides its copy: what the settings file of a save folder says.

    Under published behaviour the batch size is among it.
    """
    names = ("timestep_respacing", "predict_xstart", "seed", "behavior", "format")
    chosen = {name: settings[name] for name in names}
    batch = {"batch_size": settings["batch_size"]} if settings["behavior"] == "published" else {}
    return {
        "weights_sha256": prior.sha256,
        **prior.settings,
        **chosen,
        **deciding(settings),
        "dtype": dtype,
        **batch,
    }
