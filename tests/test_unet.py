import json

import numpy as np
import pytest
import torch
from helpers import UNET_FLAGS, parity, tensor, tiny_unet, unet_of

from DDA.image_adapt.unet import create_unet, timestep_embedding

FILES = [
    "02_unet_a_cifar",
    "02_unet_b_imagenet_shrunk",
    "02_unet_c_classcond",
    "02_unet_d_neworder",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("rule", "out_atol", "vjp_atol"), [("plain", 2e-6, 2e-6), ("hot", 1e-4, 5e-4)]
)
def test_outputs_and_input_gradients_equal_the_reference(name, rule, out_atol, vjp_atol):
    expected, meta = parity(name)
    model = unet_of(meta["flags"], rule)
    x = tensor(expected["x"]).requires_grad_()
    y = tensor(expected["y"]) if "y" in expected else None
    out = model(x, tensor(expected["t"]), y)
    torch.testing.assert_close(out.detach(), tensor(expected[f"out_{rule}"]), atol=out_atol, rtol=0)
    if "vjp_v" in expected:
        (vjp,) = torch.autograd.grad((out * tensor(expected["vjp_v"])).sum(), x)
        torch.testing.assert_close(vjp, tensor(expected[f"vjp_x_{rule}"]), atol=vjp_atol, rtol=0)


@pytest.mark.parametrize("name", FILES)
def test_names_shapes_and_counts_equal_the_reference(name):
    expected, meta = parity(name)
    model = unet_of(meta["flags"])
    _same_tensors(model, expected, "")
    probe = model.state_dict()[str(expected["weight_probe_name"])].flatten()[:5]
    np.testing.assert_array_equal(probe.numpy(), expected["weight_probe_first5"])


@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [("imagenet256", 566, 552814086), ("cifar10", 446, 52546438)],
)
def test_the_published_networks_have_the_published_tensors(config, tensors, parameters):
    expected, meta = parity("02_unet_fullsize_names")
    with torch.device("meta"):
        model = create_unet(**{name: meta["flags"][config][name] for name in UNET_FLAGS})
    assert len(model.state_dict()) == tensors
    assert sum(p.numel() for p in model.parameters()) == parameters
    _same_tensors(model, expected, f"{config}/")


def _same_tensors(model, expected, prefix):
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    names = expected[f"{prefix}state_names"].tolist()
    assert sorted(shapes) == names
    assert [shapes[name] for name in names] == json.loads(
        str(expected[f"{prefix}state_shapes_json"])
    )
    assert sum(p.numel() for p in model.parameters()) == int(expected[f"{prefix}param_count"])


def test_timestep_embedding_equals_the_reference():
    expected, meta = parity("02_unet_a_cifar")
    embedding = timestep_embedding(tensor(expected["t"]), meta["flags"]["num_channels"])
    torch.testing.assert_close(embedding, tensor(expected["timestep_embedding"]), atol=1e-6, rtol=0)
    assert timestep_embedding(torch.tensor([3]), 7).shape == (1, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_body_runs_in_low_precision_and_returns_float32_near_the_float32_result(dtype):
    x, t = torch.linspace(-1, 1, 3 * 256).reshape(1, 3, 16, 16), torch.tensor([40])
    model = tiny_unet()
    exact = model(x, t)
    rounded = model.convert(dtype)(x, t)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).std() < 0.05 * exact.std()


def test_class_ids_go_with_class_conditional_networks_only():
    x, t = torch.zeros(1, 3, 16, 16), torch.tensor([1])
    with pytest.raises(ValueError, match="class-conditional"):
        tiny_unet()(x, t, torch.tensor([0]))
    with pytest.raises(ValueError, match="class-conditional"):
        tiny_unet(class_cond=True, num_classes=10)(x, t)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"image_size": 48, "channel_mult": ""}, "channel_mult"),
        ({"channel_mult": "1,x"}, "channel_mult"),
        ({"image_size": 18, "channel_mult": "1,1,1"}, "`image_size` 18"),
        ({"num_channels": 40}, "`num_channels` 40"),
        ({"num_heads_upsample": 3}, "`num_heads_upsample` 3 does not divide"),
        ({"attention_resolutions": "8,no"}, "attention_resolutions"),
    ],
)
def test_flags_that_do_not_fit_are_refused_by_name(changes, word):
    with pytest.raises(ValueError, match=word):
        tiny_unet(**changes)
