"""Fixtures that several test files share."""

import json
import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # tiny networks: threads would only wait for each other

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from helpers import TINY, TINY_PROCESS, tiny_unet


@pytest.fixture(scope="session")
def prior(tmp_path_factory) -> Path:
    """Return a tiny checkpoint, beside which a .json holds what its tensors do not tell."""
    path = tmp_path_factory.mktemp("prior") / "tiny.pt"
    torch.save(tiny_unet().state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps({**TINY, **TINY_PROCESS}))
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    """Return a small ImageNet-C with unusual names and sizes.

    It has two corruptions of severities 3 and 5, with two classes of three images each.
    """
    rng = np.random.default_rng(0)
    names = ("cat/1.JPEG", "cat/a b.png", "cat/ü.png", "dog/1.JPEG", "dog/2.PNG", "dog/3.bmp")
    for cell in ("fog/3", "fog/5", "snow/3", "snow/5"):
        for name in names:
            path = tmp_path / "source" / cell / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    (tmp_path / "source" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path / "source"
