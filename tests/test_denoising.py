"""The measurement of a prior: how well it denoises, in the file, and warned of where it is used."""

import json
import math
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import TINY, TINY_PROCESS, tiny_unet
from PIL import Image
from test_image_train import SMALL, flags, tensors

from DDA import Adapter, files, train_prior
from DDA.image_adapt import checkpoints, denoising, prior_results
from DDA.image_adapt.denoising import Pictures
from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.prior import rungs
from DDA.image_adapt.scripts import image_sample
from DDA.image_adapt.scripts.image_train import main
from DDA.model_adapt import page

RNG = np.random.default_rng(0)


def smooth(count, side=16):
    """Return images uint8 (count,side,side,3) that a Gaussian filter denoises well."""
    small = RNG.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack(
        [
            np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC))
            for one in small
        ]
    )


def pictures(count, prefix="image"):
    return Pictures([f"{prefix} {i}" for i in range(count)], smooth(count))


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(smooth(10)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


class Oracle(torch.nn.Module):
    """A prior that knows the noise but for a share of it."""

    def __init__(self, shown, process, share):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self._shown, self._process, self._share = shown, process, share

    def forward(self, x_t, times):
        device = torch.device("cpu")
        x0, noised = denoising.noised(self._shown, self._process, int(times[0]), device)
        signal = float(self._process.alphas_cumprod[int(times[0])])
        noise = (noised - math.sqrt(signal) * x0) / math.sqrt(1 - signal)
        return (1 - self._share) * noise


# ------------------------------------------------------------------------------------ measuring


def test_the_errors_are_those_of_the_definition():
    process, shown = Diffusion(), pictures(12)
    oracle = Oracle(shown, process, share=0.1)
    [level] = denoising.measure(oracle, process, shown, pictures(6, "other"), [70])
    signal = process.alphas_cumprod[70]
    assert level["noise"] == pytest.approx(127.5 * math.sqrt(1 / signal - 1), abs=1e-3)
    # a tenth of the noise remains; what is clamped has less
    assert 0.09 * level["noise"] < level["prior"] < 0.1 * level["noise"]
    assert 0.9 * level["noise"] < level["identity"] <= level["noise"]
    assert level["prior"] < level["gaussian"] < level["identity"]


def test_the_filter_is_the_best_of_its_width_and_wider_for_more_noise():
    process, shown = Diffusion(), pictures(8)
    rows = denoising.measure(tiny_unet(learn_sigma=False), process, shown, shown, [20, 150, 500])
    sigmas = [row["sigma"] for row in rows]
    assert sigmas == sorted(sigmas) and sigmas[0] < sigmas[-1]
    # chosen on the images that are measured, no other width is better
    scale = 1 / math.sqrt(process.alphas_cumprod[150])
    batch = [denoising.noised(shown, process, 150, torch.device("cpu"))]
    for sigma in (0.7 * sigmas[1], 1.4 * sigmas[1]):
        blur = denoising._blur(denoising._filter(sigma, 16, torch.device("cpu")), scale)
        assert denoising._errors(batch, [blur])[0] > rows[1]["gaussian"]


def test_an_image_has_the_same_noise_in_every_batch_and_the_numbers_are_repeated():
    process, shown, model = Diffusion(), pictures(20), tiny_unet(learn_sigma=False)
    tuning = pictures(3, "other")
    once, twice = (denoising.measure(model, process, shown, tuning, [70]) for _ in range(2))
    assert once == twice
    places = [4, 17]
    some = Pictures([shown.keys[place] for place in places], shown.pixels[places])
    _, all_noised = denoising.noised(shown, process, 70, torch.device("cpu"))
    _, some_noised = denoising.noised(some, process, 70, torch.device("cpu"))
    assert torch.equal(all_noised[places], some_noised)


def level(timestep, prior, gaussian=10.0, identity=20.0):
    return dict(
        timestep=timestep, noise=25.0, prior=prior, gaussian=gaussian, sigma=1.0, identity=identity
    )


def test_a_prior_falls_short_where_it_is_used_and_nowhere_else():
    levels = [level(20, 5.0), level(70, 5.0), level(300, 15.0)]
    assert denoising.shortfall(levels, [71]) is None  # the nearest level is 70
    assert denoising.shortfall(levels, [0, 60, 120]) is None
    assert "no better than a Gaussian filter" in denoising.shortfall(levels, [0, 100, 494])
    assert "its error is 15.0, against 10.0" in denoising.shortfall(levels)
    assert "than no change at all" in denoising.shortfall([level(20, 9.0, 10.0, 8.0)])
    assert denoising.shortfall([level(20, 10.0)]) is not None  # as good is no better
