"""Guidance: what pulls the reverse process towards the reference image.

A guidance is called with the network as ``predict(x) -> Prediction`` and with x_t (B,3,H,W); it returns the prediction to
step with and a correction (B,3,H,W) that is added to the step's result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from DDA.image_adapt.diffusion import Prediction
from DDA.image_adapt.low_pass import low_pass

Predict = Callable[[torch.Tensor], Prediction]
Guidance = Callable[[Predict, torch.Tensor], tuple[Prediction, torch.Tensor]]


def gradient(reference: torch.Tensor, *, factor: int, scale: float, norm_over: str = "image") -> Guidance:
    """DDA's guidance: minus ``scale`` times the gradient of || LP_D(reference) - LP_D(x0_hat) ||_2 with respect to x_t.

    The gradient goes through the clamp and the whole network (DDA, algorithm 1). norm_over: "image" takes each image's own
    norm, so that neighbours do not matter; "batch" takes one norm over the whole batch, as the published code does, which
    weakens the guidance of a batch of B about sqrt(B) times.
    """
    if norm_over not in ("image", "batch"):
        raise ValueError(f'norm_over {norm_over!r} is unknown; use "image" or "batch"')
    wanted = low_pass(reference, factor)

    def guide(predict: Predict, x_t: torch.Tensor) -> tuple[Prediction, torch.Tensor]:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x0, log_variance = predict(x_t)
            gap = (wanted - low_pass(x0, factor)).flatten(1)
            # torch's norm has gradient 0 where it is exactly 0
            distance = gap.norm(dim=1).sum() if norm_over == "image" else gap.norm()
            (slope,) = torch.autograd.grad(distance, x_t)
        if isinstance(log_variance, torch.Tensor):
            log_variance = log_variance.detach()
        return Prediction(x0.detach(), log_variance), -scale * slope

    return guide
