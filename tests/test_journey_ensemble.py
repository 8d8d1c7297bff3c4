"""A torchvision classifier on both sides of an `Ensemble`, and its table: as one would do it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from DDA import Adapter, Ensemble, images, inputs
from DDA import tree as trees
from DDA.image_adapt.scripts import image_sample
from DDA.model_adapt import results
from DDA.model_adapt.choices import FITTED_RULES, FUSE_RULES, RULES
from DistilledClassifier import classifiers

torchvision = pytest.importorskip("torchvision")
CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A classifier of torchvision as anybody has one, saved with its classes and preprocessing."""
    path = tmp_path_factory.mktemp("classifier") / "mine.pth"
    torch.manual_seed(0)
    classifier = {"type": "torchvision", "name": "resnet18", "num_classes": len(CLASSES)}
    config = {"classifier": classifier, "preprocess": {"size": 32}}
    classifiers.save(path, classifiers.build(classifier), config, CLASSES)
    return path


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def test_a_torchvision_classifier_on_both_sides_gets_a_table(checkpoint, prior, tree, tmp_path):
    adapter = Adapter(prior, speed="one-shot")
    both = Ensemble(checkpoint, checkpoint, adapter=adapter, rule="sum")
    result = both.evaluate(tree, layout="imagenetc", severity="all", out=tmp_path / "eval")
    assert list(result.top1) == ["first (degraded)", "second (adapted)", "sum"]
    assert "| **mean of 4 cells** | 24 |" in result.markdown
    assert (tmp_path / "eval/summary.json").is_file()
    again = both.evaluate(tree, tmp_path / "eval/adapted", layout="imagenetc", out=tmp_path / "e")
    assert again.top1 == result.top1


def test_it_is_a_module_from_floats_to_logits(checkpoint, prior, pixels):
    both = Ensemble(checkpoint, adapter=Adapter(prior, speed="one-shot"), batch_size=2)
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    logits = both(floats)
    assert isinstance(both, torch.nn.Module) and logits.shape == (5, 2)
    assert not logits.requires_grad and not both.train().training
    assert not any(parameter.requires_grad for parameter in both.parameters())
    for images_ in (pixels, floats.numpy(), [Image.fromarray(image) for image in pixels]):
        assert torch.allclose(both.scores(images_), logits, atol=1e-5)
    assert both(floats[:0]).shape == (0, 2)
    keyed = both.scores(pixels, keys=list("abcde"))
    assert not torch.allclose(keyed, logits, atol=1e-6)
    assert torch.allclose(both.scores(pixels[2:], keys=list("cde")), keyed[2:], atol=1e-3)


def test_memory_and_commands_give_the_same_scores(checkpoint, prior, tree, tmp_path):
    pytest.importorskip("mmcls")
    from DDA.model_adapt import test_ensemble

    cell = ["--dataset", "imagenetc", "--corruption", "fog", "--severity", "3"]
    flags = ["--model_path", prior, "--base_samples", tree, "--save_dir", tmp_path / "adapted"]
    assert image_sample.main([*map(str, flags), "--speed", "one-shot", *cell]) == 0
    config = "configs/ensemble/resnet18_ensemble_b64_cifar10c.py"
    views = ["--data_prefix1", tree, "--data_prefix2", tmp_path / "adapted"]
    words = [config, checkpoint, *views, *cell, "--out", tmp_path / "eval", "--json"]
    assert test_ensemble.main([*map(str, words)]) == 0
    stored = results.read(tmp_path / "eval", "fog/3")
    expected = stored["first"] + stored["second"]
    both = Ensemble(checkpoint, adapter=Adapter(prior, speed="one-shot"))
    names = [next(tree.glob(f"{key}.*")) for key in stored["keys"].tolist()]
    scores = both.scores([images.read_rgb(name) for name in names], keys=stored["keys"].tolist())
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-4)


def test_the_gate_adapts_only_the_images_of_which_the_first_is_unsure(checkpoint, pixels):
    asked = []

    class Counting:
        def pixels(self, pixels, keys):
            asked.extend(keys)
            return np.stack(pixels)

    first = Ensemble(checkpoint, rule="first")
    largest = first.scores(pixels).softmax(1).amax(1)
    threshold = float(largest.sort().values[2])
    gate = {"threshold": threshold, "weight": 0.5, "temperatures": [1.0, 1.0]}
    both = Ensemble(checkpoint, adapter=Counting(), rule="gate", fitted={"gate": gate})
    scores = both.scores(pixels, keys=list("abcde"))
    sure = [key for key, value in zip("abcde", largest.tolist(), strict=True) if value < threshold]
    assert asked == sure and len(sure) == 2 and torch.isfinite(scores).all()


@pytest.mark.parametrize("rule", [*RULES, *FITTED_RULES, *FUSE_RULES])
def test_every_rule_takes_copies_that_were_made_before(checkpoint, pixels, rule):
    params = {"threshold": 0.9, "weight": 0.5, "temperatures": [1.0, 1.0]}
    both = Ensemble(checkpoint, rule=rule, fitted=params)
    scores = both.scores(pixels, adapted=255 - pixels)
    assert scores.shape == (5, 2) and torch.isfinite(scores).all()


def test_what_is_wrong_is_named(checkpoint, pixels, tmp_path):
    both = Ensemble(checkpoint)
    with pytest.raises(ValueError, match="the rule sum needs adapted copies: give .* `adapter`"):
        both(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="`adapted` has 1 images for 5"):
        both.scores(pixels, adapted=pixels[:1])
    with pytest.raises(ValueError, match="`keys` has 1 entries for 5 images"):
        both.scores(pixels, keys=["a"])
    with pytest.raises(ValueError, match=r"`rule`: 'mean' is unknown; use one of first, second"):
        Ensemble(checkpoint, rule="mean")
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth"):
        Ensemble(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="mine.fitted.json does not exist"):
        Ensemble(checkpoint, rule="gate")
    with pytest.raises(ValueError, match="`fitted` does not tell threshold"):
        Ensemble(checkpoint, rule="gate", fitted={"weight": 0.5, "temperatures": [1, 1]})
    with pytest.raises(ValueError, match=r"in \[0,1\], but these are in \[-1,1\]"):
        both(torch.linspace(-1, 1, 3 * 256).reshape(1, 3, 16, 16))


def test_keys_default_to_the_digest_of_the_pixels(pixels):
    keys = inputs.keys(pixels)
    assert len(set(keys)) == 5 and all(len(key) == 64 for key in keys)
    assert inputs.keys([pixels[3]]) == [keys[3]]


def test_the_result_is_json(checkpoint, tree, tmp_path, capsys):
    pytest.importorskip("mmcls")
    from DDA.model_adapt import test_ensemble

    config = "configs/ensemble/resnet18_ensemble_b64_cifar10c.py"
    views = ["--data_prefix1", tree, "--data_prefix2", tree, "--dataset", "imagenetc"]
    words = [config, checkpoint, *views, "--out", tmp_path / "eval", "--json"]
    assert test_ensemble.main([*map(str, words)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["top1"].keys() == {"first (degraded)", "second (adapted)", "sum"}
    assert tree_names(tree) == sum(row["N"] for row in result["summary"]["cells"].values())


def tree_names(root):
    return len(trees.list_images(root)[0])
