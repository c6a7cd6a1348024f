"""What the benches compute from what they have measured."""

from __future__ import annotations

import pytest

from bench.figures import Budget, median, quantile, rate, ratio


def test_a_quantile_is_one_of_the_values_and_no_smaller_than_its_share_of_them():
    values = [float(value) for value in range(100, 0, -1)]

    assert [quantile(values, q) for q in (0, 0.01, 0.5, 0.99, 0.991, 1)] == [1, 1, 50, 99, 100, 100]
    assert quantile([7.0], 0.99) == 7


def test_of_forty_values_the_99th_percentile_is_the_largest():
    assert quantile([float(value) for value in range(40)], 0.99) == 39


@pytest.mark.parametrize(("values", "middle"), [([3.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 2.0, 3.0], 2.0), ([5.0], 5.0)])
def test_the_median_is_the_middle_value_the_lower_one_of_two(values, middle):
    assert median(values) == middle


def test_a_ratio_compares_each_round_with_its_own_neighbour():
    """A round in which the machine was busy for both does not shift it, as it would shift the ratio of two medians."""
    assert ratio([400.0, 40.0, 500.0], [100.0, 10.0, 100.0]) == 4.0


def test_rounds_without_a_neighbour_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_a_rate_counts_from_the_first_start_to_the_last_end_in_whatever_order_they_come():
    assert rate([12.0, 10.0, 11.0], [13.0, 12.5, 12.0]) == 1.0


def test_a_budget_is_kept_up_to_its_limit_and_from_it_on():
    assert [Budget("p50", found, 4, "ms").kept for found in (3.9, 4, 4.1)] == [True, True, False]
    assert [Budget("runs", found, 400, "a second", least=True).kept for found in (399, 400, 401)] == [False, True, True]


def test_a_budget_says_in_words_what_is_wanted():
    assert Budget("p50", 1, 4, "ms").wanted == "<= 4 ms"
    assert Budget("times RQ", 1, 4, "", least=True).wanted == ">= 4"
