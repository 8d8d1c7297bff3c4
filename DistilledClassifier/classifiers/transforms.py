"""Preprocessing of other libraries, turned into a `Preprocess`.

A library's own description becomes a list of steps with the same names in all libraries: resize,
crop and normalise. `as_preprocess` makes a `Preprocess` of these, and refuses others in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from DDA import settings, tree
from DistilledClassifier.classifiers.preprocess import INTERPOLATIONS, Preprocess

CODES = dict(enumerate(("nearest", "lanczos", "bilinear", "bicubic")))  # as Pillow numbers them
# steps of transforms that make tensors of images, by the names of their classes
TO_UINT8, TO_FLOAT = ("ToImage", "PILToTensor", "MaybePILToTensor"), ("ToTensor", "MaybeToTensor")
# processors of Hugging Face that resize, crop, scale and normalise, and entries of others
PROCESSORS = (
    "ViT",
    "DeiT",
    "Beit",
    "ConvNext",
    "Bit",
    "CLIP",
    "Siglip",
    "MobileNetV1",
    "MobileNetV2",
)
ODD = ("do_flip_channel_order", "rescale_offset", "include_top", "do_pad")
# types of the entries of a preprocessor_config.json
KINDS = {
    **dict.fromkeys(("size", "crop_size"), int | dict | None),
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), bool | None),
    **dict.fromkeys(("image_mean", "image_std"), list),
    **dict.fromkeys(("rescale_factor", "crop_pct"), float | None),
    "resample": int,
}
ADVICE = "a preprocessing is Resize, CenterCrop, a conversion to a float tensor, and Normalize"


@dataclass(frozen=True)
class Changes:
    """Settings of a preprocessing that a user gives; None leaves what is known.

    A ``size`` alone keeps the ratio of ``resize`` to size.
    """

    size: int | None = None
    resize: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        """Check that sizes are numbers of pixels."""
        sizes = {"size": self.size, "resize": self.resize}
        settings.check_kinds(sizes, dict.fromkeys(sizes, int | None))
        settings.check_at_least(1, **sizes)

    def of(self, known: Preprocess) -> Preprocess:
        """Return a preprocessing with these changes. Raises ValueError."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        if self.size is not None and self.resize is None and known.resize is not None:
            values["resize"] = known.resize * self.size // known.size
        return replace(known, **values)


def of_transform(transform: Any, size: int | None = None) -> Preprocess:
    """Return the `Preprocess` of a transform of torchvision or timm, as it is for evaluation.

    transform: a Compose of either version of torchvision, what ``timm.data.create_transform``
    gives, or the transform of torchvision's weights. size: of the images, where no step tells it.
    Raises ValueError for a step that a `Preprocess` cannot express.
    """
    preprocess, form = _Steps("torchvision", "`transform`"), "pillow"
    for step in _flat(transform):
        name = type(step).__name__
        if name == "Resize":
            preprocess.resize(step.size, step.interpolation, _resizer(step, form))
        elif name == "CenterCrop":
            preprocess.crop(step.size)
        elif name == "Normalize":
            preprocess.normalise(step.mean, step.std)
        elif name in TO_UINT8:
            form = "torch"
        elif name in TO_FLOAT or (name in ("ToDtype", "ConvertImageDtype") and _scales(step)):
            form = "float"
        elif name == "ImageClassification":  # of torchvision's weights
            preprocess.resize(step.resize_size, step.interpolation)
            preprocess.crop(step.crop_size)
            preprocess.normalise(step.mean, step.std)
        elif name != "ToPureTensor":
            raise ValueError(f"`transform`: the step {name} is unknown here; {ADVICE}")
    return preprocess.made(size)


def _resizer(step: Any, form: str) -> str:
    """Return what resizes images as a step Resize does. form: of the images before it.

    Raises ValueError.
    """
    if getattr(step, "max_size", None) is not None:
        raise ValueError(f"`transform`: Resize with max_size is unknown here; {ADVICE}")
    is_new = ".v2" in type(step).__module__
    if form == "float" or (form == "torch" and not (is_new and step.antialias)):
        raise ValueError(
            "`transform`: Resize works on a tensor of floats, or without antialias; put it before "
            "the conversion to a tensor"
        )
    return form


def _flat(transform: Any) -> Iterator[Any]:
    """Yield the steps of a transform, those of a Compose in it one by one."""
    inside = getattr(transform, "transforms", None)
    if isinstance(inside, Iterable):
        for step in inside:
            yield from _flat(step)
    elif type(transform).__name__ == "Sequential":
        for step in transform.children():
            yield from _flat(step)
    elif type(transform).__name__ != "Identity":
        yield transform


def _scales(step: Any) -> bool:
    """Tell whether a conversion to floats divides by 255."""
    return getattr(step, "scale", True) and "float32" in str(step.dtype)


def of_timm(model: Any) -> Preprocess:
    """Return the `Preprocess` of a model of timm, by its data config. Raises ValueError."""
    from timm.data import create_transform, resolve_model_data_config

    return of_transform(create_transform(**resolve_model_data_config(model)))


def of_steps(steps: Sequence[Mapping[str, Any]], size: int | None = None) -> Preprocess:
    """Return the `Preprocess` of a pipeline of mmcls.

    steps: those of ``data.test.pipeline``. size: of the images, where no step tells it. Raises
    ValueError for a step that a `Preprocess` cannot express.
    """
    where = "the pipeline of the config"
    preprocess = _Steps("torchvision", where)
    for step in steps:
        name = step["type"]
        if name == "Resize" and step.get("adaptive_side", "short") == "short":
            target = step["size"]
            both = (target, target) if isinstance(target, int) else tuple(target)
            how = step.get("interpolation", "bilinear")
            resizer = "opencv" if step.get("backend", "cv2") == "cv2" else "pillow"
            preprocess.resize(both[0] if both[1] == -1 else both, how, resizer)
        elif name == "CenterCrop" and not step.get("efficientnet_style"):
            preprocess.crop(step["crop_size"])
        elif name == "Normalize" and step.get("to_rgb", True):
            preprocess.normalise(*([n / 255 for n in step[part]] for part in ("mean", "std")))
        elif name not in ("LoadImageFromFile", "ImageToTensor", "ToTensor", "Collect"):
            entries = {entry: value for entry, value in step.items() if entry != "type"}
            raise ValueError(f"{where}: {name} with {entries} is unknown here; {ADVICE}")
    return preprocess.made(size)


def of_processor(
    entries: Mapping[str, Any], size: int | None = None, by: str = "pillow"
) -> Preprocess:
    """Return the `Preprocess` of a preprocessor_config.json of Hugging Face.

    size: of the images, where no entry tells it. by: what resizes images, pillow or torch. Raises
    ValueError for entries that a `Preprocess` cannot express.
    """
    where = "preprocessor_config.json"
    settings.check_kinds(entries, KINDS, f"{where}: ")
    kind = entries.get("image_processor_type", entries.get("feature_extractor_type", PROCESSORS[0]))
    name = re.sub("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", str(kind))
    unusual = [entry for entry in ODD if entries.get(entry)]
    if name not in PROCESSORS or unusual:
        known = ", ".join(PROCESSORS)
        raise ValueError(
            f"{where}: {', '.join(unusual) or kind} is unknown here; known are {known}"
        )
    preprocess = _Steps("transformers", where)
    target, crop = _sides(entries.get("size")), _sides(entries.get("crop_size"))
    how, share = entries.get("resample", 2), entries.get("crop_pct")
    if target is not None and share is not None:  # as ConvNext has it
        target = target if isinstance(target, int) else target[0]
        if target < 384:
            crop, target = target, int(target / share)
        else:
            crop, target = None, (target, target)
    if entries.get("do_resize", True) and target is not None:
        preprocess.resize(target, how, by)
    if entries.get("do_center_crop", crop is not None) and crop is not None:
        preprocess.crop(crop)
    factor = entries.get("rescale_factor", 1 / 255) if entries.get("do_rescale", True) else 1
    if abs(factor * 255 - 1) > 1e-6:
        raise ValueError(f"{where} multiplies pixels by {factor}; only 1/255 is known")
    if entries.get("do_normalize", True):
        preprocess.normalise(*(entries.get(f"image_{part}", [0.5] * 3) for part in ("mean", "std")))
    return preprocess.made(size)


def _sides(size: Any) -> int | tuple[int, int] | None:
    """Return a size of Hugging Face: a shorter side, or height and width."""
    if not isinstance(size, Mapping):
        return size if size is None else (size, size)
    sides = (size.get("height"), size.get("width"))
    chosen = size.get("shortest_edge", sides)
    if not all(settings.is_of(side, int) for side in settings.as_list(chosen)):
        raise ValueError(f"preprocessor_config.json: the size {tree.shown(size)} is unknown here")
    return chosen


class _Steps:
    """The steps of a preprocessing, one after the other. library: as `Preprocess.like`."""

    def __init__(self, library: str, where: str):
        self._library, self._where = library, where
        self._target: int | tuple[int, int] | None = None
        self._side: int | None = None
        self._values: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}

    def resize(self, target: Any, interpolation: Any, by: str = "pillow") -> None:
        """Scale the shorter side to a number of pixels, or both sides to a height and a width."""
        if self._target is not None or self._side is not None:
            raise ValueError(f"{self._where}: a second Resize, or one after CenterCrop; {ADVICE}")
        self._target = (
            target[0] if isinstance(target, list | tuple) and len(target) == 1 else target
        )
        name = str(getattr(interpolation, "value", interpolation))
        name = CODES.get(int(name), name) if name.isdigit() else name
        if name not in INTERPOLATIONS:
            names = ", ".join(INTERPOLATIONS)
            raise ValueError(f"{self._where}: the interpolation {name} is unknown; use {names}")
        self._values |= {"interpolation": name, "by": by}

    def crop(self, size: Any) -> None:
        """Take the middle of a number of pixels."""
        self._side = self._square("CenterCrop", size)

    def normalise(self, mean: Any, std: Any) -> None:
        """Subtract a mean and divide by a deviation, of RGB in 0..1."""
        self._values |= {
            name: tuple(map(settings.plain, values))
            for name, values in (("mean", mean), ("std", std))
        }

    def _square(self, name: str, size: Any) -> int:
        sides = (size,) if isinstance(size, int) else tuple(size)
        if len(set(sides)) != 1:
            raise ValueError(f"{self._where}: {name} to {list(sides)}; only squares are known")
        return sides[0]

    def made(self, size: int | None) -> Preprocess:
        """Return the whole. size: of the images, where no step tells it. Raises ValueError."""
        if self._target is None and self._side is None:
            if size is None:
                raise ValueError(
                    f"{self._where} tells no size of images; name `size`, or add a Resize of both "
                    "sides"
                )
            return Preprocess(size, **self._values)
        if self._target is None:
            raise ValueError(f"{self._where}: CenterCrop without Resize before it; {ADVICE}")
        squash = not isinstance(self._target, int)
        resize = self._square("Resize", self._target)
        if self._side is None and not squash:
            raise ValueError(
                f"{self._where}: Resize({resize}) leaves rectangles; add CenterCrop, or give "
                "Resize both sides"
            )
        side = resize if self._side is None else self._side
        if side > resize:
            raise ValueError(f"{self._where}: CenterCrop {side} pads an image of {resize} pixels")
        given = resize if side < resize else None
        return Preprocess(side, given, squash=squash, like=self._library, **self._values)
