"""What a folder of made images says of itself."""

import pytest

from DDA import files, ledger


def test_settings_are_written_by_the_first_and_compared_by_the_others(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert ledger.read_settings(folder) is None
    assert ledger.claim(folder, {"N": 5, "eta": 0.5, "s_y": None}) == []
    assert ledger.claim(folder, {"N": 5, "eta": 0.5, "s_y": None}) == []
    assert ledger.claim(folder, {"N": 6, "eta": 0.5, "k": 1}) == [
        "N 5 there, 6 here",
        "k absent there, 1 here",
    ]
    assert ledger.read_settings(folder) == {"N": 5, "eta": 0.5, "s_y": None}


def test_a_setting_that_only_one_side_has_is_a_difference_unless_it_says_nothing():
    assert ledger.differences({"a": 1}, {}) == ["a 1 there, absent here"]
    assert ledger.differences({}, {"a": 1}) == ["a absent there, 1 here"]
    assert ledger.differences({"a": None}, {}) == []  # a setting that came later and is off


def test_a_manifest_tells_its_state_and_is_named_after_its_cell(tmp_path):
    path = ledger.manifest_path(tmp_path, "made", "fog/5")
    assert (
        path.name == "made.fog.5.json"
        and ledger.manifest_path(tmp_path, "manifest", ".").name == "manifest.json"
    )
    assert ledger.read_manifest(path, ["state"]) == {}
    for failures, running, state in (
        ({}, True, "running"),
        ({"a": "why"}, False, "failures"),
        ({}, False, "complete"),
    ):
        ledger.write_manifest(path, {"note": 1, "state": "old"}, failures, running=running)
        assert ledger.read_manifest(path, ["state"]) == {
            "note": 1,
            "state": state,
            "failures": failures,
        }
    with pytest.raises(files.BadFile, match="is no manifest of this program"):
        ledger.read_manifest(path, ["source_sha256"])


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 1000])
def test_some_source_images_are_remembered_the_first_and_the_last_among_them(count):
    names = [f"{i:04}" for i in range(count)]
    remembered = ledger.sources(str.upper, {}, names)
    assert (
        len(remembered) == min(count, ledger.SAMPLES)
        and set(names[:1] + names[-1:]) <= remembered.keys()
    )
    earlier = {"source_sha256": {"0000": "old", "x": "X"}}
    assert ledger.sources(str.upper, earlier, names) == {
        **remembered,
        "x": "X",
        "0000": "0000" if count else "old",
    }


def test_a_source_that_changed_is_named_and_one_that_cannot_be_read_is_no_change():
    def digest(name):
        if name == "gone":
            raise FileNotFoundError(name)
        return name.upper()

    assert ledger.changed(digest, {"a": "A", "gone": "GONE"}) is None
    assert ledger.changed(digest, {"a": "A", "b": "C"}) == "b"
    assert ledger.sources(digest, {}, ["a", "gone"]) == {"a": "A"}
