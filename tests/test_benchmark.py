"""The benchmarks: their figures as a table and as JSON, and wrong input."""

import json
import sys

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import benchmark as command

from DDA.studies import benchmarks


def test_figures_are_a_table_or_json_and_stdout_has_nothing_else(capsys):
    assert command.main(["plan", "--count", "7500", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["keys"] == 7500 and figures["to do"] == 6750
    assert command.main(["plan", "--count", "7500"]) == 0
    assert capsys.readouterr().out.startswith("| figure | value |\n|---|---|\n| keys | 7,500 |\n")


def test_every_benchmark_can_be_asked_for():
    assert all(callable(getattr(benchmarks, name)) for name in command.NEEDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--classifier", "net.th"], "sweep needs --degraded"),
        (["memory"], "memory needs --model_path"),
        (["plan", "--count", "0"], "--count 0 must be at least 1"),
        (["memory", "--model_path", "nowhere.pt"], "--model_path nowhere.pt does not exist"),
    ],
)
def test_wrong_input_is_named(words, message, capfd):
    assert command.main(words) == 2
    assert message in capfd.readouterr().err


def test_forward_passes_are_timed_only_while_they_are_asked_for():
    from DistilledClassifier.classifiers import Classifier

    own = Classifier.logits
    with pytest.raises(KeyboardInterrupt), benchmarks._timed_passes() as seconds:
        assert Classifier.logits is not own and seconds == []
        raise KeyboardInterrupt
    assert Classifier.logits is own
