"""Rules that combine what two classifiers say of one image: tensors in, tensors out.

Scores are (N,K): logits, or probabilities as the published pipeline has them. ``first`` saw the
degraded image, ``second`` the adapted copy. Entropy, confidence and variance are those of DDA
(arXiv:2207.03442, section 3.3, and its code): entropy and confidence are always those of the
softmax of the scores. Where the two are equal, the second is taken. A new rule is a function, its
entry here and its name in choices.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def entropy(scores: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the softmax in nats, (N,)."""
    log = scores.log_softmax(1)
    return -(log.exp() * log).sum(1)


def confidence(scores: torch.Tensor) -> torch.Tensor:
    """Return the largest probability of the softmax, (N,)."""
    return scores.softmax(1).amax(1)


def _pick(second: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    return torch.where(second[:, None], two, one)


def _weighted_sum(
    one: torch.Tensor,
    two: torch.Tensor,
    *,
    weight: float = 0.5,
    temperatures: tuple[float, float] = (1.0, 1.0),
):
    """Return (1 - weight) one / T1 + weight two / T2.

    The weight and the temperatures are fitted on known degradations.
    """
    return (1 - weight) * one / temperatures[0] + weight * two / temperatures[1]


def is_doubtful(first: torch.Tensor, threshold: float, temperature: float = 1.0) -> torch.Tensor:
    """Tell for each image whether the first classifier is so unsure that a copy is wanted, (N,)."""
    return confidence(first / temperature) < threshold


def _gate(
    one: torch.Tensor,
    two: torch.Tensor,
    *,
    threshold: float = 1.01,
    weight: float = 0.5,
    temperatures: tuple[float, float] = (1.0, 1.0),
):
    """Return the weighted sum where the first is unsure, and the first alone elsewhere.

    Images of which the first is sure need not be adapted.
    """
    both = _weighted_sum(one, two, weight=weight, temperatures=temperatures)
    return _pick(is_doubtful(one, threshold, temperatures[0]), one / temperatures[0], both)


RULES: dict[str, Callable[..., torch.Tensor]] = {
    "first": lambda one, two: one,
    "second": lambda one, two: two,
    "entropy": lambda one, two: _pick(entropy(one) >= entropy(two), one, two),
    "confidence": lambda one, two: _pick(confidence(one) <= confidence(two), one, two),
    "var": lambda one, two: _pick(one.var(1) <= two.var(1), one, two),
    "sum": lambda one, two: one + two,
    "entropy_sum": lambda one, two: one * entropy(two)[:, None] + two * entropy(one)[:, None],
    "confidence_sum": lambda one, two: (
        one * confidence(one)[:, None] + two * confidence(two)[:, None]
    ),
}
OURS: dict[str, Callable[..., torch.Tensor]] = {
    "weighted_sum": _weighted_sum,
    "gate": _gate,
}  # fitted, see FITS

# each returns two numbers whose softmax weighs the two images
FUSE_RULES: dict[str, Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    "entropy_fuse": lambda one, two: (entropy(two), entropy(one)),
    "confidence_fuse": lambda one, two: (confidence(one), confidence(two)),
    "var_fuse": lambda one, two: (one.var(1), two.var(1)),
}


def combine(first: torch.Tensor, second: torch.Tensor, rule: str, **params) -> torch.Tensor:
    """Return the combined scores (N,K) of two scores (N,K).

    Raises ValueError for an unknown rule and for other shapes.
    """
    rules = RULES | OURS
    if rule not in rules:
        raise ValueError(f"rule {rule!r} is unknown; use one of {', '.join((*rules, *FUSE_RULES))}")
    _check(first, second)
    return rules[rule](first, second, **params)


def fit_weighted_sum(
    first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    """Fit ``weight`` and ``temperatures`` of the weighted sum.

    first, second: logits (N,K) of known degradations; labels: (N,). Each temperature minimises the
    cross-entropy of its classifier alone (Guo et al., arXiv:1706.04599). The weight, in steps of
    0.01, minimises that of the sum, whose own temperature is free: only the weight decides which
    class wins.
    """
    scales = torch.logspace(-1, 1, 81)  # temperatures 10 to 0.1

    def losses(logits: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [torch.nn.functional.cross_entropy(scale * logits, labels) for scale in scales]
        )

    temperatures = tuple(float(1 / scales[losses(logits).argmin()]) for logits in (first, second))
    weights = torch.linspace(0, 1, 101)
    lowest = [
        losses(_weighted_sum(first, second, weight=float(w), temperatures=temperatures)).min()
        for w in weights
    ]
    return {
        "weight": round(float(weights[torch.stack(lowest).argmin()]), 2),
        "temperatures": list(temperatures),
    }


def fit_gate(
    first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor, keep: float = 0.9
) -> dict[str, Any]:
    """Fit the weighted sum and the gate's ``threshold`` on the first one's calibrated confidence.

    first, second: logits (N,K) of known degradations; labels: (N,). The threshold, in steps of
    0.01, is the lowest that keeps the share ``keep`` of what adapting always gains in
    cross-entropy over adapting never. It is 0 where there is nothing to gain. Accuracy is too
    coarse to tell on some thousand images.
    """
    params = fit_weighted_sum(first, second, labels)
    thresholds = [round(0.01 * i, 2) for i in range(102)]
    losses = [
        float(
            torch.nn.functional.cross_entropy(_gate(first, second, threshold=t, **params), labels)
        )
        for t in thresholds
    ]
    gain = losses[0] - losses[-1]
    chosen = (
        next(
            t for t, loss in zip(thresholds, losses, strict=True) if losses[0] - loss >= keep * gain
        )
        if gain > 0
        else 0.0
    )
    return {**params, "threshold": chosen}


FITS = {"weighted_sum": fit_weighted_sum, "gate": fit_gate}


def fuse_weights(first: torch.Tensor, second: torch.Tensor, rule: str) -> torch.Tensor:
    """Return the weights (N,2) of the degraded and of the adapted image, which sum to 1.

    Raises ValueError for an unknown rule and for other shapes.
    """
    if rule not in FUSE_RULES:
        raise ValueError(f"rule {rule!r} blends no images; use one of {', '.join(FUSE_RULES)}")
    _check(first, second)
    return torch.stack(FUSE_RULES[rule](first, second), dim=1).softmax(1)


def fuse_images(
    degraded: torch.Tensor, adapted: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the blend (N,C,H,W) of two images under weights (N,2); the first classifier sees "
    "it."""
    return degraded * weights[:, 0, None, None, None] + adapted * weights[:, 1, None, None, None]


def _check(first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"scores must be two tensors (N,K) of one shape, not {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
