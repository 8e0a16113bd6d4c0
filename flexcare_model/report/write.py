"""Tables, figures and pages of an output folder.

In: `Results`, facts about the build (`About`). Out: files in a folder. Each takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from flexcare_data.store.folders import atomic_write
from flexcare_model.report.about import About
from flexcare_model.report.catalogue import BY_YEARS, FIGURES, TABLES
from flexcare_model.report.figures.style import explain_absence, mark_synthetic, save
from flexcare_model.report.make import make_figure, make_tables
from flexcare_model.report.numbers.protocols import build_comparison
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.pages.card import croissant, dataset_card
from flexcare_model.report.pages.comparison import comparison_page
from flexcare_model.report.pages.page import build_page


def write_tables(results: Results, name: str, out: Path, *, below: int, seeds: Sequence[int] | None = None) -> None:
    """Write the tables of one entry of the catalogue, as CSV, Markdown and LaTeX.

    Args:
        below: counts in [1, below) are not shown.
        seeds: expected seeds; None: those that are found.
    """
    for layout in make_tables(TABLES[name], results, below=below, seeds=seeds):
        layout.write(out)


def write_figure(results: Results, name: str, out: Path, *, below: int, synthetic: bool) -> None:
    """Write one figure of the catalogue, as SVG and PNG; ``synthetic`` marks it as made from fabricated data."""
    entry = FIGURES[name]
    figure = make_figure(entry, results, below=below) or explain_absence(entry.title, entry.target)
    if synthetic:
        mark_synthetic(figure)
    save(figure, out, name)


def write_page(results: Results, out: Path, about: About) -> None:
    """Write page.html, and a copy of the tables of the paper that it shows in tables/."""
    atomic_write(out / "page.html", build_page(results, about))
    for name, entry in TABLES.items():
        if entry.copied:
            write_tables(results, name, out / "tables", below=about.below, seeds=about.seeds)
    for layout in make_tables(BY_YEARS, results, below=about.below):
        layout.write(out / "tables")


def write_card(results: Results, out: Path, about: About) -> None:
    """Write DATASET_CARD.md and croissant.json."""
    atomic_write(out / "DATASET_CARD.md", dataset_card(results, about))
    text = json.dumps(croissant(results, about), indent=2, ensure_ascii=False) + "\n"
    atomic_write(out / "croissant.json", text)


def write_comparison(
    flexcare: Results, corrected: Results, out: Path, about: About, *, alone: Mapping[str, Results]
) -> None:
    """Write page.html on both protocols, and its tables in tables/.

    Args:
        alone: results of protocol flexcare where one option has its value of corrected, by option.
    """
    layouts = build_comparison(flexcare, corrected, below=about.below, alone=alone)
    for layout in layouts:
        layout.write(out / "tables")
    text = comparison_page(layouts, about, synthetic=flexcare.is_synthetic)
    atomic_write(out / "page.html", text)
