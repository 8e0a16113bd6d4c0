"""Sketches of sets: equal for equal sets, exact for few differences, estimated for many."""

from __future__ import annotations

import numpy as np
import pytest

from flexcare_data.export.sketch import (
    MOST_BUCKETS,
    MOST_MOMENTS,
    SAMPLES_PER_BUCKET,
    SAMPLES_PER_MOMENT,
    Sketch,
    marks_that_differ,
    places_that_differ,
)

N = 6000


def numbers(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 64, n, dtype=np.uint64)


PLACE, MARK = numbers(N, 1), numbers(N, 2)
WHOLE = Sketch.of(PLACE, MARK)


def changed(n: int) -> Sketch:
    """The sketch of the same samples in another order, ``n`` of them with another content."""
    mark = MARK.copy()
    mark[:n] = numbers(n, 3)
    order = np.random.default_rng(4).permutation(N)
    return Sketch.of(PLACE[order], mark[order])


@pytest.mark.parametrize("n", [0, 1, 2, 7, 31])
def test_few_differences_are_counted(n):
    """Each changed sample is a mark that only one set has, and one that only the other has."""
    assert marks_that_differ(WHOLE, changed(n)) == 2 * n


@pytest.mark.parametrize("n", [32, 100, 800])
def test_many_differences_are_estimated(n):
    assert marks_that_differ(WHOLE, changed(n)) is None
    least, about = places_that_differ(WHOLE, changed(n))
    assert least <= n
    assert abs(about - n) < 0.2 * n


def test_where_nearly_all_differ_there_is_only_a_bound():
    least, about = places_that_differ(WHOLE, changed(N))
    assert about is None
    assert least == len(WHOLE.buckets)


def test_removed_samples_are_counted_though_the_other_sketch_is_smaller():
    """5,000 samples have fewer buckets than 6,000 of 8,192; those of the larger sketch are added up."""
    few = slice(5, None)
    assert marks_that_differ(WHOLE, Sketch.of(PLACE[few], MARK[few])) == 5
    half = Sketch.of(PLACE[: N // 3], MARK[: N // 3])
    assert len(half.buckets) < len(WHOLE.buckets)
    assert places_that_differ(half, half) == (0, 0)
    assert marks_that_differ(WHOLE, half) is None
    assert places_that_differ(WHOLE, half)[0] > 0


@pytest.mark.parametrize("n", [0, 1, 19, 20, 41, 400, 5_000, 400_000])
def test_a_sketch_has_far_fewer_numbers_than_samples(n):
    sketch = Sketch.of(numbers(n, 5), numbers(n, 6))
    assert len(sketch.moments) == min(MOST_MOMENTS, n // SAMPLES_PER_MOMENT)
    assert len(sketch.buckets) == 1 or len(sketch.buckets) * SAMPLES_PER_BUCKET <= n
    assert len(sketch.buckets) <= MOST_BUCKETS


def test_as_text_and_back():
    text = WHOLE.as_text()
    assert set("".join(text.values())) <= set("abcdefghijklmnop")
    back = Sketch.from_text(text)
    assert np.array_equal(back.moments, WHOLE.moments) and np.array_equal(back.buckets, WHOLE.buckets)


@pytest.mark.parametrize("buckets", ["", "abc", "aaaaaaaa" * 3, "xyz12345"])
def test_other_text_is_refused(buckets):
    with pytest.raises(ValueError):
        Sketch.from_text({"moments": "", "buckets": buckets})
