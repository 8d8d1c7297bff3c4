"""The common corruptions of ImageNet-C and CIFAR-10-C at any image size.

Hendrycks and Dietterich published them (arXiv:1903.12261). `corrupt` takes an image, uint8 (H,W,3)
or (H,W). Each corruption is one function of the image's values, its constants and a generator; the
values are floats (H,W,C) in [0,1], with C 1 or 3. `CONSTANTS` holds the published constants of
severities 1..5. Lengths among them are in pixels and do not grow with the image. Results are
truncated to 8 bits, as published.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from DDA.tree import CORRUPTIONS, EXTRA_CORRUPTIONS

DRAW_NOTHING = frozenset(
    {
        "defocus_blur",
        "zoom_blur",
        "brightness",
        "contrast",
        "pixelate",
        "jpeg_compression",
        "gaussian_blur",
        "saturate",
    }
)


def corrupt(
    image: np.ndarray,
    name: str,
    severity: int,
    *,
    constants: str = "auto",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Return a corrupted copy of an image, uint8 of the same shape.

    image: uint8 (H,W,3) or (H,W), at least 8 pixels a side; grey stays grey. severity: 1..5.
    constants: "cifar", "imagenet", or "auto", which takes CIFAR's where the shorter side has at
    most 64 pixels. rng: the generator of random corruptions; those in DRAW_NOTHING need none.
    Raises ValueError for anything else.
    """
    if name not in _FUNCTIONS:
        raise ValueError(f"corruption {name!r} is unknown; use one of {', '.join(_FUNCTIONS)}")
    is_picture = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not is_picture or min(image.shape[:2]) < 8:
        raise ValueError(
            f"{name} wants uint8 (H,W,3) or (H,W) of at least 8 pixels a side, "
            f"not {image.dtype} {image.shape}"
        )
    if not isinstance(severity, (int, np.integer)) or severity not in range(1, 6):
        raise ValueError(f"severity {severity!r} is outside 1..5, the whole numbers")
    if constants == "auto":
        constants = "cifar" if min(image.shape[:2]) <= 64 else "imagenet"
    if constants not in CONSTANTS:
        raise ValueError(f"constants {constants!r} are unknown; use auto, {', '.join(CONSTANTS)}")
    if rng is None and name not in DRAW_NOTHING:
        raise ValueError(f"{name} is random: it wants rng, a numpy Generator")
    values = CONSTANTS[constants][name][severity - 1]
    x = (image if image.ndim == 3 else image[..., None]) / 255.0
    out = np.clip(_FUNCTIONS[name](x, values, rng, constants), 0, 1) * 255
    # without the summand, a value that is whole in exact arithmetic might lose 1 to rounding
    out = (out + 1e-6).astype(np.uint8)
    if image.ndim == 2:
        return out[..., 0] if out.shape[2] == 1 else np.asarray(Image.fromarray(out).convert("L"))
    return out


# ---------------------------------------------------------------------------------------- noise


def _gaussian_noise(x, c, rng, _):
    return x + rng.normal(size=x.shape, scale=c)


def _shot_noise(x, c, rng, _):
    return rng.poisson(x * c) / c


def _impulse_noise(x, c, rng, _):
    """Set each value to 0 or 1 with chance c."""
    draw = rng.random(x.shape)
    return np.where(draw < c, draw < c / 2, x)


def _speckle_noise(x, c, rng, _):
    return x + x * rng.normal(size=x.shape, scale=c)


# ----------------------------------------------------------------------------------------- blur


def _gaussian_blur(x, c, _, __):
    return _smooth(x, c)


def _smooth(x: np.ndarray, sigma: float, **how) -> np.ndarray:
    """Apply a Gaussian filter along the first two axes."""
    sigmas = (sigma, sigma) + (0,) * (x.ndim - 2)
    return ndimage.gaussian_filter(x, sigmas, **{"mode": "nearest", "truncate": 4.0, **how})


def _defocus_blur(x, c, _, __):
    radius, alias_sigma = c
    reach = 8 if radius <= 8 else int(radius)
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float32)
    side = 3 if radius <= 8 else 5
    kernel = cv2.GaussianBlur(disk / disk.sum(), (side, side), sigmaX=alias_sigma)
    return cv2.filter2D(x, -1, kernel).reshape(x.shape)  # OpenCV drops a single channel


def _glass_blur(x, c, rng, _):
    """Copy each pixel from a near one: the published code means to swap the two, but copies."""
    sigma, reach, rounds = c[0], int(c[1]), int(c[2])
    height, width, _ = x.shape
    x = (_smooth(x, sigma) * 255 + 1e-6).astype(np.uint8)
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    target = (rows[:, None] * width + columns).ravel()
    # the pixel of x that lies at each place; a list is faster than an array, one by one
    place = np.arange(height * width).tolist()
    for _ in range(rounds):
        dx, dy = rng_integers(rng, -reach, reach, (len(target), 2)).T
        for to, source in zip(target.tolist(), (target + dy * width + dx).tolist(), strict=True):
            place[to] = place[source]
    return _smooth(x.reshape(height * width, -1)[place].reshape(x.shape) / 255, sigma)


def rng_integers(
    rng: np.random.Generator | np.random.RandomState,
    low: int,
    high: int,
    shape: int | tuple[int, ...] | None,
) -> np.ndarray:
    """Draw whole numbers from low to high - 1; one number where the shape is None.

    rng: a Generator, or numpy's older RandomState, from which the published images were drawn.
    """
    draw = rng.integers if hasattr(rng, "integers") else rng.randint
    return draw(low, high, shape)


def _motion_blur(x, c, rng, _):
    return _move(x, int(c[0]), c[1], rng.uniform(-45, 45))


def _move(x: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Blur along a direction as ImageMagick does; borders repeat.

    Each pixel becomes the weighted mean of 2 radius + 1 pixels.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    right = np.ceil(steps * math.cos(math.radians(angle)) - 0.5).astype(int)
    down = np.ceil(steps * math.sin(math.radians(angle)) - 0.5).astype(int)
    height, width, _ = x.shape
    out = np.zeros_like(x)
    for weight, dy, dx in zip(weights, down, right, strict=True):
        rows = np.clip(np.arange(height) + dy, 0, height - 1)
        columns = np.clip(np.arange(width) + dx, 0, width - 1)
        out += weight * x[rows][:, columns]
    return out


def _zoom_blur(x, c, _, __):
    x = x.astype(np.float32)
    return (x + sum(_zoom(x, factor) for factor in c)) / (len(c) + 1)


def _zoom(x: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the middle of x (H,W,C) linearly to at least its size, and crop it to that."""
    height, width, _ = x.shape
    tall, wide = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - tall) // 2, (width - wide) // 2
    x = ndimage.zoom(x[top : top + tall, left : left + wide], (factor, factor, 1), order=1)
    top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
    return x[top : top + height, left : left + width]


# -------------------------------------------------------------------------------------- weather


def _snow(x, c, rng, _):
    mean, deviation, zoom, threshold, radius, sigma, weight = c
    flakes = rng.normal(size=x.shape[:2], loc=mean, scale=deviation)
    flakes = _zoom(flakes[..., None], zoom)
    flakes[flakes < threshold] = 0
    flakes = np.floor(np.clip(flakes, 0, 1) * 255) / 255
    flakes = _move(flakes, int(radius), sigma, rng.uniform(-135, -45))
    flakes = np.round(flakes * 255) / 255
    x = weight * x + (1 - weight) * np.maximum(x, _grey(x) * 1.5 + 0.5)
    return x + flakes + np.rot90(flakes, k=2)


def _grey(x: np.ndarray) -> np.ndarray:
    """Return the luma of RGB (H,W,3) as (H,W,1)."""
    return x if x.shape[2] == 1 else x @ np.array([[0.299], [0.587], [0.114]])


def _frost(x, c, rng, constants):
    """Add a piece of a photograph of frost; CIFAR's photographs are a fifth as large."""
    height, width, _ = x.shape
    number, scale = int(rng_integers(rng, 0, 5, None)), 0.2 if constants == "cifar" else 1.0
    photo = _frost_photo(number, scale, height, width)
    top = int(rng_integers(rng, 0, max(1, photo.shape[0] - height), None))
    left = int(rng_integers(rng, 0, max(1, photo.shape[1] - width), None))
    return c[0] * x + c[1] * photo[top : top + height, left : left + width]


@lru_cache(maxsize=64)
def _frost_photo(number: int, scale: float, height: int, width: int) -> np.ndarray:
    """Return a photograph of the package imagecorruptions, RGB, float (H,W,3) in [0,1].

    It is larger than (height, width).
    """
    package = importlib.util.find_spec("imagecorruptions")
    if package is None:
        raise ValueError(
            "frost needs the photographs of the package imagecorruptions; "
            "install it: pip install imagecorruptions"
        )
    name = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")[number]
    photo = cv2.imread(str(Path(package.origin).parent / "frost" / name))
    scale = max(scale, (height + 1) / photo.shape[0], (width + 1) / photo.shape[1])
    if scale != 1:
        photo = cv2.resize(photo, (0, 0), fx=scale, fy=scale)
    return photo[..., ::-1] / 255.0


def _fog(x, c, rng, _):
    weight, decay = c
    size = 1 << (max(32, *x.shape[:2]) - 1).bit_length()
    size = size if size <= 32 else max(size, 256)
    peak = x.max()
    x = x + weight * _plasma(size, decay, rng)[: x.shape[0], : x.shape[1], None]
    return x * peak / (peak + weight)


def _plasma(size: int, decay: float, rng) -> np.ndarray:
    """Return a diamond-square fractal, (size,size) in [0,1], that wraps around.

    size: a power of two.
    """
    heights = np.zeros((size, size))
    step, wobble = size, 100.0

    def mean_and_wobble(total: np.ndarray) -> np.ndarray:
        return total / 4 + wobble * rng.uniform(-wobble, wobble, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        total = corners + np.roll(corners, -1, axis=0)
        heights[half::step, half::step] = mean_and_wobble(total + np.roll(total, -1, axis=1))
        middles = heights[half::step, half::step]
        beside = middles + np.roll(middles, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        heights[::step, half::step] = mean_and_wobble(beside)
        above = middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        heights[half::step, ::step] = mean_and_wobble(above)
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return heights / heights.max()


def _spatter(x, c, rng, _):
    mean, deviation, sigma, threshold, strength, mud = c
    x = x if x.shape[2] == 3 else np.repeat(x, 3, axis=2)
    liquid = _smooth(rng.normal(size=x.shape[:2], loc=mean, scale=deviation), sigma)
    liquid[liquid < threshold] = 0
    if mud:
        cover = _smooth((liquid > threshold).astype(np.float32), strength)
        cover[cover < 0.8] = 0
        cover = cover[..., None]
        return x * (1 - cover) + cover * np.array([63, 42, 20]) / 255
    liquid = (liquid * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    distance = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    distance = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, emboss)
    drops = liquid * cv2.blur(distance, (3, 3)).astype(np.float32)
    drops = drops / max(float(drops.max()), 1e-9) * strength
    return x + drops[..., None] * np.array([175, 238, 238]) / 255


# -------------------------------------------------------------------------------------- colours


def _brightness(x, c, _, __):
    """Add c to the value of HSV; hue and saturation stay."""
    value = x.max(axis=2, keepdims=True)
    grown = np.clip(value + c, 0, 1)
    return np.where(value > 0, x * (grown / np.where(value > 0, value, 1)), grown)


def _saturate(x, c, _, __):
    """Multiply the saturation of HSV by c[0] and add c[1]; greys take the hue 0, red."""
    if x.shape[2] == 1:
        return x if c[1] == 0 else _saturate(np.repeat(x, 3, axis=2), c, _, __)
    value, least = x.max(axis=2, keepdims=True), x.min(axis=2, keepdims=True)
    saturation = np.where(value > 0, (value - least) / np.where(value > 0, value, 1), 0)
    wanted = np.clip(saturation * c[0] + c[1], 0, 1)
    coloured = (value - x) / np.where(saturation > 0, saturation, 1)
    red = value * np.array([0, 1, 1])
    return value - np.where(saturation > 0, coloured, red) * wanted


def _contrast(x, c, _, __):
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * c + mean


# -------------------------------------------------------------------------------------- digital


def _elastic_transform(x, c, rng, _):
    alpha, sigma, shift = c
    height, width, channels = x.shape
    x = x.astype(np.float32)
    middle, reach = np.float32([height, width]) // 2, min(height, width) // 3
    corners = np.float32([middle + reach, [middle[0] + reach, middle[1] - reach], middle - reach])
    moved = corners + rng.uniform(-shift, shift, size=corners.shape).astype(np.float32)
    warp = cv2.getAffineTransform(corners, moved)
    x = cv2.warpAffine(x, warp, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    x = x.reshape(height, width, channels)  # OpenCV drops a single channel

    def wave() -> np.ndarray:
        draws = rng.uniform(-1, 1, size=(height, width))
        return (_smooth(draws, sigma, mode="reflect", truncate=3.0) * alpha).astype(np.float32)

    dx, dy = wave(), wave()
    rows, columns = np.mgrid[:height, :width]
    places = (rows + dy, columns + dx)
    planes = np.moveaxis(x, 2, 0)
    warped = [ndimage.map_coordinates(p, places, order=1, mode="reflect") for p in planes]
    return np.stack(warped, axis=2)


def _pixelate(x, c, _, __):
    image = _image(x)
    size = max(1, int(image.width * c)), max(1, int(image.height * c))
    small = image.resize(size, Image.Resampling.BOX)
    return _values(small.resize(image.size, Image.Resampling.BOX))


def _jpeg_compression(x, c, _, __):
    buffer = io.BytesIO()
    _image(x).save(buffer, "JPEG", quality=int(c))
    return _values(Image.open(buffer))


def _image(x: np.ndarray) -> Image.Image:
    pixels = np.rint(x * 255).astype(np.uint8)
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


def _values(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image) / 255.0
    return pixels if pixels.ndim == 3 else pixels[..., None]


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    name: globals()[f"_{name}"] for name in CORRUPTIONS + EXTRA_CORRUPTIONS
}

# --------------------------------------------------------------------------- published constants


def _table(text: str) -> dict[str, tuple]:
    """Read the constants of each corruption from lines ``name severity 1 | … | severity 5``.

    Several numbers of one severity are a tuple.
    """
    constants = {}
    for line in re.sub(r"\|\s+", "| ", text.strip()).splitlines():
        name, rest = line.split(maxsplit=1)
        rows = [tuple(map(_number, row.split())) for row in rest.split("|")]
        constants[name] = tuple(row[0] if len(row) == 1 else row for row in rows)
    # zoom factors go from 1 to an end in steps; rounding decides whether the end is one of them,
    # as published
    zooms = tuple(np.arange(1, end, step) for end, step in constants["zoom_blur"])
    return constants | {"zoom_blur": zooms}


def _number(word: str) -> float:
    return float(word) if "." in word else int(word)


# The meaning of the numbers of one severity:
#   gaussian_noise, speckle_noise  deviation in [0,1]
#   shot_noise                     photons at white
#   impulse_noise                  share of the values
#   gaussian_blur                  sigma
#   defocus_blur                   radius, sigma of its edge
#   glass_blur                     sigma, reach, rounds
#   motion_blur                    radius, sigma
#   zoom_blur                      end, step
#   snow                           mean, deviation, zoom, threshold, radius, sigma, image's weight
#   frost                          weight of the image, of the photograph
#   fog                            weight, decay
#   spatter                        mean, deviation, sigma, threshold, strength, whether it is mud
#   brightness, contrast           summand; factor
#   saturate                       factor, summand
#   elastic_transform              strength, sigma, shift of three corners
#   pixelate                       scale
#   jpeg_compression               quality
CONSTANTS: dict[str, dict[str, tuple]] = {
    "cifar": _table("""
        gaussian_noise     0.04 | 0.06 | 0.08 | 0.09 | 0.1
        shot_noise         500 | 250 | 100 | 75 | 50
        impulse_noise      0.01 | 0.02 | 0.03 | 0.05 | 0.07
        speckle_noise      0.06 | 0.1 | 0.12 | 0.16 | 0.2
        gaussian_blur      0.4 | 0.6 | 0.7 | 0.8 | 1
        defocus_blur       0.3 0.4 | 0.4 0.5 | 0.5 0.6 | 1 0.2 | 1.5 0.1
        glass_blur         0.05 1 1 | 0.25 1 1 | 0.4 1 1 | 0.25 1 2 | 0.4 1 2
        motion_blur        6 1 | 6 1.5 | 6 2 | 8 2 | 9 2.5
        zoom_blur          1.06 0.01 | 1.11 0.01 | 1.16 0.01 | 1.21 0.01 | 1.26 0.01
        snow               0.1 0.2 1 0.6 8 3 0.95 | 0.1 0.2 1 0.5 10 4 0.9 |
                           0.15 0.3 1.75 0.55 10 4 0.9 | 0.25 0.3 2.25 0.6 12 6 0.85 |
                           0.3 0.3 1.25 0.65 14 12 0.8
        frost              1 0.2 | 1 0.3 | 0.9 0.4 | 0.85 0.4 | 0.75 0.45
        fog                0.2 3 | 0.5 3 | 0.75 2.5 | 1 2 | 1.5 1.75
        spatter            0.62 0.1 0.7 0.7 0.5 0 | 0.65 0.1 0.8 0.7 0.5 0 |
                           0.65 0.3 1 0.69 0.5 0 | 0.65 0.1 0.7 0.69 0.6 1 |
                           0.65 0.1 0.5 0.68 0.6 1
        brightness         0.05 | 0.1 | 0.15 | 0.2 | 0.3
        saturate           0.3 0 | 0.1 0 | 1.5 0 | 2 0.1 | 2.5 0.2
        contrast           0.75 | 0.5 | 0.4 | 0.3 | 0.15
        elastic_transform  0 0 2.56 | 1.6 6.4 2.24 | 2.56 1.92 1.92 | 3.2 1.28 1.6 | 3.2 0.96 0.96
        pixelate           0.95 | 0.9 | 0.85 | 0.75 | 0.65
        jpeg_compression   80 | 65 | 58 | 50 | 40
    """),
    "imagenet": _table("""
        gaussian_noise     0.08 | 0.12 | 0.18 | 0.26 | 0.38
        shot_noise         60 | 25 | 12 | 5 | 3
        impulse_noise      0.03 | 0.06 | 0.09 | 0.17 | 0.27
        speckle_noise      0.15 | 0.2 | 0.35 | 0.45 | 0.6
        gaussian_blur      1 | 2 | 3 | 4 | 6
        defocus_blur       3 0.1 | 4 0.5 | 6 0.5 | 8 0.5 | 10 0.5
        glass_blur         0.7 1 2 | 0.9 2 1 | 1 2 3 | 1.1 3 2 | 1.5 4 2
        motion_blur        10 3 | 15 5 | 15 8 | 15 12 | 20 15
        zoom_blur          1.11 0.01 | 1.16 0.01 | 1.21 0.02 | 1.26 0.02 | 1.31 0.03
        snow               0.1 0.3 3 0.5 10 4 0.8 | 0.2 0.3 2 0.5 12 4 0.7 |
                           0.55 0.3 4 0.9 12 8 0.7 | 0.55 0.3 4.5 0.85 12 8 0.65 |
                           0.55 0.3 2.5 0.85 12 12 0.55
        frost              1 0.4 | 0.8 0.6 | 0.7 0.7 | 0.65 0.7 | 0.6 0.75
        fog                1.5 2 | 2 2 | 2.5 1.7 | 2.5 1.5 | 3 1.4
        spatter            0.65 0.3 4 0.69 0.6 0 | 0.65 0.3 3 0.68 0.6 0 | 0.65 0.3 2 0.68 0.5 0 |
                           0.65 0.3 1 0.65 1.5 1 | 0.67 0.4 1 0.65 1.5 1
        brightness         0.1 | 0.2 | 0.3 | 0.4 | 0.5
        saturate           0.3 0 | 0.1 0 | 2 0 | 5 0.1 | 20 0.2
        contrast           0.4 | 0.3 | 0.2 | 0.1 | 0.05
        elastic_transform  488 170.8 24.4 | 488 19.52 48.8 | 12.2 2.44 4.88 | 17.08 2.44 4.88 |
                           29.28 2.44 4.88
        pixelate           0.6 | 0.5 | 0.4 | 0.3 | 0.25
        jpeg_compression   25 | 18 | 15 | 10 | 7
    """),
}
