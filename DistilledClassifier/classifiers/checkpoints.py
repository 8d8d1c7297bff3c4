"""Checkpoints of classifiers: ours, which are enough alone, and those of other origins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from DDA import files, tree, weights
from DistilledClassifier.classifiers.libraries import build
from DistilledClassifier.classifiers.network import Network, still
from DistilledClassifier.classifiers.preprocess import Preprocess
from DistilledClassifier.classifiers.scoring import Classifier

EXPECTED = "classifier's checkpoint"
LARGEST = 100_000  # number in a model dict; classes, channels and layers are fewer
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

    It holds the weights, the classes, the preprocessing, the config that trained them, what else is
    given, and the SHA-256 of all that, by which damage is found. The format is that of the suffix:
    ``.safetensors``, or that of torch.
    """
    state = network.model.state_dict()
    plain = {
        "config": dict(config),
        "classes": list(classes),
        "preprocess": dict(config["preprocess"]),
        **more,
    }
    content = {"state_dict": state, **plain, "sha256": weights.digest(state, plain)}
    files.write_bytes(path, weights.encoded(path, content))


def load(
    path: str | PathLike[str], content: dict[str, Any] | None = None, *, setting: str = ""
) -> Classifier:
    """Return the classifier of a checkpoint; nothing in the file is executed.

    Args:
        path: a checkpoint of this project, or one of a CIFAR ResNet with the names of
            akamaster/pytorch_resnet_cifar10.
        content: what `read` gave of it, if it was read already.
        setting: the setting that names the file, for messages.

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
    if content is None:
        content = read(path, setting)
    path = files.find(path)
    if is_ours(content):
        return _ours(path, content)
    config, state = config_of(path, content), _state(content, path, _CIFAR)
    depth = config["classifier"]["depth"]
    network = _filled(path, config["classifier"], state, f"a CIFAR ResNet-{depth}")
    return Classifier(network, Preprocess(**config["preprocess"]), config=config, path=path)


def config_of(path: Path, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the ``classifier`` and the ``preprocess`` of a checkpoint, as entries of a config.

    content: what `read` gave of it. Raises BadFile where it tells no architecture, or one that
    needs other files.
    """
    if is_ours(content):
        with files.parsing(path, EXPECTED):
            model = _as_data(content["config"]["classifier"], path)
            preprocess = _as_data(content["preprocess"], path)
            if not isinstance(model, dict) or not isinstance(preprocess, dict):
                raise files.BadFile(f"{path} has no model dict, or no `preprocess`; get it again")
        return {"classifier": model, "preprocess": preprocess}
    state = _state(content, path, _CIFAR)
    if not state.keys() >= _CIFAR:
        kind = weights.kind_of(state)
        looks = f"; it looks like {kind}" if kind else ""
        raise files.BadFile(
            f"{path} tells no architecture: it is neither a checkpoint of this project nor one "
            f"of a CIFAR ResNet (conv1, layer3, linear){looks}. import_classifier.py makes a "
            "checkpoint of weights and the name of their network"
        )
    with files.parsing(path, EXPECTED):
        depth = 6 * len({name.split(".")[1] for name in state if name.startswith("layer1.")}) + 2
        count = len(state["linear.weight"])
    config = {"type": "CifarResNet", "depth": depth, "num_classes": count}
    return {"classifier": config, "preprocess": {"size": 32}}


def _ours(path: Path, content: dict[str, Any]) -> Classifier:
    """Return the classifier of a checkpoint of this project."""
    config = config_of(path, content)
    with files.parsing(path, EXPECTED):
        state = weights.state_of({"state_dict": content["state_dict"]}, f"{path}")
        _check_digest(path, content)
        classes = tuple(content["classes"])
        preprocess = _preprocess(path, config["preprocess"])
    network = _filled(path, config["classifier"], state, "its own config")
    return Classifier(network, preprocess, classes, content["config"], content.get("adapted"), path)


def _preprocess(path: Path, entries: dict[str, Any]) -> Preprocess:
    """Return the preprocessing that a checkpoint tells. Raises BadFile for one without meaning."""
    try:
        return Preprocess(**entries)
    except Exception as error:
        reason = f"{error}" if isinstance(error, ValueError) else weights.shown(f"{entries}")
        raise files.BadFile(f"{path} has a `preprocess` that cannot be meant: {reason}") from None


def _check_digest(path: Path, content: Mapping[str, Any]) -> None:
    """Raise BadFile where a checkpoint has not the SHA-256 that it says; older ones say none."""
    sha256 = content.get("sha256")
    plain = {name: content[name] for name in content if name not in ("state_dict", "sha256")}
    if sha256 is not None and sha256 != weights.digest(content["state_dict"], plain):
        raise files.BadFile(
            f"{path} was changed or damaged since it was written: its content has not the SHA-256 "
            "that it says; get it again"
        )


def _filled(
    path: Path, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], name: str
) -> Network:
    """Return the network of a model dict with these weights.

    name: what the error calls the model dict. Raises ValueError where they do not fit.
    """
    weights.check_numbers(state, f"{path}")
    outline = _outline(config)
    if outline is not None:
        _check_fit(path, state, outline, name)
    try:
        network = build(config)
    except ValueError as error:
        raise files.BadFile(f"{path}: {error}") from None
    own = network.model.state_dict()
    _check_fit(path, state, own, name)
    network.model.load_state_dict(own | dict(state))
    return still(network)


def _outline(config: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """Return the weights of a model dict without their numbers, which need no memory.

    None: its library cannot make them so, or cannot make them at all, which `build` will say.
    """
    try:
        with torch.device("meta"):
            return build(config).model.state_dict()
    except Exception:
        return None


def _check_fit(
    path: Path, state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], name: str
) -> None:
    faults = weights.misfits(state, own)
    if faults:
        raise files.BadFile(
            f"{path} does not fit {name}: {len(faults)} of its weights differ: "
            f"{weights.some(faults)}"
        )


def is_ours(content: Mapping[str, Any]) -> bool:
    """Tell whether `read` gave a checkpoint of this project."""
    return {"state_dict", "config", "classes", "preprocess"} <= content.keys()


def tells_itself(content: Mapping[str, Any]) -> bool:
    """Tell whether `load` knows the architecture without a config. content: what `read` gave."""
    return is_ours(content) or weights.named_for(weights.inner(content), _CIFAR).keys() >= _CIFAR


def initialise(network: Network, path: Path, content: dict[str, Any] | None = None) -> list[str]:
    """Fill a network with the weights of a checkpoint of any origin, by their names.

    Only the last layer may differ, in its number of classes; it is then left as it was. content:
    what `read` gave of the file, if it was read already. Returns the names that were left. Raises
    ValueError where anything else does not fit.
    """
    own = network.model.state_dict()
    theirs = _state(read(path) if content is None else content, path, own)
    shared = {name: theirs[name] for name in own if name in theirs}
    if not shared:
        kind = weights.kind_of(theirs)
        what = "weights of another network" if kind in (None, "a classifier") else kind
        raise files.BadFile(
            f"{path} does not fit the classifier: it looks like {what} (it holds "
            f"{weights.some([*map(weights.shown, theirs)])}; expected {weights.some([*own])})"
        )
    weights.check_numbers(shared, f"{path}")
    last = [name for name, module in network.model.named_modules() if module is network.last]
    differ = [
        name
        for name, value in shared.items()
        if name.rpartition(".")[0] in last and value.shape != own[name].shape
    ]
    fitting = {name: value for name, value in shared.items() if name not in differ}
    needed = {name: value for name, value in own.items() if name not in differ}
    _check_fit(path, fitting, needed, "the classifier")
    network.model.load_state_dict(own | fitting)
    return differ


def read(path: str | PathLike[str], setting: str = "") -> dict[str, Any]:
    """Return the tensors and plain values of a file; nothing in it is executed.

    setting: the setting that names the file, for the message. Raises FileNotFoundError and BadFile.
    """
    if str(path).startswith("timm/") and not Path(path).exists():
        raise files.BadFile(
            f"{path} names a model of timm, not a file. Ensemble and test_ensemble.py take such "
            "names; in Python classifiers.open_classifier gives the classifier"
        )
    return weights.read(files.find(path), EXPECTED, setting)


def _state(content: dict[str, Any], path: Path, wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint of any origin, under the names of a network.

    wanted: names of the network. Raises BadFile where there are no weights.
    """
    return weights.named_for(weights.state_of(content, f"{path}"), wanted)


def _as_data(value: Any, path: Path) -> Any:
    """Return a model dict from a checkpoint, without what leads to another file or a download.

    Raises BadFile where it asks for one that its weights cannot replace, for a number that no
    network has, and for a tensor.
    """
    if isinstance(value, torch.Tensor):
        raise files.BadFile(f"{path} has a tensor among the settings of its network; get it again")
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise files.BadFile(f"{path} has {value!r} in its model dict; at most {LARGEST:,} is meant")
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
