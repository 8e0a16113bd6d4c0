"""Tables and figures of the catalogue, made by the functions that it names.

In: an entry of `catalogue`, `Results`. Out: `Layout`s, or a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from matplotlib.figure import Figure

from flexcare_model.report.catalogue import FigureEntry, TableEntry
from flexcare_model.report.numbers.layout import Layout
from flexcare_model.report.numbers.results import Results


def make_tables(
    entry: TableEntry, results: Results, *, below: int, seeds: Sequence[int] | None = None
) -> tuple[Layout, ...]:
    """The tables of ``entry``, named by their stems; a table without any row may be absent.

    Args:
        below: counts in [1, below) are not shown.
        seeds: expected seeds; None: those that are found.
    """
    return _call(entry, results, below=below, seeds=seeds)


def make_figure(entry: FigureEntry, results: Results, *, below: int) -> Figure | None:
    """The figure of ``entry``; None where an input is absent."""
    return _call(entry, results, below=below)


def _call(entry: TableEntry | FigureEntry, results: Results, **given: Any) -> Any:
    function = getattr(import_module(entry.module), entry.function)
    return function(results, **{name: given[name] for name in entry.takes})
