"""Figure 5: representations of the test samples without and with the task token, from the analyses `inside`.

In: `analysis/<model>/<experiment>/seed<k>/representations.parquet` of `Results`. Out: a figure; None without one.
"""

from __future__ import annotations

from string import ascii_lowercase

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.style import PAGE, house_style, new_figure, task_colour
from flexcare_model.report.numbers.methods import task_token_variants
from flexcare_model.report.numbers.results import Results, tasks_in


def representations(results: Results) -> Figure | None:
    """Figure 5: t-SNE of the representation without and with task token, of the first seed that both have."""
    *others, full = task_token_variants()
    frames = []
    for title, method in (*((method.title, method) for method in others), ("with task token", full)):
        files = results.analysis_files(method.model, method.experiment, "representations.parquet")
        if files:
            frames.append((title, pl.read_parquet(files[0])))
    if not frames:
        return None
    from flexcare_model.analysis.inside import separation

    tasks = tasks_in(pl.concat([frame.select("task") for _, frame in frames]))
    with house_style():
        figure = new_figure(PAGE if len(frames) > 1 else PAGE / 2, 3.6)
        panels = np.atleast_1d(figure.subplots(1, len(frames)))
        for letter, axes, (title, frame) in zip(ascii_lowercase, panels, frames, strict=False):
            numbers = separation(np.array(frame["rep"].to_list()), frame["task"].to_list())
            for position, task in enumerate(tasks):
                part = frame.filter(task=task)
                axes.scatter(
                    part["x"], part["y"], s=4, color=task_colour(position), linewidths=0, alpha=0.7, rasterized=True
                )
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.set_title(
                f"({letter}) {title}\nsilhouette {numbers['silhouette']:.3f}, 5-NN accuracy "
                f"{numbers['knn_accuracy']:.3f}",
                fontsize=7.5,
            )
        handles = [panels[0].scatter([], [], s=14, color=task_colour(position)) for position in range(len(tasks))]
        names = [TASKS[task].abbreviation for task in tasks]
        figure.legend(handles, names, loc="outside lower center", ncols=min(7, len(handles)))
    return figure
