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
    """A tiny checkpoint with the .json that tells what its tensors do not."""
    path = tmp_path_factory.mktemp("prior") / "tiny.pt"
    torch.save(tiny_unet().state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps({**TINY, **TINY_PROCESS}))
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    """ImageNet-C in small: two corruptions, severities 3 and 5, two classes of three images; "
    "odd names and sizes."""
    rng = np.random.default_rng(0)
    for corruption in ("fog", "snow"):
        for severity in ("3", "5"):
            for name in (
                "cat/1.JPEG",
                "cat/a b.png",
                "cat/ü.png",
                "dog/1.JPEG",
                "dog/2.PNG",
                "dog/3.bmp",
            ):
                path = tmp_path / "source" / corruption / severity / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    (tmp_path / "source" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path / "source"
