"""The digits that the quickstart needs."""

import numpy as np
import pytest

from DDA import sources, tree
from DDA.sources.cells import cells_of
from DistilledClassifier import make_data

sklearn = pytest.importorskip("sklearn.datasets")


def test_the_digits_are_those_of_scikit_learn_in_a_fixed_split():
    source, digits = sources.open_source("digits"), sklearn.load_digits()
    assert source.classes == (
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
    )
    for split, rows in (("train", range(1437)), ("test", range(1437, 1797))):
        names = source.list(f"clean/{split}")[0]
        assert len(names) == len(rows)
        by_row = {int(tree.key_of(name)[-5:]): name for name in names}
        for i, row in list(enumerate(rows))[::97]:
            assert tree.parse(by_row[i], source.classes)[2] == source.classes[digits.target[row]]
            shown = np.asarray(source.read(by_row[i]))
            assert shown.shape == (16, 16, 3) and (shown == shown[..., :1]).all()
            ink = shown[..., 0].reshape(8, 2, 8, 2).mean((1, 3)) * 16 / 255
            assert np.corrcoef(ink.ravel(), digits.images[row].ravel())[0, 1] > 0.98


def test_prepare_writes_the_digits_and_the_adaptation_job_knows_their_splits(tmp_path):
    assert (
        make_data.main(
            [
                "prepare",
                "--base_samples",
                "digits",
                "--save_dir",
                str(tmp_path / "digits"),
                "--num_samples",
                "30",
                "--workers",
                "1",
            ]
        )
        == 0
    )
    assert tree.read_classes(tmp_path / "digits")[3] == "three"
    assert cells_of(sources.Folder(tmp_path / "digits"), "digits", ["clean"], [], train=False) == [
        "clean/test"
    ]
    assert make_data.main(["verify", "--save_dir", str(tmp_path / "digits")]) == 0


def test_classes_that_look_like_severities_are_refused_where_they_mislead():
    assert tree.parse("jpeg/1/cat_3.png", ("cat", "dog"))[2] == "cat"
    assert tree.parse("jpeg/1/7_3.png", ("7", "8"))[2] == "7"
    assert tree.parse("clean/train/7/3.png", ("7", "8"))[2] == "7"
    with pytest.raises(ValueError, match="may be of the class 1 or 7"):
        tree.parse("jpeg/1/7_3.png", ("1", "7"))
