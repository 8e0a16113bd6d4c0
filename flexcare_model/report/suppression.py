"""Small cells: counts in [1, below) are not shown, nor what would give them away.

In: counts. Out: texts. A zero is shown, as it says nothing about a person that the definition of the cell does not.
"""

from __future__ import annotations

from collections.abc import Sequence

HIDDEN = "n.s."
"""Shown for a cell that is not small itself but would reveal a small one."""


def is_small(count: int, below: int) -> bool:
    return 1 <= count < below


def count_text(count: int, below: int) -> str:
    """``count`` with thousands separators, or ``<below`` where it is small.

    >>> count_text(1234, 10), count_text(3, 10), count_text(0, 10)
    ('1,234', '<10', '0')
    """
    return f"<{below}" if is_small(count, below) else f"{count:,}"


def partition_texts(counts: Sequence[int], below: int) -> list[str]:
    """Texts of cells whose sum is shown elsewhere.

    If exactly one cell is small, subtraction would recover it: the smallest other cell above zero is hidden as well.
    Where the two hidden cells could still be told apart by their bound there is nothing else to hide.

    >>> partition_texts([700, 4, 120], 10)
    ['700', '<10', 'n.s.']
    >>> partition_texts([700, 0, 120], 10)
    ['700', '0', '120']
    """
    texts = [count_text(count, below) for count in counts]
    small = [index for index, count in enumerate(counts) if is_small(count, below)]
    if len(small) == 1:
        others = [index for index, count in enumerate(counts) if count > 0 and index != small[0]]
        if others:
            texts[min(others, key=lambda index: (counts[index], index))] = HIDDEN
    return texts


def share_text(part: int, whole: int, below: int, *, decimals: int = 2) -> str:
    """``part / whole`` in percent; a bound where ``part`` or its complement is small, as the whole is shown beside.

    >>> share_text(25, 100, 10), share_text(3, 100, 10), share_text(97, 100, 10), share_text(0, 0, 10)
    ('25.00', '<10.00', '>90.00', '–')
    """
    if whole == 0:
        return "–"
    if is_small(whole, below):
        return HIDDEN
    if is_small(part, below):
        return f"<{100 * below / whole:.{decimals}f}"
    if is_small(whole - part, below):
        return f">{100 * (whole - below) / whole:.{decimals}f}"
    return f"{100 * part / whole:.{decimals}f}"


def funnel_texts(counts: Sequence[int], below: int) -> list[str | None]:
    """Texts of falling counts; None where a count would show that a step took away 1 to ``below`` - 1.

    The last count is the cohort's size, which is shown elsewhere: counts are kept from the end backwards as long as
    their difference to the nearest shown count after them is not small.

    >>> funnel_texts([140, 129, 126, 126], 10)
    ['140', None, '126', '126']
    >>> funnel_texts([500, 300, 4], 10)
    ['500', '300', '<10']
    """
    texts: list[str | None] = []
    shown: int | None = None
    for count in reversed(counts):
        if is_small(count, below):
            texts.append(f"<{below}")
        elif shown is not None and is_small(abs(count - shown), below):
            texts.append(None)
        else:
            texts.append(f"{count:,}")
            shown = count
    return texts[::-1]
