"""The one scorer: images are read once, and scores depend on classifier and image alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from DDA import ahead, files, sources, tree
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Preprocess

NAMES = [f"{label}_{i:05}.png" for i, label in enumerate(("cat", "dog", "cat", "dog", "dog"))]


class Watched(sources.Folder):
    """A folder that remembers what was read of it."""

    def __init__(self, path):
        super().__init__(path)
        self.reads = []

    def pixels(self, name):
        self.reads.append(name)
        return super().pixels(name)


@pytest.fixture
def views(tmp_path):
    for view in range(2):
        (tmp_path / str(view)).mkdir()
        rng = np.random.default_rng(view)
        for name in NAMES:
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
                tmp_path / str(view) / name
            )
    return [Watched(tmp_path / str(view)) for view in range(2)]


def classifier(seed, classes=2, mean=0.4):
    torch.manual_seed(seed)
    network = classifiers.build({"type": "CifarResNet", "depth": 8, "num_classes": classes})
    network.train()(torch.randn(64, 3, 16, 16))
    return classifiers.Classifier(classifiers.still(network), Preprocess(16, mean=[mean] * 3))


def scored(columns, views, groups, batch_size=2, **more):
    counts = []
    more = {"classes": ("cat", "dog"), **more}
    found = list(
        classifiers.score_views(
            columns, views, groups, batch_size=batch_size, report=counts.append, **more
        )
    )
    return found, counts


def test_each_image_is_read_once_for_each_view_and_seen_with_each_classifiers_preprocessing(views):
    one, two = classifier(0), classifier(1, mean=0.6)
    columns = {"a": (one, 0), "b": (two, 1), "c": (two, 0), "d": (one, 1)}
    (found,), counts = scored(columns, views, [[(name, name) for name in NAMES]])
    assert counts == [2, 2, 1] and all(view.reads == NAMES for view in views)
    for name, (model, view) in columns.items():
        pixels = [views[view].pixels(image) for image in NAMES]
        np.testing.assert_allclose(found[name], model.scores(pixels).numpy(), atol=1e-5)
        np.testing.assert_allclose(
            found[name], classifiers.score(model, views[view], NAMES), atol=1e-5
        )


def test_batches_and_groups_change_no_score(views):
    columns = {"a": (classifier(0), 0)}
    rows = [(name, name) for name in NAMES]
    (whole,), _ = scored(columns, views, [rows], batch_size=64)
    for groups, size in (([rows], 1), ([rows[:2], rows[2:]], 2), ([rows[:1], [], rows[1:]], 3)):
        parts, _ = scored(columns, views, groups, batch_size=size)
        assert len(parts) == len(groups) and all(
            bool(part) == bool(group) for part, group in zip(parts, groups, strict=True)
        )
        np.testing.assert_allclose(
            np.concatenate([part["a"] for part in parts if part]), whole["a"], atol=1e-5
        )


def test_reading_ahead_changes_no_score(views, monkeypatch):
    columns = {"a": (classifier(0), 0), "b": (classifier(1), 1)}
    groups = [[(name, name) for name in NAMES[:3]], [(name, None) for name in NAMES[3:]]]
    at_once, _ = scored(columns, views, groups)
    prepared = ahead.prepared
    monkeypatch.setattr(
        ahead,
        "prepared",
        lambda function, items, **more: prepared(function, items, **{**more, "threads": 1}),
    )
    ahead_of_time, _ = scored(columns, views, groups)
    for one, two in zip(at_once, ahead_of_time, strict=True):
        for name in columns:
            np.testing.assert_array_equal(one[name], two[name])


def test_an_image_without_a_copy_has_no_score_there_and_is_not_read(views):
    columns = {"a": (classifier(0), 0), "b": (classifier(1), 1)}
    kept = {NAMES[1], NAMES[4]}
    (found,), _ = scored(
        columns, views, [[(name, name if name in kept else None) for name in NAMES]]
    )
    assert views[1].reads == sorted(kept) and np.isfinite(found["a"]).all()
    assert np.isfinite(found["b"]).all(1).tolist() == [name in kept for name in NAMES]


def test_a_judge_may_say_something_else_of_the_same_batches(views):
    columns = {"a": (classifier(0), 0), "b": (classifier(1), 1)}

    def judge(inputs):
        return {name: columns[name][0].logits(inputs["a"]) for name in inputs}

    (found,), _ = scored(columns, views, [[(name, name) for name in NAMES]], judge=judge)
    np.testing.assert_allclose(
        found["b"], classifiers.score(columns["b"][0], views[0], NAMES), atol=1e-5
    )


def test_scores_that_are_none_are_refused(views):
    seven = classifier(0, classes=7)
    with pytest.raises(ValueError, match="gives scores of 7 classes, but the images have 2"):
        classifiers.score(seven, views[0], NAMES, classes=("cat", "dog"))
    assert classifiers.score(seven, views[0], NAMES).shape == (
        5,
        7,
    )  # nobody says how many there are
    damaged = classifier(0)
    damaged.network.model.linear.bias[1] = np.nan
    with pytest.raises(ValueError, match="are not finite numbers, first those of cat_00000.png"):
        classifiers.score(damaged, views[0], NAMES)
    (views[0].path / NAMES[3]).write_bytes(b"x")
    with pytest.raises(files.BadFile, match="dog_00003.png cannot be read"):
        classifiers.score(seven, views[0], NAMES)


def test_labels_are_those_of_the_names_in_the_order_of_the_class_list(views):
    labels = tree.labels_of(NAMES, ("dog", "cat"), views[0].where)
    assert labels.tolist() == [1, 0, 1, 0, 0] and labels.dtype == np.int64
    assert tree.labels_of([], ("dog",), views[0].where).shape == (0,)
    with pytest.raises(ValueError, match=r"0/dog_00001.png has none of the 1 classes in its name"):
        tree.labels_of(NAMES, ("cat",), views[0].where)
