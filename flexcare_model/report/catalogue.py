"""Catalogue of tables, figures and pages: each is declared here, and only here.

The plan takes from it what each needs, the commands their choices, the pages their sections and order. A function is
given by the name of its module, so that the plan, which every start of Snakemake loads, imports no drawing library;
`make.py` calls it. To add a table or figure, write its function, its entry here, a caption and a target in
`rules/tables.smk`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

SECTIONS = {
    "Results": {
        "table3": "Methods",
        "table4": "Ablations",
        "table5": "Transfer to DRG",
        "table6": "Task token",
        "experts": "Choice of experts",
        "interaction": "Tasks within an epoch",
    },
    "Beyond the paper": {
        "uncertainty": "Uncertainty",
        "calibration": "Calibration",
        "label-calibration": "Calibration of each label",
        "selective": "Selective prediction",
        "decisions": "Decision curves",
        "subgroups": "Groups of patients",
        "gaps": "Gaps between groups",
        "missing-modalities": "Missing modalities",
        "contributions": "Contribution of each modality",
        "lost-data": "Lost data",
    },
}
"""Headings of the page -> anchors of their sections, in order -> titles. `pages/page.py` has the other sections."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What tables and figures have in common.

    Attributes:
        name: argument of the command, and part of the name of the product.
        module, function: what makes it from `Results`.
        needs: groups of products, by the names of `flexcare_model.plan.ModelPlan.needed`.
        target: target of Snakemake that makes what it needs; named where that is absent.
        takes: arguments of the function besides the results: ``below``, ``seeds``.
    """

    name: str
    module: str
    function: str
    needs: tuple[str, ...]
    target: str
    takes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableEntry(_Entry):
    """Tables that are made together, each as CSV, Markdown and LaTeX.

    Attributes:
        sections: stem of each file -> anchor of the section of the page that shows it.
        copied: whether the pages have a copy of the files.
        fewest_methods: methods that must be trained before the page shows the table.
    """

    sections: dict[str, str]
    copied: bool = False
    fewest_methods: int = 0

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(self.sections)

    def stems_in(self, section: str) -> list[str]:
        """Stems of the tables that ``section`` of the page shows."""
        return [stem for stem, anchor in self.sections.items() if anchor == section]


@dataclass(frozen=True, kw_only=True)
class FigureEntry(_Entry):
    """A figure, as SVG and PNG named ``name``; `workflow/report/captions.yaml` has its caption under this name.

    Attributes:
        title: what it shows; text for readers who do not see it.
        section: anchor of the section of the page that shows it, below the tables of this section.
    """

    title: str
    section: str


_E = TypeVar("_E", bound=_Entry)


def _by_name(*entries: _E) -> dict[str, _E]:
    return {entry.name: entry for entry in entries}


_TABLES = "flexcare_model.report.numbers.tables"
_FIGURES = "flexcare_model.report.figures"

TABLES = _by_name(
    TableEntry(
        name="table2",
        module=_TABLES,
        function="table2",
        needs=("stays", "cohorts", "images"),
        target="cohorts",
        takes=("below",),
        sections={"table2": "cohorts"},
    ),
    TableEntry(
        name="table3",
        module=_TABLES,
        function="table3",
        needs=("stays", "method_runs"),
        target="table3",
        takes=("seeds",),
        sections={"table3": "table3", "table3_wide": "table3"},
        copied=True,
        fewest_methods=1,
    ),
    TableEntry(
        name="table4",
        module=_TABLES,
        function="table4",
        needs=("stays", "ablation_runs"),
        target="table4",
        takes=("seeds",),
        sections={"table4": "table4", "table4_wide": "table4"},
        copied=True,
        fewest_methods=2,  # FlexCare alone is already in table 3
    ),
    TableEntry(
        name="table5",
        module=_TABLES,
        function="table5",
        needs=("stays", "transfer_runs"),
        target="table5",
        takes=("seeds",),
        sections={"table5": "table5", "table5_wide": "table5"},
        copied=True,
        fewest_methods=1,
    ),
    TableEntry(
        name="table6",
        module=_TABLES,
        function="table6",
        needs=("stays", "task_token_runs"),
        target="table6",
        takes=("seeds",),
        sections={"table6": "table6", "table6_wide": "table6"},
        copied=True,
        fewest_methods=2,  # FlexCare alone is already in table 3
    ),
    TableEntry(
        name="statistics",
        module="flexcare_model.report.numbers.statistics_tables",
        function="statistics_tables",
        needs=("statistics",),
        target="statistics",
        takes=("below",),
        sections={
            "uncertainty": "uncertainty",
            "comparisons": "uncertainty",
            "calibration": "calibration",
            "subgroups": "subgroups",
            "label_calibration": "label-calibration",
            "selective": "selective",
            "decisions": "decisions",
            "gaps": "gaps",
        },
    ),
    TableEntry(
        name="modalities",
        module="flexcare_model.report.numbers.contributions",
        function="modality_tables",
        needs=("modality_scores",),
        target="missing_modalities",
        takes=("below",),
        sections={"contributions": "contributions", "lost_data": "lost-data"},
    ),
)
"""All tables, by name."""

FIGURES = _by_name(
    FigureEntry(
        name="figure1b",
        title="Labels per episode",
        module=f"{_FIGURES}.figure1_cohorts",
        function="labels_per_sample",
        needs=("cohorts",),
        target="cohorts",
        takes=("below",),
        section="cohorts",
    ),
    FigureEntry(
        name="figure1c",
        title="Modalities per sample",
        module=f"{_FIGURES}.figure1_cohorts",
        function="modalities_per_sample",
        needs=("cohorts",),
        target="cohorts",
        takes=("below",),
        section="cohorts",
    ),
    FigureEntry(
        name="figure4",
        title="Ablations",
        module=f"{_FIGURES}.figure4_ablations",
        function="ablation",
        needs=("ablation_runs",),
        target="ablations",
        section="table4",
    ),
    FigureEntry(
        name="figure5",
        title="Representations by task",
        module=f"{_FIGURES}.figure5_representations",
        function="representations",
        needs=("task_token_representations",),
        target="figure5",
        section="table6",
    ),
    FigureEntry(
        name="figure6",
        title="Choice of experts",
        module=f"{_FIGURES}.figure6_experts",
        function="expert_choice",
        needs=("experts",),
        target="figure6",
        section="experts",
    ),
    FigureEntry(
        name="figure7",
        title="Tasks within an epoch",
        module=f"{_FIGURES}.figure7_interaction",
        function="interaction",
        needs=("interaction",),
        target="figure7",
        section="interaction",
    ),
    FigureEntry(
        name="missing_modalities",
        title="Scores with fewer modalities",
        module=f"{_FIGURES}.missing_modalities",
        function="missing_modalities",
        needs=("modality_scores",),
        target="missing_modalities",
        takes=("below",),
        section="missing-modalities",
    ),
    FigureEntry(
        name="calibration",
        title="Reliability",
        module=f"{_FIGURES}.reliability",
        function="reliability",
        needs=("statistics",),
        target="statistics",
        section="calibration",
    ),
    FigureEntry(
        name="label_calibration",
        title="Reliability of each label",
        module=f"{_FIGURES}.label_calibration",
        function="label_calibration",
        needs=("statistics",),
        target="statistics",
        takes=("below",),
        section="label-calibration",
    ),
    FigureEntry(
        name="selective",
        title="Risk against coverage",
        module=f"{_FIGURES}.selective",
        function="selective",
        needs=("statistics",),
        target="statistics",
        takes=("below",),
        section="selective",
    ),
    FigureEntry(
        name="decision_curves",
        title="Net benefit against the threshold",
        module=f"{_FIGURES}.decision_curves",
        function="decision_curves",
        needs=("statistics",),
        target="statistics",
        takes=("below",),
        section="decisions",
    ),
    FigureEntry(
        name="gaps",
        title="Gaps between groups of patients",
        module=f"{_FIGURES}.gaps",
        function="gaps",
        needs=("statistics",),
        target="statistics",
        section="gaps",
    ),
    FigureEntry(
        name="contributions",
        title="Contribution of each modality",
        module=f"{_FIGURES}.contributions",
        function="contributions",
        needs=("modality_scores",),
        target="missing_modalities",
        takes=("below",),
        section="contributions",
    ),
    FigureEntry(
        name="lost_data",
        title="Scores with lost data",
        module=f"{_FIGURES}.lost_data",
        function="lost_data",
        needs=("modality_scores",),
        target="missing_modalities",
        takes=("below",),
        section="lost-data",
    ),
)
"""All figures, by name."""

BY_YEARS = TableEntry(
    name="year_groups",
    module="flexcare_model.report.numbers.temporal",
    function="year_groups_table",
    needs=(),
    target="temporal_split",
    takes=("below",),
    sections={"year_groups": "year-groups"},
)
"""Table of the groups of years. Not in `TABLES`: pages show it of their runs, where the patients are split by time."""

PAGES = {"report": "reported_runs", "so_far": "finished", "paper": "all_tables_and_figures"}
"""Name of each page -> the group of products that it shows, besides the cohorts."""

STATISTICS = (
    "estimates", "comparisons", "curves", "calibration", "subgroups", "label_calibration", "label_curves", "selective",
    "decisions", "gaps",
)  # fmt: skip
"""Files of the command `statistics`, without their ending."""
REPLICATES, REPLICATES_SEED = 1000, 0
"""Draws of patients behind the intervals and tests of `statistics`, and their seed."""

PRICED = ("availability",)
"""Options whose effect alone `compare_protocols` also measures: protocol flexcare, with the value of corrected."""

ENTRIES: tuple[TableEntry | FigureEntry, ...] = (*TABLES.values(), *FIGURES.values())

TABLE_STEMS = {name: entry.stems for name, entry in TABLES.items()}
"""Files of each target that makes tables, without their ending."""


def modules_of(entries: Iterable[TableEntry | FigureEntry]) -> tuple[str, ...]:
    """Modules of the functions of ``entries``."""
    return tuple(dict.fromkeys(entry.module for entry in entries))


def tables_of(section: str) -> list[TableEntry]:
    """Entries with a table in a section of the page."""
    return [entry for entry in TABLES.values() if entry.stems_in(section)]


def figures_of(section: str) -> list[FigureEntry]:
    """Figures of a section of the page."""
    return [entry for entry in FIGURES.values() if entry.section == section]
