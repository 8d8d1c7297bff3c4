"""Images as people hold them in Python: arrays, tensors, PIL images, lists of these.

`read` gives their uint8 pixels; `like` gives new pixels the form of the images they were made of.
Tensors are recognised by what they can do, so torch is not imported here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from DDA import images

FORMS = "uint8 (N,H,W,3), float (N,3,H,W) in [0,1], PIL images, or a list of such images"
TOLERANCE = 1e-4  # beyond [0,1]: what float arithmetic leaves


def read(batch: Any) -> list[np.ndarray]:
    """Return the pixels of images, each uint8 (H,W,3).

    Args:
        batch: uint8 (N,H,W,3) or float (N,3,H,W) in [0,1], as a numpy array or a torch tensor; a
            PIL image; a list of PIL images, uint8 (H,W,3) and float (3,H,W), of any sizes. An array
            of three dimensions is one image. Floats are rounded to 256 levels.

    Returns:
        The pixels of each image.

    Raises:
        ValueError: another shape or type, floats outside [0,1] or not finite, a PIL image that is
            animated or of a mode whose range nobody knows.

    Example:
        >>> [pixels.shape for pixels in read(np.zeros((2, 8, 6, 3), np.uint8))]
        [(8, 6, 3), (8, 6, 3)]
        >>> read(np.full((1, 3, 4, 4), 0.5, np.float32))[0][0, 0].tolist()
        [128, 128, 128]
    """
    if isinstance(batch, list | tuple):
        return [_read_one(image, f"image {place}") for place, image in enumerate(batch)]
    if isinstance(batch, Image.Image) or np.ndim(batch) == 3:
        return [_read_one(batch, "the image")]
    array = _as_array(batch)
    if array.ndim != 4:
        raise ValueError(f"images are {FORMS}, not {_describe(batch)}")
    return list(_to_pixels(array, "images"))


def _read_one(image: Any, name: str) -> np.ndarray:
    """Return the pixels of one image. name: what an error calls it."""
    if isinstance(image, Image.Image):
        try:
            return np.asarray(images.to_rgb(image))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    array = _as_array(image)
    if array.ndim != 3:
        raise ValueError(f"{name} is uint8 (H,W,3), float (3,H,W) or PIL, not {_describe(image)}")
    return _to_pixels(array[None], name)[0]


def _to_pixels(array: np.ndarray, name: str) -> np.ndarray:
    """Return uint8 (N,H,W,3) of an array with four dimensions."""
    if 0 in array.shape[1:]:
        raise ValueError(f"{name}: an image of shape {array.shape[1:]} has no pixels")
    if array.dtype == np.uint8:
        if array.shape[3] != 3:
            turned = array.shape[1] == 3
            advice = "; move the channels to the end: permute(0, 2, 3, 1)" if turned else ""
            raise ValueError(f"{name}: uint8 pixels are (N,H,W,3), not {array.shape}{advice}")
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: pixels are uint8 or float, not {array.dtype}")
    if array.shape[1] != 3:
        raise ValueError(f"{name}: float pixels are (N,3,H,W), not {array.shape}")
    if array.size and not np.isfinite(array).all():
        raise ValueError(f"{name}: some values are not finite")
    if array.size and not -TOLERANCE <= array.min() <= array.max() <= 1 + TOLERANCE:
        least, most = float(array.min()), float(array.max())
        raise ValueError(
            f"{name}: float pixels are in [0,1], but these are in [{least:.3g},{most:.3g}]; "
            "divide, clamp or undo the normalisation first"
        )
    pixels = np.round(array.astype(np.float32, copy=False) * 255).clip(0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def like(batch: Any, pixels: np.ndarray | Sequence[np.ndarray]) -> Any:
    """Return new pixels, uint8 (N,H,W,3), in the form of ``batch``, as `read` took it.

    A tensor comes out on the device of ``batch`` and of its type. A list holds an image for each
    of its images, in the form of that image.

    >>> like(np.zeros((1, 3, 8, 8), np.float32), np.full((1, 4, 4, 3), 255, np.uint8)).shape
    (1, 3, 4, 4)
    """
    if isinstance(batch, list | tuple):
        return [_like_one(image, new) for image, new in zip(batch, pixels, strict=True)]
    if isinstance(batch, Image.Image) or np.ndim(batch) == 3:
        return _like_one(batch, pixels[0])
    return _like_array(batch, np.asarray(pixels))


def _like_one(image: Any, pixels: np.ndarray) -> Any:
    if isinstance(image, Image.Image):
        return Image.fromarray(pixels)
    return _like_array(image, pixels)


def _like_array(batch: Any, pixels: np.ndarray) -> Any:
    """Return pixels (...,H,W,3) as an array or a tensor of the type of ``batch``."""
    if _as_array(batch).dtype != np.uint8:
        pixels = np.moveaxis(pixels.astype(np.float32) / 255, -1, -3)
    if hasattr(batch, "new_tensor"):
        return batch.new_tensor(np.ascontiguousarray(pixels))
    return np.ascontiguousarray(pixels, dtype=batch.dtype)


def keys(pixels: Sequence[np.ndarray], given: Sequence[str] | None = None) -> list[str]:
    """Return the keys of images: those given, else the SHA-256 of each image's uint8 pixels.

    Raises ValueError where another number of keys is given, or one that is no text.
    """
    if given is None:
        return [hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in pixels]
    names = list(given)
    if isinstance(given, str) or not all(isinstance(name, str) for name in names):
        raise ValueError("`keys` is a list of texts, one for each image")
    if len(names) != len(pixels):
        raise ValueError(f"`keys` has {len(names)} entries for {len(pixels)} images")
    return names


def _as_array(batch: Any) -> np.ndarray:
    """Return a numpy array of an array or a tensor. Raises ValueError for anything else."""
    if hasattr(batch, "detach"):  # a tensor of torch, perhaps of a type that numpy lacks
        batch = batch.detach().cpu()
        return (batch.float() if batch.is_floating_point() else batch).numpy()
    if isinstance(batch, np.ndarray):
        return batch
    raise ValueError(f"images are {FORMS}, not {_describe(batch)}")


def _describe(batch: Any) -> str:
    shape = getattr(batch, "shape", None)
    return type(batch).__name__ if shape is None else f"{type(batch).__name__} {tuple(shape)}"
