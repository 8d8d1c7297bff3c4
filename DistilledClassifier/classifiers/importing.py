"""Classifiers of other libraries as checkpoints of ours; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from DDA import files, settings, tree
from DDA.weights import check_numbers, named_for, state_of
from DistilledClassifier.classifiers import checkpoints, transforms
from DistilledClassifier.classifiers.libraries import build, quietly
from DistilledClassifier.classifiers.network import Network, NoLastLayerError, undivided
from DistilledClassifier.classifiers.preprocess import Preprocess
from DistilledClassifier.classifiers.transforms import Changes

FORMS = "timm/NAME, torchvision/NAME, hf/FOLDER or a config of mmcls (.py)"


@dataclass(frozen=True)
class Imported:
    """A classifier that was imported: its file, and what that tells.

    arch: as it was named. weights: the file of its weights, None where its library fetched them.
    """

    path: Path
    arch: str
    weights: Path | None
    classes: tuple[str, ...]
    preprocess: Preprocess
    parameters: int

    def __str__(self) -> str:
        seen, few = self.preprocess, ", ".join(self.classes[:3])
        more = ", …" if len(self.classes) > 3 else ""
        sides = "both sides" if seen.squash else "the shorter side"
        scaled = f"{sides} scaled to {seen.resize or seen.size} pixels"
        how = f"{seen.interpolation}, {seen.by}"
        mean, std = (
            " ".join(f"{number:.4g}" for number in values) for values in (seen.mean, seen.std)
        )
        lines = [
            f"classifier  {self.arch}, {self.parameters:,} parameters",
            f"weights     {self.weights or 'those that its library fetches'}",
            f"classes     {len(self.classes)}: {few}{more}",
            f"sees        {scaled} ({how}), of which the middle {seen.size} x {seen.size}",
            f"            mean {mean}, std {std}",
            f"written     {self.path}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Original:
    """A classifier as its library has it.

    config: its model dict. weights: their file, None where the network has them. preprocess: what
    its library says. classes: the names that it tells.
    """

    config: dict[str, Any]
    weights: Path | None
    preprocess: Preprocess
    classes: tuple[str, ...] | None = None
    network: Network | None = None
    is_filled: bool = False


def import_classifier(
    arch: str | PathLike[str],
    out: str | PathLike[str],
    *,
    weights: str | PathLike[str] | None = None,
    classes: str | PathLike[str] | Sequence[str] | None = None,
    size: int | None = None,
    resize: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
) -> Imported:
    """Write a classifier of another library as a checkpoint of ours, with the same logits.

    Args:
        arch: ``timm/NAME``, ``torchvision/NAME``, ``hf/FOLDER`` (a folder of Hugging Face with
            config.json and model.safetensors), or a config of mmcls, which is code and is run.
        out: the checkpoint to write.
        weights: a file of weights (default: those of the folder, or the pretrained ones that timm
            or torchvision fetch).
        classes: the names of the classes in the order of the logits: a file, a built-in list or the
            names (default: those that the folder or the weights tell).
        size, resize, mean, std, interpolation: of the images that it sees, as in `Preprocess`
            (default: what its library knows; ``size`` alone keeps the ratio of ``resize`` to it).

    Returns:
        What the checkpoint holds.

    Raises:
        FileNotFoundError: the folder, the config or the weights do not exist.
        ValueError: weights or classes do not fit, or its preprocessing cannot be expressed.

    Example:
        >>> imported = classifiers.import_classifier(
        ...     "torchvision/shufflenet_v2_x0_5",
        ...     out / "mine.pth",
        ...     weights=weights,
        ...     classes=["cat", "dog"],
        ... )
        >>> classifiers.load(imported.path).classes
        ('cat', 'dog')
    """
    changes = Changes(size, resize, mean, std, interpolation)
    path = settings.as_path("out", out)
    settings.check_writable("out", path.parent)
    names = _listed(classes)
    original = _open(str(arch), None if weights is None else Path(weights), names, changes)
    names = names or _told(original.classes, f"{arch}")
    network = original.network or build(original.config)
    if original.weights is not None and not original.is_filled:
        _fill(network, original.weights, names)
    preprocess = changes.of(original.preprocess)
    network.eval().requires_grad_(False)
    is_undivided = _check_logits(network, f"{arch}", preprocess.size, names)
    model = {**original.config, **({"undivided": True} if is_undivided else {})}
    entries = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(preprocess).items()
    }
    config = {"classifier": model, "preprocess": entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(path, network, config, names, imported=str(arch))
    count = sum(value.numel() for value in network.parameters())
    return Imported(path, str(arch), original.weights, names, preprocess, count)


def _listed(
    classes: str | PathLike[str] | Sequence[str] | None,
) -> tuple[str, ...] | None:
    """Return the names of a list, or None where there is none."""
    if classes is None:
        return None
    if isinstance(classes, str | PathLike):
        return tree.class_list(classes)
    return tree.check_classes(classes, "`classes`")


def _told(names: Sequence[str] | None, arch: str) -> tuple[str, ...]:
    """Return the names that a classifier tells. Raises ValueError where these are no class list."""
    if not names:
        raise ValueError(f"`classes` is missing: {arch} does not tell the names of its classes")
    try:
        return tree.check_classes(names, arch)
    except ValueError as error:
        raise ValueError(f"{error}; name its classes with `classes`") from None


def _built(config: dict[str, Any], **more: Any) -> Network:
    """Return a network; the model dict notes if its parts are unknown. more: of this call alone."""
    try:
        return build({**config, **more})
    except NoLastLayerError:
        config["undivided"] = True
        return build({**config, **more})


def _open(
    arch: str, weights: Path | None, names: tuple[str, ...] | None, changes: Changes
) -> _Original:
    """Return the original that a text names. Raises FileNotFoundError and ValueError."""
    if weights is not None:
        weights = files.find(weights)
        if not weights.is_file():
            raise FileNotFoundError(f"`weights` {weights} is not a file")
    library, _, name = arch.partition("/")
    if library == "timm" and name:
        return _timm(name, weights, names, changes)
    if library == "torchvision" and name:
        return _torchvision(name, weights, names, changes)
    if library == "hf" and name:
        return _hugging_face(Path(name), weights, changes)
    if arch.endswith(".py"):
        return _mmcls(Path(arch), weights, changes)
    raise ValueError(f"`arch` {tree.shown(arch)} is unknown; give {FORMS}")


def _timm(
    name: str, weights: Path | None, names: tuple[str, ...] | None, changes: Changes
) -> _Original:
    config: dict[str, Any] = {"type": "timm", "name": name}
    if names is not None and weights is not None:
        config["num_classes"] = len(names)
    network = _built(config, pretrained=weights is None)
    if changes.size is not None and network.model.pretrained_cfg.get("fixed_input_size"):
        config["img_size"] = changes.size
        network = _built(config, pretrained=weights is None)
    config["num_classes"] = network.model.num_classes
    return _Original(config, weights, transforms.of_timm(network.model), None, network)


def _torchvision(
    name: str, weights: Path | None, names: tuple[str, ...] | None, changes: Changes
) -> _Original:
    if name in ("googlenet", "inception_v3"):
        raise ValueError(
            f"torchvision/{name} changes images in a way that its weights do not tell "
            "(transform_input); in Python, an Ensemble takes the network with its transform"
        )
    config: dict[str, Any] = {"type": "torchvision", "name": name}
    if names is not None and weights is not None:
        config["num_classes"] = len(names)
    if name.startswith("vit_") and changes.size is not None:
        config["image_size"] = changes.size
    network = _built(config, **({"weights": "DEFAULT"} if weights is None else {}))
    from torchvision.models import get_model_weights

    known = get_model_weights(name).DEFAULT
    config.setdefault("num_classes", len(known.meta["categories"]))
    return _Original(config, weights, transforms.of_transform(known.transforms()), None, network)


def _hugging_face(folder: Path, weights: Path | None, changes: Changes) -> _Original:
    """Return the original of a folder of Hugging Face: of transformers, or of timm."""
    entries = _json(folder, "config.json")
    held = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    weights = weights or next((path for path in held if path.is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"{folder} has no model.safetensors; give a file as `weights`")
    if "architecture" in entries and "model_type" not in entries:
        return _timm_folder(entries, weights)
    labels = entries.get("id2label")
    if not isinstance(labels, Mapping) or not all(map(str.isdecimal, labels)):
        raise files.BadFile(f"{folder / 'config.json'}: id2label has no names of classes")
    names = [str(labels[index]).replace("/", " ") for index in sorted(labels, key=int)]
    dropped = ("auto_map", "_name_or_path", "torch_dtype", "dtype", "id2label", "label2id")
    kept = {name: value for name, value in entries.items() if name not in dropped}
    config: dict[str, Any] = {"type": "transformers", "config": kept}
    config["num_classes"] = len(names)
    network = _built(config)
    _fill_transformers(network, weights)
    processor = _json(folder, "preprocessor_config.json")
    preprocess = transforms.of_processor(processor, changes.size, _resizer_of(processor))
    return _Original(config, weights, preprocess, tuple(names) or None, network, is_filled=True)


def _resizer_of(processor: Mapping[str, Any]) -> str:
    """Return what the installed transformers resize images with: torch since version 5.

    In version 4 only processors called Fast do.
    """
    import transformers

    kind = str(processor.get("image_processor_type"))
    is_new = int(transformers.__version__.split(".")[0]) >= 5
    return "torch" if kind.endswith("Fast") or (is_new and not kind.endswith("Pil")) else "pillow"


def _fill_transformers(network: Network, weights: Path) -> None:
    """Give a network of Hugging Face the weights of a file, whose names may be those of old files.

    Raises ValueError where they do not fit.
    """
    from transformers.utils import logging

    model, level = network.model, logging.get_verbosity()
    state = named_for(
        state_of(checkpoints.read(weights, "weights"), f"{weights}"), model.state_dict()
    )
    check_numbers(state, f"{weights}")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        filled, loading = type(model).from_pretrained(
            None, config=model.config, state_dict=state, output_loading_info=True
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{weights} does not fit its config.json: {reason}") from None
    finally:
        logging.set_verbosity(level)
    wrong = [*loading["missing_keys"], *loading["mismatched_keys"]]
    if wrong:
        name = wrong[0] if isinstance(wrong[0], str) else wrong[0][0]
        raise ValueError(f"{weights} does not fit its config.json: {name} is not there or differs")
    model.load_state_dict(filled.float().state_dict())


def _timm_folder(entries: Mapping[str, Any], weights: Path) -> _Original:
    """Return the original of a folder that timm wrote for the hub."""
    count = entries.get("num_classes", 1000)
    config = {"type": "timm", "name": entries["architecture"], "num_classes": count}
    config |= entries.get("model_args", {})
    network = _built(config)
    known = {**network.model.pretrained_cfg, **entries.get("pretrained_cfg", {})}
    network.model.pretrained_cfg = known
    names = entries.get("label_names")
    return _Original(
        config,
        weights,
        transforms.of_timm(network.model),
        None if names is None else tuple(names),
        network,
    )


def _json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON file of a folder. Raises FileNotFoundError and BadFile."""
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"`arch` hf/{folder}: there is no {folder / name}; give a folder of Hugging Face"
        )
    return files.read_config_json(folder / name)


def _mmcls(path: Path, weights: Path | None, changes: Changes) -> _Original:
    if not path.is_file():
        raise FileNotFoundError(f"`arch` {path} is not a file; give {FORMS}")
    if weights is None:
        raise ValueError(f"`weights` is missing: {path} is a config, which has none")
    try:
        with quietly():
            from mmcv import Config
    except ImportError:
        raise ValueError(f"{path} needs mmcls: pip install 'diffaud[mmcls]'") from None
    with files.parsing(path, "config of mmcls"):
        entries = Config.fromfile(str(path))._cfg_dict.to_dict()
        model, steps = entries["model"], entries["data"]["test"]["pipeline"]
    meta = checkpoints.read(weights, "weights").get("meta")
    names = meta.get("CLASSES") if isinstance(meta, dict) else None
    config = _own(model)
    preprocess = transforms.of_steps(steps, changes.size)
    return _Original(config, weights, preprocess, tuple(names) if names else None)


def _own(value: Any) -> Any:
    """Return a model dict of mmcls without the entries that lead to other weights."""
    if isinstance(value, Mapping):
        fetching = ("pretrained", "init_cfg", "train_cfg")
        return {name: _own(item) for name, item in value.items() if name not in fetching}
    return [_own(item) for item in value] if isinstance(value, list | tuple) else value


def _fill(network: Network, weights: Path, names: Sequence[str]) -> None:
    """Give a network the weights of a file. Raises ValueError where they do not fit."""
    content = checkpoints.read(weights, "weights")
    left = checkpoints.initialise(network, weights, content)
    if left:
        raise ValueError(
            f"`weights` {weights} has another number of classes than `classes`, which names "
            f"{len(names)} ({left[0]} differs)"
        )


@torch.no_grad()
def _check_logits(network: Network, arch: str, size: int, names: Sequence[str]) -> bool:
    """Tell whether a network is undivided: its parts do not make its logits.

    Raises ValueError where there is not one logit for each class.
    """
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    is_mmcls = hasattr(network.model, "extract_feat")  # it has no call that gives logits
    whole = network if is_mmcls else undivided(network.model)
    try:
        logits = whole(x).logits
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{arch} does not take images of {size} pixels: {reason}") from None
    if logits.shape[1] != len(names):
        raise ValueError(
            f"{arch} gives scores of {logits.shape[1]} classes, but `classes` names {len(names)}"
        )
    return not is_mmcls and not _gives(network, x, logits)


def _gives(network: Network, x: torch.Tensor, logits: torch.Tensor) -> bool:
    """Tell whether the parts of a network give these logits."""
    if isinstance(network.last, torch.nn.Identity):
        return False
    try:
        own = network(x).logits
    except Exception:  # some networks of timm have no parts that can be called
        return False
    if own.shape != logits.shape:
        return False
    return bool((own - logits).abs().max() <= 1e-4 * max(1.0, float(logits.abs().max())))
