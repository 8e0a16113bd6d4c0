"""Figures 5 and 6 of the paper and the one on missing modalities, from the tables of `flexcare_model.analysis.inside`.

In: `{output}/analysis/<model>/<experiment>/seed<k>/{representations,experts,modalities}.parquet`. Out: figures; None
where an input is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flexcare_data.modalities import COMBINATIONS
from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.style import PAGE, SEQUENTIAL, house_style, new_figure, task_colour
from flexcare_model.report.numbers.methods import compared, look, reference, task_token_variants
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, read_parquet, tasks_in


def analysis_files(results: Results, model: str, experiment: str, name: str) -> list[Path]:
    """Files of one kind over seeds, sorted by seed."""
    found = (results.root / "analysis" / model / experiment).glob(f"seed*/{name}.parquet")
    return sorted(found, key=lambda path: int(path.parent.name.removeprefix("seed")))


def representations(results: Results) -> Figure | None:
    """Figure 5: t-SNE of the representation without and with task token, of the first seed that both have."""
    *others, full = task_token_variants()
    frames = []
    for title, method in (*((method.title, method) for method in others), ("with task token", full)):
        files = analysis_files(results, method.model, method.experiment, "representations")
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


def expert_choice(results: Results) -> Figure | None:
    """Figure 6: how often each expert is chosen, by task and by modality combination.

    Experts have no fixed order, so seeds cannot be pooled without matching them; the first seed is drawn.
    """
    files = analysis_files(results, reference().model, reference().experiment, "experts")
    frame = read_parquet(files[0]) if files else None
    if frame is None or frame.height == 0:
        return None
    tasks = tasks_in(frame)
    names = [name for name in COMBINATIONS if name in set(frame["combination"])]
    with house_style():
        figure = new_figure(PAGE, 2.9)
        left, right = figure.subplots(1, 2)
        by_task = shares(frame, "task", tasks)
        by_combination = shares(frame, "combination", names)
        top = float(np.nanmax([np.nanmax(by_task), np.nanmax(by_combination)]))
        _heat(left, by_task, [TASKS[task].abbreviation for task in tasks], "(a) by task", top)
        image = _heat(right, by_combination, names, "(b) by modality combination", top)
        bar = figure.colorbar(image, ax=[left, right], shrink=0.8, label="share of choices")
        bar.outline.set_visible(False)
    return figure


def shares(frame: pl.DataFrame, key: str, order: Sequence[str]) -> np.ndarray:
    """Rows of ``order`` by expert, each summing to 1 (NaN for a row without any choice)."""
    experts = frame.select(pl.col("expert").max()).item() + 1
    matrix = np.zeros((len(order), experts))
    place = {name: index for index, name in enumerate(order)}
    for name, expert, count in frame.group_by(key, "expert").agg(pl.col("chosen").sum()).rows():
        if name in place:
            matrix[place[name], expert] = count
    total = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)


def _heat(axes: Axes, matrix: np.ndarray, names: Sequence[str], title: str, top: float):
    image = axes.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=top, aspect="auto")
    axes.set_xticks(range(matrix.shape[1]), [str(expert + 1) for expert in range(matrix.shape[1])])
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="expert", title=title)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            colour = "black" if value > 0.5 * top else "white"
            axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=5.5, color=colour)
    return image


def missing_modalities(results: Results, *, below: int) -> Figure | None:
    """First metric of each task under random loss of modalities, and with each subset of them; mean over seeds.

    A panel whose samples are fewer than ``below`` stays empty.
    """
    frame = collected_modalities(results)
    if frame is None:
        return None
    tasks = tasks_in(frame)
    methods = [method for method in compared() if method.title in set(frame["method"])]
    with house_style():
        figure = new_figure(PAGE, 4.6)
        grid = figure.subplots(2, len(tasks), squeeze=False)
        for column, task in enumerate(tasks):
            metric = TASKS[task].metrics[0]
            upper, lower = grid[0][column], grid[1][column]
            part = frame.filter(task=task, metric=metric)
            for axes, kind in ((upper, "drop_rate"), (lower, "subset")):
                samples = part.filter(kind=kind).select(pl.col("n").max()).item() or 0
                if samples < max(below, 1):
                    text = "no sample\nhas all three" if samples == 0 else f"fewer than\n{below} samples"
                    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, fontsize=6)
                    axes.set_yticks([])
                    continue
                for position, method in enumerate(methods):
                    own = part.filter(kind=kind, method=method.title)
                    draw = _drop_curve if kind == "drop_rate" else _subset_points
                    draw(axes, own, look(method), position - (len(methods) - 1) / 2)
            upper.set_title(f"{TASKS[task].abbreviation}\n{METRIC_TITLES[metric]}", fontsize=7)
            upper.set_xlabel("modalities lost, %", fontsize=6.5)
            upper.set_xticks([0, 40, 80])
            lower.set_xticks(range(len(COMBINATIONS)), COMBINATIONS, rotation=90)
            lower.set_xlim(-0.6, len(COMBINATIONS) - 0.4)
            # Lines between the subsets, as the points of one subset are side by side.
            lower.set_xticks([place + 0.5 for place in range(len(COMBINATIONS) - 1)], minor=True)
            lower.tick_params(which="minor", length=0)
            lower.grid(axis="x", which="minor")
            for axes in (upper, lower):
                axes.tick_params(labelsize=6)
        handles = [Line2D([], [], **look(method)) for method in methods]
        figure.legend(
            handles, [method.title for method in methods], loc="outside lower center", ncols=min(7, len(handles))
        )
    return figure


def _drop_curve(axes: Axes, own: pl.DataFrame, drawn: dict[str, Any], offset: float) -> None:
    curve = own.sort("rate")
    axes.plot(100 * curve["rate"], curve["value"], **drawn)


def _subset_points(axes: Axes, own: pl.DataFrame, drawn: dict[str, Any], offset: float) -> None:
    found = dict(own.select("kept", "value").rows())
    places = [place + 0.12 * offset for place in range(len(COMBINATIONS))]
    axes.plot(
        places, [found.get(name, np.nan) for name in COMBINATIONS], **drawn | {"linestyle": "", "markersize": 2.2}
    )


def collected_modalities(results: Results) -> pl.DataFrame | None:
    """Scores with fewer modalities of the runs of table 3: a mean over seeds per method and condition."""
    frames = []
    for task in results.compared_tasks:
        for method in compared():
            for path in analysis_files(results, method.model, method.experiment_for(task), "modalities"):
                frames.append(pl.read_parquet(path).filter(task=task).with_columns(method=pl.lit(method.title)))
    if not frames:
        return None
    keys = ["method", "task", "kind", "kept", "rate", "metric"]
    return pl.concat(frames).group_by(keys).agg(pl.col("value").mean(), pl.col("n").first()).sort(keys)
