"""The losses against the reference's numbers, and their weighted sum."""

import pytest
import torch
from helpers import parity

from DistilledClassifier.classifiers import Seen
from DistilledClassifier.losses import cosine_inheritance, objective, smoothed

COS, _ = parity("08_cos")


@pytest.mark.parametrize("case", ["cos_map", "cos_vec"])
def test_cosine_inheritance_is_the_references(case):
    student = torch.from_numpy(COS[f"{case}/student"]).requires_grad_()
    loss = cosine_inheritance(student, torch.from_numpy(COS[f"{case}/teacher"]))
    assert loss.item() == pytest.approx(float(COS[f"{case}/loss"]), rel=1e-5, abs=1e-6)
    loss.backward()
    expected = torch.from_numpy(COS[f"{case}/grad_student"])
    size = (
        expected.flatten(1).norm(dim=1).clamp(min=1e-3).reshape(-1, *[1] * (expected.ndim - 1))
    )  # one row's gradient is of order 1e4
    torch.testing.assert_close(student.grad / size, expected / size, rtol=1e-4, atol=1e-5)


def test_the_teacher_gets_no_gradient_and_shapes_must_agree():
    student, teacher = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    cosine_inheritance(student, teacher).backward()
    assert teacher.grad is None and student.grad is not None
    with pytest.raises(ValueError, match=r"student \(2, 3\) and teacher \(2, 4\)"):
        cosine_inheritance(student, torch.randn(2, 4))


def test_each_teacher_sees_its_own_group_and_the_loss_is_the_weighted_sum():
    torch.manual_seed(0)
    student = Seen(torch.randn(6, 5), torch.randn(6, 3), torch.randn(6, 5, 2, 2))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    taught = torch.randn(6, 5)
    parts = objective(
        student,
        labels,
        {"features": taught},
        {"cross_entropy": 0.5, "cosine_inheritance": 10},
        groups=3,
    )
    ce = torch.nn.functional.cross_entropy(student.logits, labels)
    similarities = torch.nn.functional.cosine_similarity(student.features, taught)
    cos = torch.stack([group.mean() for group in similarities.chunk(3)])
    torch.testing.assert_close(parts["cross_entropy"], ce)
    torch.testing.assert_close(parts["cosine_inheritance"], (1 - cos).sum())
    torch.testing.assert_close(parts["loss"], 0.5 * ce + 10 * (1 - cos).sum())
    assert objective(student, labels, None, {"cross_entropy": 1}).keys() == {
        "loss",
        "cross_entropy",
    }
    maps = objective(student, labels, {"maps": student.maps}, {"cosine_inheritance_maps": 1})
    torch.testing.assert_close(maps["loss"], torch.tensor(0.0), atol=1e-6, rtol=0)


def test_smoothed_labels_are_those_of_torch():
    logits, labels = torch.randn(4, 5), torch.tensor([0, 4, 2, 2])
    seen = Seen(logits, logits, logits)
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(
        objective(seen, smoothed(labels, 5, 0.1), None, {"cross_entropy": 1})["loss"], expected
    )
