import math

import pytest

from reports.statistics import Summary, summarise


def test_mean_and_sample_spread() -> None:
    # Deviations -2, 0, 2: squares sum to 8; 8 / (3 - 1) = 4; root 2. With ddof=0 it would be 1.63.
    assert summarise([2.0, 4.0, 6.0]) == Summary(mean=4.0, spread=2.0, n=3)


def test_two_values() -> None:
    found = summarise(iter([0.40, 0.50]))
    assert found.mean == pytest.approx(0.45)
    assert found.spread == pytest.approx(0.1 / math.sqrt(2))


def test_one_value_has_no_spread() -> None:
    assert summarise([0.3]) == Summary(mean=0.3, spread=None, n=1)


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarise([])
