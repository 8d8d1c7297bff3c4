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
