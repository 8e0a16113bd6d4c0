"""The page that compares the two protocols, in the style of the report.

In: the tables of `flexcare_model.report.numbers.protocols`. Out: the page as text.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexcare_model.report.about import About
from flexcare_model.report.numbers.layout import Layout
from flexcare_model.report.pages.elements import Section, render_page, table


def comparison_page(layouts: Sequence[Layout], about: About, *, synthetic: bool) -> str:
    """The page; ``synthetic``: whether one of the output folders is marked as synthetic."""
    sections = [Section(layout.name, layout.title, table(layout, heading=False)) for layout in layouts]
    groups = [("Effect of the published errors", sections)]
    summary = [("Protocols", "flexcare, corrected"), ("Code", about.code_version)]
    title = "FlexCare-benchmark: two protocols"
    return render_page(about, title, groups, summary, synthetic=about.synthetic(synthetic))
