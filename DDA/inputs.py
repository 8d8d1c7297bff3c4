"""Images as people hold them in Python: arrays, tensors, PIL images, lists of these.

`read` gives their uint8 pixels; `like` gives new pixels the form of the images they were made of.
Tensors are recognised by what they can do, so torch is not imported here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from DDA import images, tree

FORMS = "uint8 (N,H,W,3), float (N,3,H,W) in [0,1], PIL images, or a list of such images"
Copies = np.ndarray | list[np.ndarray]  # uint8 (N,H,W,3), or (H,W,3) of several shapes
TOLERANCE = 1e-4  # the error of float arithmetic beyond [0,1]


def read(batch: Any) -> list[np.ndarray]:
    """Return the pixels of images, each uint8 (H,W,3).

    Args:
        batch: uint8 (N,H,W,3) or float (N,3,H,W) in [0,1], as a numpy array or a torch tensor; a
            PIL image; a list of PIL images, uint8 (H,W,3) and float (3,H,W), of any sizes. An array
            of three dimensions is one image. Floats are rounded to 256 levels. PIL images become
            RGB as `images.to_rgb` has it; their EXIF rotation is ignored.

    Returns:
        The pixels of each image.

    Raises:
        ValueError: another shape or type, floats outside [0,1] or not finite, a PIL image that is
            animated, damaged or of a mode whose range nobody knows.

    Example:
        >>> [pixels.shape for pixels in read(np.zeros((2, 8, 6, 3), np.uint8))]
        [(8, 6, 3), (8, 6, 3)]
        >>> read(np.full((1, 3, 4, 4), 0.5, np.float32))[0][0, 0].tolist()
        [128, 128, 128]
    """
    if isinstance(batch, list | tuple):
        return [_read_one(image, f"image {place}") for place, image in enumerate(batch)]
    if _is_one(batch):
        return [_read_one(batch, "the image")]
    array = _as_array(batch)
    if array is None or array.ndim != 4:
        raise ValueError(f"images are {FORMS}, not {_describe(batch)}{_advice(batch)}")
    return _to_pixels(array, "the images")


def _is_one(batch: Any) -> bool:
    """Tell whether this is one image and neither a batch nor a list."""
    return isinstance(batch, Image.Image) or getattr(batch, "ndim", None) == 3


def _read_one(image: Any, name: str) -> np.ndarray:
    """Return the pixels of one image. name: what an error calls it."""
    if isinstance(image, Image.Image):
        try:
            array = np.asarray(images.to_rgb(image))
        except Exception as error:  # PIL and its plugins raise many types for damaged files
            raise ValueError(f"{name}: {error}") from None
    else:
        array = _as_array(image)
    if array is None or array.ndim != 3:
        raise ValueError(
            f"{name} is uint8 (H,W,3), float (3,H,W) or PIL, not {_describe(image)}{_advice(image)}"
        )
    return _to_pixels(array[None], name)[0]


def _to_pixels(array: np.ndarray, name: str) -> list[np.ndarray]:
    """Return uint8 (H,W,3) of each image in an array of four dimensions."""
    is_float = array.dtype.kind == "f"
    if not is_float and array.dtype != np.uint8:
        levels = "(x * 255)" if array.dtype == bool else "x"
        raise ValueError(
            f"{name}: pixels are uint8 or float, not {array.dtype}; where they are 0..255, give "
            f"{levels}.astype(np.uint8), and {levels}.to(torch.uint8) of a tensor"
        )
    _check_shape(array.shape[1:], name, is_float=is_float)
    if is_float and array.size:
        _check_range(array, name)
    if is_float:
        levels = np.round(array.astype(np.float32, copy=False) * 255)
        array = levels.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return [np.ascontiguousarray(image) for image in array]


def _check_shape(shape: tuple[int, ...], name: str, *, is_float: bool) -> None:
    """Raise ValueError where an array of this shape is no image in colour."""
    if 0 in shape:
        raise ValueError(f"{name}: an image of the shape {shape} has no pixels")
    if is_float:
        form, channels, elsewhere, end = "float pixels are (3,H,W)", shape[0], shape[2], "front"
    else:
        form, channels, elsewhere, end = "uint8 pixels are (H,W,3)", shape[2], shape[0], "end"
    if channels == 3:
        return
    if elsewhere == 3:
        advice = f"move the channels to the {end}"
    elif channels == 4:
        advice = f"drop the fourth channel: x[{'..., :3, :, :' if is_float else '..., :3'}]"
    elif channels == 1:
        advice = f"repeat grey three times: np.repeat(x, 3, {-3 if is_float else -1})"
    else:
        axis, place = (-3, "..., None, :, :") if is_float else (-1, "..., None")
        advice = f"where these are grey images, give np.repeat(x[{place}], 3, {axis})"
    raise ValueError(f"{name}: {form}, not {shape}; {advice}")


def _check_range(array: np.ndarray, name: str) -> None:
    """Raise ValueError where some values are not in [0,1]."""
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: some values are not finite")
    least, most = float(array.min()), float(array.max())
    if least < -TOLERANCE or most > 1 + TOLERANCE:
        raise ValueError(
            f"{name}: float pixels are in [0,1], but these are in [{least:.5g},{most:.5g}]; "
            "divide, clamp or undo the normalisation first"
        )


def like(batch: Any, pixels: np.ndarray | Sequence[np.ndarray]) -> Any:
    """Return new pixels in the form of ``batch``, as `read` took it.

    An array gives an array of its type, a tensor a tensor of its type on its device, a PIL image
    one in RGB. A list gives a list with an image for each of its images, in the form of that image.
    pixels: uint8 (N,H,W,3); for a list also a sequence of (H,W,3).

    >>> like(np.zeros((1, 3, 8, 8), np.float32), np.full((1, 4, 4, 3), 255, np.uint8)).shape
    (1, 3, 4, 4)
    """
    if isinstance(batch, list | tuple):
        return [_like_one(image, new) for image, new in zip(batch, pixels, strict=True)]
    if _is_one(batch):
        return _like_one(batch, pixels[0])
    return _like_array(batch, np.asarray(pixels))


def _like_one(image: Any, pixels: np.ndarray) -> Any:
    if isinstance(image, Image.Image):
        return Image.fromarray(pixels)
    return _like_array(image, pixels)


def _like_array(batch: Any, pixels: np.ndarray) -> Any:
    """Return pixels (...,H,W,3) as an array or a tensor of the type of ``batch``."""
    if not str(batch.dtype).endswith("uint8"):  # numpy's uint8, or torch.uint8
        pixels = np.moveaxis(pixels.astype(np.float32) / 255, -1, -3)
    if hasattr(batch, "new_tensor"):
        return batch.new_tensor(np.ascontiguousarray(pixels))
    return np.ascontiguousarray(pixels, dtype=batch.dtype)


def together(copies: list[np.ndarray], size: int) -> Copies:
    """Return images uint8 (H,W,3) as one array where they have one shape, else as they are.

    size: the sides of the empty array (0,size,size,3) for no images.
    """
    if not copies:
        return np.empty((0, size, size, 3), np.uint8)
    return np.stack(copies) if len({copy.shape for copy in copies}) == 1 else copies


def keys(pixels: Sequence[np.ndarray], given: Any = None) -> list[str]:
    """Return the keys of images: those given, else the SHA-256 of each image's uint8 pixels.

    given: texts or paths, one for each image; a single one for a single image. Raises ValueError
    where another number of keys is given, or something else.
    """
    if given is None:
        return [hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in pixels]
    if isinstance(given, str | PathLike) and len(pixels) == 1:
        given = [given]
    is_list = isinstance(given, Iterable) and not isinstance(given, str | bytes | PathLike)
    names = list(given) if is_list else []
    misfits = [name for name in names if not isinstance(name, str | PurePath)]
    if misfits or not is_list:
        value = tree.shown(misfits[0] if misfits else given)
        raise ValueError(f"`keys` is a list of texts, one for each image; {value} is none")
    if len(names) != len(pixels):
        raise ValueError(f"`keys` has {len(names)} entries for {len(pixels)} images")
    return [key_text(name) for name in names]


def key_text(key: str | PurePath) -> str:
    """Return a key that was given as text or as a path."""
    return key.as_posix() if isinstance(key, PurePath) else str(key)


def _as_array(batch: Any) -> np.ndarray | None:
    """Return a numpy array of an array or a tensor; None for anything else."""
    if hasattr(batch, "detach"):  # a tensor of torch, perhaps of a type that numpy lacks
        batch = batch.detach()
        try:
            return (batch.float() if batch.is_floating_point() else batch).numpy(force=True)
        except (TypeError, NotImplementedError):  # sparse and meta tensors hold no array
            return None
    return batch if isinstance(batch, np.ndarray) else None


def _describe(batch: Any) -> str:
    """Return what was given, as a message names it: its type, and its shape if it has one."""
    shape = getattr(batch, "shape", None)
    name = type(batch).__name__
    return f"{name} {tuple(shape)}" if isinstance(shape, tuple) else name


def _advice(batch: Any) -> str:
    """Return what to do with something that is no image, as the end of a message."""
    layout = f"{getattr(batch, 'layout', '')}"
    if isinstance(batch, str | PathLike):
        return "; open a file with PIL.Image.open (`Adapter.folder` takes folders)"
    if layout not in ("", "torch.strided"):
        return "; give x.to_dense() of a sparse tensor"
    if getattr(batch, "is_meta", False):
        return "; a meta tensor has no values"
    if getattr(batch, "ndim", None) == 2:
        return "; give a grey image three channels: np.repeat(x[..., None], 3, -1)"
    if isinstance(batch, Iterable) and not hasattr(batch, "__len__"):
        return "; make a list of them"
    return ""
