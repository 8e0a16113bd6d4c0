"""Figure 4: bar charts of the ablations, from the test metrics of the runs.

In: `Results`. Out: a figure; None where none of the variants was trained.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.method_style import bar_style
from flexcare_model.report.figures.style import PAGE, house_style, new_figure
from flexcare_model.report.numbers.methods import Method, ablations
from flexcare_model.report.numbers.results import METRIC_TITLES, Results
from flexcare_model.report.numbers.tables import summarise


def ablation(results: Results) -> Figure | None:
    """Figure 4: both metrics of each task for the ablations, error bars of one standard deviation over seeds."""
    found = _found(results)
    variants = [method for method in ablations() if _has(found, method)]
    if not variants:
        return None
    tasks = results.compared_tasks
    styles = [bar_style(method) for method in variants]
    with house_style():
        figure = new_figure(PAGE, 4.0)
        grid = figure.subplots(2, len(tasks))
        for column, name in enumerate(tasks):
            for row, metric in enumerate(TASKS[name].metrics):
                axes = grid[row][column]
                values = [found.get((m.model, m.experiment, name, metric)) for m in variants]
                means = np.array([np.nan if value is None else value[0] for value in values])
                spread = np.array([0.0 if value is None or value[1] is None else value[1] for value in values])
                for position, (mean, error) in enumerate(zip(means, spread, strict=True)):
                    if np.isfinite(mean):
                        axes.bar(
                            position, mean, yerr=error or None, width=0.8, color=styles[position][0], capsize=1.5,
                            hatch=styles[position][1], edgecolor="white", linewidth=0.4,
                            error_kw={"linewidth": 0.8, "ecolor": "#555555"},
                        )  # fmt: skip
                axes.set_xticks([])
                axes.set_title(f"{TASKS[name].abbreviation}\n{METRIC_TITLES[metric]}", fontsize=7)
                axes.tick_params(axis="y", labelsize=6)
                if np.isfinite(means).any():
                    axes.set_ylim(*_zoom(means, spread))
        handles = [Patch(facecolor=colour, hatch=hatch, edgecolor="white") for colour, hatch in styles]
        figure.legend(
            handles, [method.title for method in variants], loc="outside lower center", ncols=min(5, len(handles))
        )
    return figure


def _zoom(means: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Limits that make differences visible: not from 0, with room for the error bars."""
    low, high = np.nanmin(means - spread), np.nanmax(means + spread)
    room = max(0.15 * (high - low), 0.01)
    return max(0.0, low - 3 * room), min(1.02, high + room)


def _found(results: Results) -> dict[tuple[str, str, str, str], tuple[float, float | None]]:
    return {
        (row["model"], row["experiment"], row["task"], row["metric"]): (row["mean"], row["std"])
        for row in summarise(results.scores).to_dicts()
        if row["mean"] is not None
    }


def _has(found: dict, method: Method) -> bool:
    return any(key[:2] == (method.model, method.experiment) for key in found)
