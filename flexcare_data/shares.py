"""Shares of a stage's work, so that several jobs, on several machines, can do it at once.

In: `2/8` on a command line. Out: a `Share`, which picks every eighth of the stage's parts, beginning with the second.
What the parts are does not depend on the shares, so that neither do the bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Share(NamedTuple):
    """The ``number``-th (from 1) of ``total`` shares."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that an argument says.

        Example:
            >>> Share.parse("2/3").of(["a", "b", "c", "d", "e"])
            ['b', 'e']

        Raises:
            ValueError: for anything else than a number of at least that many, such as 9/8.
        """
        match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
        if match is None or int(match[1]) > int(match[2]):
            raise ValueError(f"expected one of several shares such as 2/8, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def of(self, parts: list[T]) -> list[T]:
        """Every ``total``-th of ``parts``. All shares together are all parts, each once."""
        return parts[self.number - 1 :: self.total]


ALL = Share(1, 1)
