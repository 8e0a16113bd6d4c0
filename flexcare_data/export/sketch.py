"""A summary of a set of samples, by which two sets can be compared without listing either.

In: one 64-bit number per sample, its `mark`, made of its ids and some content; 31 bits of it are used.
Out: a `Sketch` of up to 1,152 numbers. The difference of two sketches says how many marks only one of the sets has:
exactly for a few, estimated for many. Order does not matter; sketches of equal sets are equal.

Exactly: ``moments`` are the sums of the powers 0, 1, 2, ... of all marks modulo a prime. Marks that both sets have
cancel in the difference; what remains is a linear recurrence whose order is the number of the other marks (Prony's
method). The order is found by the algorithm of Berlekamp and Massey.

Estimated: each of ``sums`` adds +1 or -1 for each sample, a sign that is made of its mark (Alon, Matias and Szegedy
1996). Marks that both sets have cancel here too. The square of what remains is on average the number of the other
marks. The mean over r sums has a relative standard error of at most sqrt(2 / r), which is 4.4 % for 1,024 sums. It is
the same for few and for many differences.

Privacy. A list of one digest per sample would give identifiers away: they are integers of eight digits, so all of
them can be tried. No number of a sketch belongs to one sample: each is a sum over all samples, and there are at
least `SAMPLES_PER_NUMBER` times as many samples as moments, and as sums. Marks are made of two to four identifiers
together, so there are at least 10^14 possible samples. No method is known that solves the moments for so many unknowns.
This is no proof. Three cases are known in which a sketch says something about a single sample:

- Who has all samples but one can find that one. Such a person has the data.
- Who guesses one whole sample can see how well its signs agree with r sums over n samples. For a sample of the set
  the agreement is about sqrt(r / n) standard deviations higher than for another one: 1/2 at most, 0.13 for 60,000
  samples. For six independent parts of a sample together it is at most 1.2. So a single guess becomes somewhat more
  or less likely; it is not confirmed, and no sample is found among 10^14.
- Two sketches of sets that differ in a few samples give the marks of these samples; this is how they are counted. It
  needs both files of one lab, from before and after a small change. A mark has only 31 bits, in the moments and in
  the sums: of 10^14 possible samples about 46,000 fit. More marks that depend on the same ids leave fewer, so the
  caller has to see to it that all marks of a sample know its ids by the same 31 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PRIME = (1 << 31) - 1
MOST_MOMENTS = 128
MOST_SUMS = 1024
SAMPLES_PER_NUMBER = 4

_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_DIGITS = str.maketrans("abcdefghijklmnop", "0123456789abcdef")
_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_BITS = 64


@dataclass(frozen=True, eq=False)
class Sketch:
    """Sums over a set of samples.

    Attributes:
        moments: int64; sums of the powers 0, 1, 2, ... of the marks, modulo `PRIME`; the first counts the samples.
        sums: int64; sums of signs that are made of the marks, another sign in each sum.
    """

    moments: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, mark: np.ndarray) -> Sketch:
        """The sketch of samples with ``mark``, uint64 (n,)."""
        n = len(mark)
        number = mark % np.uint64(PRIME - 1) + np.uint64(1)  # never 0, whose powers would not count
        power, moments = np.ones(n, np.uint64), []
        for _ in range(min(MOST_MOMENTS, n // SAMPLES_PER_NUMBER)):
            moments.append(int(power.sum()) % PRIME)
            power = power * number % np.uint64(PRIME)
        # Of the number, not of the mark: the signs tell no more bits of a mark than the moments do.
        return cls(np.array(moments, np.int64), _sums_of_signs(number, min(MOST_SUMS, n // SAMPLES_PER_NUMBER)))

    def as_text(self) -> dict[str, str]:
        """The numbers as letters from a to p: no run of digits in them can be taken for an identifier."""
        numbers = {"moments": self.moments, "sums": self.sums}
        return {name: found.astype(">i4").tobytes().hex().translate(_LETTERS) for name, found in numbers.items()}

    @classmethod
    def from_text(cls, text: dict[str, str]) -> Sketch:
        """The inverse of `as_text`.

        Raises:
            ValueError: for other letters or a number of letters that is not whole.
        """
        data = (bytes.fromhex(text[name].translate(_DIGITS)) for name in ("moments", "sums"))
        return cls(*(np.frombuffer(part, ">i4").astype(np.int64) for part in data))


def marks_that_differ(one: Sketch, other: Sketch) -> int | None:
    """Number of marks that only one of two sets has, exactly; None where there are too many to count."""
    n = min(len(one.moments), len(other.moments))
    sums = [int(number) % PRIME for number in one.moments[:n] - other.moments[:n]]
    order = _order(sums)
    # The first half decides the order, the second one confirms it.
    return order if 2 * order <= n - 2 else None


def about_marks_that_differ(one: Sketch, other: Sketch) -> tuple[float, float] | None:
    """About how many marks only one of two sets has, and the standard error; None where a set has under four samples.

    The sets may differ in size. The estimate has no bias.
    """
    r = min(len(one.sums), len(other.sums))
    if r == 0:
        return None
    about = float(np.mean((one.sums[:r] - other.sums[:r]) ** 2))
    return about, about * math.sqrt(2 / r)


def _sums_of_signs(number: np.ndarray, n_sums: int) -> np.ndarray:
    """int64 (n_sums,): sum j adds -1 where bit j of the hash of a ``number``, uint64 (n,), is 1, and +1 where it is 0.

    The first sums do not depend on ``n_sums``.
    """
    ones = np.zeros(-(-n_sums // _BITS) * _BITS, np.int64)
    for first in range(0, len(ones), _BITS):
        word = _mixed(number + np.uint64((first + 1) * _STEP & _MASK))
        bits = np.unpackbits(word.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        ones[first : first + _BITS] = bits.sum(axis=0, dtype=np.uint32)
    return len(number) - 2 * ones[:n_sums]


def _mixed(word: np.ndarray) -> np.ndarray:
    """A hash of each uint64 in which every bit depends on all bits of ``word`` (the last step of SplitMix64)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


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
