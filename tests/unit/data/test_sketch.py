"""Sketches of sets: equal for equal sets, exact for few differences, estimated for many."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flexcare_data.export.sketch import (
    MOST_MOMENTS,
    MOST_SUMS,
    PRIME,
    SAMPLES_PER_NUMBER,
    Sketch,
    about_marks_that_differ,
    marks_that_differ,
)

N = 6000


def numbers(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 64, n, dtype=np.uint64)


MARK = numbers(N, 2)
WHOLE = Sketch.of(MARK)


def changed(n: int) -> Sketch:
    """The sketch of the same samples in another order, ``n`` of them with another content."""
    mark = MARK.copy()
    mark[:n] = numbers(n, 3)
    return Sketch.of(np.random.default_rng(4).permutation(mark))


@pytest.mark.parametrize("n", [0, 1, 2, 7, 31])
def test_few_differences_are_counted(n):
    """Each changed sample is a mark that only one set has, and one that only the other has."""
    assert marks_that_differ(WHOLE, changed(n)) == 2 * n


@pytest.mark.parametrize("n", [32, 100, 800, 3000, N])
def test_many_differences_are_estimated(n):
    """Also where all samples differ."""
    assert marks_that_differ(WHOLE, changed(n)) is None
    about, error = about_marks_that_differ(WHOLE, changed(n))
    assert error == pytest.approx(about * math.sqrt(2 / MOST_SUMS))
    assert abs(about - 2 * n) < 3 * 2 * n * math.sqrt(2 / MOST_SUMS)


@pytest.mark.parametrize(
    ("n", "only_one", "only_other"),
    [(60, 30, 30), (400, 40, 40), (400, 400, 400), (26_000, 32, 32), (26_000, 10_000, 10_000), (26_000, 0, 5_000),
     (26_000, 9_000, 300), (200, 100, 0)],
)  # fmt: skip
def test_estimates_of_sets_of_any_size_are_within_three_standard_errors(n, only_one, only_other):
    both = numbers(n - only_one, 5)
    one = Sketch.of(np.concatenate([both, numbers(only_one, 6)]))
    other = Sketch.of(np.concatenate([numbers(only_other, 7), both]))
    about, _ = about_marks_that_differ(one, other)
    r = min(len(one.sums), len(other.sums))
    assert abs(about - only_one - only_other) < 3 * (only_one + only_other) * math.sqrt(2 / r)


def test_the_estimate_has_no_bias_and_the_error_that_is_claimed():
    """100 pairs of sets: the mean is nearer to the truth, and the spread is as wide as it should be."""
    n, r = 256, 256 // SAMPLES_PER_NUMBER
    found = [about_marks_that_differ(Sketch.of(numbers(n, i)), Sketch.of(numbers(n, 1000 + i)))[0] for i in range(100)]
    error = 2 * n * math.sqrt(2 / r)
    assert abs(np.mean(found) - 2 * n) < 3 * error / math.sqrt(100)
    assert 0.75 * error < np.std(found) < 1.25 * error


def test_equal_sets_have_no_difference():
    assert about_marks_that_differ(WHOLE, changed(0)) == (0, 0)
    assert np.array_equal(WHOLE.sums, changed(0).sums) and np.array_equal(WHOLE.moments, changed(0).moments)


def test_sets_of_different_sizes():
    """The smaller one has fewer sums; the first ones of both are the same signs."""
    assert marks_that_differ(WHOLE, Sketch.of(MARK[5:])) == 5
    third = Sketch.of(MARK[: N // 3])
    assert len(third.sums) < len(WHOLE.sums)
    assert marks_that_differ(WHOLE, third) is None
    assert about_marks_that_differ(WHOLE, third)[0] == pytest.approx(N - N // 3, rel=3 * math.sqrt(2 / len(third.sums)))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_under_four_samples_there_is_no_estimate(n):
    assert about_marks_that_differ(Sketch.of(MARK[:n]), WHOLE) is None


@pytest.mark.parametrize("n", [0, 1, 19, 20, 41, 400, 5_000, 60_000])
def test_a_sketch_has_far_fewer_numbers_than_samples(n):
    sketch = Sketch.of(numbers(n, 5))
    assert len(sketch.moments) == min(MOST_MOMENTS, n // SAMPLES_PER_NUMBER)
    assert len(sketch.sums) == min(MOST_SUMS, n // SAMPLES_PER_NUMBER)


def test_a_sketch_knows_31_bits_of_a_mark():
    """So the difference of two sketches, of which one has a sample more, tells no more of that sample."""
    small = MARK % np.uint64(PRIME - 1)
    assert (small != MARK).any()
    again = Sketch.of(small)
    assert np.array_equal(again.moments, WHOLE.moments) and np.array_equal(again.sums, WHOLE.sums)


def test_as_text_and_back():
    text = WHOLE.as_text()
    assert set("".join(text.values())) <= set("abcdefghijklmnop")
    assert (WHOLE.sums < 0).any()
    back = Sketch.from_text(text)
    assert np.array_equal(back.moments, WHOLE.moments) and np.array_equal(back.sums, WHOLE.sums)


@pytest.mark.parametrize("sums", ["abc", "aaaaaa", "xyz12345"])
def test_other_text_is_refused(sums):
    with pytest.raises(ValueError):
        Sketch.from_text({"moments": "", "sums": sums})
