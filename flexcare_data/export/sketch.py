"""A summary of a set of samples, by which two sets can be compared without listing either.

In: two 64-bit numbers per sample: its `place`, made of its id, and its `mark`, made of all its ids and some content.
Out: a `Sketch` of a few hundred to a few thousand numbers. The difference of two sketches says in how many samples the
content differs: exactly for a few, estimated for many. Order does not matter; sketches of equal sets are equal.

Exactly: ``moments`` are the sums of the powers 0, 1, 2, ... of all marks modulo a prime. Marks that both sets have
cancel in the difference; what remains is a linear recurrence whose order is the number of the other marks (Prony's
method). The order is found by the algorithm of Berlekamp and Massey.

Estimated: ``buckets`` are the sums of the marks by place. If b of m buckets differ, about -m ln(1 - b/m) samples do.

Privacy. A list of one digest per sample would give identifiers away: they are integers of eight digits, so all of
them can be tried. A sketch has no number that belongs to one sample. Each bucket is a sum over
`SAMPLES_PER_BUCKET` samples or more on average, and each moment over all samples, of which there are at least
`SAMPLES_PER_MOMENT` times as many as moments. Marks are made of two to four identifiers together, so there are at
least 10^14 possible marks; very many sets of that many samples have the same sum in a bucket, and no method is known
that solves the moments for that many unknowns. This is no proof: who already has all samples but one can find that
one. Such a person has the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PRIME = (1 << 31) - 1
MOST_MOMENTS = 128
SAMPLES_PER_MOMENT = 4
SAMPLES_PER_BUCKET = 20
MOST_BUCKETS = 1 << 14

_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_DIGITS = str.maketrans("abcdefghijklmnop", "0123456789abcdef")


@dataclass(frozen=True, eq=False)
class Sketch:
    """Sums over a set of samples.

    Attributes:
        moments: int64; sums of the powers 0, 1, 2, ... of the marks, modulo `PRIME`; the first counts the samples.
        buckets: uint32; sums of the marks by place; their number is a power of two.
    """

    moments: np.ndarray
    buckets: np.ndarray

    @classmethod
    def of(cls, place: np.ndarray, mark: np.ndarray) -> Sketch:
        """The sketch of samples with ``place`` and ``mark``, uint64 (n,) each."""
        n = len(mark)
        number = mark % np.uint64(PRIME - 1) + np.uint64(1)  # never 0, whose powers would not count
        power, moments = np.ones(n, np.uint64), []
        for _ in range(min(MOST_MOMENTS, n // SAMPLES_PER_MOMENT)):
            moments.append(int(power.sum()) % PRIME)
            power = power * number % np.uint64(PRIME)
        n_buckets = 1 << max(0, (min(MOST_BUCKETS, n // SAMPLES_PER_BUCKET)).bit_length() - 1)
        buckets = np.zeros(n_buckets, np.uint32)
        np.add.at(buckets, (place % np.uint64(n_buckets)).astype(np.int64), mark.astype(np.uint32))
        return cls(np.array(moments, np.int64), buckets)

    def as_text(self) -> dict[str, str]:
        """The numbers as letters from a to p: no run of digits in them can be taken for an identifier."""
        hexadecimal = "".join(f"{number:08x}" for number in self.moments), "".join(f"{n:08x}" for n in self.buckets)
        moments, buckets = (text.translate(_LETTERS) for text in hexadecimal)
        return {"moments": moments, "buckets": buckets}

    @classmethod
    def from_text(cls, text: dict[str, str]) -> Sketch:
        """The inverse of `as_text`.

        Raises:
            ValueError: for other letters or a number of letters that is not whole.
        """
        numbers = []
        for name in ("moments", "buckets"):
            data = bytes.fromhex(text[name].translate(_DIGITS))
            numbers.append(np.frombuffer(data, ">u4"))
        n_buckets = len(numbers[1])
        if n_buckets < 1 or n_buckets & (n_buckets - 1):
            raise ValueError(f"expected a power of two of buckets, got {n_buckets}")
        return cls(numbers[0].astype(np.int64), numbers[1].astype(np.uint32))


def marks_that_differ(one: Sketch, other: Sketch) -> int | None:
    """Number of marks that only one of two sets has, exactly; None where there are too many to count."""
    n = min(len(one.moments), len(other.moments))
    sums = [int(number) % PRIME for number in one.moments[:n] - other.moments[:n]]
    order = _order(sums)
    # The first half decides the order, the second one confirms it.
    return order if 2 * order <= n - 2 else None


def places_that_differ(one: Sketch, other: Sketch) -> tuple[int, int | None]:
    """At least how many samples differ, and about how many; None where nearly all buckets differ."""
    n = min(len(one.buckets), len(other.buckets))
    folded = [sketch.buckets.reshape(-1, n).sum(axis=0, dtype=np.uint32) for sketch in (one, other)]
    differing = int((folded[0] != folded[1]).sum())
    if differing == n:
        return differing, None
    return differing, round(-n * math.log1p(-differing / n))


def _order(sums: list[int]) -> int:
    """Order of the shortest linear recurrence of ``sums`` modulo `PRIME` (Berlekamp 1968, Massey 1969)."""
    current, previous = [1], [1]
    order, shift, last = 0, 1, 1
    for i, value in enumerate(sums):
        known = zip(current[1 : order + 1], reversed(sums[i - order : i]), strict=False)
        error = (value + sum(a * b for a, b in known)) % PRIME
        if error == 0:
            shift += 1
            continue
        factor = error * pow(last, -1, PRIME) % PRIME
        corrected = current + [0] * max(0, len(previous) + shift - len(current))
        for j, coefficient in enumerate(previous):
            corrected[j + shift] = (corrected[j + shift] - factor * coefficient) % PRIME
        if 2 * order <= i:
            order, previous, last, shift = i + 1 - order, current, error, 1
        else:
            shift += 1
        current = corrected
    return order
