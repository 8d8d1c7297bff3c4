"""The names that settings of the adaptation may have, and the speed ladder; no torch, no numpy.

Command lines read them for their help, which must not wait for torch.
"""

from __future__ import annotations

from typing import Any

BEHAVIORS = ("corrected", "published")
GUIDANCES = ("gradient", "projection", "none")
SAMPLERS = ("ddpm", "ddim", "dpmpp2m")
PROJECTIONS = ("block", "dct", "fft", "cubic")
NOISE_SCHEDULES = ("linear", "cosine")
FIXED_VARIANCES = ("large", "small")
DTYPES = ("float32", "bfloat16", "float16")
FORMATS = ("png", "same", "webdataset")

# The speed ladder: settings of `sampler.adapt`, for a process respaced to 100 indices. They were
# chosen by scripts/ladder.py on degraded copies (JPEG, blur, noise) of training images.
SPEEDS: dict[str, dict[str, Any]] = {
    "exact": {
        "diffusion_range": 50,
        "factor": 4,
        "guidance": "gradient",
        "scale": 6.0,
        "sampler": "ddpm",
    },
    "balanced": {
        "diffusion_range": 16,
        "factor": 2,
        "guidance": "projection",
        "k": 1.0,
        "sampler": "ddim",
        "eta": 1.0,
        "steps": 16,
    },
    "fast": {
        "diffusion_range": 12,
        "factor": 2,
        "guidance": "projection",
        "k": 1.0,
        "sampler": "ddim",
        "eta": 0.5,
        "steps": 8,
    },
    "one-shot": {
        "diffusion_range": 8,
        "factor": 2,
        "guidance": "projection",
        "k": 0.75,
        "sampler": "ddim",
        "steps": 1,
    },
}
