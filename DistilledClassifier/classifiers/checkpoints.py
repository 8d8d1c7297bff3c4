"""Checkpoints of classifiers: ours, which are enough alone, and those of other origins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from DDA import files, tree
from DDA.training.run import read_tensors
from DistilledClassifier.classifiers.libraries import build
from DistilledClassifier.classifiers.network import Network, still
from DistilledClassifier.classifiers.preprocess import Preprocess
from DistilledClassifier.classifiers.scoring import Classifier

_CIFAR = {"conv1.weight", "layer3.0.conv1.weight", "linear.weight"}
# settings of timm with which a model dict reads other files
_FETCHED = (
    "checkpoint_path",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "custom_imports",
)


def save(
    path: Path, network: Network, config: Mapping[str, Any], classes: Sequence[str], **more: Any
) -> None:
    """Write a checkpoint that is enough alone: weights, classes, preprocessing, and the config that trained them."""
    content = {
        "state_dict": network.model.state_dict(),
        "config": dict(config),
        "classes": list(classes),
        "preprocess": dict(config["preprocess"]),
        **more,
    }
    files.write_with(path, lambda file: torch.save(content, file))


def load(path: Path, content: dict[str, Any] | None = None) -> Classifier:
    """A classifier from its checkpoint: ours, or a CIFAR ResNet with the names of akamaster/pytorch_resnet_cifar10.

    content: what `read` gave of it, if it was read already. Nothing in the file is executed. Raises FileNotFoundError where it
    is absent, ValueError for any other file.
    """
    content = read(path) if content is None else content
    if is_ours(content):
        classifier = _as_data(content["config"]["classifier"], path)
        network = _filled(path, classifier, content["state_dict"], "its own config")
        preprocess, classes = Preprocess(**content["preprocess"]), tuple(content["classes"])
        return Classifier(
            network, preprocess, classes, content["config"], content.get("adapted"), path
        )
    state = weights(content)
    if not state.keys() >= _CIFAR:
        raise ValueError(
            f"{path} tells no architecture: it is neither a checkpoint of this project nor one of a CIFAR ResNet (conv1, "
            "layer3, linear). Weights of mmcls and timm are read with a config: train.py --init FILE"
        )
    depth = 6 * len({name.split(".")[1] for name in state if name.startswith("layer1.")}) + 2
    config = {"type": "CifarResNet", "depth": depth, "num_classes": len(state["linear.weight"])}
    network = _filled(path, config, state, f"a CIFAR ResNet-{depth}")
    return Classifier(network, Preprocess(32), config={"classifier": config}, path=path)


def _filled(
    path: Path, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], said: str
) -> Network:
    """The network of a model dict with these weights. Raises ValueError, which calls the model dict ``said``."""
    network = build(config)
    try:
        network.model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {said}: {error}") from None
    return still(network)


def is_ours(content: Mapping[str, Any]) -> bool:
    """Whether what `read` gave is a checkpoint of this project."""
    return {"state_dict", "config", "classes", "preprocess"} <= content.keys()


def tells_itself(content: Mapping[str, Any]) -> bool:
    """Whether `load` knows the architecture of what `read` gave, without a config."""
    return is_ours(content) or weights(content).keys() >= _CIFAR


def initialise(network: Network, path: Path, content: dict[str, Any] | None = None) -> list[str]:
    """Take over the weights of a checkpoint, of any origin, by their names; returns the names that were left as they were.

    content: what `read` gave of it, if it was read already. Only the last layer may be left, where its number of classes
    differs. Raises ValueError where anything else does not fit.
    """
    theirs, own = weights(read(path) if content is None else content), network.model.state_dict()
    missing = [
        name for name in own if name not in theirs and not name.endswith("num_batches_tracked")
    ]
    if missing:
        raise ValueError(
            f"{path} does not fit the classifier: it lacks {len(missing)} of {len(own)} weights, such as {missing[0]}"
        )
    last = [name for name, module in network.model.named_modules() if module is network.last]
    differ = [
        name for name, value in own.items() if name in theirs and theirs[name].shape != value.shape
    ]
    for name in differ:
        if name.rpartition(".")[0] not in last:
            shapes = f"{tuple(theirs[name].shape)} there, {tuple(own[name].shape)} here"
            raise ValueError(f"{path} does not fit the classifier: {name} is {shapes}")
    network.model.load_state_dict(
        own | {name: theirs[name] for name in own if name in theirs and name not in differ}
    )
    return differ


def read(path: Path) -> dict[str, Any]:
    """A file of tensors and plain values; nothing in it is executed. Raises FileNotFoundError and BadFile."""
    return read_tensors(path, "classifier's checkpoint")


def weights(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint of any origin, without the prefix of DataParallel."""
    state = content.get("state_dict", content.get("model", content))
    return {
        name.removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def _as_data(value: Any, path: Path) -> Any:
    """A model dict from a checkpoint, of which nothing leads to another file or to a download. Raises BadFile."""
    if isinstance(value, list | tuple):
        return [_as_data(item, path) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for name, item in value.items():
        if name in ("pretrained", "init_cfg"):  # the weights are in the checkpoint
            continue
        if name in _FETCHED or (name in ("name", "model_name") and ":" in str(item)):
            asked = tree.shown(f"{name} {item}")
            raise files.BadFile(
                f"{path} asks for {asked}, which is outside the checkpoint and is not followed"
            )
        kept[name] = _as_data(item, path)
    return kept
