"""The comparison of the split by time with a random split.

In: `Results` of two output folders, facts about the build (`About`). Out: a page and its tables. It takes seconds.
"""

from __future__ import annotations

from pathlib import Path

from flexcare_data.store.folders import atomic_write
from flexcare_model.report.about import About
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.numbers.temporal import split_losses, year_groups_table
from flexcare_model.report.pages.comparison import temporal_page


def write_temporal_split(random: Results, temporal: Results, out: Path, about: About) -> None:
    """Write page.html on the split by time beside the random split, and its tables in tables/."""
    layouts = [split_losses(random, temporal, below=about.below), *year_groups_table(temporal, below=about.below)]
    for layout in layouts:
        layout.write(out / "tables")
    text = temporal_page(layouts, about, synthetic=temporal.is_synthetic)
    atomic_write(out / "page.html", text)
