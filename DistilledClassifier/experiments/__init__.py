"""Experiments: configs of YAML parts, put together, checked and run.

>>> from DistilledClassifier import experiments

`train` is imported on first use, so that this line waits for no other package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DistilledClassifier.experiments.run import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """Import a public name where it is asked for."""
    if name != "train":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from DistilledClassifier.experiments import run

    return run.train


def __dir__() -> list[str]:
    """List the public names beside the module's own."""
    return sorted({*globals(), *__all__})
