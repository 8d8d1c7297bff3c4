"""Rules that combine the scores of two classifiers for one image: tensors in, tensors out.

Scores are (N,K): logits, or probabilities as the published pipeline has them. ``first`` saw the
degraded image, ``second`` the adapted copy. Entropy, confidence and variance are those of DDA
(arXiv:2207.03442, section 3.3, and its code). Entropy and confidence are always those of the
softmax of the scores. Where the two are equal, the second is taken. A new rule is a function, its
entry in a table here and its name in choices.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


def entropy(scores: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the softmax in nats, (N,)."""
    log = scores.log_softmax(1)
    return -(log.exp() * log).sum(1)


def confidence(scores: torch.Tensor) -> torch.Tensor:
    """Return the largest probability of the softmax, (N,)."""
    return scores.softmax(1).amax(1)


def _pick(second: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Return the scores ``two`` where ``second`` (N,) is true, and ``one`` elsewhere."""
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
# the rules whose parameters are fitted (FITS)
OURS: dict[str, Callable[..., torch.Tensor]] = {"weighted_sum": _weighted_sum, "gate": _gate}

# each rule returns two tensors (N,), whose softmax weighs the two images
FUSE_RULES: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
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

    Each temperature minimises the cross-entropy of its classifier alone (Guo et al.,
    arXiv:1706.04599). The weight, in steps of 0.01, minimises that of the sum, whose own
    temperature is free: only the weight decides which class wins.

    first, second: logits (N,K) of known degradations. labels: (N,).
    """
    scales = torch.logspace(-1, 1, 81)  # temperatures 10 to 0.1

    def losses(logits: torch.Tensor) -> torch.Tensor:
        return torch.stack([F.cross_entropy(scale * logits, labels) for scale in scales])

    temperatures = tuple(float(1 / scales[losses(logits).argmin()]) for logits in (first, second))
    weights = torch.linspace(0, 1, 101)
    lowest = []
    for weight in weights:
        scores = _weighted_sum(first, second, weight=float(weight), temperatures=temperatures)
        lowest.append(losses(scores).min())
    best = float(weights[torch.stack(lowest).argmin()])
    return {"weight": round(best, 2), "temperatures": list(temperatures)}


def fit_gate(
    first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor, keep: float = 0.9
) -> dict[str, Any]:
    """Fit the weighted sum, then the gate's ``threshold`` on the first one's calibrated
    confidence.

    first, second: logits (N,K) of known degradations; labels: (N,). The threshold, in steps of
    0.01, is the lowest that keeps the share ``keep`` of what adapting always gains in
    cross-entropy over adapting never. It is 0 where there is nothing to gain. Cross-entropy is
    used because accuracy is too coarse on some thousand images.
    """
    params = fit_weighted_sum(first, second, labels)
    thresholds = [round(0.01 * i, 2) for i in range(102)]
    losses = []
    for threshold in thresholds:
        scores = _gate(first, second, threshold=threshold, **params)
        losses.append(float(F.cross_entropy(scores, labels)))
    never, always = losses[0], losses[-1]
    enough = [never - loss >= keep * (never - always) for loss in losses]
    threshold = thresholds[enough.index(True)] if never > always else 0.0
    return {**params, "threshold": threshold}


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
    """Return the blend (N,C,H,W) of two images under weights (N,2). The first classifier sees the
    blend.
    """
    return degraded * weights[:, 0, None, None, None] + adapted * weights[:, 1, None, None, None]


def _check(first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            "scores must be two tensors (N,K) of one shape, "
            f"not {tuple(first.shape)} and {tuple(second.shape)}"
        )
