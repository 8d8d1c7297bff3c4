"""The records in a folder of made images: settings and manifests."""

import pytest

from DDA import ledger


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
    assert path.name == "made.fog.5.json"
    assert ledger.manifest_path(tmp_path, "manifest", ".").name == "manifest.json"
    assert ledger.read_manifest(path) == {}
    for failures, running, state in (
        ({}, True, "running"),
        ({"a": "why"}, False, "failures"),
        ({}, False, "complete"),
    ):
        ledger.write_manifest(path, {"note": 1, "state": "old"}, failures, running=running)
        expected = {"note": 1, "state": state, "failures": failures}
        assert ledger.read_manifest(path) == expected


def test_cells_whose_names_have_dots_have_manifests_of_their_own(tmp_path):
    cells = ["x.1/5", "x/1.5", "x/1/5", "x.1.5", "x./1", "x/a.", "x.a", "a..b", "a./b"]
    paths = [ledger.manifest_path(tmp_path, "made", cell) for cell in cells]
    assert len(set(paths)) == len(cells)


@pytest.mark.parametrize("entry", ["cell", "folder"])
def test_a_manifest_of_an_earlier_version_is_read_for_its_own_cell_alone(tmp_path, entry):
    earlier = tmp_path / "made.x.1.5.json"
    ledger.write_manifest(earlier, {entry: "x/1.5"}, {})
    assert ledger.manifest_path(tmp_path, "made", "x/1.5") == earlier
    other = ledger.manifest_path(tmp_path, "made", "x.1/5")
    assert other.name == "made.x..1.5.json" and ledger.read_manifest(other) == {}


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 1000])
def test_some_source_images_are_remembered_the_first_and_the_last_among_them(count):
    names = [f"{i:04}" for i in range(count)]
    remembered = ledger.sources(str.upper, {}, names)
    assert len(remembered) == min(count, ledger.SAMPLES)
    assert set(names[:1] + names[-1:]) <= remembered.keys()
    earlier = {"source_sha256": {"0000": "old", "x": "X"}}
    first = "0000" if count else "old"
    assert ledger.sources(str.upper, earlier, names) == {**remembered, "x": "X", "0000": first}


def test_a_changed_source_is_named_and_an_unreadable_one_is_no_change():
    def digest(name):
        if name == "gone":
            raise FileNotFoundError(name)
        return name.upper()

    assert ledger.changed(digest, {"a": "A", "gone": "GONE"}) is None
    assert ledger.changed(digest, {"a": "A", "b": "C"}) == "b"
    assert ledger.sources(digest, {}, ["a", "gone"]) == {"a": "A"}
