import time

import pytest
import torch
from helpers import tiny_unet
from torch import nn

from DDA import devices


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs, of which torch knows only the number."""
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


@pytest.mark.parametrize("text", ["cuda:2", "2", "0,7", "gpu", "cuda:x", "cuda:", "-1", "", "cuda0,"])
def test_what_is_no_device_is_refused_in_words(gpus, text):
    with pytest.raises(ValueError, match="--device .*(torch sees 2 GPUs here|is unknown; use auto)"):
        devices.pick_device(text)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices.pick_device("auto") == devices.pick_device("cpu") == torch.device("cpu")
    for text in ("cuda", "cuda:0", "0"):
        with pytest.raises(ValueError, match="there is no GPU that torch can use; use auto or cpu"):
            devices.pick_device(text)


def test_a_precision_is_measured_once_and_soon():
    cpu = torch.device("cpu")
    assert devices.relative_speed(cpu, torch.float32) == 1
    first = devices.relative_speed(cpu, torch.bfloat16)
    begun = time.perf_counter()
    assert devices.relative_speed(cpu, torch.bfloat16) == first > 0 and time.perf_counter() - begun < 0.01


def test_the_measurement_tells_the_faster_one(monkeypatch):
    speeds = {torch.float32: 0.02, torch.bfloat16: 0.01, torch.float16: 0.05}
    monkeypatch.setattr(devices._Work, "run", lambda self, dtype: speeds[dtype])
    devices.relative_speed.cache_clear()
    cpu = torch.device("cpu")
    assert devices.relative_speed(cpu, torch.bfloat16) == 2 and devices.relative_speed(cpu, torch.float16) < 0.5
    assert devices.fastest_dtype(nn.Conv2d(3, 8, 1), cpu) == torch.bfloat16
    speeds[torch.bfloat16] = 0.019
    devices.relative_speed.cache_clear()
    assert devices.fastest_dtype(nn.Conv2d(3, 8, 1), cpu) == torch.float32  # not worth its rounding
    devices.relative_speed.cache_clear()


def test_a_precision_that_the_device_cannot_compute_is_not_chosen(monkeypatch):
    def refuse(self, dtype):
        if dtype != torch.float32:
            raise RuntimeError("no such kernel")
        return 0.01

    monkeypatch.setattr(devices._Work, "run", refuse)
    devices.relative_speed.cache_clear()
    assert devices.fastest_dtype(tiny_unet(), torch.device("cpu")) == torch.float32
    devices.relative_speed.cache_clear()


def test_measuring_draws_nothing_from_the_global_generator():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    devices.relative_speed.cache_clear()
    devices.relative_speed(torch.device("cpu"), torch.bfloat16)
    assert torch.equal(before, torch.random.get_rng_state())
