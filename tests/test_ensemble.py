"""The combination rules against the reference's numbers."""

import pytest
import torch
import torch.nn.functional as F
from helpers import parity

from DDA.model_adapt import choices
from DDA.model_adapt.ensemble import (
    FITS,
    FUSE_RULES,
    OURS,
    RULES,
    combine,
    entropy,
    fit_gate,
    fit_weighted_sum,
    fuse_images,
    fuse_weights,
    is_doubtful,
)

VECTORS, _ = parity("07_ensemble")
TIE = torch.from_numpy(VECTORS["row_is_tie"])


def vector(name):
    return torch.from_numpy(VECTORS[name])


# the rules of the reference code, whose vectors lie in parity/
PUBLISHED = [rule for rule in RULES if f"logits/{rule}/out" in VECTORS]
PUBLISHED_BLENDS = ("entropy_fuse", "confidence_fuse", "var_fuse")
assert len(PUBLISHED) == 8


def test_the_names_that_settings_know_are_those_of_the_rules():
    assert tuple(RULES) == choices.RULES
    assert tuple(choices.FITTED_RULES) == tuple(OURS) == tuple(FITS)
    assert tuple(FUSE_RULES) == choices.FUSE_RULES


@pytest.mark.parametrize("rule", choices.FITTED_RULES)
def test_a_fit_gives_the_parameters_that_its_rule_names(rule):
    labels = torch.tensor([0, 1, 2])
    logits = torch.eye(3)
    params = FITS[rule](logits, 2 * logits, labels)
    assert set(params) == set(choices.FITTED_RULES[rule])
    assert combine(logits, logits, rule, **params).shape == (3, 3)


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("rule", PUBLISHED)
def test_rules_are_the_references(kind, rule):
    first, second = vector(f"{kind}/x1"), vector(f"{kind}/x2")
    out = combine(first, second, rule)
    kept = ~TIE if rule in ("entropy", "confidence", "var") else torch.ones(8, dtype=bool)
    torch.testing.assert_close(out[kept], vector(f"{kind}/{rule}/out")[kept], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy(first), vector(f"{kind}/entropy1"), atol=1e-5, rtol=1e-5)
    if f"{kind}/{rule}/pick_second" in VECTORS and rule not in ("first", "second"):
        picked = (out == second).all(1) & (first != second).any(1)
        assert torch.equal(picked[kept], vector(f"{kind}/{rule}/pick_second")[kept].bool())


@pytest.mark.parametrize("rule", ["entropy", "confidence", "var"])
def test_of_two_equal_ones_the_second_is_taken(rule):
    scores = torch.tensor([[1.0, 2.0, 4.0]])
    chosen = combine(scores, scores + 0.0, rule)
    assert torch.equal(chosen, scores)
    first, second = scores, scores.flip(1)  # a permuted copy whose sums round alike
    assert torch.equal(combine(first, second, rule), second)


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("rule", PUBLISHED_BLENDS)
def test_blends_are_the_references(kind, rule):
    weights = fuse_weights(vector(f"{kind}/x1"), vector(f"{kind}/x2"), rule)
    torch.testing.assert_close(weights, vector(f"{kind}/{rule}/weights"), atol=1e-5, rtol=1e-5)
    blended = fuse_images(vector("img1"), vector("img2"), weights)
    torch.testing.assert_close(blended, vector(f"{kind}/{rule}/img"), atol=1e-5, rtol=1e-5)


def test_the_fit_calibrates_both_and_weighs_what_each_adds():
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (4000,))
    truth = torch.nn.functional.one_hot(labels, 5).float()
    good, other = 3 * truth + torch.randn(4000, 5), 2 * truth + torch.randn(4000, 5)
    echo = good + 2 * torch.randn(4000, 5)  # it knows nothing that the good one does not
    both = fit_weighted_sum(4 * good, other, labels)  # the good one is too sure of itself
    assert both["temperatures"][0] == pytest.approx(4 / 3, rel=0.2) and 0.4 < both["weight"] < 0.6
    turned = fit_weighted_sum(other, 4 * good, labels)
    assert turned["temperatures"] == both["temperatures"][::-1]
    assert turned["weight"] == pytest.approx(1 - both["weight"], abs=0.02)
    assert fit_weighted_sum(good, echo, labels)["weight"] < 0.1

    def accuracy(scores):
        return (scores.argmax(1) == labels).float().mean()

    weighted = combine(4 * good, other, "weighted_sum", **both)
    assert accuracy(weighted) > accuracy(combine(4 * good, other, "sum"))


def test_the_gate_adapts_where_the_first_is_unsure_and_no_more_than_it_must():
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (4000,))
    truth = torch.nn.functional.one_hot(labels, 5).float()
    hard = torch.arange(4000) < 1000
    one = torch.where(hard[:, None], 0.5, 9.0) * truth + 0.5 * torch.randn(4000, 5)
    two = 4 * truth + torch.randn(4000, 5)
    fitted = fit_gate(one, two, labels)
    threshold, temperature = fitted["threshold"], fitted["temperatures"][0]
    asked = is_doubtful(one, threshold, temperature)
    assert asked[hard].float().mean() > 0.8 and not asked[~hard].any()
    always = {name: fitted[name] for name in ("weight", "temperatures")}
    both = combine(one, two, "weighted_sum", **always)
    # without a threshold every image is adapted
    assert torch.equal(combine(one, two, "gate", **always), both)
    gated = combine(one, two, "gate", **fitted)
    assert torch.equal(gated[~asked], one[~asked] / temperature)
    assert torch.equal(gated[asked], both[asked])
    lower = combine(one, two, "gate", **{**fitted, "threshold": threshold - 0.01})
    never = F.cross_entropy(one / temperature, labels)
    enough = 0.9 * (never - F.cross_entropy(both, labels))
    assert never - F.cross_entropy(gated, labels) >= enough > 0
    assert never - F.cross_entropy(lower, labels) < enough
    assert fit_gate(9 * truth, torch.randn(4000, 5), labels)["threshold"] == 0  # nothing to gain


def test_the_weighted_sum_and_what_is_refused():
    one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    weighted = combine(one, two, "weighted_sum", weight=0.25, temperatures=(1, 2))
    assert weighted.tolist() == [[0.75, 0.5]]
    message = "rule 'no_such_rule' is unknown; use one of first, second"
    with pytest.raises(ValueError, match=message):
        combine(one, two, "no_such_rule")
    with pytest.raises(ValueError, match="blends no images"):
        fuse_weights(one, two, "sum")
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        combine(one, torch.zeros(1, 3), "sum")
