"""Classifiers behind one protocol, of mmcls, of timm and our own; their checkpoints, and what they want to see.

A new kind of network is a builder here and its entry in `build`. Preprocessing belongs to a classifier and lies in its
checkpoint: `Classifier.scores` takes images as they are.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from DDA import files, tree

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.stride, self.grown = (1, 0) if width_in == width else (2, width - width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.grown:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.grown // 2, self.grown // 2))
        return F.relu(h.add_(x), inplace=True)


class CifarResNet(nn.Module):
    """The ResNet for 32 pixels of He et al. (arXiv:1512.03385, section 4.2), shortcut A; depth 20, 32, 44, 56 or 110.

    Parameters are named as in akamaster/pytorch_resnet_cifar10, whose weights load.
    """

    def __init__(self, depth: int, num_classes: int = 10):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet of depth {depth} does not exist: depths are 6 n + 2, such as 20, 32, 44, 56")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width_in = 16
        for i, width in enumerate((16, 32, 64), start=1):
            blocks = [_Block(width_in if j == 0 else width, width) for j in range((depth - 2) // 6)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            width_in = width
        self.linear = nn.Linear(64, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(N,3,H,W) to (N,64)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))

    def fold(self) -> None:
        """Let the convolutions, in eval mode, do what BatchNorm does after them: the same logits but for rounding, sooner."""
        for module in [self, *(block for block in self.modules() if isinstance(block, _Block))]:
            for conv, bn in (("conv1", "bn1"), ("conv2", "bn2")):
                if isinstance(getattr(module, bn, None), nn.BatchNorm2d):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, bn)))
                    setattr(module, bn, nn.Identity())


class Network(nn.Module):
    """A classifier in two parts: ``features(x) -> (N,C)``, ``head(features) -> (N,K)``; calling it gives both.

    model holds the parameters under the names of its own library; its state dict is what checkpoints hold.
    """

    def __init__(self, model: nn.Module, features: Callable, head: Callable):
        super().__init__()
        self.model = model
        self._features, self._head = features, head

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (N,3,H,W) to what the last layer sees, (N,C)."""
        return self._features(x)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """(N,C) to logits (N,K)."""
        return self._head(features)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(x)
        return features, self.head(features)


def build(config: Mapping[str, Any]) -> Network:
    """The network that a model dict describes, with fresh weights.

    ``{"type": "CifarResNet", "depth": 20, "num_classes": 10}``; ``{"type": "timm", "name": …, "num_classes": …}`` and what else
    timm's create_model takes, ``pretrained`` too; or a model dict of mmcls (``{"type": "ImageClassifier", "backbone": …, …}``).
    Raises ValueError for what cannot be built and for libraries that are missing.
    """
    settings = copy.deepcopy(dict(config))
    kind = settings.pop("type", None)
    builders = {"CifarResNet": _build_cifar, "timm": _build_timm, "ImageClassifier": _build_mmcls}
    if kind not in builders:
        raise ValueError(f"classifier type {kind!r} is unknown; use one of {', '.join(builders)}")
    try:
        return builders[kind](settings)
    except TypeError as error:  # an argument that its library does not know
        raise ValueError(f"classifier {kind}: {error}") from None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Around imports of mmcv and mmcls, which tell of their next versions and of CUDA: nothing that a user can change."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _build_cifar(settings: dict) -> Network:
    model = CifarResNet(**settings)
    return Network(model, model.features, model.head)


def _build_timm(settings: dict) -> Network:
    try:
        import timm
    except ImportError:
        raise ValueError("classifiers of timm need it: pip install timm") from None
    name = settings.pop("name", None)
    try:
        model = timm.create_model(name, **settings)
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise ValueError(f"timm cannot build {name}: {error}") from None
        close = ", ".join(difflib.get_close_matches(str(name), timm.list_models(), 3)) or "see timm.list_models()"
        raise ValueError(f"timm has no model {name}; the nearest: {close}") from None
    except Exception as error:  # of the hub and the network, many types
        if not settings.get("pretrained"):
            raise
        raise ValueError(
            f"the pretrained weights of timm/{name} could not be fetched ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); check the connection to the hub, or fetch the file elsewhere and give it with "
            "--init FILE and pretrained=false"
        ) from None
    last = model.get_classifier()
    if not isinstance(last, nn.Module):
        raise ValueError(f"timm/{name} has no single last layer, so no features of one; choose another model")
    return Network(model, lambda x: model.forward_head(model.forward_features(x), pre_logits=True), last)


def _build_mmcls(settings: dict) -> Network:
    try:
        with quietly():
            from mmcls.models import build_classifier
    except ImportError as error:
        raise ValueError(f"mmcls models need mmcls 0.25 and mmcv 1.7: pip install 'diffaud[mmcls]' ({error})") from None
    try:
        model = build_classifier({"type": "ImageClassifier", **settings})
    except (KeyError, AssertionError) as error:
        raise ValueError(f"mmcls cannot build the model: {error}") from None
    last = getattr(model.head, "fc", None) or getattr(getattr(model.head, "layers", None), "head", None)
    if last is None:
        raise ValueError(f"the mmcls head {type(model.head).__name__} has no last layer fc; use a LinearClsHead")
    return Network(model, lambda x: model.extract_feat(x, stage="pre_logits"), last)


# ---------------------------------------------------------------------------------------------- what a classifier sees


@dataclass(frozen=True)
class Preprocess:
    """What a network wants to see: ``size`` pixels square, mean and std of RGB in [0,1].

    An image of that size is taken as it is. Any other is scaled so that its shorter side is ``resize`` pixels (default: size),
    and its middle is taken.
    """

    size: int
    resize: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation {self.interpolation!r} is neither bilinear nor bicubic")
        if (self.resize or self.size) < self.size or self.size < 1:
            raise ValueError(f"resize {self.resize} must be at least size {self.size}")
        for name in ("mean", "std"):
            value = tuple(float(number) for number in getattr(self, name))
            if len(value) != 3 or not all(0 <= number <= 1 for number in value) or (name == "std" and 0 in value):
                raise ValueError(f"preprocess {name} {list(value)} must be three numbers in 0..1, of RGB scaled to 0..1")
            object.__setattr__(self, name, value)

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H,W,3) to uint8 (size,size,3)."""
        if pixels.shape[:2] == (self.size, self.size):
            return pixels
        image = Image.fromarray(pixels)
        scale = (self.resize or self.size) / min(image.size)
        how = Image.Resampling[self.interpolation.upper()]
        image = image.resize((max(self.size, round(image.width * scale)), max(self.size, round(image.height * scale))), how)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N,H,W,3) to float (N,3,H,W)."""
        mean, std = (torch.tensor(value, device=pixels.device)[:, None, None] for value in (self.mean, self.std))
        return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Classifier:
    """A trained network in eval mode, with all that its checkpoint tells.

    adapted: the settings of the adapted copies that it learnt from.
    """

    network: Network
    preprocess: Preprocess
    classes: tuple[str, ...] | None = None
    config: dict = field(default_factory=dict)
    adapted: dict | None = None
    path: Path | None = None

    @torch.no_grad()
    def scores(self, pixels: Sequence[np.ndarray] | np.ndarray, batch_size: int = 128) -> torch.Tensor:
        """Logits (N,K), on the CPU, of images uint8 (H,W,3)."""
        device = next(self.network.parameters()).device
        parts = []
        for i in range(0, len(pixels), batch_size):
            batch = np.stack([self.preprocess.fit(image) for image in pixels[i : i + batch_size]])
            parts.append(self.network(self.preprocess.normalise(torch.from_numpy(batch).to(device)))[1].float().cpu())
        return torch.cat(parts)

    def check_adapted(self, copies: Path) -> None:
        """Raise ValueError where a tree of adapted copies was made with other settings than those that it learnt from."""
        settings = copies / tree.SETTINGS
        if self.adapted is None or not settings.is_file():
            return
        there = files.read_json(settings)
        differ = [f"{name} {there.get(name)} there, {self.adapted.get(name)} in training" for name in {**there, **self.adapted}
                  if there.get(name) != self.adapted.get(name)]  # fmt: skip
        if differ:
            raise ValueError(
                f"{copies} was adapted with other settings than the training copies of {self.path}: {'; '.join(differ)}; "
                "adapt both alike"
            )


# ---------------------------------------------------------------------------------------------- checkpoints


def save(path: Path, network: Network, config: Mapping[str, Any], classes: Sequence[str], **more: Any) -> None:
    """Write a checkpoint that is enough alone: weights, classes, preprocessing, and the config that trained them."""
    content = {"state_dict": network.model.state_dict(), "config": dict(config), "classes": list(classes),
               "preprocess": dict(config["preprocess"]), **more}  # fmt: skip
    files.write_with(path, lambda file: torch.save(content, file))


def load(path: Path) -> Classifier:
    """A classifier from its checkpoint: ours, or a CIFAR ResNet with the names of akamaster/pytorch_resnet_cifar10.

    Nothing in the file is executed. Raises FileNotFoundError where it is absent, ValueError for any other file.
    """
    content = read(path)
    if is_ours(content):
        network = build(_as_data(content["config"]["classifier"], path))
        try:
            network.model.load_state_dict(content["state_dict"])
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit its own config: {error}") from None
        preprocess, classes = Preprocess(**content["preprocess"]), tuple(content["classes"])
        return Classifier(still(network), preprocess, classes, content["config"], content.get("adapted"), path)
    state = weights(content)
    if not state.keys() >= _CIFAR:
        raise ValueError(
            f"{path} tells no architecture: it is neither a checkpoint of this project nor one of a CIFAR ResNet (conv1, "
            "layer3, linear). Weights of mmcls and timm are read with a config: train.py --init FILE"
        )
    blocks = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
    config = {"type": "CifarResNet", "depth": 6 * blocks + 2, "num_classes": len(state["linear.weight"])}
    network = build(config)
    try:
        network.model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit a CIFAR ResNet-{6 * blocks + 2}: {error}") from None
    return Classifier(still(network), Preprocess(32), config={"classifier": config}, path=path)


_CIFAR = {"conv1.weight", "layer3.0.conv1.weight", "linear.weight"}


def is_ours(content: Mapping[str, Any]) -> bool:
    """Whether what `read` gave is a checkpoint of this project."""
    return {"state_dict", "config", "classes", "preprocess"} <= content.keys()


def tells_itself(content: Mapping[str, Any]) -> bool:
    """Whether `load` knows the architecture of what `read` gave, without a config."""
    return is_ours(content) or weights(content).keys() >= _CIFAR


def initialise(network: Network, path: Path) -> list[str]:
    """Take over the weights of a checkpoint, of any origin, by their names; returns the names that were left as they were.

    Only the last layer may be left, where its number of classes differs. Raises ValueError where anything else does not fit.
    """
    theirs, own = weights(read(path)), network.model.state_dict()
    missing = [name for name in own if name not in theirs and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"{path} does not fit the classifier: it lacks {len(missing)} of {len(own)} weights, such as {missing[0]}"
        )
    last = {f"{name}.{leaf}" for name, module in network.model.named_modules() if module is _last(network) for leaf in
            ("weight", "bias")}  # fmt: skip
    differ = [name for name, value in own.items() if name in theirs and theirs[name].shape != value.shape]
    odd = [name for name in differ if name not in last]
    if odd:
        raise ValueError(
            f"{path} does not fit the classifier: {odd[0]} is {tuple(theirs[odd[0]].shape)} there, "
            f"{tuple(own[odd[0]].shape)} here"
        )
    network.model.load_state_dict(
        {name: theirs[name] if name in theirs and name not in differ else value for name, value in own.items()}
    )
    return differ


def _last(network: Network) -> nn.Module | None:
    return network.model.linear if isinstance(network.model, CifarResNet) else network._head


def read(path: Path) -> dict[str, Any]:
    """A file of tensors and plain values. Raises FileNotFoundError and ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected a classifier's checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for what it cannot read
        raise ValueError(f"{path} ({path.stat().st_size:,} bytes) is cut off, or no checkpoint of tensors; get it again "
                         f"({str(error).splitlines()[0]})") from None  # fmt: skip
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def weights(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint of any origin, without the prefix of DataParallel."""
    state = content.get("state_dict", content.get("model", content))
    return {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, torch.Tensor)}


def still(network: Network) -> Network:
    """In eval mode, without gradients, as fast as it gets, in the layout in which `Preprocess.normalise` leaves images."""
    network.eval().requires_grad_(False)
    if isinstance(network.model, CifarResNet):
        network.model.fold()
    return network.to(memory_format=torch.channels_last)


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
            raise files.BadFile(f"{path} asks for {asked}, which is outside the checkpoint and is not followed")
        kept[name] = _as_data(item, path)
    return kept


# settings of timm with which a model dict reads other files
_FETCHED = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "custom_imports")
