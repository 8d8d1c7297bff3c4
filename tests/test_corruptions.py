"""The common corruptions: published constants and images, shapes, faults."""

import json
import time

import numpy as np
import pytest
from helpers import SHARED, needs_shared, parity
from hypothesis import given, settings
from hypothesis import strategies as st

from DDA import tree
from DDA.sources import arrays
from DistilledClassifier import corruptions
from DistilledClassifier.corruptions import (
    CONSTANTS,
    CORRUPTIONS,
    DRAW_NOTHING,
    EXTRA_CORRUPTIONS,
    corrupt,
)

ALL = CORRUPTIONS + EXTRA_CORRUPTIONS
LARGE, _ = parity("06_imagenetc_224")
SMALL, META = parity("06_cifar10c_32")
SEEDED = META["rng"].split("[")[1].rstrip("]").split(", ")


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("cifar", "cifar10c_json"), ("imagenet", "imagenetc_json")]
)
def test_the_constants_are_the_published_ones(ours, theirs):
    published, _ = parity("06_corruption_constants")
    published = json.loads(str(published[theirs]))
    assert published.keys() == CONSTANTS[ours].keys() == set(ALL)
    for name, severities in published.items():
        for expected, actual in zip(severities, CONSTANTS[ours][name], strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, err_msg=name)


def test_the_sources_the_functions_and_the_constants_name_the_same_corruptions():
    assert (
        ALL == tree.CORRUPTIONS + tree.EXTRA_CORRUPTIONS == arrays.CIFAR_C and len(set(ALL)) == 19
    )
    assert corruptions._FUNCTIONS.keys() == set(ALL) > DRAW_NOTHING


@pytest.mark.parametrize("name", [name for name in LARGE if "/" in name])
def test_imagenet_c_is_reproduced(name):
    corruption, severity = name.split("/")
    agree(corrupt(LARGE["x"], corruption, int(severity)), LARGE[name])


@pytest.mark.parametrize("name", [name for name in SMALL if name.count("/") == 2])
def test_cifar_10_c_is_reproduced(name):
    image, corruption, severity = name.split("/")
    draws = None
    if corruption.startswith("seeded_"):
        corruption = corruption.removeprefix("seeded_")
        draws = np.random.RandomState(META["seed"] + 10 * SEEDED.index(corruption) + int(severity))
    agree(corrupt(SMALL[f"{image}/x"], corruption, int(severity), rng=draws), SMALL[name])


def agree(actual, expected):
    gap = np.abs(actual.astype(int) - expected)
    assert (gap <= 1).mean() >= 0.999 and gap.max() <= 2


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_image_at_any_severity_keeps_its_shape(name, data):
    height, width = data.draw(
        st.tuples(st.integers(8, 80), st.integers(8, 80))
        | st.tuples(st.integers(8, 512), st.integers(8, 20)),
        label="size",
    )
    shape = (height, width, 3) if data.draw(st.booleans(), label="colour") else (height, width)
    kind = data.draw(st.sampled_from(["random", "black", "white"]), label="kind")
    image = {
        "random": rng().integers(0, 256, shape, dtype=np.uint8),
        "black": np.zeros(shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
    }[kind]
    before, severity = image.copy(), data.draw(st.integers(1, 5), label="severity")
    constants = data.draw(st.sampled_from(["auto", "imagenet", "cifar"]), label="constants")
    with np.errstate(all="raise", under="ignore"):
        out = corrupt(image, name, severity, constants=constants, rng=rng(1))
    assert out.shape == shape and out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(
        out, corrupt(image, name, severity, constants=constants, rng=rng(1))
    )


OUT_OF_ORDER = ("saturate", "elastic_transform", "glass_blur", "spatter")


@pytest.mark.parametrize("name", [name for name in ALL if name not in OUT_OF_ORDER])
def test_the_error_grows_with_the_severity(name):
    """A higher severity has a greater effect, except for four corruptions.

    Their published constants are not in the order of their effect on one image.
    """
    image = LARGE["x"][40:168, 40:168]
    errors = []
    for severity in (1, 3, 5):
        copies = [corrupt(image, name, severity, rng=rng(seed)) for seed in range(4)]
        errors.append(np.square(np.stack(copies) - image.astype(float)).mean())
    assert errors == sorted(errors) and errors[0] > 0


def test_what_draws_nothing_needs_no_generator_and_the_others_do():
    x = SMALL["astronaut/x"]
    for name in ALL:
        if name in DRAW_NOTHING:
            np.testing.assert_array_equal(corrupt(x, name, 3), corrupt(x, name, 3, rng=rng(7)))
        else:
            one, other = (corrupt(x, name, 3, rng=rng(seed)) for seed in (1, 2))
            assert not np.array_equal(one, other)
            with pytest.raises(ValueError, match=f"{name} is random"):
                corrupt(x, name, 3)


def test_impulse_noise_replaces_the_stated_share_half_by_each_extreme():
    out = corrupt(np.full((300, 300, 3), 100, np.uint8), "impulse_noise", 5, rng=rng())
    np.testing.assert_allclose([(out == value).mean() for value in (0, 255)], 0.135, atol=0.004)


def test_motion_blur_spreads_a_point_along_a_line_and_keeps_its_light():
    x = np.zeros((65, 65, 3), np.uint8)
    x[32, 32] = 255
    out = corrupt(x, "motion_blur", 1, constants="imagenet", rng=rng()).astype(float)[..., 0]
    rows, columns = np.nonzero(out)
    assert out.sum() == pytest.approx(255, abs=len(rows))  # truncated to whole levels
    assert 2 < len(rows) <= 21
    places = np.stack([rows - rows.mean(), columns - columns.mean()])
    assert np.linalg.matrix_rank(places, tol=3) == 1


def test_a_large_glass_blur_takes_less_than_a_quarter_of_a_second():
    begun = time.process_time()
    corrupt(LARGE["x"], "glass_blur", 4, rng=rng())
    assert time.process_time() - begun < 0.25  # scripts/benchmark.py data measures it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(name="rain"), "corruption 'rain' is unknown"),
        (dict(severity=0), "severity 0 is outside 1..5"),
        (dict(severity=6), "severity 6 is outside 1..5"),
        (dict(severity=3.0), "severity 3.0 is outside 1..5, the whole numbers"),
        (dict(constants="coco"), "constants 'coco' are unknown"),
        (dict(image=np.zeros((7, 20, 3), np.uint8)), "at least 8 pixels a side"),
        (dict(image=np.zeros((20, 20, 3))), "wants uint8"),
        (dict(image=np.zeros((20, 20, 4), np.uint8)), "wants uint8"),
    ],
)
def test_wrong_values_are_named(change, words):
    call = dict(image=SMALL["astronaut/x"], name="contrast", severity=3) | change
    with pytest.raises(ValueError, match=words):
        corrupt(call.pop("image"), call.pop("name"), call.pop("severity"), **call)


@needs_shared
@pytest.mark.parametrize("name", sorted(DRAW_NOTHING & set(CORRUPTIONS)))
def test_the_real_cifar_10_c_is_reproduced(name):
    with np.load(SHARED / "data" / "cifar10c_open.npz") as data:
        clean, published = data["clean"][:50], data[name][:, :50]
    for severity in range(1, 6):
        ours = np.stack([corrupt(image, name, severity) for image in clean])
        assert (np.abs(ours.astype(int) - published[severity - 1]) <= 1).mean() >= 0.99
