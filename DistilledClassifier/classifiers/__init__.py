"""Classifiers behind one interface, of mmcls, of timm and our own; their checkpoints, and what they want to see.

Preprocessing belongs to a classifier and lies in its checkpoint: `Classifier.scores` takes images as they are.
"""

from DistilledClassifier.classifiers.checkpoints import (
    initialise,
    is_ours,
    load,
    read,
    save,
    tells_itself,
)
from DistilledClassifier.classifiers.cifar_resnet import CifarResNet
from DistilledClassifier.classifiers.libraries import build, quietly
from DistilledClassifier.classifiers.network import Network, Seen, still
from DistilledClassifier.classifiers.origins import Pipeline, open_classifier, with_weights
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
    "with_weights",
]
