"""Guidance without a gradient and few steps, on Gaussian data, whose right answer is known."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import tiny_unet

from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.guidance import projection
from DDA.image_adapt.low_pass import FILTERS, PROJECTIONS, low_pass, resize_matrix
from DDA.image_adapt.noise import NoiseStreams
from DDA.image_adapt.sampler import SAMPLERS, SPEEDS, adapt

MEAN, DEVIATION = 0.3, 0.4


class Gaussian:
    """The perfect network for independent pixels N(MEAN, DEVIATION^2)."""

    def __init__(self, diffusion):
        self.signal = dict(zip(diffusion.timestep_map, diffusion.alphas_cumprod, strict=True))
        self.calls = 0

    def __call__(self, x, t):
        self.calls += 1
        signal = float(self.signal[int(t[0])])
        variance = signal * DEVIATION**2 + 1 - signal
        return (1 - signal) ** 0.5 / variance * (x - signal**0.5 * MEAN)

    def flow(self, x, signal):
        """Return the end of the deterministic process that begins at x of the given signal."""
        return (
            MEAN
            + DEVIATION * (x - signal**0.5 * MEAN) / (signal * DEVIATION**2 + 1 - signal) ** 0.5
        )


def gaussian_images(count=64):
    return MEAN + DEVIATION * NoiseStreams(["data"], seed=9, shape=(count, 3, 8, 8))(0)[0]


def run(diffusion, model, reference, **settings):
    noise = NoiseStreams(
        [str(i) for i in range(len(reference))], seed=0, shape=tuple(reference.shape[1:])
    )
    defaults = dict(
        diffusion_range=len(diffusion),
        factor=2,
        guidance="none",
        clip_denoised=False,
        draw_noise=noise,
    )
    return adapt(model, diffusion, reference, **{**defaults, **settings})


@pytest.mark.parametrize("kind", PROJECTIONS)
@pytest.mark.parametrize(("size", "factor"), [(32, 4), (32, 2), (24, 8), (12, 1)])
def test_projections_are_symmetric_idempotent_and_keep_what_is_flat(kind, size, factor):
    matrix = FILTERS[kind](size, size // factor)
    np.testing.assert_allclose(matrix @ matrix, matrix, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    rank = np.linalg.matrix_rank(matrix)
    assert size // factor - 1 <= rank <= size // factor
    if (
        kind != "cubic"
    ):  # the published kernel darkens the border, so its row space holds no flat image
        np.testing.assert_allclose(matrix.sum(1), 1)


def test_the_cubic_projection_keeps_exactly_what_the_published_shrinking_sees():
    down = resize_matrix(32, 8)
    np.testing.assert_allclose(down @ FILTERS["cubic"](32, 8), down, atol=1e-12)
    published = FILTERS["published"](32, 8)
    assert np.abs(published @ published - published).max() > 0.01


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_projection_with_k_1_takes_the_low_frequencies_from_the_reference_alone(kind):
    reference, x_t = torch.rand(2, 2, 3, 16, 16)
    diffusion = Diffusion(timestep_respacing="10", predict_xstart=True)
    x0 = torch.rand(2, 3, 16, 16)
    guide = projection(reference, factor=4, k=1.0, filter=kind)
    mixed = guide(lambda x: diffusion.predict(lambda x, t: x0, x, 5), x_t, 0.5)[0].x0
    torch.testing.assert_close(
        low_pass(mixed, 4, kind), low_pass(reference, 4, kind), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        mixed - low_pass(mixed, 4, kind), x0 - low_pass(x0, 4, kind), atol=1e-5, rtol=0
    )


def test_s_y_makes_the_projection_strong_early_and_weak_late():
    reference, x0 = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    guide = projection(reference, factor=2, k=0.8, s_y=0.5)
    diffusion = Diffusion(timestep_respacing="10", predict_xstart=True)
    for signal in (0.01, 0.5, 0.99):
        pulled = guide(lambda x: diffusion.predict(lambda x, t: x0, x, 5), x0, signal)[0].x0
        torch.testing.assert_close(
            pulled, torch.full_like(x0, 0.8 * (1 - signal) / (1 - signal + 0.25))
        )


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", ["gradient", "projection", "none"])
def test_all_indices_in_few_steps_are_the_full_process(sampler, guidance):
    diffusion, reference = (
        Diffusion(timestep_respacing="10", learn_sigma=True),
        torch.rand(2, 3, 16, 16) * 2 - 1,
    )
    settings = dict(
        sampler=sampler, guidance=guidance, diffusion_range=6, scale=0.5, clip_denoised=True
    )
    full = run(diffusion, tiny_unet(), reference, **settings)
    assert torch.equal(full, run(diffusion, tiny_unet(), reference, steps=6, **settings))
    assert not torch.allclose(
        full, run(diffusion, tiny_unet(), reference, steps=5, **settings), atol=1e-3
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 50])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_network_is_called_as_often_as_steps_says(steps, sampler):
    diffusion = Diffusion(timestep_respacing="100")
    for guidance in ("gradient", "projection", "none"):
        model = Gaussian(diffusion)
        run(
            diffusion,
            model,
            gaussian_images(2),
            steps=steps,
            diffusion_range=50,
            guidance=guidance,
            sampler=sampler,
        )
        assert model.calls == steps


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp2m", 2)])
def test_the_error_falls_with_the_steps_at_the_order_of_the_rule(sampler, order):
    diffusion = Diffusion()
    model, reference = Gaussian(diffusion), gaussian_images(4)
    noised = diffusion.q_sample(
        reference, 599, NoiseStreams([str(i) for i in range(4)], seed=0, shape=(3, 8, 8))(0)
    )
    exact = model.flow(noised, float(diffusion.alphas_cumprod[599]))
    errors = [
        float(
            (
                run(diffusion, model, reference, sampler=sampler, steps=k, diffusion_range=600)
                - exact
            ).std()
        )
        for k in (4, 8, 16, 64)  # at 32 the error of dpmpp2m happens to pass through zero
    ]
    assert all(later < earlier for earlier, later in pairwise(errors)), errors
    assert errors[-1] < errors[0] / 4**order, errors


@pytest.mark.parametrize(
    "settings",
    [
        dict(sampler="ddpm", fixed_variance="small"),
        dict(sampler="ddim"),
        dict(sampler="ddim", eta=0.5),
        dict(sampler="dpmpp2m", steps=20),
    ],
)
def test_samples_of_a_gaussian_have_its_mean_and_variance(settings):
    diffusion = Diffusion(fixed_variance=settings.pop("fixed_variance", "large"))
    out = run(diffusion, Gaussian(diffusion), gaussian_images(), diffusion_range=500, **settings)
    # the standard error of the mean is 0.4 / sqrt(12288) = 0.004
    assert abs(float(out.mean()) - MEAN) < 0.015
    assert float(out.std()) == pytest.approx(DEVIATION, rel=0.03)


def test_one_call_is_the_denoised_image_then_one_projection():
    diffusion, reference = (
        Diffusion(timestep_respacing="100", predict_xstart=True),
        torch.rand(1, 3, 16, 16),
    )
    x0 = torch.rand(1, 3, 16, 16)
    out = run(
        diffusion,
        lambda x, t: x0,
        reference,
        steps=1,
        diffusion_range=12,
        guidance="projection",
        k=0.5,
    )
    torch.testing.assert_close(
        out, x0 + 0.5 * (low_pass(reference, 2, "block") - low_pass(x0, 2, "block"))
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(steps=0), "steps 0 is outside 1..10"),
        (dict(steps=11), "steps 11 is outside 1..10"),
        (dict(sampler="euler"), "sampler 'euler'"),
        (dict(guidance="projection", filter="published"), "projection 'published'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, words):
    diffusion = Diffusion(timestep_respacing="10")
    with pytest.raises(ValueError, match=words):
        run(diffusion, Gaussian(diffusion), gaussian_images(1), **settings)


@pytest.mark.parametrize(
    ("speed", "forward", "backward"),
    [("exact", 50, 50), ("balanced", 16, 0), ("fast", 8, 0), ("one-shot", 1, 0)],
)
def test_each_rung_of_the_ladder_calls_the_network_so_often(speed, forward, backward):
    calls = {"forward": 0, "backward": 0}
    model = tiny_unet(learn_sigma=False)

    def counted(x, t):
        calls["forward"] += 1
        out = model(x, t)
        if out.requires_grad:
            out.register_hook(lambda _: calls.update(backward=calls["backward"] + 1))
        return out

    reference = torch.rand(2, 3, 16, 16) * 2 - 1
    noise = NoiseStreams(["a", "b"], seed=0, shape=(3, 16, 16))
    out = adapt(
        counted, Diffusion(timestep_respacing="100"), reference, **SPEEDS[speed], draw_noise=noise
    )
    assert calls == {"forward": forward, "backward": backward}
    assert out.shape == reference.shape and torch.isfinite(out).all()
