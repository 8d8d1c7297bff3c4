"""Classifiers behind one interface: their networks, their checkpoints, what they want to see.

>>> from DistilledClassifier import classifiers

Networks come from mmcls, timm, torchvision, Hugging Face or from here. Preprocessing belongs to a
classifier and lies in its checkpoint, so `Classifier.scores` takes images as they are. The names
are imported on first use, so that the line above waits for no other package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DistilledClassifier.classifiers.checkpoints import (
        config_of,
        initialise,
        is_ours,
        load,
        read,
        save,
        tells_itself,
    )
    from DistilledClassifier.classifiers.cifar_resnet import CifarResNet
    from DistilledClassifier.classifiers.importing import import_classifier
    from DistilledClassifier.classifiers.libraries import build, quietly, unfilled
    from DistilledClassifier.classifiers.network import Network, Seen, still
    from DistilledClassifier.classifiers.origins import (
        Pipeline,
        open_classifier,
        with_weights,
        wrap,
    )
    from DistilledClassifier.classifiers.preprocess import Preprocess
    from DistilledClassifier.classifiers.scoring import Classifier, score, score_views

__all__ = [
    "CifarResNet",
    "Classifier",
    "Network",
    "Pipeline",
    "Preprocess",
    "Seen",
    "build",
    "config_of",
    "import_classifier",
    "initialise",
    "is_ours",
    "load",
    "open_classifier",
    "quietly",
    "read",
    "save",
    "score",
    "score_views",
    "still",
    "tells_itself",
    "unfilled",
    "with_weights",
    "wrap",
]

_NAMES = {
    "checkpoints": ("config_of", "initialise", "is_ours", "load", "read", "save", "tells_itself"),
    "cifar_resnet": ("CifarResNet",),
    "importing": ("import_classifier",),
    "libraries": ("build", "quietly", "unfilled"),
    "network": ("Network", "Seen", "still"),
    "origins": ("Pipeline", "open_classifier", "with_weights", "wrap"),
    "preprocess": ("Preprocess",),
    "scoring": ("Classifier", "score", "score_views"),
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is asked for."""
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names beside the module's own."""
    return sorted({*globals(), *__all__})
