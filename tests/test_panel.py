"""Teachers that answer row by row: the images they see, and what must agree."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from DDA import tree
from DDA.sources import open_source
from DDA.training.loop import Recipe
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier, Preprocess
from DistilledClassifier.data.batches import Batch, Steps
from DistilledClassifier.data.views import Examples, View
from DistilledClassifier.experiments.config import Augment
from DistilledClassifier.tasks.panel import Panel, check_teachers, needs_of

PREPROCESS = Preprocess(8, mean=(0.3, 0.3, 0.3), std=(0.2, 0.2, 0.2))
FEATURES = frozenset({"features", "logits"})


def teacher(seed, depth=8, classes=3, size=8):
    torch.manual_seed(seed)
    network = classifiers.build({"type": "CifarResNet", "depth": depth, "num_classes": classes})
    return Classifier(classifiers.still(network), Preprocess(size), tuple("abcdefgh"[:classes]))


def batch(rows=6, groups=3):
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)
    )
    return Batch(pixels, torch.zeros(rows, dtype=torch.long), groups, 255 - pixels)


def alone(one, pixels):
    return one.network(one.preprocess.normalise(pixels))


def test_in_groups_each_teacher_answers_for_its_own():
    teachers, seen = tuple(map(teacher, range(3))), batch()
    answer = Panel(teachers, FEATURES)(seen)
    for i, one in enumerate(teachers):
        part = slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(answer["features"][part], alone(one, seen.pixels[part]).features)
    assert answer["logits"].shape == (6, 3) and answer.keys() == FEATURES


def test_averaged_all_answer_for_all():
    teachers, seen = tuple(map(teacher, range(3))), batch()
    answer = Panel(teachers, FEATURES, how="averaged")(seen)
    expected = torch.stack([alone(one, seen.pixels).logits for one in teachers]).mean(0)
    torch.testing.assert_close(answer["logits"], expected)


def test_teachers_of_clean_images_see_the_twins():
    (one,), seen = (teacher(0),), batch(groups=1)
    answer = Panel((one,), FEATURES, sees="clean")(seen)
    torch.testing.assert_close(answer["features"], alone(one, seen.clean).features)


def test_a_teacher_of_another_size_sees_the_images_scaled():
    one, seen = teacher(0, size=16), batch(groups=1)
    larger = seen.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    answer = Panel((one,), FEATURES)(seen)["features"]
    assert torch.nn.functional.cosine_similarity(answer, alone(one, larger).features).min() > 0.9


def test_a_copy_of_a_task_shares_its_teachers():
    panel = Panel((teacher(0),), FEATURES)
    assert copy.deepcopy({"panel": panel})["panel"] is panel


@pytest.mark.parametrize(
    ("loss", "other", "words"),
    [
        (
            "cosine_inheritance_maps",
            teacher(0, size=16),
            r"maps of the shape \(64, 4, 4\), the student of \(64, 2, 2\)",
        ),
        ("cosine_inheritance", teacher(0, classes=4), "has 4 classes, but the data have 3"),
    ],
)
def test_only_what_the_losses_need_must_agree(loss, other, words):
    student = teacher(1).network
    with pytest.raises(ValueError, match=words):
        check_teachers(Panel((other,), needs_of({loss: 1})), student, 8, "abc")
    check_teachers(
        Panel((teacher(0, depth=14, size=16),), needs_of({"cosine_inheritance": 1})),
        student,
        8,
        "abc",
    )
    assert needs_of({"cross_entropy": 1}) == frozenset()


@pytest.fixture
def views(tmp_path):
    """Photographs that are not symmetric, and their negatives as copies that lie on disk."""
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        for folder, image in (("clean", pixels), ("negative", 255 - pixels)):
            (tmp_path / folder / "train").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / "train" / f"{'ab'[i % 2]}_{i:05}.png")
    tree.write_classes(tmp_path, "ab")
    source = open_source(tmp_path)
    clean, negative = (Examples(source, f"{name}/train", "ab") for name in ("clean", "negative"))
    return [View("clean", clean, "train", 0), View("negative", negative, "train", 0, clean=clean)]


def test_twins_have_the_same_flip_and_crop(views):
    steps = Steps(views, Augment(flip=True), PREPROCESS, Recipe(steps=9, batch_size=3), twins=True)
    flipped = 0
    for step in range(4):
        (part,) = steps[step]
        clean, negative = part.pixels.chunk(2)
        twins = part.clean.chunk(2)
        assert torch.equal(twins[0], clean) and torch.equal(twins[1], 255 - negative)
        originals = [views[0].examples.read(views[0].examples.row_of(key)) for key in part.keys[:3]]
        flipped += sum(
            not np.array_equal(a, b.numpy()) for a, b in zip(originals, clean, strict=True)
        )
    assert 0 < flipped < 12
    assert (
        Steps(views, Augment(flip=True), PREPROCESS, Recipe(steps=9, batch_size=3))[0][0].clean
        is None
    )


def test_an_image_without_a_twin_is_named(views):
    with pytest.raises(
        ValueError, match="has no clean image of b_00009, which a teacher is to see"
    ):
        views[0].examples.row_of("b_00009")
