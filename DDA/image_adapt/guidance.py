"""Guidance: the pull of the reverse process towards the reference image.

A guidance is called with the network as ``predict(x) -> Prediction``, x_t (B,3,H,W) and the
signal alpha_bar_t that remains in it. It returns the prediction to step with, and a correction
(B,3,H,W) or 0 that is added to the result of the step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from DDA.image_adapt.diffusion import Prediction
from DDA.image_adapt.low_pass import PROJECTIONS, low_pass

Predict = Callable[[torch.Tensor], Prediction]
Guidance = Callable[[Predict, torch.Tensor, float], tuple[Prediction, torch.Tensor | float]]


def gradient(
    reference: torch.Tensor, *, factor: int, scale: float, norm_over: str = "image"
) -> Guidance:
    """Make the guidance of DDA (algorithm 1), which needs the gradient through the network.

    The correction is minus ``scale`` times the gradient of || LP_D(reference) - LP_D(x0_hat) ||_2
    with respect to x_t, through the clamp and the whole network. norm_over: "image" takes each
    image's own norm, so neighbours do not matter. "batch" takes one norm over the whole batch, as
    the published code does; this weakens the guidance in a batch of B about sqrt(B) times.
    """
    if norm_over not in ("image", "batch"):
        raise ValueError(f'norm_over {norm_over!r} is unknown; use "image" or "batch"')
    wanted = low_pass(reference, factor)

    def guide(
        predict: Predict, x_t: torch.Tensor, signal: float
    ) -> tuple[Prediction, torch.Tensor]:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            # a view, because torch's counters of operations cannot follow a leaf of the graph
            x0, log_variance = predict(x_t.view_as(x_t))
            gap = (wanted - low_pass(x0, factor)).flatten(1)
            # torch's norm has gradient 0 where it is exactly 0
            distance = gap.norm(dim=1).sum() if norm_over == "image" else gap.norm()
            (slope,) = torch.autograd.grad(distance, x_t)
        if isinstance(log_variance, torch.Tensor):
            log_variance = log_variance.detach()
        return Prediction(x0.detach(), log_variance), -scale * slope

    return guide


def projection(
    reference: torch.Tensor,
    *,
    factor: int,
    k: float,
    filter: str = "block",
    s_y: float | None = None,
) -> Guidance:
    """Make a guidance without a gradient: x0' = x0_hat + k_t P(reference - x0_hat).

    P is a low-pass projection. This is the update of DDNM (arXiv:2212.00490, equation 13, k_t =
    1), the proximal step of DiffPIR (arXiv:2305.08995), and pi-GDM without its Jacobian. filter:
    one of PROJECTIONS. k: k_t, in 0..1. s_y: the standard deviation of the noise in the
    reference's low frequencies (images in [-1,1]); with it k_t = k r_t^2 / (r_t^2 + s_y^2) with
    r_t^2 = 1 - alpha_bar_t, which is strong early and weak late. Images do not influence each
    other.
    """
    if filter not in PROJECTIONS:
        raise ValueError(f"projection {filter!r} is unknown; use one of {', '.join(PROJECTIONS)}")
    wanted = low_pass(reference, factor, filter)

    def guide(predict: Predict, x_t: torch.Tensor, signal: float) -> tuple[Prediction, float]:
        x0, log_variance = predict(x_t)
        k_t = k if s_y is None else k * (1 - signal) / (1 - signal + s_y**2)
        return Prediction(x0 + k_t * (wanted - low_pass(x0, factor, filter)), log_variance), 0.0

    return guide


def no_guidance(predict: Predict, x_t: torch.Tensor, signal: float) -> tuple[Prediction, float]:
    """Follow the prior alone."""
    return predict(x_t), 0.0
