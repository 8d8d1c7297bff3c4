"""A trained DDPM as the adaptation uses it: weights, settings, process and network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DDA import files, images
from DDA.devices import DTYPES, Parts
from DDA.image_adapt import checkpoints, denoising
from DDA.image_adapt.choices import SPEEDS
from DDA.image_adapt.diffusion import Diffusion, respaced_timesteps
from DDA.image_adapt.noise import NoiseStreams
from DDA.image_adapt.prior_settings import last_of
from DDA.image_adapt.sampler import adapt
from DDA.image_adapt.settings import Method
from DDA.image_adapt.unet import UNet
from DDA.settings import check_kinds, check_names

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Weights = Mapping[str, torch.Tensor]


class Prior:
    """A checkpoint that was read and recognised.

    settings: all that `checkpoints.resolve` tells of it. record: for what it is good, if its file
    tells that.
    """

    def __init__(
        self,
        path: Path,
        weights: Weights,
        settings: Mapping[str, Any],
        record: checkpoints.Record | None = None,
    ):
        self.path, self.settings, self._weights = path, settings, weights
        self._record = record or {}

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of the file, which is digested once."""
        return files.sha256(self.path)

    def check_timesteps(self, process: Diffusion, chosen: Method) -> None:
        """Raise ValueError where a method needs timesteps that the prior was not trained for.

        process: that of the prior, respaced.
        """
        check_timesteps(self.path, self._record.get("timesteps"), process, chosen)

    def shortfall(self, process: Diffusion, chosen: Method) -> str | None:
        """Return in words where the prior denoises too badly for a method.

        The result is None where it denoises well, or where nobody measured it.
        """
        measured = self._record.get("denoising")
        if measured is None:
            return None
        return denoising.shortfall(measured["levels"], _called(process, chosen))

    @torch.inference_mode(False)  # guidance takes a gradient through these weights
    def network(self, device: torch.device, dtype: str = "float32") -> UNet:
        """Return the network on a device, its body in ``dtype``.

        Raises ValueError where it does not fit into the memory.
        """
        # float32 means float32; bfloat16 and float16 are there for speed
        torch.backends.cudnn.allow_tf32 = False
        try:
            network = checkpoints.build(self.path, self._weights, self.settings)
            network = network.to(device).convert(DTYPES[dtype])
        except torch.OutOfMemoryError:
            raise ValueError(
                f"the network of `model_path` {self.path} does not fit into the memory of {device}"
            ) from None
        # the layout in which oneDNN convolves fastest
        return network.to(memory_format=torch.channels_last) if device.type == "cpu" else network


def _called(process: Diffusion, chosen: Method) -> list[int]:
    """Return the timesteps at which a method calls the network, in ascending order."""
    return process.first(chosen.N, chosen.steps).timestep_map


def check_timesteps(path: Path, timesteps: str | None, process: Diffusion, chosen: Method) -> None:
    """Raise ValueError where a method needs timesteps that a prior is not trained for.

    path: of the prior. timesteps: those of its training, such as ``0-200``; None for all. process:
    that of the prior, respaced.
    """
    last = last_of(timesteps or "")
    highest = _called(process, chosen)[-1]
    if last is None or highest <= last:
        return
    most = sum(timestep <= last for timestep in process.timestep_map)
    fitting = ", ".join(rungs(process.original_steps, last)) or "no rung"
    raise ValueError(
        f"`model_path` {path} is a prior for the timesteps 0-{last} alone, and `N` {chosen.N} "
        f"needs {highest} too. It can do {fitting} of `speed`, and `N` can be {most} at most, in "
        f"the {len(process)} steps of the respaced process"
    )


def rungs(steps: int, last: int) -> list[str]:
    """Return the rungs of the speed ladder that a prior can do that was trained for 0 to ``last``.

    steps: those of its process.

    >>> rungs(1000, 200)
    ['balanced', 'fast', 'one-shot']
    """
    if steps < 100:  # rungs count in hundredths
        return []
    kept = respaced_timesteps(steps, "100")
    return [name for name, rung in SPEEDS.items() if kept[rung["diffusion_range"] - 1] <= last]


@torch.inference_mode(False)
def load(path: Path, flags: Mapping[str, Any] | None = None) -> Prior:
    """Read the prior in a file.

    flags: what the user says of it, by the names of `checkpoints.KINDS`; a missing name or None
    means not given. Raises FileNotFoundError, and ValueError for an unknown name, for a value of
    another kind, and for a file that is damaged, contradicts the flags, tells too little, or holds
    a network that needs to know the class of an image.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    check_names(given, checkpoints.KINDS, "`prior`: ")
    check_kinds(given, checkpoints.KINDS, "`prior`: ")
    weights = checkpoints.read_state_dict(path)
    settings = checkpoints.resolve(path, weights, given)
    checkpoints.check(path, weights, settings)
    if settings["class_cond"]:
        raise ValueError(
            f"`model_path` {path} is class-conditional and cannot adapt images whose class is "
            "unknown; use an unconditional prior"
        )
    prior = Prior(path, weights, settings, checkpoints.read_record(path))
    digests = checkpoints.digests(path)
    if digests and prior.sha256 not in digests:
        raise files.BadFile(
            f"`model_path` {path} was changed or damaged since it was written: its SHA-256 is not "
            f"that in {path.with_suffix('.json')}; get both again"
        )
    return prior


def process_of(
    settings: Mapping[str, Any], respacing: str = "", predict_xstart: bool = False
) -> Diffusion:
    """Return the diffusion process of a prior's settings, respaced.

    predict_xstart: the network predicts x_0, not the noise.
    """
    return Diffusion(
        steps=settings["diffusion_steps"],
        timestep_respacing=respacing,
        predict_xstart=predict_xstart,
        **{
            name: settings[name]
            for name in ("noise_schedule", "learn_sigma", "fixed_variance", "rescale_timesteps")
        },
    )


def batch_adapter(
    network: Network,
    process: Diffusion,
    device: torch.device,
    *,
    seed: int,
    image_size: int | None = None,
    **method: Any,
) -> Callable[..., np.ndarray]:
    """Return a function that adapts a batch of images.

    It takes keys and uint8 (B,H,W,3) and returns float32 (B,3,H,W) in [-1,1], not clamped. It also
    takes ``full``: a batch of fewer images is filled up with its last one, because sums are
    rounded differently in batches of other sizes. A batch that does not fit into the memory is
    adapted in parts, except under published behavior, where neighbours matter: that is a
    ValueError. image_size: the side of the prior's images, for which ``scale`` is meant; with
    it a larger image is guided as strongly in each of its pixels. method: keyword settings of
    `sampler.adapt`.
    """
    parts = Parts()

    # The caller's modes of torch change nothing: guidance needs a gradient, which inference mode
    # forbids, and autocast would take another precision than that of the settings.
    @torch.inference_mode(False)
    def adapt_batch(keys: Sequence[str], pixels: np.ndarray, full: int = 0) -> np.ndarray:
        rows = np.arange(max(full, len(keys))).clip(max=len(keys) - 1)

        def adapt_rows(part: slice) -> np.ndarray:
            reference = torch.from_numpy(images.to_model(pixels[rows[part]])).to(device)
            shape = tuple(reference.shape[1:])
            noise = NoiseStreams([keys[row] for row in rows[part]], seed=seed, shape=shape)
            with torch.autocast(device.type, enabled=False):
                chosen = _scaled(method, shape, image_size)
                adapted = adapt(network, process, reference, draw_noise=noise, **chosen)
            return adapted.cpu().numpy()

        if method.get("behavior") != "published":
            return np.concatenate(parts.work(adapt_rows, len(rows), device))[: len(keys)]
        try:
            return adapt_rows(slice(None))[: len(keys)]
        except torch.OutOfMemoryError:
            raise ValueError(
                f"`batch_size` {len(keys)} does not fit into the memory of {device}; lower it"
            ) from None

    return adapt_batch


def _scaled(
    method: Mapping[str, Any], shape: Sequence[int], image_size: int | None
) -> Mapping[str, Any]:
    """Return the settings for images of a shape (3,H,W).

    The gradient of a norm over n pixels falls with the root of n, and the scale makes up for it.
    """
    if image_size is None or "scale" not in method:
        return method
    return {**method, "scale": method["scale"] * math.sqrt(shape[1] * shape[2]) / image_size}
