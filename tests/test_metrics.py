"""Metrics against the reference's numbers, and against their definitions."""

import numpy as np
import pytest
from helpers import parity

from DDA import metrics

VECTORS, _ = parity("08_metrics")
OLD, NEW, Y = (VECTORS[name] for name in ("old", "new", "y"))


def test_accuracy_and_flips_are_the_references():
    before, after = metrics.hits(OLD, Y), metrics.hits(NEW, Y)
    assert before.mean() == pytest.approx(VECTORS["acc_old"], rel=1e-6)
    assert after.mean() == pytest.approx(VECTORS["acc_new"], rel=1e-6)
    for name, value in metrics.flips(before, after).items():
        assert value == pytest.approx(float(VECTORS[f"metric_{name}"]), rel=1e-6)
        part = metrics.flips(before[:66], after[:66])[name]
        assert part == pytest.approx(float(VECTORS[f"metric_{name}_first_third"]), rel=1e-6)
    assert metrics.flips(before, after)["NFR"] == pytest.approx(float(VECTORS["NFR"]))


def test_top_k_counts_ties_like_argmax():
    scores = np.array([[1.0, 3.0, 3.0, 0.0]])
    for label in range(4):
        assert metrics.hits(scores, np.array([label]))[0] == (scores.argmax() == label)
    assert [bool(metrics.hits(scores, np.array([2]), k)[0]) for k in (1, 2)] == [False, True]
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 9)), rng.integers(0, 9, 50)
    expected = [label in np.argsort(-row)[:5] for row, label in zip(scores, labels, strict=True)]
    assert metrics.hits(scores, labels, 5).tolist() == expected


def test_per_class_numbers_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    predicted, labels = NEW.argmax(1), Y
    ours = metrics.per_class(predicted, labels, 10)
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(
        labels, predicted, labels=range(10)
    )
    for name, theirs in (
        ("precision", precision),
        ("recall", recall),
        ("f1", f1),
        ("support", support),
    ):
        np.testing.assert_allclose(ours[name], theirs)


def test_corruption_errors_follow_their_definition():
    top1 = {"fog": {"1": 0.9, "2": 0.7}, "snow": {"1": 0.5}}
    found = metrics.corruption_errors(
        top1, {"fog": 0.4, "snow": 0.5, "frost": 1}, clean=0.1, baseline_clean=0.2
    )
    assert found["CE"] == pytest.approx({"fog": 50, "snow": 100})
    assert found["relative CE"] == pytest.approx({"fog": 50, "snow": 100 * 0.4 / 0.3})
    assert "relative CE" not in metrics.corruption_errors(top1, {"fog": 0.4, "snow": 0.5})
    with pytest.raises(ValueError, match="no error of snow"):
        metrics.corruption_errors(top1, {"fog": 0.4})
    alexnet = {name: value / 100 for name, value in metrics.ALEXNET.items()}
    itself = {name: {"5": 1 - value} for name, value in alexnet.items()}
    assert metrics.corruption_errors(itself, alexnet)["CE"] == pytest.approx(
        dict.fromkeys(alexnet, 100.0)
    )


def test_calibration_of_a_calibrated_and_of_an_overconfident_classifier():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20000)
    probabilities = np.stack([confidence, 1 - confidence], 1)
    labels = (rng.random(20000) > confidence).astype(int)
    assert metrics.calibration_error(probabilities, labels) < 0.02
    sure = np.tile([1.0, 0.0], (100, 1))
    assert metrics.calibration_error(sure, np.repeat([0, 1], 50)) == pytest.approx(0.5)
    assert metrics.negative_log_likelihood(
        np.tile([0.25, 0.75], (4, 1)), np.ones(4, int)
    ) == pytest.approx(-np.log(0.75))


def test_the_bootstrap_draws_images_not_copies_of_them():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    low, high = metrics.interval(values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    four = metrics.interval(np.tile(values, 4), np.tile(np.arange(400), 4))
    assert np.diff(four) == pytest.approx(high - low, rel=0.1)  # copies tell nothing new
    assert metrics.interval(values) == (low, high)


def test_the_interval_is_of_the_weighted_mean():
    values = np.concatenate(
        [np.tile([1.0, 0.0], 20), np.repeat([1.0, 0.0], [200, 1800])]
    )  # cells of 40 and 2,000 images
    weights = np.repeat([1 / 40, 1 / 2000], [40, 2000])
    low, high = metrics.interval(values, weights=weights)
    assert low < 0.3 < high and low > 0.2  # (0.5 + 0.1) / 2; the mean over images is 0.107


def test_the_gain_interval_is_that_of_the_paired_bootstrap():
    rng = np.random.default_rng(3)
    before, after = rng.random(600) < 0.6, rng.random(600) < 0.7
    assert metrics.gain_interval(before, before) == (0, 0)
    expected = metrics.interval(after - 1.0 * before)
    assert metrics.gain_interval(before, after) == pytest.approx(expected, abs=0.01)


def test_the_confusion_matrix_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    expected = sklearn.confusion_matrix(Y, NEW.argmax(1), labels=range(11))
    assert metrics.confusion(NEW.argmax(1), Y, 11).tolist() == expected.tolist()


def test_the_bins_of_the_reliability_diagram_hold_the_calibration_error():
    confidence, right = np.array([0.05, 0.15, 0.19, 1.0]), np.array([False, True, False, True])
    bins = metrics.reliability(confidence, right, 10)
    assert bins.counts.tolist() == [1, 2, *[0] * 7, 1]
    assert bins.right.tolist() == [0, 1, *[0] * 7, 1]
    assert bins.confidence[1] == pytest.approx(0.34)
    assert bins.error == pytest.approx((0.05 + 0.66 + 0) / 4)


def _images():
    """Return an image of 24 x 20 pixels, and a disturbed copy."""
    y, x = np.mgrid[0:24, 0:20]
    image = np.stack([(x * 12) % 256, (y * 10) % 256, (x * y) % 256], -1).astype(np.uint8)
    copy = image.astype(int) + ((x * 7 + y * 13) % 41 - 20)[..., None]
    return image, np.clip(copy, 0, 255).astype(np.uint8)


def test_psnr_is_scikit_images():
    image, copy = _images()
    # peak_signal_noise_ratio(image, copy, data_range=255) of scikit-image 0.26
    assert metrics.psnr(copy, image) == pytest.approx(26.920200400691378, rel=1e-9)
    assert metrics.psnr(image, image) == float("inf")
    assert metrics.psnr(np.zeros_like(image), np.full_like(image, 255)) == 0


def test_ssim_is_scikit_images():
    image, copy = _images()
    # structural_similarity(luma, luma of the copy, data_range=255, gaussian_weights=True,
    # sigma=1.5, use_sample_covariance=False) of scikit-image 0.26
    assert metrics.ssim(copy, image) == pytest.approx(0.7268168651496588, rel=1e-9)
    assert metrics.ssim(image, image) == pytest.approx(1)
    assert metrics.ssim(copy, image) == pytest.approx(metrics.ssim(image, copy))
    assert np.isnan(metrics.ssim(image[:10], copy[:10]))


def test_ssim_follows_its_definition_window_by_window():
    image, copy = (pixels @ np.array([0.299, 0.587, 0.114]) for pixels in _images())
    side = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    weights = np.outer(side, side) / side.sum() ** 2
    likeness = []
    for top in range(image.shape[0] - 10):
        for left in range(image.shape[1] - 10):
            x, y = (p[top : top + 11, left : left + 11] for p in (copy, image))
            mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
            variance_x, variance_y = ((weights * (z - (weights * z).sum()) ** 2) for z in (x, y))
            covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
            c1, c2 = 2.55**2, 7.65**2
            numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
            spread = variance_x.sum() + variance_y.sum() + c2
            likeness.append(numerator / ((mean_x**2 + mean_y**2 + c1) * spread))
    assert metrics.ssim(_images()[1], _images()[0]) == pytest.approx(np.mean(likeness), rel=1e-9)
