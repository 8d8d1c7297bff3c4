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
from DDA.image_adapt import checkpoints
from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.noise import NoiseStreams
from DDA.image_adapt.sampler import adapt
from DDA.image_adapt.unet import UNet
from DDA.settings import check_kinds, check_names

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Weights = Mapping[str, torch.Tensor]


class Prior:
    """A checkpoint that was read and recognised.

    settings: all that `checkpoints.resolve` tells of it.
    """

    def __init__(self, path: Path, weights: Weights, settings: Mapping[str, Any]):
        self.path, self.settings, self._weights = path, settings, weights

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of the file, which is digested once."""
        return files.sha256(self.path)

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
    prior, digests = Prior(path, weights, settings), checkpoints.digests(path)
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
