"""Small-cell suppression: counts in [1, below) are not shown, nor numbers that would reveal them.

In: counts. Out: texts. A zero is shown, as it reveals nothing about a person beyond the definition of the cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def is_count(text: str | None) -> bool:
    """Whether ``text`` is an exact count."""
    return text is not None and text.replace(",", "").isdigit()


def is_near(count: int, shown: Iterable[int], below: int) -> bool:
    """Whether subtraction from one of ``shown`` gives a small number, such as the rows that one step removed."""
    return any(is_small(abs(count - other), below) for other in shown)


def partition_texts(counts: Sequence[int], below: int) -> list[str]:
    """Texts of cells whose sum another table shows.

    While a small count can be computed from the sum and the bounds of the hidden cells, the smallest shown cell above
    zero is hidden too. If all cells are hidden or zero, no further cell can be hidden.

    >>> partition_texts([700, 4, 120], 10)
    ['700', '<10', 'n.s.']
    >>> partition_texts([700, 0, 120], 10)
    ['700', '0', '120']
    >>> partition_texts([700, 1, 1, 120], 10)
    ['700', '<10', '<10', 'n.s.']
    """
    texts = [count_text(count, below) for count in counts]
    hidden = [index for index, count in enumerate(counts) if is_small(count, below)]
    while _reveals([counts[index] for index in hidden], below):
        others = [index for index, count in enumerate(counts) if count > 0 and index not in hidden]
        if not others:
            break
        hidden.append(min(others, key=lambda index: (counts[index], index)))
        texts[hidden[-1]] = HIDDEN
    return texts


def _reveals(hidden: Sequence[int], below: int) -> bool:
    """True if a small hidden count can be computed from the sum of the hidden cells."""
    total = sum(hidden)
    bounds = [(1, below - 1) if is_small(count, below) else (below, total) for count in hidden]
    lowest, highest = sum(low for low, _ in bounds), sum(high for _, high in bounds)
    feasible = [(max(low, total - (highest - high)), min(high, total - (lowest - low))) for low, high in bounds]
    return any(low == high and is_small(low, below) for low, high in feasible)


def share_text(part: int, whole: int, below: int, *, decimals: int = 2) -> str:
    """``part / whole`` in percent; a bound where ``part`` or its complement is small, as the whole is shown next to it.

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


def funnel_texts(counts: Sequence[int], below: int, shown: Iterable[int] = ()) -> list[str | None]:
    """Texts of falling counts; None where a count would show that a step removed 1 to ``below`` - 1.

    The last count is the size of the cohort, which other tables show. From the last count backwards, a count is shown
    if its difference to every count that is already shown is not small. ``shown`` has those of other tables.

    >>> funnel_texts([140, 129, 126, 126], 10)
    ['140', None, '126', '126']
    >>> funnel_texts([500, 300, 4], 10)
    ['500', '300', '<10']
    >>> funnel_texts([500, 300], 10, shown=[297])
    ['500', None]
    """
    texts: list[str | None] = []
    known = set(shown)
    for count in reversed(counts):
        if is_small(count, below):
            texts.append(f"<{below}")
        elif is_near(count, known, below):
            texts.append(None)
        else:
            texts.append(f"{count:,}")
            known.add(count)
    return texts[::-1]
