import numpy as np
import pytest
import torch
from helpers import parity

from DDA.image_adapt.diffusion import (
    Diffusion,
    Prediction,
    ddpm_step,
    named_betas,
    respaced_timesteps,
)

FIELDS = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("respacing", ["", "100", "50", "ddim25", "10,20,30"])
def test_tables_equal_the_reference(schedule, respacing):
    expected, _ = parity("01_schedules")
    prefix = f"{schedule}1000" + (f"_respace[{respacing}]" if respacing else "")
    diffusion = Diffusion(noise_schedule=schedule, timestep_respacing=respacing)
    for field in FIELDS:
        table = getattr(diffusion, field)
        assert table.dtype == np.float64
        atol = 1e-12 if field == "posterior_log_variance_clipped" else 0
        np.testing.assert_allclose(
            table, expected[f"{prefix}/{field}"], rtol=1e-12, atol=atol, err_msg=field
        )
    if respacing:
        assert list(diffusion.timestep_map) == expected[f"{prefix}/timestep_map"].tolist()


def test_odd_respacings_equal_the_reference():
    expected, _ = parity("01_schedules")
    cases = [key for key in expected if key.startswith("space_timesteps/")]
    assert cases
    for case in cases:
        steps, spec = case.removeprefix("space_timesteps/").rstrip("]").split("[")
        assert respaced_timesteps(int(steps), spec) == expected[case].tolist(), case


@pytest.mark.parametrize("spec", ["0", "abc", "ddim", "ddim999", "2000", "10,,20", "-5"])
def test_impossible_respacing_is_refused_by_name(spec):
    with pytest.raises(ValueError, match="timestep_respacing"):
        respaced_timesteps(1000, spec)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="noise_schedule 'cubic'"):
        named_betas("cubic", 10)
    with pytest.raises(ValueError, match="fixed_variance 'medium'"):
        Diffusion(fixed_variance="medium")


def test_q_sample_at_an_index_has_had_index_plus_one_noising_steps():
    diffusion = Diffusion(timestep_respacing="10")
    x0, index = torch.ones(1, 3, 4, 4), 3
    signal = np.prod(1 - diffusion.betas[: index + 1])
    torch.testing.assert_close(
        diffusion.q_sample(x0, index, torch.zeros_like(x0)), x0 * float(signal) ** 0.5
    )


@pytest.mark.parametrize("variance", ["large", "small"])
def test_the_last_step_adds_no_noise_and_others_have_the_named_variance(variance):
    diffusion = Diffusion(timestep_respacing="10", fixed_variance=variance)
    x = torch.zeros(1, 3, 4, 4)
    prediction = diffusion.predict(lambda x, t: torch.zeros_like(x), x, 0)
    assert torch.equal(ddpm_step(diffusion, x, prediction, 0, torch.full_like(x, torch.nan)), x)
    for index in (1, 5, 9):
        expected = (diffusion.betas if variance == "large" else diffusion.posterior_variance)[
            index
        ] ** 0.5
        prediction = diffusion.predict(lambda x, t: torch.zeros_like(x), x, index)
        step = ddpm_step(diffusion, x, prediction, index, torch.ones_like(x))
        torch.testing.assert_close(step, torch.full_like(x, float(expected)))


def test_learned_variance_runs_from_the_posterior_to_beta():
    diffusion = Diffusion(timestep_respacing="10", learn_sigma=True)
    x = torch.zeros(1, 3, 2, 2)
    for v, expected in (
        (-1.0, diffusion.posterior_log_variance_clipped[4]),
        (1.0, np.log(diffusion.betas[4])),
    ):
        prediction = diffusion.predict(lambda x, t, v=v: torch.full((1, 6, 2, 2), v), x, 4)
        torch.testing.assert_close(prediction.log_variance, torch.full_like(x, float(expected)))


def test_a_network_that_knows_the_noise_gives_the_clean_image_back():
    diffusion = Diffusion(timestep_respacing="10")
    x0, noise = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    x_t = diffusion.q_sample(x0, 6, noise)
    torch.testing.assert_close(
        diffusion.predict(lambda x, t: noise, x_t, 6).x0, x0, atol=1e-6, rtol=0
    )
    direct = Diffusion(timestep_respacing="10", predict_xstart=True)
    assert torch.equal(direct.predict(lambda x, t: x0, x_t, 6).x0, x0)


def test_the_network_sees_original_times_or_times_scaled_to_1000():
    seen = []

    def model(x, t):
        seen.append(t.tolist())
        return torch.zeros_like(x)

    x = torch.zeros(2, 3, 2, 2)
    Diffusion(steps=4000, timestep_respacing="4").predict(model, x, 3)
    Diffusion(steps=4000, timestep_respacing="4", rescale_timesteps=True).predict(model, x, 3)
    assert seen == [[3999, 3999], [999.75, 999.75]]


def test_channels_that_contradict_learn_sigma_are_refused():
    with pytest.raises(ValueError, match="learn_sigma"):
        Diffusion(learn_sigma=True).predict(lambda x, t: x, torch.zeros(1, 3, 2, 2), 0)


def test_posterior_mean_of_the_first_step_is_the_clean_image():
    diffusion = Diffusion(timestep_respacing="100")
    x0, x_t = torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2)
    torch.testing.assert_close(ddpm_step(diffusion, x_t, Prediction(x0, 0.0), 0, None), x0)
