"""Random changes of training images, drawn by the generator that is passed in."""

from __future__ import annotations

import numpy as np
from PIL import Image

from DistilledClassifier.classifiers import Preprocess
from DistilledClassifier.experiments.config import Augment


def change(
    pixels: np.ndarray, augment: Augment, preprocess: Preprocess, rng: np.random.Generator
) -> np.ndarray:
    """Return a training image, uint8 (size,size,3), made of any uint8 (H,W,3)."""
    if augment.resized_crop:
        pixels = _resized_crop(pixels, preprocess, rng)
    pixels = preprocess.fit(pixels)
    if augment.crop:
        around = (augment.crop, augment.crop)
        padded = np.pad(pixels, (around, around, (0, 0)))
        top, left = rng.integers(0, 2 * augment.crop + 1, 2)
        pixels = padded[top : top + preprocess.size, left : left + preprocess.size]
    if augment.flip and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels


def _resized_crop(
    pixels: np.ndarray, preprocess: Preprocess, rng: np.random.Generator
) -> np.ndarray:
    """Return a random part of an image, scaled to uint8 (size,size,3).

    The part has 8 to 100 % of the area and sides in the ratio 3:4 to 4:3, as in Inception. It is
    the whole image where ten tries do not fit.
    """
    height, width = pixels.shape[:2]
    for _ in range(10):
        area = rng.uniform(0.08, 1) * height * width
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            pixels = pixels[top : top + h, left : left + w]
            break
    how = Image.Resampling[preprocess.interpolation.upper()]
    return np.asarray(Image.fromarray(pixels).resize((preprocess.size, preprocess.size), how))
