"""Helpers that several test files share: vectors, fixed weights, tiny networks and trees."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from DDA import tree
from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.unet import create_unet

PARITY = Path(__file__).parent / "parity"
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real images and checkpoints (../shared) are absent"
)

UNET_FLAGS = [
    "image_size",
    "num_channels",
    "num_res_blocks",
    "channel_mult",
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
    "attention_resolutions",
    "dropout",
    "class_cond",
    "use_scale_shift_norm",
    "resblock_updown",
    "learn_sigma",
    "use_new_attention_order",
]


def parity(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """Return the arrays and the parameters of tests/parity/<name>.npz."""
    with np.load(PARITY / f"{name}.npz", allow_pickle=False) as data:
        arrays = {key: data[key] for key in data.files}
    return arrays, json.loads(str(arrays.pop("meta_json")))


def fill_weights(model: torch.nn.Module, rule: str) -> torch.nn.Module:
    """Give a model the weights with which the vectors were made, and return it.

    Each tensor depends on its name alone. The rule ``hot`` adds 1 to the gains of the norms.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        values = rng.standard_normal(tuple(tensor.shape)).astype(np.float32) * np.float32(0.05)
        if rule == "hot" and values.ndim == 1 and name.endswith(".weight"):
            values += 1
        state[name] = torch.from_numpy(values)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def unet_of(flags: dict, rule: str = "plain") -> torch.nn.Module:
    return fill_weights(create_unet(**{name: flags[name] for name in UNET_FLAGS}), rule)


def diffusion_of(flags: dict) -> Diffusion:
    return Diffusion(
        steps=flags["diffusion_steps"],
        noise_schedule=flags["noise_schedule"],
        timestep_respacing=flags["timestep_respacing"],
        learn_sigma=flags["learn_sigma"],
    )


# a network that runs in milliseconds, and the flags that no checkpoint tells
TINY = dict(
    image_size=16,
    num_channels=32,
    channel_mult="1,1",
    num_res_blocks=1,
    attention_resolutions="8",
    num_heads=2,
    use_scale_shift_norm=True,
    resblock_updown=False,
    learn_sigma=True,
    use_new_attention_order=False,
    class_cond=False,
)
TINY_PROCESS = dict(
    diffusion_steps=1000, noise_schedule="linear", rescale_timesteps=False, fixed_variance="large"
)


def tiny_unet(**changes) -> torch.nn.Module:
    return fill_weights(create_unet(**{**TINY, **changes}), "hot")


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def processes_of(text: str) -> list[int]:
    """Return the Python processes with ``text`` in their command lines, without launchers.

    It works on Linux only.
    """
    numbers = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if command[0] == sys.executable and any(text in part for part in command):
            numbers.append(int(folder.name))
    return numbers


def labelled_tree(folder: Path, prior: Path, cells: Sequence[str]) -> list[str]:
    """Write four labelled images to each cell, and a classifier with random weights.

    Return flags that name them, the prior and a folder for results.
    """
    from DistilledClassifier import classifiers

    rng = np.random.default_rng(0)
    for cell in cells:
        (folder / "tree" / cell).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            label = ("cat", "dog")[i % 2]
            Image.fromarray(pixels).save(folder / "tree" / cell / f"{label}_{i:05}.png")
    tree.write_classes(folder / "tree", ("cat", "dog"))
    torch.manual_seed(0)
    network = classifiers.CifarResNet(8, num_classes=2)
    torch.save({"state_dict": network.state_dict()}, folder / "net.pt")
    flags = {
        "--model_path": prior,
        "--classifier": folder / "net.pt",
        "--base_samples": folder / "tree",
        "--out": folder / "out",
    }
    return [str(word) for flag in flags.items() for word in flag]


# the settings of a prior that is trained in a moment, in Python
SMALL_PRIOR = dict(
    image_size=16,
    num_channels=32,
    channel_mult="1,1",
    num_res_blocks=1,
    num_heads=2,
    batch_size=4,
    warmup=2,
    lr=1e-3,
    ema=0.9,
    bf16=False,
)


def write_classifier(path, classes):
    """Write a small untrained classifier of images of 16 pixels, and return its path."""
    from DistilledClassifier import classifiers

    torch.manual_seed(0)
    config = {"type": "CifarResNet", "depth": 8, "num_classes": len(classes)}
    entries = {"classifier": config, "preprocess": {"size": 16}}
    classifiers.save(path, classifiers.build(config), entries, classes)
    return path
