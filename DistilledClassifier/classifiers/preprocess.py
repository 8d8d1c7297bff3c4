"""Preprocessing: the size and the range in which a network sees images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from DDA import images, settings, tree

MOST = 4096  # pixels at a side; no classifier sees larger images
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
LIBRARIES, RESIZERS = ("own", "torchvision", "transformers"), ("pillow", "torch", "opencv")


@dataclass(frozen=True)
class Preprocess:
    """The form in which a network sees images.

    size: the side of its square images in pixels. An image is scaled until its shorter side is
    ``resize`` pixels (default: size), and its middle is taken. mean, std: of RGB in [0,1].
    interpolation: nearest, bilinear, bicubic or lanczos. squash: scale both sides to ``resize``
    pixels. like: the library that rounds lengths in this way. ``own`` rounds to the nearest, and
    takes an image of ``size`` as it is; the others scale every image. timm and mmcls round like
    torchvision. by: what resizes images: pillow, torch or opencv. Raises ValueError.
    """

    size: int
    resize: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    squash: bool = False
    like: str = "own"
    by: str = "pillow"

    def __post_init__(self) -> None:
        """Check the settings, and make tuples of floats of the means and deviations."""
        settings.check_kinds(vars(self), {"size": int, "resize": int | None, "squash": bool})
        settings.check_one_of("interpolation", self.interpolation, INTERPOLATIONS)
        settings.check_one_of("like", self.like, LIBRARIES)
        settings.check_one_of("by", self.by, RESIZERS)
        if (self.resize or self.size) < self.size or self.size < 1:
            raise ValueError(f"`resize` {self.resize} must be at least `size` {self.size}")
        if max(self.resize or 0, self.size) > MOST:
            raise ValueError(f"`size` {self.size} must be at most {MOST} pixels, as `resize`")
        for name in ("mean", "std"):
            value = tuple(map(settings.plain, settings.as_list(getattr(self, name))))
            in_range = len(value) == 3 and all(map(_is_share, value))
            if not in_range or (name == "std" and 0 in value):
                above = " above 0" if name == "std" else ""
                raise ValueError(
                    f"`{name}` {tree.shown(list(value))} must be three numbers in 0..1{above}, of "
                    "RGB scaled to 0..1"
                )
            object.__setattr__(self, name, tuple(map(float, value)))

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """Return uint8 (size,size,3) of an image, uint8 (H,W,3).

        Raises ValueError where OpenCV is needed and missing.
        """
        if self.like == "own" and pixels.shape[:2] == (self.size, self.size):
            return pixels
        resized = self._resized(pixels.shape[1], pixels.shape[0])
        corner = tuple(self._first((length - self.size) / 2) for length in resized)
        if self.by != "pillow" and max(pixels.shape) <= images.LONG * min(pixels.shape[:2]):
            left, top = corner
            resize = _by_opencv if self.by == "opencv" else _by_torch
            scaled = resize(pixels, resized, self.interpolation)
            return scaled[top : top + self.size, left : left + self.size]
        image, how = Image.fromarray(pixels), Image.Resampling[self.interpolation.upper()]
        return np.asarray(images.resized_middle(image, resized, self.size, how, corner))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and the height to which an image is scaled."""
        target, shorter = self.resize or self.size, min(width, height)
        if self.squash:
            return target, target
        if self.like == "own":
            scale = target / shorter
            return max(self.size, round(width * scale)), max(self.size, round(height * scale))
        return int(target * width / shorter), int(target * height / shorter)

    def _first(self, middle: float) -> int:
        """Return the first row or column that is kept."""
        return round(middle) if self.like == "torchvision" else int(middle)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return normalised float (N,3,H,W) of images, uint8 (N,H,W,3)."""
        mean, std = (
            torch.tensor(value, device=pixels.device)[:, None, None]
            for value in (self.mean, self.std)
        )
        return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)


def _is_share(number: object) -> bool:
    """Tell whether a value is a number in 0..1."""
    return settings.is_of(number, float) and 0 <= number <= 1


def _by_torch(pixels: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Return an image resized as torchvision resizes tensors of uint8."""
    if pixels.shape[1::-1] == size:
        return pixels
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    smooth = {} if name == "nearest" else {"antialias": True, "align_corners": False}
    resized = F.interpolate(image, size[::-1], mode=name, **smooth)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def _by_opencv(pixels: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Return an image resized as mmcls does it. Raises ValueError where OpenCV is missing."""
    try:
        import cv2
    except ImportError:
        raise ValueError(
            "this classifier sees images that OpenCV resized, as mmcls does: pip install "
            "opencv-python"
        ) from None
    if pixels.shape[1::-1] == size:
        return pixels
    codes = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
    how = dict(zip(INTERPOLATIONS, codes, strict=True))[name]
    return cv2.resize(pixels, size, interpolation=how)
