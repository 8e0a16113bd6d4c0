"""Training curves: loss per epoch on the train and validation split, from the histories of the runs.

In: the runs of `Results`. Out: a figure; None where no run has a history.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flexcare_data.tasks import TASKS
from flexcare_model.experiments import MULTI_TASK
from flexcare_model.report.figures.style import COLOURS, PAGE, house_style
from flexcare_model.report.numbers.results import Results


def training_curves(results: Results, *, model: str, experiments: tuple[str, ...]) -> Figure | None:
    """Training and validation loss per epoch, a panel per task and setting, one pair of lines per seed.

    Drawn relative to the first epoch, as the training loss is a mean over batches of the whole loss and the validation
    loss a sum of the prediction loss.
    """
    panels: dict[tuple[str, str], list[pl.DataFrame]] = {}
    for experiment in experiments:
        for run in results.runs_of(model, experiment):
            history = run.history
            if history is None:
                continue
            for name in (name for name in TASKS if name in set(history["task"])):
                setting = "" if experiment in TASKS or experiment == MULTI_TASK else experiment.removeprefix("drg_")
                panels.setdefault((name, setting), []).append(history.filter(pl.col("task") == name))
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    with house_style():
        height = 1.75 * lines + 0.35
        # Fixed margins: there are many of these figures, and a layout solver would take most of the page's time.
        figure = Figure(figsize=(PAGE if columns > 1 else PAGE / 2, height))
        figure.subplots_adjust(0.08, 0.62 / height, 0.99, 1 - 0.25 / height, wspace=0.25, hspace=0.55)
        grid = np.atleast_1d(figure.subplots(lines, columns)).flatten()
        for axes, ((name, setting), histories) in zip(grid, panels.items(), strict=False):
            for history in histories:
                _loss_lines(axes, history)
            title = f"{TASKS[name].abbreviation} {setting.replace('pct', ' %').replace('_', ', ')}".strip()
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        handles = [Line2D([], [], color=COLOURS[i], linestyle=("-", "--")[i]) for i in range(2)]
        figure.legend(handles, ["train", "validation"], loc="lower center", ncols=2)
    return figure


def _loss_lines(axes: Axes, history: pl.DataFrame) -> None:
    for position, phase in enumerate(("train", "val")):
        part = history.filter(pl.col("phase") == phase).drop_nulls("loss").sort("epoch")
        if part.height:
            marker = "o" if part.height == 1 else None
            style = ("-", "--")[position]
            relative = part["loss"] / part["loss"][0]
            axes.plot(part["epoch"], relative, color=COLOURS[position], linestyle=style, marker=marker, alpha=0.85)
