"""Tables and figure beyond the paper, from the files of the command `statistics`."""

from __future__ import annotations

from matplotlib.figure import Figure

from flexcare_model.report.numbers import groups, uncertainty
from flexcare_model.report.numbers.layout import Layout
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import Results


def layouts(results: Results) -> dict[str, Layout]:
    """Uncertainty, comparisons, calibration and groups by name; without those that have no rows yet."""
    made = {}
    makers = {
        "estimates": uncertainty.intervals_table,
        "comparisons": uncertainty.comparisons_table,
        "calibration": groups.calibration_table,
        "subgroups": lambda frame: groups.subgroups_table(frame, _focus(set(frame["method"]))),
    }
    for name, make in makers.items():
        frame = results.parquet(f"analysis/statistics/{name}.parquet")
        if frame is not None and frame.height:
            layout = make(frame)
            made[layout.name] = layout
    return made


def _focus(methods: set[str]) -> str:
    """The last method of table 3 that was run: FlexCare if present."""
    return next(method.title for method in reversed(compared()) if method.title in methods)


def reliability(results: Results) -> Figure | None:
    """Reliability curves of all methods."""
    curves, summaries = (results.parquet(f"analysis/statistics/{name}.parquet") for name in ("curves", "calibration"))
    if curves is None or summaries is None or curves.height == 0:
        return None
    return groups.reliability_figure(curves, summaries)
