"""Weight files that others have published, by name: where they come from and how they are known.

DDA/ckpt/README.md shows the same table. A file is fetched only where its address, its size and its
SHA-256 are known (`DDA.fetching`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A published file. None stands for what its authors do not say and nobody here has measured.

    file: the name of the file. origin: its address. bytes: its size.
    """

    name: str
    file: str
    origin: str
    bytes: int | None = None
    sha256: str | None = None

    @property
    def is_fetchable(self) -> bool:
        """Tell whether enough is known to fetch the file and to know that it is the right one."""
        return None not in (self.bytes, self.sha256)

    @property
    def place(self) -> Path:
        """Return where the file is kept on this machine."""
        return cache() / self.name.partition("/")[0] / self.file

    def known(self) -> str:
        """Return in words what is known of the file."""
        size = "an unknown number of bytes" if self.bytes is None else f"{self.bytes:,} bytes"
        return f"{size}, {'no known SHA-256' if self.sha256 is None else f'SHA-256 {self.sha256}'}"


_OPENAI = "https://openaipublic.blob.core.windows.net/diffusion"
_AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
ENTRIES = (
    Entry(
        "openai/256x256_diffusion_uncond",
        "256x256_diffusion_uncond.pt",
        f"{_OPENAI}/jul-2021/256x256_diffusion_uncond.pt",
        bytes=2_211_383_297,  # these two as several projects publish them that have the file
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
    ),
    Entry(
        "openai/cifar10_uncond_50M_500K",
        "cifar10_uncond_50M_500K.pt",
        f"{_OPENAI}/march-2021/cifar10_uncond_50M_500K.pt",
    ),
    Entry(
        "akamaster/resnet20",
        "resnet20-12fca82f.th",
        f"{_AKAMASTER}/resnet20-12fca82f.th",
        bytes=1_099_231,
        sha256="12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    ),
    Entry(
        "akamaster/resnet32",
        "resnet32-d509ac18.th",
        f"{_AKAMASTER}/resnet32-d509ac18.th",
        bytes=1_890_043,
        sha256="d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850",
    ),
    Entry(
        "akamaster/resnet56",
        "resnet56-4bfd9763.th",
        f"{_AKAMASTER}/resnet56-4bfd9763.th",
        bytes=3_471_733,
        sha256="4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
    ),
)


def cache() -> Path:
    """Return the folder of fetched files: $XDG_CACHE_HOME/diffaud, or ~/.cache/diffaud."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(home)) / "diffaud"


def place_of(name: str) -> Path | None:
    """Return where the file of a published name is kept; None for any other name."""
    return next((entry.place for entry in ENTRIES if entry.name == name), None)


def entry_at(path: Path) -> Entry | None:
    """Return the published file that is kept at a path, if there is one."""
    return next((entry for entry in ENTRIES if entry.place == path), None)
