"""Every shipped config against what it is for; wrong entries are named."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from DDA import files, settings, tree
from DDA.training.loop import make_optimizer, make_rate
from DDA.training.task import Moment
from DistilledClassifier import classifiers
from DistilledClassifier.experiments.compose import CONFIGS, compose, kind_of, kinds
from DistilledClassifier.experiments.config import load
from DistilledClassifier.experiments.settings import Training

BACKBONES = {
    "CIFAR10": ("ResNet18", "ResNet50", "ResNet20", "ResNet56", "timm/resnet18"),
    "digits": ("ResNet20", "ResNet56", "timm/resnet18"),
    "Imagenet": ("ResNet50", "convnextT", "swinT", "timm/resnet18"),
}
STAGES = {"ind": ("clean", "deg", "adapt"), "deg_all": ("deg_all", "degDistill", "adaptDistill")}


def experiments():
    """The paths of all shipped experiments."""
    for kind, stages in STAGES.items():
        for dataset, backbones in BACKBONES.items():
            for backbone, stage in itertools.product(backbones, stages):
                yield f"configs/{kind}/{dataset}/{backbone}/{stage}.yaml"


EXPERIMENTS = list(experiments())


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_every_experiment_is_whole(path):
    config = load(
        Path(path), {"known": ["jpeg"]} if path.endswith(("deg.yaml", "adapt.yaml")) else {}
    )
    make_optimizer(config.optimizer, torch.nn.Linear(1, 1))
    rate = make_rate(config.optimizer["lr"], config.schedule, config.train)
    assert rate(Moment(10**6, 0.999)) <= config.optimizer["lr"]
    assert (
        config.kind in path
        and config.dataset in path
        and config.backbone in path
        and config.stage in path
    )
    assert bool(config.teachers) == ("Distill" in path) and (config.view == "adapted") == (
        "adapt" in path
    )


@pytest.mark.parametrize(
    "path", sorted({path for path in EXPERIMENTS if path.endswith("clean.yaml")})
)
def test_every_backbone_builds_with_the_classes_of_its_data(path):
    pytest.importorskip("mmcls")
    pytest.importorskip("timm")
    config = load(Path(path))
    network = classifiers.build(
        {**config.classifier, **({"pretrained": False} if "timm" in path else {})}
    )
    assert list(network.model.parameters())[-1].shape[0] == len(
        tree.class_list(config.data.classes)
    )


def test_every_file_is_used_and_holds_only_what_is_its_own():
    used = set()
    for path in EXPERIMENTS:
        _, kind, dataset, *backbone, stage = path.removesuffix(".yaml").split("/")
        name = "timm" if backbone[0] == "timm" else backbone[0]
        used |= {
            f"data/{dataset}",
            f"{kind}/{stage}",
            f"{kind}/{dataset}",
            f"{kind}/{dataset}/{stage}",
        }
        used |= {f"backbones/{domain}/{name}" for domain in ("small", "large")}
    used |= {f"{kind}/kind" for kind in kinds()} | {"sl/sl", "data/own"}
    there = {
        file.relative_to(CONFIGS).with_suffix("").as_posix() for file in CONFIGS.rglob("*.yaml")
    }
    assert there <= used


@pytest.mark.parametrize(
    ("value", "hint", "words"),
    [
        (2**70, int, "`x` must be a whole number below 2**63, not 1180591620717411303424"),
        (float("nan"), float | None, "`x` must be a number or nothing, not nan"),
        (np.float64("nan"), float, "`x` must be a number, not nan"),
        ("6", int, "`x` must be a whole number, not '6'"),
        (np.float32(0.5), int | None, "`x` must be a whole number or nothing, not 0.5"),
        (np.bool_(True), int, "`x` must be a whole number, not True"),
        ("photos", Path, "`x` must be a pathlib.Path, not 'photos'"),
        (5, Path | frozenset[str], "`x` must be a pathlib.Path or a frozenset, not 5"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_told_what_it_must_be(value, hint, words):
    with pytest.raises(ValueError) as error:
        settings.check_kinds({"x": value}, {"x": hint})
    assert str(error.value) == words


def test_numbers_of_numpy_are_numbers():
    values = {"a": np.int64(4), "b": np.float32(0.5), "c": np.bool_(False)}
    settings.check_kinds(values, {"a": int, "b": float | None, "c": bool})
    entries = Training(config=Path("x"), batch_size=np.int64(4), lr=np.float32(0.5)).entries
    assert [type(value) for value in entries.values()] == [float, int]


@pytest.mark.parametrize("value", [None, "", 3, {}])
def test_what_is_no_path_is_refused_with_the_name_of_the_setting(value):
    with pytest.raises(ValueError, match="^`save_dir` must be a path, not"):
        settings.as_path("save_dir", value)
    assert settings.as_path("save_dir", "a/b") == settings.as_path("x", Path("a/b")) == Path("a/b")


def test_a_config_without_a_base_is_told_what_it_lacks(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {root: here, train: train}")
    with pytest.raises(
        ValueError, match="`data.val`, `data.classes` must be given; `base`, the name of a"
    ):
        load(tmp_path / "mine.yaml")


def test_yaml_is_read_from_a_path_given_as_text(tmp_path):
    (tmp_path / "a.yaml").write_text("x: 1")
    assert files.read_yaml(str(tmp_path / "a.yaml")) == {"x": 1}


def test_the_published_settings_are_those_of_the_papers():
    def settings(path):
        config = load(Path(path), {"known": ["jpeg"]} if path.endswith("deg.yaml") else {})
        return (
            config.optimizer,
            config.schedule,
            config.train.epochs,
            config.train.batch_size,
            config.loss,
        )

    ce = {"cross_entropy": 1}
    assert settings("configs/ind/CIFAR10/ResNet18/deg.yaml") == (
        {"type": "RAdam", "lr": 1e-3, "weight_decay": 1e-4},
        {"type": "multistep", "milestones": [30, 70, 90], "gamma": 0.2},
        100,
        128,
        ce,
    )
    assert settings("configs/ind/CIFAR10/ResNet18/clean.yaml") == (
        {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
        {"type": "multistep", "milestones": [100, 150], "gamma": 0.1},
        200,
        128,
        ce,
    )
    sgd, steps = (
        {"type": "SGD", "lr": 1e-3, "weight_decay": 1e-4},
        {"type": "multistep", "milestones": [15, 30, 45], "gamma": 0.1},
    )
    assert settings("configs/ind/Imagenet/swinT/deg.yaml") == (sgd, steps, 50, 128, ce)
    for dataset, backbone, batch, degraded, adapted in (
        ("CIFAR10", "ResNet18", 128, 150, 200),
        ("Imagenet", "swinT", 64, 50, 10),
    ):
        for stage, weight in (("degDistill", degraded), ("adaptDistill", adapted)):
            loss = {"cross_entropy": 1, "cosine_inheritance": weight}
            assert settings(f"configs/deg_all/{dataset}/{backbone}/{stage}.yaml") == (
                sgd,
                steps,
                50,
                batch,
                loss,
            )


def test_a_config_of_ones_own_changes_what_it_names(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text(
        "base: configs/ind/CIFAR10/ResNet20/clean.yaml\n"
        "data: {root: photos}\noptimizer: {type: AdamW, lr: 0.01}\n"
    )
    config = load(own, {"train.epochs": 3})
    assert (config.name, config.data.root, config.train.epochs) == (
        "CIFAR10_ResNet20_clean",
        "photos",
        3,
    )
    assert (
        load(own, {"dataset": "mine"}).name == "mine_ResNet20_clean"
        and load(own, {"name": "x"}).name == "x"
    )
    assert config.optimizer == {"type": "AdamW", "lr": 0.01}  # another type replaces the whole
    assert compose(own)["classifier"]["depth"] == 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trian": {}}, "`trian` is unknown; did you mean train?"),
        ({"train.epoch": 3}, "`train.epoch` is unknown; did you mean epochs?"),
        ({"train.epochs": None}, "give a budget"),
        ({"train.batch_size": -1}, "train: `batch_size` -1 must be at least 1"),
        ({"train.batch_size": "many"}, "`train.batch_size` must be a whole number, not 'many'"),
        ({"train.ema": 1.5}, "train: `ema` 1.5 is outside 0..1"),
        ({"panel.sees": "nothing"}, "panel: `sees`: 'nothing' is unknown; use one of same, clean"),
        ({"optimizer": {"type": "Sgd", "lr": 1}}, "'Sgd' is no optimizer of torch.optim"),
        (
            {"optimizer.momentum": 0.9, "optimizer.type": "AdamW"},
            "AdamW does not take these settings",
        ),
        (
            {"optimizer.lr": "fast"},
            "`optimizer.lr` must be a number above 0, not 'fast'",
        ),
        ({"schedule": {"type": "step"}}, "schedule.type: 'step' is unknown"),
        ({"schedule": {"type": "cosine", "gamma": 1}}, "cosine takes no settings, not gamma"),
        (
            {"train.epochs": 10**400},
            "`train.epochs` must be a number below 1.8e308 or nothing, not 1000",
        ),
        (
            {"schedule": {"type": "multistep", "milestones": ["x"], "gamma": 0.1}},
            "schedule: multistep takes numbers, not x",
        ),
        (
            {"schedule": {"type": "multistep", "milestones": 3, "gamma": 0.1}},
            "takes a list of milestones and one gamma",
        ),
        (
            {"known": ["jpeg", "fog"]},
            "`known`: 'fog' is unknown; use one of clean, jpeg, blur, noise, saltpepper",
        ),
        ({"known": ["jpeg", "jpeg"]}, "must name each degradation once"),
        ({"loss": {"cosine": 1}}, "`loss`: 'cosine' is unknown"),
        ({"loss": {"cosine_inheritance": 1}}, "go together"),
        ({"view": "blurred"}, "`view`: 'blurred'"),
        ({"data.adapted": None, "view": "adapted"}, "needs `data.adapted`"),
        (
            {"classifier.num_classes": 7},
            "`classifier.num_classes` 7, but `data.classes` 'cifar10' has 10 classes",
        ),
        ({"preprocess.mean": [1, 2]}, "preprocess: `mean`"),
        ({"preprocess.size": 10**6}, "`size` 1000000 must be at most 4096 pixels"),
        ({"data.classes": "cifar11"}, "cifar11 is neither a file nor one of cifar10"),
        ({"data": 3}, "`data`: 3 has no entries"),
    ],
)
def test_a_wrong_entry_is_named(changes, words):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(Path("configs/ind/CIFAR10/ResNet20/clean.yaml"), changes)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "configs/ind/CIFAR11/ResNet20/clean.yaml",
            "configs/data has no CIFAR11; there are CIFAR10, Imagenet, digits",
        ),
        ("configs/ind/a\nb/ResNet20/clean.yaml", "configs/data has no a\\nb; there are CIFAR10"),
        (
            "configs/ind/CIFAR10/ResNet21/clean.yaml",
            "configs/backbones/small has no ResNet21; there are ResNet18",
        ),
        (
            "configs/ind/CIFAR10/ResNet20/dirty.yaml",
            "configs/ind has no dirty; there are CIFAR10, Imagenet, adapt, clean, deg",
        ),
        ("nowhere.yaml", "`config` nowhere.yaml does not exist"),
    ],
)
def test_a_config_that_is_not_there_is_named_with_those_that_are(path, words):
    with pytest.raises(FileNotFoundError) as error:
        load(Path(path))
    assert words in str(error.value)


def test_what_is_no_yaml_of_entries_is_refused(tmp_path):
    code = "a: !!python/object:os.system {}"
    for text, words in (
        ("a: [", "is no YAML"),
        ("- 1", "holds no entries"),
        (code, "asks for more than plain values"),
    ):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ValueError, match=words):
            load(tmp_path / "x.yaml")


def test_names_of_three_parts_mean_the_same():
    short, whole = (
        load(Path(f"configs/ind/CIFAR10/{name}.yaml"))
        for name in ("ResNet56_clean", "ResNet56/clean")
    )
    assert short == whole
    taught = load(Path("configs/sl/CIFAR10/ResNet56-56.yaml"), {"known": ["jpeg"]})
    assert (taught.kind, taught.backbone, taught.stage, taught.teachers) == (
        "sl",
        "ResNet56",
        "sl",
        "clean",
    )
    assert (taught.panel.sees, taught.panel.how) == ("clean", "averaged")


def test_a_kind_of_experiment_is_a_folder_that_names_its_program(tmp_path, monkeypatch):
    assert (
        kind_of("ind").program == kind_of("sl").program == "train.py"
        and kind_of("deg_all").combines
    )
    for folder in ("data", "backbones"):
        (tmp_path / folder).symlink_to(CONFIGS / folder)
    (tmp_path / "upgrade").mkdir()
    (tmp_path / "upgrade/kind.yaml").write_text("program: upgrade.py\n")
    (tmp_path / "upgrade/better.yaml").write_text((CONFIGS / "ind/clean.yaml").read_text())
    monkeypatch.setattr("DistilledClassifier.experiments.compose.CONFIGS", tmp_path)
    config = load(Path("configs/upgrade/CIFAR10/ResNet20/better.yaml"))
    assert (
        config.kind == "upgrade"
        and kind_of("upgrade").program == "upgrade.py"
        and kinds() == ["upgrade"]
    )
