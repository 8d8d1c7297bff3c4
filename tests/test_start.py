"""The start of a job: little more than importing torch and reading the weights."""

import subprocess
import sys
import time

import numpy as np
import torch
from helpers import ROOT

from DDA import files
from DDA.image_adapt.unet import create_unet

NETWORK = {"image_size": 32, "num_channels": 64, "channel_mult": "1,2,2", "num_res_blocks": 2}
REFERENCE = "import sys, torch; torch.load(sys.argv[1], weights_only=True)"
SCRIPT = ROOT / "DDA/image_adapt/scripts/image_sample.py"


def seconds(*command) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    return time.perf_counter() - begun


def test_a_job_starts_in_little_more_than_the_time_to_import_torch_and_read_the_weights(tmp_path):
    prior = tmp_path / "prior.pt"
    network = create_unet(**NETWORK, attention_resolutions="8", learn_sigma=True)
    torch.save(network.state_dict(), prior)
    names = ("num_heads", "num_head_channels", "num_heads_upsample")
    heads = {**dict(zip(names, (4, -1, -1), strict=True)), "use_new_attention_order": False}
    process = {"diffusion_steps": 1000, "noise_schedule": "linear", "rescale_timesteps": False}
    files.write_json(tmp_path / "prior.json", {"image_size": 32, **heads, **process})
    np.save(tmp_path / "images.npy", np.zeros((8, 32, 32, 3), np.uint8))
    paths = ["--base_samples", tmp_path / "images.npy", "--save_dir", tmp_path / "out"]
    (tmp_path / "none.txt").write_text("")
    paths += ["--keys", tmp_path / "none.txt"]  # otherwise a batch is measured too
    job = [SCRIPT, "--model_path", prior, *paths, "--speed", "one-shot", "--dry_run"]
    reference = ["-c", REFERENCE, prior]
    turns = [(seconds(*job), seconds(*reference)) for _ in range(2)]
    ours, theirs = (min(column) for column in zip(*turns, strict=True))
    print(f"the start of a job takes {ours / theirs:.2f} times as long")
    assert ours < 1.3 * theirs
