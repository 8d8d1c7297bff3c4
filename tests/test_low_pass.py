import numpy as np
import pytest
import torch
from helpers import parity, tensor

from DDA.image_adapt.low_pass import low_pass, resize_matrix


def _cases():
    arrays, _ = parity("03_lowpass")
    return sorted({key.split("/")[0] for key in arrays if key.endswith("/x")})


@pytest.mark.parametrize("case", _cases())
def test_low_pass_equals_the_reference(case):
    expected, _ = parity("03_lowpass")
    size, factor = map(int, case.split("_D"))
    x = tensor(expected[f"{case}/x"]).requires_grad_()
    out = low_pass(x, factor)
    torch.testing.assert_close(out.detach(), tensor(expected[f"{case}/out"]), atol=1e-6, rtol=0)
    down = tensor(resize_matrix(size, size // factor)).float()
    torch.testing.assert_close(
        (down @ x @ down.T).detach(), tensor(expected[f"{case}/down"]), atol=1e-6, rtol=0
    )
    if f"{case}/norm" in expected:
        (grad,) = torch.autograd.grad(out.norm(), x)
        assert out.norm().item() == pytest.approx(expected[f"{case}/norm"].item(), rel=1e-6)
        torch.testing.assert_close(grad, tensor(expected[f"{case}/grad_norm"]), atol=1e-7, rtol=0)


def test_resize_matrices_equal_the_reference():
    expected, _ = parity("03_lowpass")
    matrices = [key for key in expected if key.startswith("matrix_")]
    assert matrices
    for key in matrices:
        size, factor = map(int, key.removeprefix("matrix_").split("/")[0].split("_D"))
        sizes = (size, size // factor) if key.endswith("/down") else (size // factor, size)
        np.testing.assert_allclose(resize_matrix(*sizes), expected[key], atol=1e-6)


def test_low_pass_is_linear_and_keeps_the_size_of_any_shape():
    a, b = torch.randn(2, 1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    assert low_pass(a, 4).shape == a.shape
    torch.testing.assert_close(
        low_pass(2 * a - b, 4), 2 * low_pass(a, 4) - low_pass(b, 4), atol=1e-5, rtol=0
    )
    assert not torch.allclose(low_pass(a, 4), a, atol=0.1)


def test_factor_one_changes_nothing():
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(low_pass(x, 1), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("factor", [0, -2, 3, 5, 64])
def test_a_factor_that_does_not_divide_the_size_is_refused_with_those_that_do(factor):
    with pytest.raises(ValueError, match=f"D {factor} .*32.*1, 2, 4, 8, 16"):
        low_pass(torch.zeros(1, 3, 32, 32), factor)
