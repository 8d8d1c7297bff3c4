"""The adaptation itself: noise a degraded image part of the way, then walk back under guidance (DDA, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from DDA.image_adapt.diffusion import Diffusion, ddim_step, ddpm_step
from DDA.image_adapt.guidance import gradient

BEHAVIORS = ("corrected", "published")
GUIDANCES = ("gradient",)
STEPS = {"ddpm": ddpm_step, "ddim": ddim_step}


@torch.no_grad()
def adapt(
    model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    diffusion: Diffusion,
    reference: torch.Tensor,
    *,
    diffusion_range: int,
    factor: int,
    scale: float,
    guidance: str = "gradient",
    sampler: str = "ddpm",
    behavior: str = "corrected",
    clip_denoised: bool = True,
    draw_noise: Callable[[int], torch.Tensor],
) -> torch.Tensor:
    """Adapted copies (B,3,H,W) of ``reference`` (B,3,H,W) in [-1,1]; not clamped.

    model(x (B,3,H,W), t (B,)): a DDPM's network. diffusion_range: N, the number of reverse steps, in indices of the respaced
    process. factor: D of the low-pass filter. scale: weight of the guidance. draw_noise(k): the k-th standard normal tensor
    of reference's shape; k = 0 for the forward noising, 1.. for the reverse steps in order. sampler: the step rule, "ddpm" or
    "ddim".

    behavior "corrected" noises to index N-1, where the reverse process starts, and guides each image by its own norm;
    "published" noises to index N, one step more than the first reverse step assumes, and shares one norm over the batch.
    Raises ValueError for N or D out of range and for an unknown guidance, sampler or behaviour.
    """
    check_range(diffusion, diffusion_range, behavior)
    if guidance not in GUIDANCES:
        raise ValueError(f"guidance {guidance!r} is unknown; use one of {', '.join(GUIDANCES)}")
    if sampler not in STEPS:
        raise ValueError(f"sampler {sampler!r} is unknown; use one of {', '.join(STEPS)}")
    published = behavior == "published"
    guide = gradient(reference, factor=factor, scale=scale, norm_over="batch" if published else "image")

    start = diffusion_range if published else diffusion_range - 1
    x = diffusion.q_sample(reference, start, draw_noise(0).to(reference))
    for step, index in enumerate(reversed(range(diffusion_range)), start=1):

        def predict(x_t, index=index):
            return diffusion.predict(model, x_t, index, clip=clip_denoised)

        prediction, correction = guide(predict, x)
        noise = draw_noise(step).to(reference) if index else None
        x = STEPS[sampler](diffusion, x, prediction, index, noise) + correction
    return x


def check_range(diffusion: Diffusion, diffusion_range: int, behavior: str) -> None:
    """Raise ValueError unless N fits the respaced process: 1..T, or 1..T-1 under published behaviour."""
    if behavior not in BEHAVIORS:
        raise ValueError(f"behavior {behavior!r} is unknown; use one of {', '.join(BEHAVIORS)}")
    last = len(diffusion) - (behavior == "published")
    if not 1 <= diffusion_range <= last:
        raise ValueError(f"N {diffusion_range} is outside 1..{last}, the steps of the respaced process ({behavior})")
