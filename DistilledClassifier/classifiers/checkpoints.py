"""Checkpoints of classifiers: ours, which are enough alone, and those of other origins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
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
    """Write a checkpoint that is enough alone.

    It holds the weights, the classes, the preprocessing, the config that trained them, and what
    else is given.
    """
    content = {
        "state_dict": network.model.state_dict(),
        "config": dict(config),
        "classes": list(classes),
        "preprocess": dict(config["preprocess"]),
        **more,
    }
    files.write_with(path, lambda file: torch.save(content, file))


def load(path: str | PathLike[str], content: dict[str, Any] | None = None) -> Classifier:
    """Return the classifier of a checkpoint; nothing in the file is executed.

    Args:
        path: a checkpoint of this project, or one of a CIFAR ResNet with the names of
            akamaster/pytorch_resnet_cifar10.
        content: what `read` gave of it, if it was read already.

    Returns:
        The classifier on the CPU. Move it with ``classifier.network.to("cuda")``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is no such checkpoint.

    Example:
        >>> from DistilledClassifier import classifiers
        >>> classifier = classifiers.load(tiny_classifier)
        >>> classifier.classes
        ('red', 'green', 'blue')
        >>> classifier.scores(np.zeros((2, 8, 8, 3), np.uint8)).shape
        torch.Size([2, 3])
    """
    path = files.find(path)
    content = read(path) if content is None else content
    config = config_of(path, content)
    preprocess = Preprocess(**config["preprocess"])
    if is_ours(content):
        network = _filled(path, config["classifier"], content["state_dict"], "its own config")
        classes, adapted = tuple(content["classes"]), content.get("adapted")
        return Classifier(network, preprocess, classes, content["config"], adapted, path)
    depth = config["classifier"]["depth"]
    network = _filled(path, config["classifier"], weights(content), f"a CIFAR ResNet-{depth}")
    return Classifier(network, preprocess, config=config, path=path)


def config_of(path: Path, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the ``classifier`` and the ``preprocess`` of a checkpoint, as entries of a config.

    content: what `read` gave of it. Raises BadFile where it tells no architecture, or one that
    needs other files.
    """
    if is_ours(content):
        entries = {"classifier": content["config"]["classifier"]}
        return _as_data({**entries, "preprocess": content["preprocess"]}, path)
    state = weights(content)
    if not state.keys() >= _CIFAR:
        raise files.BadFile(
            f"{path} tells no architecture: it is neither a checkpoint of this project nor one "
            "of a CIFAR ResNet (conv1, layer3, linear). import_classifier.py makes a checkpoint "
            "of weights and the name of their network"
        )
    depth = 6 * len({name.split(".")[1] for name in state if name.startswith("layer1.")}) + 2
    config = {"type": "CifarResNet", "depth": depth, "num_classes": len(state["linear.weight"])}
    return {"classifier": config, "preprocess": {"size": 32}}


def _filled(
    path: Path, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], name: str
) -> Network:
    """Return the network of a model dict with these weights.

    name: what the error calls the model dict. Raises ValueError where they do not fit.
    """
    network = build(config)
    try:
        network.model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {name}: {error}") from None
    return still(network)


def is_ours(content: Mapping[str, Any]) -> bool:
    """Tell whether `read` gave a checkpoint of this project."""
    return {"state_dict", "config", "classes", "preprocess"} <= content.keys()


def tells_itself(content: Mapping[str, Any]) -> bool:
    """Tell whether `load` knows the architecture without a config. content: what `read` gave."""
    return is_ours(content) or weights(content).keys() >= _CIFAR


def initialise(network: Network, path: Path, content: dict[str, Any] | None = None) -> list[str]:
    """Fill a network with the weights of a checkpoint of any origin, by their names.

    Only the last layer may differ, in its number of classes; it is then left as it was. content:
    what `read` gave of the file, if it was read already. Returns the names that were left. Raises
    ValueError where anything else does not fit.
    """
    own = network.model.state_dict()
    theirs = _unprefixed(weights(read(path) if content is None else content), own)
    absent = own.keys() - theirs.keys()
    missing = [name for name in own if name in absent and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"{path} does not fit the classifier: it lacks {len(missing)} of {len(own)} weights, "
            f"such as {missing[0]}"
        )
    shared = {name: theirs[name] for name in own if name in theirs}
    differ = [name for name, value in shared.items() if value.shape != own[name].shape]
    last = [name for name, module in network.model.named_modules() if module is network.last]
    for name in differ:
        if name.rpartition(".")[0] not in last:
            shapes = f"{tuple(theirs[name].shape)} there, {tuple(own[name].shape)} here"
            raise ValueError(f"{path} does not fit the classifier: {name} is {shapes}")
    fitting = {name: value for name, value in shared.items() if name not in differ}
    network.model.load_state_dict(own | fitting)
    return differ


def _unprefixed(
    state: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return weights without what a trainer put before the network's own names, such as model."""
    first = next(iter(own))
    if first in state:
        return state
    longer = [name for name in state if name.endswith(f".{first}")]
    prefix = longer[0].removesuffix(first) if len(longer) == 1 else ""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def read(path: Path) -> dict[str, Any]:
    """Return the tensors and plain values of a file; nothing in it is executed.

    Raises FileNotFoundError and BadFile.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return read_tensors(path, "classifier's checkpoint")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load
    except ImportError:
        raise ValueError(f"{path} needs safetensors: pip install safetensors") from None
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected a classifier's weights")
    with files.parsing(path, "file of safetensors"):
        return load(path.read_bytes())


def weights(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the state dict in a checkpoint of any origin, without the prefix of DataParallel."""
    state = content.get("state_dict", content.get("model", content))
    return {
        name.removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def _as_data(value: Any, path: Path) -> Any:
    """Return a model dict from a checkpoint, without what leads to another file or a download.

    Raises BadFile where it asks for one that its weights cannot replace.
    """
    if isinstance(value, list | tuple):
        return [_as_data(item, path) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for name, item in value.items():
        if name in ("pretrained", "init_cfg", "weights"):  # the weights are in the checkpoint
            continue
        if name in _FETCHED or (name in ("name", "model_name") and ":" in str(item)):
            asked = tree.shown(f"{name} {item}")
            raise files.BadFile(
                f"{path} asks for {asked}, which is outside the checkpoint and is not followed"
            )
        kept[name] = _as_data(item, path)
    return kept
