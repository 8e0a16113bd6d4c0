"""One of several jobs that do the work of a stage together, perhaps on several machines.

In: `2/8` on a command line. Out: a `JobPart`, which picks every eighth piece of the work, beginning with the second.
How the work is cut into pieces does not depend on the number of jobs, so the bytes do not depend on it either.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class JobPart(NamedTuple):
    """The ``number``-th (from 1) of ``total`` jobs."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> JobPart:
        """The part that a command-line argument names.

        Example:
            >>> JobPart.parse("2/3").of(["a", "b", "c", "d", "e"])
            ['b', 'e']

        Raises:
            ValueError: for anything but two numbers of which the first is not larger, such as 2/8.
        """
        match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
        if match is None or int(match[1]) > int(match[2]):
            raise ValueError(f"expected one of several parts such as 2/8, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def of(self, pieces: list[T]) -> list[T]:
        """Every ``total``-th of ``pieces``. All jobs together do all pieces, each once."""
        return pieces[self.number - 1 :: self.total]


WHOLE = JobPart(1, 1)
