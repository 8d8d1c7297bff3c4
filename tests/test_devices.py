import time

import numpy as np
import pytest
import torch
from helpers import TINY_PROCESS, tiny_unet
from torch import nn

from DDA import devices
from DDA.image_adapt import prior
from DistilledClassifier import classifiers


@pytest.fixture
def gpus(monkeypatch):
    """Let torch see two GPUs, and return those that were made the current one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.parametrize(
    ("text", "place", "device"),
    [
        ("cpu", 0, "cpu"),
        ("auto", 0, "cuda:0"),
        ("auto", 3, "cuda:1"),
        ("cuda", 1, "cuda:1"),
        ("cuda:1", 0, "cuda:1"),
        ("1", 0, "cuda:1"),
        ("1,0", 0, "cuda:1"),
        ("0,1", 3, "cuda:1"),
    ],
)
def test_each_process_gets_the_device_of_its_place(gpus, text, place, device):
    assert devices.pick_device(text, place) == torch.device(device)
    assert gpus == ([] if text == "cpu" else [torch.device(device)])


@pytest.mark.parametrize(
    "text", ["cuda:2", "2", "0,7", "gpu", "cuda:x", "cuda:", "-1", "", "cuda0,"]
)
def test_an_unknown_device_is_refused_in_words(gpus, text):
    with pytest.raises(
        ValueError, match="`device` .*(torch sees 2 GPUs here|is unknown; use auto)"
    ):
        devices.pick_device(text)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices.pick_device("auto") == devices.pick_device("cpu") == torch.device("cpu")
    for text in ("cuda", "cuda:0", "0"):
        with pytest.raises(ValueError, match="there is no GPU that torch can use; use auto or cpu"):
            devices.pick_device(text)


def test_a_device_of_torch_and_none_are_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in (torch.device("cpu"), None):
        assert devices.pick_device(device) == torch.device("cpu")
    with pytest.raises(ValueError, match="`device` {} is unknown; use auto"):
        devices.pick_device({})


def test_a_precision_is_measured_once_and_soon():
    cpu = torch.device("cpu")
    assert devices.relative_speed(cpu, torch.float32) == 1
    first = devices.relative_speed(cpu, torch.bfloat16)
    begun = time.perf_counter()
    assert devices.relative_speed(cpu, torch.bfloat16) == first > 0
    assert time.perf_counter() - begun < 0.01


def test_the_faster_precision_of_a_network_is_taken(monkeypatch):
    speeds = {torch.float32: 0.02, torch.bfloat16: 0.01}
    monkeypatch.setattr(devices, "_pass_seconds", lambda network, example, dtype: speeds[dtype])
    network, example = nn.Conv2d(3, 8, 1), (torch.zeros(2, 3, 4, 4),)
    assert devices.fastest_dtype(network, example) == torch.bfloat16
    for slower in (0.019, 0.04):  # too little to be worth the rounding; slower than float32
        speeds[torch.bfloat16] = slower
        assert devices.fastest_dtype(network, example) == torch.float32


def test_a_precision_that_the_device_cannot_compute_is_not_chosen(monkeypatch):
    def refuse(network, example, dtype):
        if dtype != torch.float32:
            raise RuntimeError("no such kernel")
        return 0.01

    monkeypatch.setattr(devices, "_pass_seconds", refuse)
    assert devices.fastest_dtype(tiny_unet(), (torch.zeros(2, 3, 16, 16),)) == torch.float32


def test_measuring_a_network_changes_nothing_of_it():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout()).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    devices.fastest_dtype(network, (torch.rand(4, 3, 8, 8),))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network.training and network[0].weight.grad is None


def test_measuring_draws_nothing_from_the_global_generator():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    devices.relative_speed.cache_clear()
    devices.relative_speed(torch.device("cpu"), torch.bfloat16)
    assert torch.equal(before, torch.random.get_rng_state())


class Small(nn.Module):
    """A network on a device whose memory holds a few images."""

    def __init__(self, network, most):
        super().__init__()
        self.network, self.most, self.seen = network, most, []

    def forward(self, x, *rest):
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError
        return self.network(x, *rest)


def test_a_batch_of_the_adaptation_that_does_not_fit_is_adapted_in_parts():
    process = prior.process_of({**TINY_PROCESS, "learn_sigma": True, "fixed_variance": "large"})
    how = {"seed": 0, "diffusion_range": 3, "factor": 4, "scale": 6.0}
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    keys, place = list("abcde"), torch.device("cpu")
    small = Small(tiny_unet(), 1)
    adapt = prior.batch_adapter(small, process, place, **how)
    with pytest.warns(UserWarning, match="`batch_size` 5 does .* with 1 images") as told:
        parts = adapt(keys, pixels)
        np.testing.assert_array_equal(parts, adapt(keys, pixels))
    assert len(told) == 1 and small.seen.count(5) == 1
    whole = prior.batch_adapter(tiny_unet(), process, place, **how)(keys, pixels)
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    with pytest.raises(ValueError, match="one image does not fit into the memory of cpu"):
        prior.batch_adapter(Small(tiny_unet(), 0), process, place, **how)(keys, pixels)
    published = prior.batch_adapter(small, process, place, behavior="published", **how)
    with pytest.raises(ValueError, match="`batch_size` 5 does not fit .*; lower it"):
        published(keys, pixels)  # neighbours matter there


def test_a_batch_of_a_classifier_that_does_not_fit_is_scored_in_parts():
    network = classifiers.build({"type": "CifarResNet", "depth": 8, "num_classes": 3}).eval()
    photos = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    whole = classifiers.Classifier(network, classifiers.Preprocess(8)).scores(photos)
    small = classifiers.Classifier(Small(network, 3), classifiers.Preprocess(8))
    with pytest.warns(UserWarning, match="`batch_size` 7 does not fit") as told:
        torch.testing.assert_close(small.scores(photos), whole)
        small.scores(photos)
    assert len(told) == 1
