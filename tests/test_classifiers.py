"""Building, saving and loading classifiers; the published weights."""

import time

import numpy as np
import pytest
import torch
from helpers import SHARED, needs_shared
from PIL import Image

from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Preprocess, build, initialise, load, save

SMALL = {"type": "CifarResNet", "depth": 8, "num_classes": 3}
PREPROCESS = {"size": 8, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
MMCLS = {
    "type": "ImageClassifier",
    "backbone": {
        "type": "ResNet_CIFAR",
        "depth": 18,
        "num_stages": 4,
        "out_indices": [3],
        "style": "pytorch",
    },
    "neck": {"type": "GlobalAveragePooling"},
    "head": {
        "type": "LinearClsHead",
        "num_classes": 4,
        "in_channels": 512,
        "loss": {"type": "CrossEntropyLoss"},
    },
}


def warmed(network):
    """With other BatchNorm statistics, scales and shifts than fresh ones, in eval mode."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    network.train()(torch.randn(4, 3, 32, 32))
    return network.eval()


@pytest.mark.parametrize(
    ("config", "width"),
    [
        (SMALL, 64),
        (MMCLS, 512),
        ({"type": "timm", "name": "resnet18", "num_classes": 4}, 512),
        ({"type": "timm", "name": "convnext_atto", "num_classes": 4}, 320),
        ({"type": "timm", "name": "vit_tiny_patch16_224", "num_classes": 4, "img_size": 32}, 192),
    ],
)
def test_features_and_head_are_the_network_in_two_parts(config, width):
    if config["type"] != "CifarResNet":
        pytest.importorskip("timm" if config["type"] == "timm" else "mmcls")
    network = warmed(build(config))
    x = torch.randn(2, 3, 32, 32)
    features, logits, maps = network(x)
    assert len(maps) == len(x)
    assert features.shape == (2, width)
    torch.testing.assert_close(network.head(network.features(x)), logits)
    whole = (
        network.model.simple_test(x, softmax=False, post_process=False)
        if config is MMCLS
        else network.model(x)
    )
    torch.testing.assert_close(logits, whole)


@pytest.mark.parametrize(
    "config", [SMALL, MMCLS, {"type": "timm", "name": "resnet18", "num_classes": 3}]
)
def test_a_checkpoint_is_enough_alone(config, tmp_path):
    if config["type"] != "CifarResNet":
        pytest.importorskip("timm" if config["type"] == "timm" else "mmcls")
    network = warmed(build(config))
    save(
        tmp_path / "a.pth",
        network,
        {"classifier": config, "preprocess": PREPROCESS},
        ("x", "y", "z"),
        epoch=3,
    )
    back = load(tmp_path / "a.pth")
    assert back.classes == ("x", "y", "z") and back.preprocess == Preprocess(**PREPROCESS)
    assert not any(p.requires_grad for p in back.network.parameters()) and not back.network.training
    folded = not any(isinstance(module, torch.nn.BatchNorm2d) for module in back.network.modules())
    assert folded == (config is SMALL)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    x = (
        pixels.transpose(0, 3, 1, 2) / 255 - np.array(PREPROCESS["mean"])[:, None, None]
    ) / np.array(PREPROCESS["std"])[:, None, None]
    expected = network(torch.from_numpy(x).float())[1]
    torch.testing.assert_close(back.scores(pixels), expected, rtol=1e-4, atol=1e-5)
    assert classifiers.read(tmp_path / "a.pth")["epoch"] == 3


def test_mmcls_names_are_kept_and_checkpoints_of_openmmlab_load(tmp_path):
    pytest.importorskip("mmcls")
    from mmcls.models import build_classifier

    theirs = build_classifier(MMCLS)
    torch.save(
        {"meta": {"mmcls_version": "0.25.0"}, "state_dict": theirs.state_dict()},
        tmp_path / "openmmlab.pth",
    )
    network = build(MMCLS)
    assert initialise(network, tmp_path / "openmmlab.pth") == []
    assert all(
        torch.equal(value, theirs.state_dict()[name])
        for name, value in network.model.state_dict().items()
    )
    other = build({**MMCLS, "head": {**MMCLS["head"], "num_classes": 7}})
    before = other.model.head.fc.weight.clone()
    assert sorted(initialise(other, tmp_path / "openmmlab.pth")) == [
        "head.fc.bias",
        "head.fc.weight",
    ]
    assert torch.equal(other.model.head.fc.weight, before)
    assert torch.equal(other.model.backbone.conv1.weight, theirs.backbone.conv1.weight)


def test_weights_that_do_not_fit_are_named(tmp_path):
    torch.save(build(SMALL).model.state_dict(), tmp_path / "small.pth")
    with pytest.raises(
        ValueError,
        match=r"small.pth does not fit the classifier: 30 of .*: layer1.1.conv1.weight is missing",
    ):
        initialise(build({**SMALL, "depth": 14}), tmp_path / "small.pth")
    state = build(SMALL).model.state_dict() | {"conv1.weight": torch.zeros(16, 3, 5, 5)}
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(
        ValueError, match=r"conv1.weight is \(16, 3, 5, 5\) there, \(16, 3, 3, 3\) here"
    ):
        initialise(build(SMALL), tmp_path / "odd.pth")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"type": "ResNet"},
            "classifier type 'ResNet' is unknown; use one of CifarResNet, timm, torchvision, "
            "transformers, ImageClassifier",
        ),
        ({"type": "CifarResNet", "depth": 18}, "depths are 6 n"),
        ({"type": "CifarResNet", "deep": 20}, "deep"),
        ({"type": "timm", "name": "resnet019"}, "timm has no model resnet019; the nearest: resnet"),
        ({**MMCLS, "backbone": {"type": "ResNot"}}, "mmcls cannot build the model"),
    ],
)
def test_a_wrong_model_dict_is_named(config, words):
    if config["type"] in ("timm", "ImageClassifier"):
        pytest.importorskip({"timm": "timm", "ImageClassifier": "mmcls"}[config["type"]])
    with pytest.raises(ValueError, match=words):
        build(config)


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch):
    timm = pytest.importorskip("timm")

    def no_network(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(
        ValueError,
        match="pretrained weights of timm/resnet18 could not be fetched.*give it as `init`",
    ):
        build({"type": "timm", "name": "resnet18", "pretrained": True})


def test_preprocessing_takes_an_image_of_its_size_as_it_is_and_the_middle_of_others():
    rng = np.random.default_rng(0)
    exact = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert Preprocess(8, resize=10).fit(exact) is exact
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 255
    assert (Preprocess(8).fit(wide)[:, 1:-1] == 255).all()
    assert (
        Preprocess(8, resize=10).fit(wide).shape
        == Preprocess(8).fit(np.zeros((3, 5, 3), np.uint8)).shape
        == (8, 8, 3)
    )
    for wrong in (
        dict(mean=(0.5, 0.5)),
        dict(std=(1, 1, 0)),
        dict(mean=(120, 120, 120)),
        dict(resize=4),
        dict(interpolation="x"),
    ):
        with pytest.raises(ValueError, match="|".join(wrong)):
            Preprocess(8, **wrong)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preprocessing_resizes_only_the_middle_of_very_long_images(interpolation):
    preprocess = Preprocess(24, resize=27, interpolation=interpolation)

    def whole(pixels):
        image = Image.fromarray(pixels)
        scale = 27 / min(image.size)
        resized = tuple(max(24, round(side * scale)) for side in image.size)
        image = image.resize(resized, Image.Resampling[interpolation.upper()])
        left, top = ((length - 24) // 2 for length in resized)
        return np.asarray(image.crop((left, top, left + 24, top + 24)))

    for shape in ((40, 40), (30, 50), (64, 2), (2, 64), (9, 250), (300, 100)):
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        np.testing.assert_array_equal(preprocess.fit(pixels), whole(pixels))
    for shape in ((700, 2), (2, 700), (60, 3000), (1001, 3)):
        rows, columns = (np.sin(np.arange(side) / 20) for side in shape)
        waves = 128 + 30 * (rows[:, None, None] + columns[None, :, None]) + np.zeros(3)
        pixels = waves.round().astype(np.uint8)
        gap = preprocess.fit(pixels).astype(int) - whole(pixels)
        assert abs(gap).max() <= 1
    started = time.perf_counter()
    long = np.full((1, 3_000_000, 3), 7, np.uint8)
    assert (Preprocess(224, resize=256).fit(long) == 7).all()
    assert time.perf_counter() - started < 2


@needs_shared
@pytest.mark.parametrize(
    ("depth", "weights", "accuracy"),
    [(20, "resnet20-12fca82f", 0.916), (56, "resnet56-4bfd9763", 0.927)],
)
def test_the_published_classifiers_score_what_is_published(depth, weights, accuracy):
    classifier = load(SHARED / "ckpt" / f"{weights}.th")
    assert (
        sum(isinstance(module, torch.nn.Conv2d) for module in classifier.network.modules())
        == depth - 1
    )
    with np.load(SHARED / "data" / "cifar10_lossless.npz") as data:
        right = (
            classifier.scores(data["test_x"]).argmax(1) == torch.from_numpy(data["test_y"]).long()
        )
    assert right.double().mean() == pytest.approx(accuracy, abs=0.001)


def test_images_are_scored_as_people_hold_them(tmp_path):
    torch.manual_seed(0)
    config = {"classifier": SMALL, "preprocess": PREPROCESS}
    save(tmp_path / "a.pth", warmed(build(SMALL)), config, ("x", "y", "z"))
    classifier = load(str(tmp_path / "a.pth"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 10, 12, 3), dtype=np.uint8)
    scores = classifier.scores(pixels)
    assert scores.shape == (5, 3) and scores.dtype == torch.float32
    tensor = torch.from_numpy(pixels)
    floats = tensor.permute(0, 3, 1, 2) / 255
    for same in (tensor, floats, floats.numpy(), list(pixels), list(map(Image.fromarray, pixels))):
        torch.testing.assert_close(classifier.scores(same), scores)
    torch.testing.assert_close(
        classifier.scores(pixels, batch_size=2), scores, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(classifier.scores(pixels[1]), scores[1:2], rtol=1e-4, atol=1e-5)
    mixed = classifier.scores([pixels[0], Image.new("L", (40, 30)), floats[2]])
    torch.testing.assert_close(mixed[[0, 2]], scores[[0, 2]], rtol=1e-4, atol=1e-5)
    for empty in (pixels[:0], floats[:0], []):
        assert classifier.scores(empty).shape == (0, 3)
    with pytest.raises(ValueError, match="move the channels to the end"):
        classifier.scores(pixels.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match="`batch_size` 0 must be at least 1"):
        classifier.scores(pixels, batch_size=0)


def test_what_is_no_classifier_is_named(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="a.pt is no classifier's checkpoint; it is a text"):
        load(tmp_path / "a.pt")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"b.pt tells no architecture"):
        load(tmp_path / "b.pt")
    state = classifiers.CifarResNet(8).state_dict() | {"conv1.weight": torch.zeros(3, 3, 3, 3)}
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c.pt does not fit a CIFAR ResNet-8"):
        load(tmp_path / "c.pt")
    with pytest.raises(FileNotFoundError, match=r"d.pt does not exist"):
        load(tmp_path / "d.pt")
