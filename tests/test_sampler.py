import pytest
import torch
from helpers import diffusion_of, parity, tensor, tiny_unet, unet_of

from DDA.image_adapt.diffusion import Diffusion, ddpm_step
from DDA.image_adapt.guidance import gradient
from DDA.image_adapt.noise import NoiseStreams
from DDA.image_adapt.sampler import adapt

ATOL = {"plain": 5e-6, "hot": 1e-4}


def run(model, diffusion, x, noise, **changes):
    settings = dict(diffusion_range=5, factor=4, scale=6, draw_noise=lambda k: noise[k])
    return adapt(model, diffusion, x, **{**settings, **changes})


@pytest.mark.parametrize(
    ("rule", "file"),
    [
        ("plain", "04_sampler_plain_b1"),
        ("plain", "04_sampler_plain_b3"),
        ("hot", "04_sampler_hot_b1"),
        ("hot", "04_sampler_hot_b3"),
        ("hot", "04_sampler_fixedvar_hot_b2"),
    ],
)
def test_published_behaviour_equals_the_reference(rule, file):
    expected, meta = parity(file)
    model, diffusion = unet_of(meta["flags"], rule), diffusion_of(meta["flags"])
    x, noise = tensor(expected["x"]), tensor(expected["noise"])
    result = run(model, diffusion, x, noise, behavior="published")
    torch.testing.assert_close(result, tensor(expected["samples"][-1]), atol=ATOL[rule], rtol=0)


@pytest.mark.parametrize(
    ("rule", "file"), [("plain", "04_sampler_plain_b3"), ("hot", "04_sampler_hot_b3")]
)
def test_one_norm_per_image_equals_running_each_image_alone(rule, file):
    expected, meta = parity(file)
    model, diffusion = unet_of(meta["flags"], rule), diffusion_of(meta["flags"])
    x, noise = tensor(expected["x"]), tensor(expected["noise"])
    # published noising, one image at a time: the batch norm is the image's own
    alone = [
        run(model, diffusion, x[i : i + 1], noise[:, i : i + 1], behavior="published")
        for i in range(3)
    ]
    torch.testing.assert_close(
        torch.cat(alone), tensor(expected["samples_perimage_norm"][-1]), atol=ATOL[rule], rtol=0
    )
    # corrected behaviour: the batch does not matter
    together = run(model, diffusion, x, noise)
    alone = torch.cat([run(model, diffusion, x[i : i + 1], noise[:, i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=ATOL[rule], rtol=0)
    assert (alone - run(model, diffusion, x, noise, behavior="published")).abs().max() > 0.05


@pytest.mark.parametrize("rule", ["plain", "hot"])
def test_one_guided_step_equals_the_reference(rule):
    expected, meta = parity(f"04_onestep_{rule}")
    model, diffusion, index = (
        unet_of(meta["flags"], rule),
        diffusion_of(meta["flags"]),
        meta["index"],
    )
    assert diffusion.timestep_map[index] == meta["original_timestep"]
    x, x_t, noise = (tensor(expected[name]) for name in ("x", "x_t", "noise"))

    def predict(x):
        return diffusion.predict(model, x, index)

    def close(actual, name):
        torch.testing.assert_close(
            actual, tensor(expected[name]), atol=ATOL[rule], rtol=0, msg=lambda m: f"{name}: {m}"
        )

    prediction, pull = gradient(x, factor=4, scale=1.0, norm_over="batch")(predict, x_t, 0.5)
    close(prediction.x0, "pred_xstart")
    close(-pull, "grad")
    sample = ddpm_step(diffusion, x_t, prediction, index, noise)
    close(sample + meta["scale"] * pull, "sample_guided")
    if rule == "plain":
        close(prediction.log_variance, "log_variance")
        close(diffusion.posterior_mean(prediction.x0, x_t, index), "mean")
        close(sample, "sample_unguided")
        _, pull = gradient(x, factor=4, scale=1.0)(predict, x_t, 0.5)
        close(-pull, "perimage_grad")
        close(sample + meta["scale"] * pull, "perimage_sample_guided")


def test_corrected_behaviour_noises_to_the_index_that_it_starts_from():
    diffusion = Diffusion(timestep_respacing="10")
    reference, seen = torch.full((1, 3, 8, 8), 0.5), []

    def model(x, t):
        seen.append((int(t[0]), x.detach().mean().item()))
        return torch.zeros_like(x)

    for behavior, index in (("corrected", 3), ("published", 4)):
        seen.clear()
        adapt(
            model,
            diffusion,
            reference,
            diffusion_range=4,
            factor=2,
            scale=0.0,
            behavior=behavior,
            draw_noise=lambda k: torch.zeros_like(reference),
        )
        assert [t for t, _ in seen] == [diffusion.timestep_map[i] for i in (3, 2, 1, 0)]
        assert seen[0][1] == pytest.approx(0.5 * diffusion.alphas_cumprod[index] ** 0.5, rel=1e-5)


def test_the_last_step_draws_no_noise_and_the_others_draw_in_order():
    drawn = []

    def draw(k):
        drawn.append(k)
        return torch.zeros(1, 3, 16, 16)

    adapt(
        tiny_unet(learn_sigma=False),
        Diffusion(timestep_respacing="10"),
        torch.zeros(1, 3, 16, 16),
        diffusion_range=4,
        factor=2,
        scale=1.0,
        draw_noise=draw,
    )
    assert drawn == [0, 1, 2, 3]


def test_guidance_lowers_the_distance_to_the_low_frequencies_of_the_reference():
    expected, meta = parity("04_sampler_plain_b3")
    model, diffusion = unet_of(meta["flags"]), diffusion_of(meta["flags"])
    x, noise = tensor(expected["x"]), tensor(expected["noise"])

    def distance(scale):
        gap = run(model, diffusion, x, noise, scale=scale, diffusion_range=3) - x
        return torch.nn.functional.avg_pool2d(gap, 4).norm()

    assert distance(0.5) < distance(0.0)


def test_a_reference_that_is_met_exactly_has_no_pull_and_no_nan():
    x = torch.zeros(2, 3, 8, 8)
    diffusion = Diffusion(timestep_respacing="10", predict_xstart=True)
    _, pull = gradient(x, factor=2, scale=6.0)(
        lambda x_t: diffusion.predict(lambda x, t: x * 0, x_t, 3), x, 0.5
    )
    assert torch.equal(pull, torch.zeros_like(x))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"diffusion_range": 0}, "N 0 is outside 1..100"),
        ({"diffusion_range": 101}, "N 101 is outside 1..100"),
        ({"diffusion_range": 100, "behavior": "published"}, "N 100 is outside 1..99"),
        ({"behavior": "fixed"}, "behavior 'fixed'"),
        ({"guidance": "magic"}, "guidance 'magic'"),
        ({"factor": 5}, "D 5 does not divide"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes, word):
    with pytest.raises(ValueError, match=word):
        run(None, Diffusion(timestep_respacing="100"), torch.zeros(1, 3, 16, 16), None, **changes)


def test_noise_depends_on_seed_key_and_number_alone():
    streams = NoiseStreams(["a", "b"], seed=3, shape=(3, 4, 4))
    first, second = streams(0), streams(1)
    assert first.dtype == torch.float32 and first.shape == (2, 3, 4, 4)
    assert torch.equal(NoiseStreams(["b", "ü x"], seed=3, shape=(3, 4, 4))(1)[0], second[1])
    assert torch.equal(streams(0), first)
    draws = torch.cat(
        [first, second, NoiseStreams(["a", "b"], seed=4, shape=(3, 4, 4))(0)]
    ).flatten(1)
    assert len({tuple(row.tolist()) for row in draws}) == 6


def test_noise_is_standard_normal_and_draws_do_not_overlap():
    streams = NoiseStreams([f"image {i}" for i in range(8)], seed=0, shape=(3, 64, 64))
    draws = torch.stack([streams(k) for k in range(4)]).flatten(2)
    assert draws.mean().abs() < 0.01 and (draws.var() - 1).abs() < 0.01
    correlation = torch.corrcoef(draws.flatten(0, 1)) - torch.eye(32)
    assert correlation.abs().max() < 0.06


def test_noise_of_a_key_is_fixed_for_ever():
    streams = NoiseStreams(["gaussian_noise/5/airplane_0001"], seed=0, shape=(4,))
    assert streams(0)[0].tolist() == pytest.approx(
        [-1.5300903, 0.0901272, 0.9793798, 1.2331908], abs=1e-6
    )
    assert streams(50)[0].tolist() == pytest.approx(
        [-0.4676827, -1.4698557, 0.3092103, 0.4325950], abs=1e-6
    )
