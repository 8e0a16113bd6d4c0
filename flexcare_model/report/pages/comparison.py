"""Pages that compare two configurations, in the style of the report: two protocols, two splits.

In: the tables of `protocols` or `temporal` of `flexcare_model.report.numbers`. Out: the page as text.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexcare_model.report.about import About
from flexcare_model.report.numbers.layout import Layout
from flexcare_model.report.pages.elements import Section, render_page, table


def comparison_page(layouts: Sequence[Layout], about: About, *, synthetic: bool) -> str:
    """The page on the protocols; ``synthetic``: whether one of the output folders is marked as synthetic."""
    summary = [("Protocols", "flexcare, corrected"), ("Code", about.code_version)]
    title, heading = "FlexCare-benchmark: two protocols", "Effect of the published errors"
    return _page(layouts, about, title, heading, summary, synthetic)


def temporal_page(layouts: Sequence[Layout], about: About, *, synthetic: bool) -> str:
    """The page on the split by time; ``synthetic`` as above."""
    summary = [("Splits", "random, by anchor_year_group"), ("Code", about.code_version)]
    title, heading = "FlexCare-benchmark: split by time", "Patients of later years"
    return _page(layouts, about, title, heading, summary, synthetic)


def _page(
    layouts: Sequence[Layout],
    about: About,
    title: str,
    heading: str,
    summary: Sequence[tuple[str, str]],
    synthetic: bool,
) -> str:
    sections = [Section(layout.name, layout.title, table(layout, heading=False)) for layout in layouts]
    return render_page(about, title, [(heading, sections)], list(summary), synthetic=about.synthetic(synthetic))
