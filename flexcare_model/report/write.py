"""Tables, figures and pages of an output folder.

In: `Results`, facts about the build (`About`). Out: files in a folder. Each takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from flexcare_data.store.folders import atomic_write
from flexcare_model.report.about import About
from flexcare_model.report.figures.drawings import draw
from flexcare_model.report.figures.style import explain_absence, mark_synthetic, save
from flexcare_model.report.numbers import beyond, tables
from flexcare_model.report.numbers.layout import Layout
from flexcare_model.report.numbers.protocols import build_comparison
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.pages.card import croissant, dataset_card
from flexcare_model.report.pages.comparison import comparison_page
from flexcare_model.report.pages.page import build_page


def write_tables(results: Results, name: str, out: Path, *, below: int, seeds: Sequence[int] | None = None) -> None:
    """Write ``table2`` to ``table6``, or ``statistics``, as CSV, Markdown and LaTeX.

    Args:
        below: counts in [1, below) are not shown.
        seeds: expected seeds; None: those that are found.
    """
    layouts: Sequence[Layout]
    if name == "table2":
        layouts = (tables.table2(results, below=below),)
    elif name == "statistics":
        layouts = tuple(beyond.layouts(results).values())
    else:
        layouts = tables.TABLES[name.removeprefix("table")](results, seeds=seeds)
    for layout in layouts:
        layout.write(out)


def write_figure(results: Results, name: str, out: Path, *, below: int, synthetic: bool) -> None:
    """Write one figure by the name of its file, as SVG and PNG; ``synthetic`` marks it as made from fabricated data."""
    which = name.removeprefix("figure").removesuffix("_modalities")
    for stem, drawing in draw(results, which, below=below).items():
        figure = drawing.figure or explain_absence(drawing.title, drawing.needs)
        if synthetic:
            mark_synthetic(figure)
        save(figure, out, stem)


def write_page(results: Results, out: Path, about: About) -> None:
    """Write page.html, and the tables of the paper that it shows in tables/."""
    atomic_write(out / "page.html", build_page(results, about))
    for name in ("table3", "table4", "table5", "table6"):
        write_tables(results, name, out / "tables", below=about.below, seeds=about.seeds)


def write_card(results: Results, out: Path, about: About) -> None:
    """Write DATASET_CARD.md and croissant.json."""
    atomic_write(out / "DATASET_CARD.md", dataset_card(results, about))
    text = json.dumps(croissant(results, about), indent=2, ensure_ascii=False) + "\n"
    atomic_write(out / "croissant.json", text)


def write_comparison(flexcare: Results, corrected: Results, out: Path, about: About) -> None:
    """Write page.html on both protocols, and its tables in tables/."""
    layouts = build_comparison(flexcare, corrected, below=about.below)
    for layout in layouts:
        layout.write(out / "tables")
    text = comparison_page(layouts, about, synthetic=flexcare.is_synthetic)
    atomic_write(out / "page.html", text)
