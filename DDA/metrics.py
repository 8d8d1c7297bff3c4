"""Measures of predictions: arrays in, plain numbers out. Rates are fractions in 0..1.

Corruption errors: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (arXiv:1903.12261), section 3. Calibration: Guo et al.
(arXiv:1706.04599). Negative flips: Yan et al. (arXiv:2011.09161). SSIM: Wang et al., "Image Quality
Assessment: From Error Visibility to Structural Similarity" (IEEE TIP 13(4), 2004), section III-B.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

# AlexNet's top-1 errors on ImageNet-C, per cent, mean over severities, and its clean error: the
# baseline of the published mCE
ALEXNET = {
    "gaussian_noise": 88.6,
    "shot_noise": 89.4,
    "impulse_noise": 92.3,
    "defocus_blur": 82.0,
    "glass_blur": 82.6,
    "motion_blur": 78.6,
    "zoom_blur": 79.8,
    "snow": 86.7,
    "frost": 82.7,
    "fog": 81.9,
    "brightness": 56.5,
    "contrast": 85.3,
    "elastic_transform": 64.6,
    "pixelate": 71.8,
    "jpeg_compression": 60.7,
}
ALEXNET_CLEAN = 43.5
# one side of SSIM's window, and the luma of RGB (ITU-R BT.601)
WINDOW = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
WINDOW /= WINDOW.sum()
LUMA = np.array([0.299, 0.587, 0.114])


def hits(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
    """Tell for each image whether its label is among the k largest scores: bool (N,).

    scores: (N,K). labels: (N,). Of equal scores the one of the lower class comes first.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    return ahead.sum(1) < k


def per_class(predicted: np.ndarray, labels: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return precision, recall, f1 and support of each class, arrays (K,).

    A value is NaN where there is nothing to divide by.
    """
    support, called = np.bincount(labels, minlength=count), np.bincount(predicted, minlength=count)
    right = np.bincount(labels[predicted == labels], minlength=count)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = right / called, right / support, 2 * right / (called + support)
    return {"precision": precision, "recall": recall, "f1": f1, "support": support}


def check_mce(cells: Iterable[str]) -> None:
    """Raise ValueError unless the cells are those of a mean corruption error.

    These are 15 corruptions at severities 1 to 5.
    """
    given = {cell for cell in cells if cell.partition("/")[0] != "clean"}
    whole = {f"{name}/{severity}" for name in ALEXNET for severity in range(1, 6)}
    missing, unknown = sorted(whole - given), sorted(given - whole)
    if missing or unknown:
        why = f"{missing[0]} is not among the cells" if missing else f"{unknown[0]} is none of them"
        wanted = f"`severity` all `corruption` {' '.join(ALEXNET)}"
        raise ValueError(
            f"mCE is of the {len(ALEXNET)} corruptions of ImageNet-C at severities 1 to 5, "
            f"but {why}; give {wanted}, or leave mCE out"
        )


def corruption_errors(
    top1: Mapping[str, Mapping[str, float]],
    baseline: Mapping[str, float],
    clean: float | None = None,
    baseline_clean: float | None = None,
) -> dict[str, dict[str, float]]:
    """Return the corruption errors, in per cent of the baseline's errors.

    They are the CE of each corruption and, where both clean errors are given, its relative CE.

    top1: corruption to severity to accuracy, 0..1. baseline: corruption to error, mean over
    severities, 0..1. clean, baseline_clean: errors on clean images. Raises ValueError where the
    baseline lacks a corruption.
    """
    missing = sorted(set(top1) - set(baseline))
    if missing:
        raise ValueError(f"the baseline of mCE has no error of {', '.join(missing)}")
    errors = {name: 1 - float(np.mean(list(row.values()))) for name, row in top1.items()}
    ratios = {"CE": {name: 100 * errors[name] / baseline[name] for name in errors}}
    if clean is not None and baseline_clean is not None:
        ratios["relative CE"] = {
            name: 100 * (errors[name] - clean) / (baseline[name] - baseline_clean)
            for name in errors
        }
    return ratios


class Reliability(NamedTuple):
    """Confidence and accuracy in bins of equal width: counts and sums over each bin's images."""

    counts: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    @property
    def error(self) -> float:
        """Return the ECE: the mean gap between both, weighted by the bins' counts."""
        return float(np.abs(self.confidence - self.right).sum() / self.counts.sum())


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> Reliability:
    """Sort images into bins by their confidence.

    confidence: (N,) the largest probability. right: bool (N,).
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    return Reliability(
        counts, np.bincount(place, confidence, bins), np.bincount(place, right, bins)
    )


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Return the ECE: the mean gap between confidence and accuracy over bins of equal width.

    The bins are weighted by their counts.
    """
    return reliability(probabilities.max(1), hits(probabilities, labels), bins).error


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log likelihood in nats; probabilities below 1e-12 count as that."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return float(-np.log(np.clip(own, 1e-12, None)).mean())


def flips(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Return the shares of images that ``after`` breaks (NFR) and mends (PFR).

    before, after: hits of two columns, bool (N,). NFI is the share of the broken images among the
    errors of ``after``, PFI that of the mended images among its hits.
    """
    negative, positive = before & ~after, ~before & after
    with np.errstate(invalid="ignore"):  # NaN where there is nothing to divide by
        shares = {
            "NFR": negative.mean(),
            "PFR": positive.mean(),
            "NFI": negative.sum() / (~after).sum(),
            "PFI": positive.sum() / after.sum(),
        }
    return {name: float(share) for name, share in shares.items()}


def interval(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of values (N,), weighted by weights (N,).

    groups: (N,) names of the image that each value belongs to. An image under several corruptions
    is drawn as a whole.
    """
    groups = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    weights = np.ones(len(values)) if weights is None else weights
    sums, sizes = np.bincount(groups, values * weights), np.bincount(groups, weights)
    rng = np.random.default_rng(seed)
    drawn = (
        np.bincount(rng.integers(0, len(sums), len(sums)), minlength=len(sums))
        for _ in range(draws)
    )
    means = [(times @ sums) / (times @ sizes) for times in drawn]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def gain_interval(
    before: np.ndarray, after: np.ndarray, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the gain in accuracy on the same images.

    before, after: hits of two columns, bool (N,), each image once. A difference is -1, 0 or 1, so
    the counts of a draw are multinomial, and the cost does not depend on N.
    """
    counts = np.bincount(1 + after.astype(int) - before, minlength=3)
    drawn = np.random.default_rng(seed).multinomial(len(before), counts / len(before), draws)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / len(before), [0.025, 0.975])
    return float(low), float(high)


def confusion(predicted: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the number of images of each class (rows) that are called each class (columns)."""
    return np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)


# ---------------------------------------------------------------------------------------- images


def psnr(image: np.ndarray, original: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of an image in dB; it is infinite for equal images.

    image, original: uint8 of one shape.
    """
    error = np.mean((image.astype(float) - original) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(image: np.ndarray, original: np.ndarray) -> float:
    """Return the structural similarity of the luma of two images, at most 1.

    It has the published window, a Gaussian of 11 x 11 pixels and standard deviation 1.5, where it
    lies within the image, and the published constants (0.01 L)^2 and (0.03 L)^2. image, original:
    uint8 (H,W,3) of one shape. The result is NaN for images that are smaller than the window.
    """
    if min(image.shape[:2]) < len(WINDOW):
        return float("nan")
    x, y = (pixels @ LUMA for pixels in (image.astype(float), original.astype(float)))
    mean_x, mean_y, squares_x, squares_y, products = map(_smooth, (x, y, x * x, y * y, x * y))
    variances = squares_x - mean_x**2 + squares_y - mean_y**2
    covariance = products - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean())


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the weighted means under the window of SSIM, at each place where it lies within."""
    for axis in (0, 1):
        values = np.lib.stride_tricks.sliding_window_view(values, len(WINDOW), axis) @ WINDOW
    return values
