"""The adaptation: noise a degraded image part of the way, then walk back under guidance.

It is algorithm 1 of DDA (arXiv:2207.03442).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from DDA.image_adapt.choices import BEHAVIORS, GUIDANCES, SAMPLERS, SPEEDS
from DDA.image_adapt.diffusion import Diffusion, ddim_step, ddpm_step, dpmpp2m_step
from DDA.image_adapt.guidance import gradient, no_guidance, projection

__all__ = ["BEHAVIORS", "GUIDANCES", "SAMPLERS", "SPEEDS", "adapt", "check_range"]


@torch.no_grad()
def adapt(
    model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    diffusion: Diffusion,
    reference: torch.Tensor,
    *,
    diffusion_range: int,
    factor: int,
    scale: float = 6.0,
    guidance: str = "gradient",
    filter: str = "block",
    k: float = 1.0,
    s_y: float | None = None,
    sampler: str = "ddpm",
    steps: int | None = None,
    eta: float = 0.0,
    behavior: str = "corrected",
    clip_denoised: bool = True,
    draw_noise: Callable[[int], torch.Tensor],
) -> torch.Tensor:
    """Return adapted copies (B,3,H,W) of ``reference`` (B,3,H,W) in [-1,1], not clamped.

    model(x (B,3,H,W), t (B,)): the network of a DDPM. diffusion_range: N, where the reverse
    process starts, in indices of the respaced process. steps: network calls from index N-1 to 0
    (default: all N). factor: D of the low-pass filter. guidance: "gradient" with its weight
    ``scale``; "projection" with ``filter``, k and s_y (see `guidance.projection`); "none".
    sampler: "ddpm", "ddim" with eta, "dpmpp2m". draw_noise(k): the k-th standard normal tensor of
    reference's shape; k = 0 is for the forward noising, 1 and on for the reverse steps in order.

    behavior: "corrected" noises to index N-1, where the reverse process starts, and guides each
    image by its own norm. "published" noises to index N, one step more than the first reverse
    step assumes, and shares one norm over the batch. Raises ValueError for N, D or steps out of
    range and for an unknown guidance, filter, sampler or behaviour.
    """
    check_range(diffusion, diffusion_range, behavior)
    published = behavior == "published"
    if guidance == "gradient":
        guide = gradient(
            reference, factor=factor, scale=scale, norm_over="batch" if published else "image"
        )
    elif guidance == "projection":
        guide = projection(reference, factor=factor, filter=filter, k=k, s_y=s_y)
    elif guidance == "none":
        guide = no_guidance
    else:
        raise ValueError(f"guidance {guidance!r} is unknown; use one of {', '.join(GUIDANCES)}")
    rules = dict(zip(SAMPLERS, (ddpm_step, partial(ddim_step, eta=eta), dpmpp2m_step), strict=True))
    if sampler not in rules:
        raise ValueError(f"sampler {sampler!r} is unknown; use one of {', '.join(SAMPLERS)}")

    x = diffusion.q_sample(
        reference,
        diffusion_range if published else diffusion_range - 1,
        draw_noise(0).to(reference),
    )
    process = diffusion.first(diffusion_range, steps)
    last = None
    for step, index in enumerate(reversed(range(len(process))), start=1):

        def predict(x_t, index=index):
            return process.predict(model, x_t, index, clip=clip_denoised)

        prediction, correction = guide(predict, x, float(process.alphas_cumprod[index]))
        noise = draw_noise(step).to(reference) if index else None
        x = rules[sampler](process, x, prediction, index, noise, last) + correction
        last = prediction
    return x


def check_range(diffusion: Diffusion, diffusion_range: int, behavior: str) -> None:
    """Raise ValueError unless N fits the respaced process.

    It must be in 1..T, or in 1..T-1 under published behaviour.
    """
    if behavior not in BEHAVIORS:
        raise ValueError(f"behavior {behavior!r} is unknown; use one of {', '.join(BEHAVIORS)}")
    last = len(diffusion) - (behavior == "published")
    if not 1 <= diffusion_range <= last:
        raise ValueError(
            f"N {diffusion_range} is outside 1..{last}, the steps of the respaced process "
            f"({behavior})"
        )
