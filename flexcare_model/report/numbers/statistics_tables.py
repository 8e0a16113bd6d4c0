"""Tables of the statistics: uncertainty, comparisons, calibration, decisions, groups of patients.

In: the files of the command `statistics`, see `statistics_files`. Out: `Layout`s.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from flexcare_model.report.numbers import groups, uncertainty
from flexcare_model.report.numbers.decisions import decisions_table, selective_table
from flexcare_model.report.numbers.gaps import gaps_table
from flexcare_model.report.numbers.label_calibration import label_table
from flexcare_model.report.numbers.layout import Layout
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.numbers.statistics_files import statistic


def statistics_tables(results: Results, *, below: int) -> tuple[Layout, ...]:
    """The tables, in the order of the catalogue, without those that have no rows yet."""
    makers: dict[str, Callable[[pl.DataFrame], Layout]] = {
        "estimates": uncertainty.intervals_table,
        "comparisons": uncertainty.comparisons_table,
        "calibration": groups.calibration_table,
        "subgroups": lambda frame: groups.subgroups_table(frame, _last_method(set(frame["method"]))),
        "label_calibration": lambda frame: label_table(frame, _last_method(set(frame["method"]))),
        "selective": selective_table,
        "decisions": decisions_table,
        "gaps": lambda frame: gaps_table(frame, _last_method(set(frame["method"]))),
    }
    frames = {name: statistic(results, name, below=below) for name in makers}
    return tuple(makers[name](frame) for name, frame in frames.items() if frame is not None and frame.height)


def _last_method(titles: set[str]) -> str:
    """The last method of table 3 that was run: FlexCare if present."""
    return next(method.title for method in reversed(compared()) if method.title in titles)
