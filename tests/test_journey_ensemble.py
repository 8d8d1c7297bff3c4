"""A torchvision classifier on both sides of an `Ensemble`, and its table: as one would do it."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from DDA import Adapter, Ensemble, files, images, inputs
from DDA import tree as trees
from DDA.image_adapt.scripts import image_sample
from DDA.model_adapt import results
from DDA.model_adapt.choices import FITTED_RULES, FUSE_RULES, RULES
from DistilledClassifier import classifiers

torchvision = pytest.importorskip("torchvision")
CLASSES = ("cat", "dog")
# the parameters of a fit in which the second classifier has no weight
FITTED = {
    "weighted_sum": {"weight": 0.0, "temperatures": [1.0, 1.0]},
    "gate": {"weight": 0.0, "temperatures": [1.0, 1.0], "threshold": 0.5},
}


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


def test_only_the_images_that_are_evaluated_get_copies(checkpoint, prior, tree, tmp_path):
    both = Ensemble(checkpoint, adapter=Adapter(prior, speed="one-shot"))
    cells = {"layout": "imagenetc", "corruption": "fog"}
    result = both.evaluate(tree, num_samples=1, out=tmp_path / "eval", **cells)
    copies = tmp_path / "eval/adapted"
    assert [row["N"] for row in result.summary["cells"].values()] == [1, 1]
    assert sorted(trees.list_images(copies)[0]) == ["fog/3/cat/1.png", "fog/5/cat/1.png"]
    more = both.evaluate(tree, num_samples=2, out=tmp_path / "eval", **cells)
    assert [row["N"] for row in more.summary["cells"].values()] == [2, 2]
    assert len(trees.list_images(copies)[0]) == 4


def test_a_folder_is_adapted_without_a_word_on_settings_that_were_not_given(
    checkpoint, prior, tree, tmp_path, capsys
):
    both = Ensemble(checkpoint, adapter=Adapter(prior, speed="one-shot"))
    result = both.evaluate(tree / "fog/3", out=tmp_path / "eval")
    assert result.summary["cells"]["."]["N"] == 6
    assert "is ignored" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("rule", ["gate", "sum"])
def test_fitted_parameters_hold_for_the_columns_beside_the_result(checkpoint, tree, tmp_path, rule):
    both = Ensemble(checkpoint, rule=rule, fitted=FITTED)
    cells = {"layout": "imagenetc", "beside": ["weighted_sum"], "out": tmp_path / "eval"}
    facts = both.evaluate(tree, tree, **cells, quiet=True).summary["facts"]
    used = {name: FITTED[name] for name in (rule, "weighted_sum") if name in FITTED}
    assert facts["params"] == used


def test_parameters_that_were_fitted_for_other_weights_are_refused(checkpoint, pixels, tmp_path):
    path, digest = tmp_path / "fitted.json", files.sha256(checkpoint)
    files.write_json(path, {**FITTED, "first_sha256": digest, "second_sha256": digest})
    both = Ensemble(checkpoint, rule="gate", fitted=path)
    kept = Ensemble(checkpoint, rule="gate", fitted=FITTED)
    assert torch.equal(both.scores(pixels, adapted=pixels), kept.scores(pixels, adapted=pixels))
    files.write_json(path, {**FITTED, "first_sha256": digest, "second_sha256": "0" * 64})
    with pytest.raises(ValueError, match=r"`fitted` .*fitted.json was fitted for another"):
        Ensemble(checkpoint, rule="gate", fitted=path)
    with pytest.raises(FileNotFoundError, match="`fitted` .* does not exist or is no file"):
        Ensemble(checkpoint, rule="gate", fitted=tmp_path / "nowhere.json")


def test_classes_are_listed_where_the_classifiers_do_not_tell_them(checkpoint, tree, tmp_path):
    nameless = dataclasses.replace(classifiers.load(checkpoint), classes=None)
    arguments = {"layout": "imagenetc", "out": tmp_path / "eval", "quiet": True}
    with pytest.raises(ValueError, match="does not tell its classes; name them with `classes`"):
        Ensemble(nameless).evaluate(tree, tree, **arguments)
    listed = Ensemble(nameless, classes=str(tree / "classes.txt"))
    result = listed.evaluate(tree, tree, **arguments)
    assert listed.classes == CLASSES == tuple(result.summary["facts"]["classes"])


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
    with pytest.raises(
        ValueError, match="`fitted.weight` must be a number from 0 to 1, not 'half'"
    ):
        Ensemble(checkpoint, rule="gate", fitted={**FITTED["gate"], "weight": "half"})
    with pytest.raises(ValueError, match=r"in \[0,1\], but these are in \[-1,1\]"):
        both(torch.linspace(-1, 1, 3 * 256).reshape(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"threshold": 7}, "`fitted.threshold` must be a number from 0 to 1.01, not 7"),
        ({"temperatures": [0, 1]}, "`fitted.temperatures` must be two numbers above 0"),
        ({"temperatures": [1.0]}, "`fitted.temperatures` must be two numbers above 0"),
        ({"weight": -3}, "`fitted.weight` must be a number from 0 to 1, not -3"),
    ],
)
def test_parameters_out_of_range_are_refused_before_the_first_call(checkpoint, entry, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Ensemble(checkpoint, rule="gate", fitted={**FITTED["gate"], **entry})


@pytest.mark.parametrize("value", [None, 3, b"x.pth", "", torch.nn.Linear(2, 2)])
def test_what_is_no_classifier_is_named_with_its_setting(checkpoint, value):
    with pytest.raises(ValueError, match="`first` must be the path of a checkpoint, timm/<name>"):
        Ensemble(value)


def test_a_missing_file_and_a_folder_are_named_with_their_setting(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`second` .*nowhere.pth does not exist"):
        Ensemble(checkpoint, tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"`first` .* is a folder; give the file"):
        Ensemble(tmp_path)


@pytest.mark.parametrize("adapter", ["prior.pt", Adapter, len])
def test_an_adapter_of_another_kind_is_refused_at_once(checkpoint, adapter):
    with pytest.raises(ValueError, match="`adapter` must be an Adapter, not"):
        Ensemble(checkpoint, adapter=adapter)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_an_ensemble_computes_in_the_precision_of_its_weights(checkpoint, pixels, dtype):
    both = Ensemble(checkpoint)
    full = both.scores(pixels, adapted=pixels)
    scores = both.to(dtype).scores(pixels, adapted=pixels)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, full, atol=0.1)


def test_classes_may_be_a_list_of_as_many_names_as_there_are_logits(checkpoint):
    nameless = dataclasses.replace(classifiers.load(checkpoint), classes=None)
    assert Ensemble(nameless, classes=["cat", "dog"]).classes == CLASSES
    assert Ensemble(nameless).scores([]).shape == (0, 2)
    with pytest.raises(ValueError, match="scores of 2 classes, but the images have 10"):
        Ensemble(nameless, classes="cifar10")
    with pytest.raises(ValueError, match="`classes`"):
        Ensemble(nameless, classes=3)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"metrics": "acc"}, "`metrics`: 'acc' is unknown"),
        ({"beside": "mean"}, "`rules`: 'mean' is unknown"),
        ({"scores": "odds"}, "`scores`: 'odds' is unknown"),
        ({"num_samples": "5"}, "`num_samples` must be a number, not '5'"),
        ({"source": "nowhere.pth"}, "`source` nowhere.pth does not exist"),
        ({"out": ""}, "`out` must be a path, not ''"),
    ],
)
def test_a_wrong_setting_is_refused_before_a_copy_is_made(checkpoint, tree, tmp_path, wrong, words):
    both = Ensemble(checkpoint, adapter=Untouchable())
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)):
        both.evaluate(tree, **{"layout": "imagenetc", "out": tmp_path / "eval", **wrong})


class Untouchable:
    """An adapter that must not be asked for anything."""

    def pixels(self, pixels, keys):
        raise AssertionError("the adapter was asked")

    folder = pixels


def test_the_scores_are_not_written_among_the_images(checkpoint, tree):
    with pytest.raises(ValueError, match="`out` .* is the `degraded` tree"):
        Ensemble(checkpoint, adapter=Untouchable()).evaluate(tree, out=tree)
    with pytest.raises(FileNotFoundError, match="`degraded` nowhere does not exist"):
        Ensemble(checkpoint, adapter=Untouchable()).evaluate("nowhere")
    with pytest.raises(ValueError, match="`degraded` must be a path, not None"):
        Ensemble(checkpoint, adapter=Untouchable()).evaluate(None)


def test_a_notebook_shows_the_table_and_a_short_name(checkpoint, tree, tmp_path):
    result = Ensemble(checkpoint).evaluate(
        tree, tree, layout="imagenetc", out=tmp_path / "eval", quiet=True
    )
    assert result._repr_markdown_() == result.markdown
    assert repr(result).startswith(f"<Result {tmp_path / 'eval'}: top-1 % first (degraded) ")
    name = "<Classifier mine: torchvision, 2 classes, on cpu>"
    assert repr(classifiers.load(checkpoint)) == name


def test_the_parameters_are_fitted_from_python_too(checkpoint, tree, tmp_path):
    known = tmp_path / "known"
    shutil.copytree(tree / "fog", known / "jpeg")
    shutil.copy(tree / "classes.txt", known / "classes.txt")
    cells = {"layout": "imagenetc", "out": tmp_path / "fit", "quiet": True}
    both = Ensemble(checkpoint)
    params = both.fit(known, known, corruption="jpeg", **cells)
    assert params["gate"].keys() == {"weight", "temperatures", "threshold"}
    assert Ensemble(checkpoint, rule="gate")._params == params["gate"]
    checkpoint.with_suffix(".fitted.json").unlink()
    with pytest.raises(ValueError, match="`fit` learns from known degradations only"):
        both.fit(tree, tree, corruption="fog", **cells)


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
