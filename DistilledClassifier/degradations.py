"""The known degradations, from which teachers learn: JPEG, Gaussian blur, white Gaussian noise,
salt and pepper, and sequences.

Every function takes uint8 (H,W,3) or (H,W), a level and a numpy Generator, and returns a new
uint8 image of the same shape. Level None is the clean image. ``behavior="published"`` has the
quirks of the reference code: values are truncated instead of rounded (about half a grey level
darker, blur a whole one), and salt is 1 of 255, which is black.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

BEHAVIORS = ("corrected", "published")


def jpeg(
    image: np.ndarray,
    level: int | None,
    rng: np.random.Generator | None,
    behavior: str = "corrected",
) -> np.ndarray:
    """Written as JPEG (4:2:0) with quality ``level``, 1..100, and read again; 101 is the clean
    image.
    """
    level = _check("jpeg", image, level, 1, 101, behavior)
    if level is None or level == 101:
        return image.copy()
    if level != int(level):
        raise ValueError(
            f"jpeg level {level} is no whole number; qualities are 1..100, and 101 is clean"
        )
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(level))
    return np.array(Image.open(buffer))


def blur(
    image: np.ndarray,
    level: float | None,
    rng: np.random.Generator | None,
    behavior: str = "corrected",
) -> np.ndarray:
    """Gaussian blur of standard deviation ``level`` in pixels, 0 or more; borders repeat, the
    kernel ends at 3 deviations.
    """
    level = _check("blur", image, level, 0, math.inf, behavior)
    if not level:
        return image.copy()
    sigma = (level, level) + (0,) * (image.ndim - 2)
    if behavior == "published":  # on 8-bit values: truncated after each axis
        return ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0)
    return _to_uint8(
        ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0, output=np.float32),
        behavior,
    )


def noise(
    image: np.ndarray, level: float | None, rng: np.random.Generator, behavior: str = "corrected"
) -> np.ndarray:
    """White Gaussian noise of standard deviation ``level`` in grey levels, 0 or more; channels
    are independent.
    """
    level = _check("noise", image, level, 0, math.inf, behavior, can_draw=rng is not None)
    if not level:
        return image.copy()
    if behavior == "published":
        return _to_uint8(image + rng.normal(0.0, level, image.shape), behavior)
    values = rng.standard_normal(image.shape, dtype=np.float32)
    values *= np.float32(level)
    return cv2.add(image, values, dtype=cv2.CV_8U).reshape(
        image.shape
    )  # rounded and clipped in one go


def saltpepper(
    image: np.ndarray, level: float | None, rng: np.random.Generator, behavior: str = "corrected"
) -> np.ndarray:
    """``level`` per cent of the values, 0..100, become 0 or 255 with equal chance; channels are
    independent.

    As published, two masks of half the level each are drawn, salt over pepper, and salt is 1.
    """
    level = _check("saltpepper", image, level, 0, 100, behavior, can_draw=rng is not None)
    if not level:
        return image.copy()
    if behavior == "published":
        return salt_over_pepper(image, level, rng, salt=1)
    draw = (
        rng.bit_generator.random_raw(-(-image.size // 4))
        .view(np.uint16)[: image.size]
        .reshape(image.shape)
    )
    share = round(level / 200 * (1 << 16))
    kept = -(draw >= share).view(np.uint8)  # 255 where it holds, else 0
    salt = -(draw >= (1 << 16) - share).view(np.uint8)
    return image & kept | salt


def salt_over_pepper(
    image: np.ndarray, level: float, rng: np.random.Generator, *, salt: int
) -> np.ndarray:
    """The published draws with any value for salt:

    pepper with chance level/2 per cent, then salt with the same chance.
    """
    out = image.copy()
    out[rng.binomial(1, level / 200, image.shape) == 1] = 0
    out[rng.binomial(1, level / 200, image.shape) == 1] = salt
    return out


class Degradation(NamedTuple):
    """A known degradation: its function, and the papers' levels.

    training: the first and the last level that a training sees, whole numbers, and the unit that
    they count. test: severities 1..5.
    """

    function: Callable[..., np.ndarray]
    training: tuple[int, int, float]
    test: tuple[float, ...]

    def __call__(self, *image_level_rng_behavior) -> np.ndarray:
        return self.function(*image_level_rng_behavior)


DEGRADATIONS: dict[str, Degradation] = {
    "jpeg": Degradation(jpeg, (1, 101, 1), (90, 70, 50, 30, 10)),
    "blur": Degradation(blur, (0, 50, 0.1), (1.0, 2.0, 3.0, 4.0, 5.0)),
    "noise": Degradation(
        noise,
        (0, 50, 1),
        tuple(255 * math.sqrt(variance) for variance in (0.05, 0.1, 0.15, 0.2, 0.25)),
    ),
    "saltpepper": Degradation(saltpepper, (0, 25, 1), (5, 10, 15, 20, 25)),
}
COMBINED = "combined"  # one of them by chance


def known(name: str) -> Degradation:
    """A degradation by its name. Raises ValueError for an unknown one."""
    if name not in DEGRADATIONS:
        raise ValueError(f"degradation {name!r} is unknown; use one of {', '.join(DEGRADATIONS)}")
    return DEGRADATIONS[name]


def by_name(
    name: str, behavior: str = "corrected"
) -> Callable[[np.ndarray, float | None, np.random.Generator], np.ndarray]:
    """The function of a degradation. Raises ValueError for an unknown one."""
    return partial(known(name).function, behavior=behavior)


def draw_name(name: str, rng: np.random.Generator) -> str:
    """The degradation that is meant: each with equal chance for COMBINED."""
    return list(DEGRADATIONS)[rng.integers(len(DEGRADATIONS))] if name == COMBINED else name


def draw_level(name: str, rng: np.random.Generator) -> float:
    """A level of the training range, uniformly. Raises ValueError for an unknown degradation."""
    first, last, unit = known(name).training
    return round(int(rng.integers(first, last + 1)) * unit, 6)


# blur as a share of the image's shorter side, noise in grey levels, JPEG quality (DiffAUD)
SEQUENCES = {"weak_seq": (0.02, 10, 80), "medium_seq": (0.04, 20, 60), "strong_seq": (0.08, 30, 40)}
SEQUENCE_NAMES = (*SEQUENCES, *(f"{name}_published" for name in SEQUENCES))


def sequence(image: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
    """Blur, then noise, then JPEG: ``weak_seq``, ``medium_seq``, ``strong_seq`` as documented
    (blur 2, 4, 8 % of the size).

    With ``_published`` at its end a name stands for what the published code ran: a blur ten times
    weaker, of a whole number of tenths of a pixel, and truncated values. Raises ValueError for an
    unknown name.
    """
    if name not in SEQUENCE_NAMES:
        raise ValueError(f"sequence {name!r} is unknown; use one of {', '.join(SEQUENCE_NAMES)}")
    share, deviation, quality = SEQUENCES[name.removesuffix("_published")]
    published = name.endswith("_published")
    size = min(image.shape[:2])
    behavior = BEHAVIORS[published]
    out = blur(image, round(share * size) / 10 if published else share * size, rng, behavior)
    return jpeg(noise(out, deviation, rng, behavior), quality, rng, behavior)


def _check(
    name: str,
    image: np.ndarray,
    level: float | None,
    least: float,
    most: float,
    behavior: str,
    *,
    can_draw: bool = True,
) -> float | None:
    if behavior not in BEHAVIORS:
        raise ValueError(f"behavior {behavior!r} is unknown; use one of {', '.join(BEHAVIORS)}")
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"{name} wants a uint8 array of shape (H,W,3) or (H,W), not {type(image).__name__}"
        )
    if (
        image.dtype != np.uint8
        or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3))
        or not image.size
    ):
        raise ValueError(
            f"{name} wants a uint8 image of shape (H,W,3) or (H,W), not {image.dtype} {image.shape}"
        )
    if level is None:
        return None
    if (
        not isinstance(level, (int, float, np.number))
        or not least <= level <= most
        or math.isinf(level)
    ):
        raise ValueError(f"{name} level {level!r} is outside {least}..{most}")
    if not can_draw:
        raise ValueError(f"{name} is random: it wants rng, a numpy Generator")
    return level


def _to_uint8(values: np.ndarray, behavior: str) -> np.ndarray:
    """Clip to 0..255 and round, or truncate as published; in place."""
    np.clip(values, 0, 255, out=values)
    return (
        values.astype(np.uint8)
        if behavior == "published"
        else np.rint(values, out=values).astype(np.uint8)
    )
