"""The known degradations: published images, levels, shapes, faults."""

import numpy as np
import pytest
from helpers import parity
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from DistilledClassifier import degradations
from DistilledClassifier.degradations import (
    DEGRADATIONS,
    SEQUENCE_NAMES,
    by_name,
    draw_level,
    salt_over_pepper,
    sequence,
)

VECTORS, META = parity("05_degradations")
IMAGES = ("astronaut64", "astronaut32", "chelsea32")


def rng(seed=0):
    return np.random.default_rng(seed)


def photo(size=64):
    return VECTORS[f"astronaut{size}/x"]


@pytest.mark.parametrize(
    "name", sorted(VECTORS.keys() - {f"{image}/x" for image in IMAGES} - {"normalize_level_table"})
)
def test_published_behaviour_gives_the_published_images(name):
    image, how = name.split("/")
    x, expected = VECTORS[f"{image}/x"], VECTORS[name]
    level = int(how.split("level")[-1].split("_q")[-1].split("_sd")[-1])
    if how.startswith("jpeg"):
        actual = by_name("jpeg", "published")(x, level, None)
    elif how.startswith("blurfloat"):
        actual = ndimage.gaussian_filter(
            x, (level / 10, level / 10, 0), mode="nearest", truncate=3.0, output=np.float32
        )
        gap = np.abs(by_name("blur")(x, level / 10, None) - actual)
        assert gap.max() <= 0.5 + 1e-4  # ours rounds this one
    elif how.startswith("blur"):
        actual = by_name("blur", "published")(x, level / 10, None)
    elif how.startswith("noise"):
        draws = np.random.RandomState(META["seed"] + META["noise"].index(level))
        actual = by_name("noise", "published")(x, level, draws)
    else:
        draws = np.random.RandomState(META["seed"] + 100 + META["sp"].index(level))
        salt = 255 if "255" in how else 1
        actual = salt_over_pepper(x, level, draws, salt=salt)
    np.testing.assert_allclose(actual.astype(float), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "image", "seed"),
    [
        ("cifar_10/weak", "x32", 200),
        ("cifar_10/medium", "x32", 201),
        ("cifar_10/strong", "x32", 202),
        ("imagenet/medium", "x256_centre", 301),
    ],
)
def test_published_sequences_give_the_published_images(name, image, seed):
    vectors, meta = parity("05_sequences")
    actual = sequence(
        vectors[image],
        f"{name.split('/')[1]}_seq_published",
        np.random.RandomState(meta["seed"] + seed),
    )
    np.testing.assert_array_equal(actual, vectors[name])


def test_documented_sequences_blur_ten_times_more():
    x = photo()
    for name in degradations.SEQUENCES:
        sharp, documented = (
            ndimage.laplace(sequence(x, n, rng()).mean(2)).std()
            for n in (f"{name}_published", name)
        )
        assert documented < 0.8 * sharp
    share, deviation, quality = degradations.SEQUENCES["strong_seq"]
    assert (share * 256, deviation, quality) == (20.48, 30, 40)


def test_salt_is_white_and_pepper_black_in_equal_shares_of_the_level():
    out = by_name("saltpepper")(np.full((200, 200, 3), 100, np.uint8), 20, rng())
    shares = [(out == value).mean() for value in (0, 255, 100)]
    # of 120,000 values: the standard error is 0.001
    np.testing.assert_allclose(shares, (0.1, 0.1, 0.8), atol=0.005)
    assert not np.array_equal(out[..., 0] == 100, out[..., 1] == 100)  # channels are independent


@pytest.mark.parametrize("shape", [(7, 9), (9, 7, 3), (1, 5, 3), (5, 1, 3)])
def test_noise_is_the_rounded_and_clipped_sum(shape):
    image = rng().integers(0, 256, shape, dtype=np.uint8)
    draws = rng(1).standard_normal(shape, dtype=np.float32) * np.float32(40)
    expected = np.clip(np.rint(image + draws), 0, 255)
    np.testing.assert_array_equal(by_name("noise")(image, 40, rng(1)), expected)


def test_noise_has_the_stated_deviation_and_no_bias():
    grey = np.full((200, 200, 3), 128, np.uint8)
    gap = by_name("noise")(grey, 20, rng()) - 128.0
    assert abs(gap.mean()) < 0.2 and gap.std() == pytest.approx(20, rel=0.01)
    truncated = by_name("noise", "published")(grey, 20, rng()) - 128.0
    assert truncated.mean() == pytest.approx(-0.5, abs=0.2)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_the_error_grows_with_the_level(name):
    levels = sorted(DEGRADATIONS[name].test, reverse=name == "jpeg")
    copies = [by_name(name)(photo(), level, rng()) for level in levels]
    errors = [np.square(copy - photo().astype(float)).mean() for copy in copies]
    assert errors == sorted(errors) and errors[0] > 0


@pytest.mark.parametrize("name", DEGRADATIONS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_image_at_any_level_keeps_its_shape(name, data):
    height, width = data.draw(
        st.tuples(st.integers(8, 96), st.integers(8, 96))
        | st.tuples(st.integers(8, 512), st.integers(8, 20)),
        label="size",
    )
    shape = (height, width, 3) if data.draw(st.booleans(), label="colour") else (height, width)
    image = rng(data.draw(st.integers(0, 9))).integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    level = draw_level(name, rng(data.draw(st.integers(0, 1000))))
    for behavior in degradations.BEHAVIORS:
        out = by_name(name, behavior)(image, level, rng())
        assert out.shape == shape and out.dtype == np.uint8 and not np.shares_memory(out, image)
        np.testing.assert_array_equal(by_name(name, behavior)(image, None, None), image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", SEQUENCE_NAMES)
@pytest.mark.parametrize("shape", [(8, 8, 3), (33, 50), (8, 200, 3)])
def test_sequences_take_any_image(name, shape):
    image = rng().integers(0, 256, shape, dtype=np.uint8)
    out = sequence(image, name, rng())
    assert out.shape == shape and out.dtype == np.uint8
    np.testing.assert_array_equal(out, sequence(image, name, rng()))  # a seed gives one image


PUBLISHED = ("jpeg", "blur", "noise", "saltpepper")


def test_drawn_levels_cover_the_papers_ranges():
    draws = {name: [draw_level(name, rng(seed)) for seed in range(3000)] for name in PUBLISHED}
    ends = {name: (min(levels), max(levels)) for name, levels in draws.items()}
    assert ends == {"jpeg": (1, 101), "blur": (0, 5), "noise": (0, 50), "saltpepper": (0, 25)}
    assert 0.1 in draws["blur"] and all(round(10 * level) == 10 * level for level in draws["blur"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: by_name("jpeg")(photo(), 0, None), "jpeg level 0 is outside 1..101"),
        (lambda: by_name("jpeg")(photo(), 50.5, None), "no whole number"),
        (lambda: by_name("blur")(photo(), -1, None), "blur level -1"),
        (lambda: by_name("saltpepper")(photo(), 101, rng()), "outside 0..100"),
        (lambda: by_name("noise")(photo() / 255, 10, rng()), "wants a uint8 image"),
        (lambda: by_name("noise", "old")(photo(), 10, rng()), "behavior 'old'"),
        (lambda: by_name("noise")(photo(), float("inf"), rng()), "noise level inf"),
        (lambda: by_name("blur")(photo(), 1e308, rng()), r"blur level 1e\+308 is outside 0..1000"),
        (lambda: by_name("noise")(photo(), "5", rng()), "noise level '5'"),
        (lambda: by_name("noise")(photo(), 5, None), "noise is random: it wants rng"),
        (lambda: sequence(photo(), "weak_seq", None), "noise is random: it wants rng"),
        (lambda: by_name("blur")([[1]], 1, None), "wants a uint8 array"),
        (lambda: by_name("blur")(photo()[:0], 1, None), "wants a uint8 image"),
        (lambda: by_name("fog"), "degradation 'fog' is unknown"),
        (lambda: draw_level("fog", rng()), "degradation 'fog' is unknown"),
        (lambda: sequence(photo(), "weak", rng()), "sequence 'weak' is unknown"),
    ],
)
def test_wrong_values_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
