"""The product's functions stay short; tests/measure.py says which are the longest, and counts "
"the code."""

from helpers import ROOT
from measure import measure


def test_functions_are_short():
    found = measure(ROOT)
    assert found["median"] <= 8 and found["p90"] <= 28, found
    assert int(found["longest"][0].split()[0]) <= 60, found["longest"]
