import copy
import math

import numpy as np
import pytest
import torch
from helpers import tiny_unet

from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.training import Recipe, learning_rate, progress, start, train, training_losses


class Told(torch.nn.Module):
    """A network that returns what it was told, whatever it sees."""

    def __init__(self, output):
        super().__init__()
        self.output = torch.nn.Parameter(output)

    def forward(self, x, t):
        self.times = t
        return self.output


def images(count=12, size=16):
    return torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (count, 3, size, size)).astype(np.float32))


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_the_right_noise_has_no_loss_but_the_variance_term(learn_sigma):
    diffusion = Diffusion(learn_sigma=learn_sigma)
    x0, noise, index = images(4), torch.randn(4, 3, 16, 16), torch.tensor([5, 200, 700, 999])
    low = torch.full_like(noise, -1.0)  # the posterior's variance
    losses = training_losses(Told(torch.cat([noise, low], 1) if learn_sigma else noise), diffusion, x0, index, noise)
    torch.testing.assert_close(losses["mse"], torch.zeros(4))
    if learn_sigma:  # mean and variance are the posterior's: no divergence
        torch.testing.assert_close(losses["vb"], torch.zeros(4), atol=1e-4, rtol=0)


def test_the_variance_term_is_the_divergence_of_two_gaussians_in_bits():
    diffusion = Diffusion(learn_sigma=True)
    x0, noise, t = images(1), torch.randn(1, 3, 16, 16), 300
    output = noise + 0.3
    fraction = torch.full_like(noise, 0.2)
    losses = training_losses(Told(torch.cat([output, fraction], 1)), diffusion, x0, torch.tensor([t]), noise)
    signal = diffusion.alphas_cumprod[t]
    x_t = math.sqrt(signal) * x0 + math.sqrt(1 - signal) * noise
    mean = diffusion.posterior_mean((x_t - math.sqrt(1 - signal) * output) / math.sqrt(signal), x_t, t)
    p = torch.distributions.Normal(
        mean, math.exp(0.5 * (0.6 * math.log(diffusion.betas[t]) + 0.4 * diffusion.posterior_log_variance_clipped[t]))
    )
    q = torch.distributions.Normal(diffusion.posterior_mean(x0, x_t, t), math.sqrt(diffusion.posterior_variance[t]))
    expected = torch.distributions.kl_divergence(q, p).mean() / math.log(2)
    torch.testing.assert_close(losses["vb"][0], expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(losses["loss"], losses["mse"] + losses["vb"])


def test_the_probabilities_of_all_grey_levels_sum_to_one():
    from DDA.image_adapt.training import _log_likelihood_of_levels

    levels = torch.arange(256) / 127.5 - 1
    for mean, deviation in ((0.1, 0.05), (0.99, 0.3), (-1.0, 0.01)):
        total = _log_likelihood_of_levels(levels, torch.tensor(mean), torch.tensor(math.log(deviation))).exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-4)


def test_the_variance_trains_without_touching_the_noise():
    diffusion = Diffusion(learn_sigma=True)
    model = Told(torch.cat([torch.randn(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)], 1))
    training_losses(model, diffusion, images(2), torch.tensor([0, 500]), torch.randn(2, 3, 16, 16))["vb"].sum().backward()
    noise, variance = model.output.grad.chunk(2, 1)
    assert not noise.any() and variance.any()


def test_rescaled_times_run_over_0_to_1000():
    model = Told(torch.zeros(2, 3, 16, 16))
    training_losses(
        model, Diffusion(steps=4000, rescale_timesteps=True), images(2), torch.tensor([0, 3999]), torch.zeros(2, 3, 16, 16)
    )
    torch.testing.assert_close(model.times, torch.tensor([0.0, 999.75]))


def run(recipe, *, stops=(), **changes):
    """Train a tiny network, through a saved state at each of ``stops``; the state at the end."""
    torch.manual_seed(0)
    data = images()
    state = start(tiny_unet(learn_sigma=False, **changes).requires_grad_(True), recipe)
    diffusion = Diffusion()
    for stop in (*stops, None):
        train(state, diffusion, lambda rows: data[rows], len(data), recipe, after_step=lambda now, stop=stop: now.step == stop)
        if stop is not None:
            saved = copy.deepcopy(state.as_dict())
            state = start(tiny_unet(learn_sigma=False, **changes).requires_grad_(True), recipe)
            state.load(saved)
    return state


RECIPE = Recipe(steps=6, batch_size=4, lr=1e-3, warmup=2, ema=0.9, flip=True)


def test_an_interrupted_run_ends_with_bitwise_the_same_weights():
    whole, broken = run(RECIPE), run(RECIPE, stops=(2, 5))
    assert whole.losses == broken.losses and whole.step == broken.step == 6
    for name in ("model", "ema"):
        for one, two in zip(whole.as_dict()[name].values(), broken.as_dict()[name].values(), strict=True):
            assert torch.equal(one, two)


def test_dropout_resumes_too():
    whole, broken = run(RECIPE, dropout=0.3), run(RECIPE, stops=(3,), dropout=0.3)
    assert whole.losses == broken.losses


def test_parts_of_a_batch_add_up_to_it():
    whole = run(RECIPE)
    parts = run(Recipe(**{**RECIPE.__dict__, "accumulate": 2}))
    np.testing.assert_allclose(whole.losses, parts.losses, rtol=1e-4)


def test_training_learns_and_the_average_lags_behind():
    recipe = Recipe(steps=60, batch_size=6, lr=3e-3, warmup=5, ema=0.99, anneal=False)
    state = run(recipe)
    assert np.mean(state.losses[-10:]) < 0.7 * np.mean(state.losses[:5])
    gaps = [float((a - b).detach().abs().max()) for a, b in zip(state.model.parameters(), state.ema.parameters(), strict=True)]
    assert max(gaps) > 0


def test_the_learning_rate_rises_and_falls_over_the_budget():
    class Now:
        step, seconds = 0, 0.0

    recipe = Recipe(steps=100, lr=1.0, warmup=10)
    rates = []
    for Now.step in range(101):
        rates.append(learning_rate(recipe, Now))
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(rates[9]) and rates[100] == 0
    Now.step, Now.seconds = 3, 45.0
    assert progress(Recipe(minutes=1), Now) == pytest.approx(0.75)
    assert learning_rate(Recipe(minutes=1, lr=1.0), Now) == pytest.approx(0.25)
    assert learning_rate(Recipe(steps=10, anneal_steps=6, lr=1.0), Now) == pytest.approx(0.5)
    assert learning_rate(Recipe(steps=10, anneal=False, lr=1.0), Now) == 1


def test_a_loss_that_is_not_finite_stops_the_run():
    recipe = Recipe(steps=5, batch_size=4, lr=1e-3)
    model = tiny_unet(learn_sigma=False).requires_grad_(True)
    with pytest.raises(FloatingPointError, match="the loss at step 0 is nan"):
        train(start(model, recipe), Diffusion(), lambda rows: images()[rows] * float("nan"), 12, recipe)
