"""The product's functions stay short. tests/measure.py lists the longest and counts the code."""

from helpers import ROOT
from measure import measure


def test_functions_are_short():
    sizes = measure(ROOT)
    assert sizes["median"] <= 8 and sizes["p90"] <= 28, sizes
    assert int(sizes["longest"][0].split()[0]) <= 60, sizes["longest"]
