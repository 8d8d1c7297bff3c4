"""The known degradations, from which teachers learn.

They are JPEG, Gaussian blur, white Gaussian noise, salt and pepper, and sequences of these. Every
function takes uint8 (H,W,3) or (H,W), a level and a numpy Generator, and returns a new uint8 image
of the same shape. Level None is the clean image. ``behavior="published"`` has the quirks of the
reference code. It truncates values instead of rounding them, so that images are about half a grey
level darker, and blurred ones a whole level. Its salt is 1 of 255, which is black. Any other image,
level or behavior is a ValueError. OpenCV and SciPy are imported at their first use, so that a help,
which lists the names alone, does not wait for them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

BEHAVIORS = ("corrected", "published")
MOST = 1000  # a wider blur than any image, and more noise than grey levels


def jpeg(
    image: np.ndarray,
    level: int | None,
    rng: np.random.Generator | None,
    behavior: str = "corrected",
) -> np.ndarray:
    """Write an image as JPEG (4:2:0) and read it again.

    level: the quality, a whole number of 1..100; 101 is the clean image.
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
    """Apply a Gaussian blur. Borders repeat, and the kernel ends at 3 deviations.

    level: the standard deviation in pixels, 0..1000.
    """
    from scipy import ndimage

    level = _check("blur", image, level, 0, MOST, behavior)
    if not level:
        return image.copy()
    sigma = (level, level) + (0,) * (image.ndim - 2)
    # as published, the values are 8-bit and truncated after each axis
    kind = np.uint8 if behavior == "published" else np.float32
    values = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0, output=kind)
    return values if behavior == "published" else _to_uint8(values, behavior)


def noise(
    image: np.ndarray, level: float | None, rng: np.random.Generator, behavior: str = "corrected"
) -> np.ndarray:
    """Add white Gaussian noise, independent in each channel.

    level: the standard deviation in grey levels, 0..1000.
    """
    import cv2

    level = _check("noise", image, level, 0, MOST, behavior, can_draw=rng is not None)
    if not level:
        return image.copy()
    if behavior == "published":
        return _to_uint8(image + rng.normal(0.0, level, image.shape), behavior)
    values = rng.standard_normal(image.shape, dtype=np.float32)
    values *= np.float32(level)
    noisy = cv2.add(image, values, dtype=cv2.CV_8U)  # rounds and clips as well
    return noisy.reshape(image.shape)


def saltpepper(
    image: np.ndarray, level: float | None, rng: np.random.Generator, behavior: str = "corrected"
) -> np.ndarray:
    """Set a share of the values to 0 or 255 with equal chance, independently in each channel.

    The published behavior draws two masks of half the level each, salt over pepper; its salt is 1.

    level: the share in per cent, 0..100.
    """
    level = _check("saltpepper", image, level, 0, 100, behavior, can_draw=rng is not None)
    if not level:
        return image.copy()
    if behavior == "published":
        return salt_over_pepper(image, level, rng, salt=1)
    words = rng.bit_generator.random_raw(-(-image.size // 4))  # each is four draws of 16 bits
    draws = words.view(np.uint16)[: image.size].reshape(image.shape)
    share = round(level / 200 * (1 << 16))
    kept = -(draws >= share).view(np.uint8)  # 255 where a value is kept, else 0
    salt = -(draws >= (1 << 16) - share).view(np.uint8)
    return image & kept | salt


def salt_over_pepper(
    image: np.ndarray, level: float, rng: np.random.Generator, *, salt: int
) -> np.ndarray:
    """Draw as published: pepper with chance level/2 per cent, then salt with the same chance.

    salt: the value that salt gets.
    """
    out = image.copy()
    out[rng.binomial(1, level / 200, image.shape) == 1] = 0
    out[rng.binomial(1, level / 200, image.shape) == 1] = salt
    return out


class Degradation(NamedTuple):
    """A known degradation: its function, and the papers' levels.

    training: the first and the last level of the training range, as whole numbers of a unit, and
    that unit. test: the levels of severities 1..5.
    """

    function: Callable[..., np.ndarray]
    training: tuple[int, int, float]
    test: tuple[float, ...]

    def __call__(self, *image_level_rng_behavior) -> np.ndarray:
        return self.function(*image_level_rng_behavior)


# the papers give the variance of values in [0,1]
_DEVIATIONS = tuple(255 * math.sqrt(variance) for variance in (0.05, 0.1, 0.15, 0.2, 0.25))
DEGRADATIONS: dict[str, Degradation] = {
    "jpeg": Degradation(jpeg, (1, 101, 1), (90, 70, 50, 30, 10)),
    "blur": Degradation(blur, (0, 50, 0.1), (1.0, 2.0, 3.0, 4.0, 5.0)),
    "noise": Degradation(noise, (0, 50, 1), _DEVIATIONS),
    "saltpepper": Degradation(saltpepper, (0, 25, 1), (5, 10, 15, 20, 25)),
}
COMBINED = "combined"  # one of them by chance


def known(name: str) -> Degradation:
    """Return a degradation by its name. Raises ValueError for an unknown one."""
    if name not in DEGRADATIONS:
        raise ValueError(f"degradation {name!r} is unknown; use one of {', '.join(DEGRADATIONS)}")
    return DEGRADATIONS[name]


def by_name(
    name: str, behavior: str = "corrected"
) -> Callable[[np.ndarray, float | None, np.random.Generator], np.ndarray]:
    """Return the function of a degradation. Raises ValueError for an unknown one."""
    return partial(known(name).function, behavior=behavior)


def draw_name(name: str, rng: np.random.Generator) -> str:
    """Return the name; for COMBINED, draw one of the degradations with equal chance."""
    return list(DEGRADATIONS)[rng.integers(len(DEGRADATIONS))] if name == COMBINED else name


def draw_level(name: str, rng: np.random.Generator) -> float:
    """Draw a level of the training range uniformly.

    Raises ValueError for an unknown degradation.
    """
    first, last, unit = known(name).training
    return round(int(rng.integers(first, last + 1)) * unit, 6)


# the blur as a share of the image's shorter side, the noise in grey levels, the JPEG quality
# (DiffAUD)
SEQUENCES = {"weak_seq": (0.02, 10, 80), "medium_seq": (0.04, 20, 60), "strong_seq": (0.08, 30, 40)}
SEQUENCE_NAMES = (*SEQUENCES, *(f"{name}_published" for name in SEQUENCES))


def sequence(image: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
    """Apply blur, then noise, then JPEG.

    ``weak_seq``, ``medium_seq`` and ``strong_seq`` are as documented, with a blur of 2, 4 or 8 % of
    the size. A name that ends in ``_published`` stands for what the published code ran: a blur ten
    times weaker, of a whole number of tenths of a pixel, and truncated values. Raises ValueError
    for an unknown name.
    """
    if name not in SEQUENCE_NAMES:
        raise ValueError(f"sequence {name!r} is unknown; use one of {', '.join(SEQUENCE_NAMES)}")
    share, deviation, quality = SEQUENCES[name.removesuffix("_published")]
    published = name.endswith("_published")
    behavior = "published" if published else "corrected"
    sigma = share * min(image.shape[:2])
    blurred = blur(image, round(sigma) / 10 if published else sigma, rng, behavior)
    return jpeg(noise(blurred, deviation, rng, behavior), quality, rng, behavior)


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
    """Return the level. Raises ValueError for arguments that a degradation does not take."""
    if behavior not in BEHAVIORS:
        raise ValueError(f"behavior {behavior!r} is unknown; use one of {', '.join(BEHAVIORS)}")
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise ValueError(f"{name} wants a uint8 array of shape (H,W,3) or (H,W), not {kind}")
    is_picture = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not is_picture or not image.size:
        kind = f"{image.dtype} {image.shape}"
        raise ValueError(f"{name} wants a uint8 image of shape (H,W,3) or (H,W), not {kind}")
    if level is None:
        return None
    is_number = isinstance(level, (int, float, np.number))
    if not is_number or not least <= level <= most:
        raise ValueError(f"{name} level {level!r} is outside {least}..{most}")
    if not can_draw:
        raise ValueError(f"{name} is random: it wants rng, a numpy Generator")
    return level


def _to_uint8(values: np.ndarray, behavior: str) -> np.ndarray:
    """Clip to 0..255 and round, or truncate as published. The values are changed in place."""
    np.clip(values, 0, 255, out=values)
    if behavior != "published":
        np.rint(values, out=values)
    return values.astype(np.uint8)
