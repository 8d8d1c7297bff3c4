import copy
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers import tiny_unet
from torch import nn

from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.prior_task import PriorBatches, PriorTask, training_losses
from DDA.training.loop import Recipe, State, fit, make_rate, moment_of, start
from DDA.training.task import Moment, Task


class Told(torch.nn.Module):
    """A network that returns what it was told, whatever it sees."""

    def __init__(self, output):
        super().__init__()
        self.output = torch.nn.Parameter(output)

    def forward(self, x, t):
        self.times = t
        return self.output


def images(count=12, size=16):
    return torch.from_numpy(
        np.random.default_rng(0).uniform(-1, 1, (count, 3, size, size)).astype(np.float32)
    )


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_the_right_noise_has_no_loss_but_the_variance_term(learn_sigma):
    diffusion = Diffusion(learn_sigma=learn_sigma)
    x0, noise, index = images(4), torch.randn(4, 3, 16, 16), torch.tensor([5, 200, 700, 999])
    low = torch.full_like(noise, -1.0)  # the posterior's variance
    losses = training_losses(
        Told(torch.cat([noise, low], 1) if learn_sigma else noise), diffusion, x0, index, noise
    )
    torch.testing.assert_close(losses["mse"], torch.zeros(4))
    if learn_sigma:  # mean and variance are the posterior's: no divergence
        torch.testing.assert_close(losses["vb"], torch.zeros(4), atol=1e-4, rtol=0)


def test_the_variance_term_is_the_divergence_of_two_gaussians_in_bits():
    diffusion = Diffusion(learn_sigma=True)
    x0, noise, t = images(1), torch.randn(1, 3, 16, 16), 300
    output = noise + 0.3
    fraction = torch.full_like(noise, 0.2)
    losses = training_losses(
        Told(torch.cat([output, fraction], 1)), diffusion, x0, torch.tensor([t]), noise
    )
    signal = diffusion.alphas_cumprod[t]
    x_t = math.sqrt(signal) * x0 + math.sqrt(1 - signal) * noise
    mean = diffusion.posterior_mean(
        (x_t - math.sqrt(1 - signal) * output) / math.sqrt(signal), x_t, t
    )
    p = torch.distributions.Normal(
        mean,
        math.exp(
            0.5
            * (
                0.6 * math.log(diffusion.betas[t])
                + 0.4 * diffusion.posterior_log_variance_clipped[t]
            )
        ),
    )
    q = torch.distributions.Normal(
        diffusion.posterior_mean(x0, x_t, t), math.sqrt(diffusion.posterior_variance[t])
    )
    expected = torch.distributions.kl_divergence(q, p).mean() / math.log(2)
    torch.testing.assert_close(losses["vb"][0], expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(losses["loss"], losses["mse"] + losses["vb"])


def test_the_probabilities_of_all_grey_levels_sum_to_one():
    from DDA.image_adapt.prior_task import _log_likelihood_of_levels

    levels = torch.arange(256) / 127.5 - 1
    for mean, deviation in ((0.1, 0.05), (0.99, 0.3), (-1.0, 0.01)):
        total = (
            _log_likelihood_of_levels(levels, torch.tensor(mean), torch.tensor(math.log(deviation)))
            .exp()
            .sum()
        )
        assert float(total) == pytest.approx(1, abs=1e-4)


def test_the_variance_trains_without_touching_the_noise():
    diffusion = Diffusion(learn_sigma=True)
    model = Told(torch.cat([torch.randn(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)], 1))
    training_losses(model, diffusion, images(2), torch.tensor([0, 500]), torch.randn(2, 3, 16, 16))[
        "vb"
    ].sum().backward()
    noise, variance = model.output.grad.chunk(2, 1)
    assert not noise.any() and variance.any()


def test_rescaled_times_run_over_0_to_1000():
    model = Told(torch.zeros(2, 3, 16, 16))
    training_losses(
        model,
        Diffusion(steps=4000, rescale_timesteps=True),
        images(2),
        torch.tensor([0, 3999]),
        torch.zeros(2, 3, 16, 16),
    )
    torch.testing.assert_close(model.times, torch.tensor([0.0, 999.75]))


def run(recipe, *, stops=(), lr=1e-3, **changes):
    """Train a tiny prior, through a saved state at each of ``stops``; the state at the end."""
    torch.manual_seed(0)
    data = ((images() + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    diffusion = Diffusion()
    batches = PriorBatches(lambda rows: data[rows], len(data), len(diffusion), recipe, flip=True)

    def new() -> State:
        model = tiny_unet(learn_sigma=False, **changes).requires_grad_(True)
        return start(PriorTask(model, diffusion), recipe, {"type": "AdamW", "lr": lr})

    state = new()
    rate = make_rate(lr, {"type": "linear"}, recipe)
    for stop in (*stops, None):
        fit(
            state,
            batches,
            recipe,
            rate,
            after_look=lambda state=state, stop=stop: state.step == stop,
        )
        if stop is not None:
            saved = copy.deepcopy(state.as_dict())
            state = new()
            state.load(saved)
    return state


RECIPE = Recipe(steps=6, batch_size=4, warmup=2, clip_norm=1, ema=0.9)


@pytest.fixture(autouse=True)
def look_at_each_step(monkeypatch):
    monkeypatch.setattr("DDA.training.loop.LOOK_EVERY", 1)


def of_step(state):
    return [row["loss"] for row in state.losses]


def test_an_interrupted_run_ends_with_bitwise_the_same_weights():
    whole, broken = run(RECIPE), run(RECIPE, stops=(2, 5))
    assert whole.losses == broken.losses and whole.step == broken.step == 6
    for name in ("task", "ema"):
        for one, two in zip(
            whole.as_dict()[name].values(), broken.as_dict()[name].values(), strict=True
        ):
            assert torch.equal(one, two)


def test_accumulation_averaged_weights_and_dropout_resume_bitwise_too():
    recipe = replace(RECIPE, accumulate=2)
    whole, broken = run(recipe, dropout=0.3), run(recipe, stops=(3,), dropout=0.3)
    assert whole.losses == broken.losses
    assert all(map(torch.equal, whole.ema.state_dict().values(), broken.ema.state_dict().values()))


def test_parts_of_a_batch_add_up_to_it():
    np.testing.assert_allclose(
        of_step(run(RECIPE)), of_step(run(replace(RECIPE, accumulate=2))), rtol=1e-4
    )


def test_training_learns_and_the_average_lags_behind():
    state = run(Recipe(steps=60, batch_size=6, warmup=5, clip_norm=1, ema=0.99), lr=3e-3)
    assert np.mean(of_step(state)[-10:]) < 0.7 * np.mean(of_step(state)[:5])
    pairs = zip(state.task.parameters(), state.ema.parameters(), strict=True)
    assert max(float((one - two).detach().abs().max()) for one, two in pairs) > 0


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(
        FloatingPointError, match="the loss at step 1 is nan|the loss at step 2 is nan"
    ):
        run(replace(RECIPE, clip_norm=0, warmup=0), lr=1e30)


# ---------------------------------------------------------------------- the loop, with any task


class Numbers:
    """Pairs (x, 3x + 1), eight a step."""

    per_epoch = 5

    def __init__(self, accumulate=1):
        self._accumulate = accumulate

    def stream(self, first, last):
        for step in range(first, last):
            x = torch.randn(8, 1, generator=torch.Generator().manual_seed(step))
            yield [Pairs(part, 3 * part + 1) for part in x.chunk(self._accumulate)]


class Pairs(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor

    def to(self, device):
        return Pairs(self.x.to(device), self.y.to(device))


class Regression(Task):
    """A task of a shape that nobody thought of: no classes, no images, an error that is to fall."""

    monitor, higher_is_better = "error", False

    def __init__(self, teacher=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, affine=False, momentum=0.1))
        self.gain = nn.Linear(1, 1)
        self.teachers = (teacher,) if teacher is not None else ()
        self.moments = []

    def forward(self, batch, moment):
        self.moments.append(moment)
        error = (self.gain(self.layers(batch.x)) - batch.y).square().mean()
        parts = {"loss": error, "error": error}
        if self.teachers:
            with torch.no_grad():
                taught = self.teachers[0](batch.x)
            parts["loss"] = error + 0.1 * (self.gain(self.layers(batch.x)) - taught).square().mean()
        return parts

    def evaluate(self, world):
        x = torch.linspace(-1, 1, 9)[:, None]
        with torch.no_grad():
            return {"error": float((self.gain(self.layers(x)) - 3 * x - 1).square().mean())}


def regress(recipe, accumulate=1, teacher=None, **hooks):
    torch.manual_seed(0)
    state = start(Regression(teacher), recipe, {"type": "SGD", "lr": 0.1})
    fit(state, Numbers(accumulate), recipe, make_rate(0.1, {"type": "cosine"}, recipe), **hooks)
    return state


def test_a_task_of_its_own_needs_nothing_of_the_loop():
    best = []
    state = regress(Recipe(epochs=8), after_epoch=best.append)
    errors = [row["error"] for row in state.epochs]
    assert errors[-1] < 0.6 * errors[0] and len(state.epochs) == 8 and state.step == 40
    assert (
        best[0] and state.best == min(errors) and state.best_epoch == 1 + errors.index(min(errors))
    )
    assert [moment.step for moment in state.task.moments] == list(range(40)) and state.task.moments[
        20
    ].spent == 0.5


def test_a_run_stops_early_where_the_error_no_longer_falls(monkeypatch):
    errors = iter([3.0, 1.0, 2.0, 2.0, 0.5])
    monkeypatch.setattr(Regression, "evaluate", lambda self, world: {"error": next(errors)})
    assert len(regress(Recipe(epochs=9, early_stop=2)).epochs) == 4


def test_teachers_are_outside_the_state_and_never_change():
    teacher = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).eval().requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    state = regress(Recipe(epochs=2, ema=0.9), teacher=teacher)
    assert (
        all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
        and not teacher.training
    )
    assert not any(
        "teacher" in name for name in (*state.task.state_dict(), *state.as_dict()["ema"])
    )


def test_averaged_weights_have_averaged_parameters_and_copied_buffers_and_are_what_is_judged():
    judged = []
    state = regress(Recipe(epochs=3, ema=0.9), after_epoch=lambda _: judged.append(None))
    weight, averaged = (task.gain.weight for task in (state.task, state.ema))
    assert not torch.equal(weight, averaged) and state.judged is state.ema
    assert torch.equal(state.task.layers[1].running_mean, state.ema.layers[1].running_mean)
    with torch.no_grad():
        assert state.epochs[-1]["error"] == pytest.approx(state.ema.evaluate(None)["error"])
    assert not state.ema.training


def test_a_part_of_a_batch_counts_as_much_as_its_share():
    recipe = Recipe(steps=1)
    whole, parts = regress(recipe), regress(recipe, accumulate=4)
    assert len(parts.task.moments) == 4 and whole.step == parts.step == 1
    torch.testing.assert_close(
        whole.task.gain.bias, parts.task.gain.bias, rtol=0.2, atol=0.05
    )  # BatchNorm sees parts


def test_norms_and_biases_can_be_left_out_of_the_decay():
    for decays, groups in ((True, 1), (False, 2)):
        state = start(
            Regression(),
            Recipe(steps=1, decay_norms=decays),
            {"type": "AdamW", "lr": 1.0, "weight_decay": 0.3},
        )
        assert len(state.optimizer.param_groups) == groups
    weights, others = state.optimizer.param_groups
    assert weights["weight_decay"] == 0.3 and others["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in weights["params"]) and all(p.ndim == 1 for p in others["params"])


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({"type": "constant"}, [1, 1, 1]),
        ({"type": "linear"}, [1, 0.5, 0]),
        ({"type": "linear", "steps": 60}, [1, 1 / 6, 0]),
        ({"type": "cosine"}, [1, 0.5, 0]),
        ({"type": "multistep", "milestones": [5, 9], "gamma": 0.1}, [1, 0.1, 0.01]),
    ],
)
def test_the_learning_rate_follows_its_schedule_over_the_budget(schedule, rates):
    rate = make_rate(1.0, schedule, Recipe(epochs=10))
    assert [rate(Moment(step, step / 100)) for step in (0, 50, 100)] == pytest.approx(
        rates, abs=1e-6
    )
    risen = make_rate(1.0, {"type": "constant"}, Recipe(epochs=10, warmup=10))
    assert [risen(Moment(step, 0)) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1, 1])


def test_a_budget_ends_with_the_first_of_its_limits():
    class Now:
        step, seconds = 3, 45.0

    assert moment_of(Now, Recipe(minutes=1), 5).spent == pytest.approx(0.75)
    assert moment_of(Now, Recipe(minutes=1, steps=3), 5).spent == 1
    assert moment_of(Now, Recipe(epochs=2), 6).spent == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give a budget, one of epochs, steps, minutes"),
        ({"steps": 1, "accumulate": 0}, "`accumulate` 0 must be at least 1"),
        ({"steps": 1, "ema": 1.0}, "`ema` 1.0 is outside 0..1"),
        ({"epochs": float("inf")}, "`epochs` inf is not a number from 0 to 1e"),
        ({"steps": 1, "seed": -1}, "`seed` -1 is not a number"),
        ({"epochs": 10**400}, "is not a number from 0 to"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**settings)
