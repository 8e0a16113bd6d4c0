"""report.html: one self-contained file that opens from disk.

In: `Results`, facts about the build (`About`). Out: the page as text. The texts and the style are in
`workflow/report/`; this module defines the sections and their contents. Nothing on the page belongs to one patient.
"""

from __future__ import annotations

import html
import json
from typing import Any

import yaml

from flexcare_data.tasks import TASKS
from flexcare_model.report.about import About
from flexcare_model.report.figures import paper as figures
from flexcare_model.report.figures.drawings import draw
from flexcare_model.report.numbers import beyond, facts, methods, provenance, tables
from flexcare_model.report.numbers.flow import FlowStep, flow_diagrams
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.pages.elements import (
    Section,
    details,
    drawn,
    introduction,
    paragraph,
    picture,
    plain_table,
    render_page,
    section,
    side_by_side,
    table,
)


def build_page(results: Results, about: About) -> str:
    """The whole page."""
    groups = [
        ("What was built", [_origin(results, about), _config(about), _resources(results)]),
        ("Data", _data_sections(results, about.below)),
        ("Results", _result_sections(results, about)),
        ("Beyond the paper", _beyond_sections(results, about)),
        ("Training", _training_sections(results)),
    ]
    synthetic = about.synthetic(results.is_synthetic)
    return render_page(about, about.title, groups, _summary(results, about), synthetic=synthetic)


def _summary(results: Results, about: About) -> list[tuple[str, str]]:
    """The first lines of the page: the build in numbers."""
    config = about.config
    lines = []
    if config:
        lines.append(("Protocol", str(config.get("protocol", "–"))))
    if results.cohorts:
        lines.append(("Cohorts", f"{len(results.cohorts)} of {len(TASKS)}"))
        total = sum(cohort.height for cohort in results.cohorts.values())
        lines.append(("Samples in all cohorts", f"{total:,}"))
    lines.append(("Finished runs", str(len(results.runs))))
    lines += [("Left out of training", f"{task} is left out: {reason}") for task, reason in about.left_out.items()]
    for run in results.runs:
        if reason := run.metrics.get("left_out"):
            lines.append(("Left out of training", f"{run.model} on {run.experiment}, seed {run.seed}: {reason}"))
    if about.code_version:
        lines.append(("Code", about.code_version))
    return lines


def _origin(results: Results, about: About) -> Section:
    found = provenance.origins(results)
    if not found:
        return Section("origin", "Sources and stages", missing="No stored stages found: run the target `cohorts`.")
    rows = []
    raw: dict[str, str] = {}
    versions: dict[str, str] = {}
    for origin in found:
        spec = origin.spec
        options = ", ".join(f"{key} = {_short(value)}" for key, value in sorted((spec.get("options") or {}).items()))
        parts = ", ".join(origin.parts[:3]) + (f" and {len(origin.parts) - 3} more" if len(origin.parts) > 3 else "")
        stage, _, key = origin.stage.rpartition("-")
        rows.append((stage, key, parts, options or "–"))
        raw |= {str(name): str(digest) for name, digest in _raw_digests(spec).items()}
        versions |= origin.versions
    body = plain_table(("Stage", "Key", "Published as", "Options that it depends on"), rows)
    if raw:
        files = [(name, digest[:16]) for name, digest in sorted(raw.items())]
        body += details("Raw files and the first digits of their SHA-256", plain_table(("File", "SHA-256"), files))
    if versions:
        libraries = plain_table(("Library", "Version"), sorted(versions.items()))
        body += details("Libraries that the stages were built with", libraries)
    return Section("origin", "Sources and stages", introduction("origin") + body)


def _raw_digests(spec: dict[str, Any]) -> dict[str, Any]:
    raw = spec.get("raw") or {}
    return {name: value for name, value in raw.items() if isinstance(value, str)} if isinstance(raw, dict) else {}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 40 else text[:37] + "..."


def _config(about: About) -> Section:
    if not about.config:
        return Section("config", "Configuration", missing="No configuration was given: run the target `report`.")
    text = yaml.safe_dump(about.config, sort_keys=False, default_flow_style=None, width=100)
    version = paragraph(f"Code version: {about.code_version}") if about.code_version else ""
    return Section("config", "Configuration", version + f"<pre>{html.escape(text)}</pre>")


def _resources(results: Results) -> Section:
    made = provenance.resources(results)
    missing = "No benchmark files found: the workflow writes them while it runs."
    if made is None:
        return section("resources", "Time and memory", [], missing)
    rules, jobs = made
    parts = [table(rules, heading=False)]
    if len(jobs.rows) > len(rules.rows):
        parts.append(details("Every job", table(jobs, heading=False), is_printed=False))
    return section("resources", "Time and memory", parts, missing)


def _data_sections(results: Results, below: int) -> list[Section]:
    cohorts, audit = "No cohorts found: run the target `cohorts`.", "Not written yet: run the target `cohorts`."
    sizes, values = facts.cohort_sizes(results, below=below), facts.missing_values(results, below=below)
    drops, proof = facts.dropped(results, below=below), facts.certificate(results, below=below)
    diagrams = flow_diagrams(results, below=below)
    built = bool(results.cohorts)
    return [
        section("flow", "How the cohorts came about", [_flow_diagrams(diagrams)], audit),
        section(
            "cohorts",
            "Samples and modalities",
            [
                table(sizes) if sizes else None,
                table(tables.table2(results, below=below)) if built else None,
                side_by_side(
                    [
                        drawn(figures.labels_per_sample(results, below=below), "figure1b", "Labels per episode"),
                        drawn(figures.modalities_per_sample(results, below=below), "figure1c", "Modalities"),
                    ]
                ),
            ],
            cohorts,
        ),
        section(
            "prevalence",
            "Label prevalence by split",
            [
                details(layout.title, table(layout, heading=False), is_open=len(layout.rows) == 1)
                for layout in facts.prevalence(results, below=below)
            ],
            cohorts,
        ),
        section(
            "missing-values",
            "Missing values in the time series",
            [table(values) if values else None],
            "No hourly grids found: run the target `cohorts`.",
        ),
        section("dropped", "Dropped values", [table(drops, heading=False) if drops else None], audit),
        section("leakage", "Leakage certificate", [table(layout) for layout in proof], audit),
    ]


FLOW_TITLES = {
    "stays": "ICU stays",
    "chartevents": "Charted events",
    "labevents": "Laboratory events",
    "series": "Time series",
    "discharge": "Discharge summaries",
}


def _flow_diagrams(diagrams: dict[str, list[FlowStep]]) -> str:
    blocks = []
    for name, steps in diagrams.items():
        if name in TASKS:
            title = f"{TASKS[name].abbreviation}: {TASKS[name].description}"
        else:
            title = FLOW_TITLES.get(name, name.replace("_", " "))
        boxes = []
        for step in steps:
            counts = [
                f"<b>{html.escape(text)}</b> {html.escape(unit)}"
                if text is not None
                else f'<span class="hidden">{html.escape(unit)} n.s.</span>'
                for unit, text in step.counts
            ]
            boxes.append(
                f'<li><span class="step">{html.escape(step.title)}</span>'
                f'<span class="counts">{" · ".join(counts)}</span></li>'
            )
        blocks.append(f'<section class="funnel"><h4>{html.escape(title)}</h4><ol>{"".join(boxes)}</ol></section>')
    return f'<div class="funnels">{"".join(blocks)}</div>' if blocks else ""


def _result_sections(results: Results, about: About) -> list[Section]:
    make = {"3": "table3", "4": "table4", "5": "table5", "6": "table6"}
    titles = {"3": "Methods", "4": "Ablations", "5": "Transfer to DRG", "6": "Task token"}
    sections = []
    for number, builder in tables.TABLES.items():
        layouts = builder(results, seeds=about.seeds)
        missing = f"Not trained yet: run the target `{make[number]}`."
        frame = layouts[0].frame
        finished = frame.filter(frame["n_seeds"] > 0)["method"].n_unique()
        # FlexCare alone is already in table 3.
        if finished < (2 if number in ("4", "6") else 1):
            sections.append(Section(f"table{number}", titles[number], missing=missing))
            continue
        parts = [table(layouts[0])]
        parts += [details(layout.title, table(layout, heading=False)) for layout in layouts[1:]]
        if number in FIGURE_OF_TABLE:
            parts += _drawings(results, FIGURE_OF_TABLE[number], about.below)
        sections.append(section(f"table{number}", titles[number], parts, missing))
    sections += [
        _figure_section(results, about, "6", "experts", "Choice of experts"),
        _figure_section(results, about, "7", "interaction", "Tasks within an epoch"),
    ]
    return sections


FIGURE_OF_TABLE = {"4": "4", "6": "5"}
"""Figures that are shown below a table."""


def _drawings(results: Results, which: str, below: int) -> list[str]:
    """Pictures of a figure target, or a line of text where one cannot be drawn."""
    return [
        paragraph(f"{drawing.title}: not drawn, run the target `{drawing.needs}`.")
        if drawing.figure is None
        else picture(drawing.figure, name, drawing.title)
        for name, drawing in draw(results, which, below=below).items()
    ]


def _figure_section(results: Results, about: About, which: str, anchor: str, title: str) -> Section:
    drawings = draw(results, which, below=about.below)
    parts = [drawn(drawing.figure, name, drawing.title) for name, drawing in drawings.items()]
    needs = next(iter(drawings.values())).needs
    return section(anchor, title, parts, f"Not drawn: run the target `{needs}`.")


HALF = 14
"""Columns above which a table is shown as two below each other."""


def _beyond_sections(results: Results, about: About) -> list[Section]:
    made = beyond.layouts(results)
    missing = "Not computed: run the target `statistics`."
    sections = []
    for anchor, title, names in (
        ("uncertainty", "Uncertainty", ("uncertainty", "comparisons")),
        ("calibration", "Calibration", ("calibration",)),
        ("subgroups", "Groups of patients", ("subgroups",)),
    ):
        parts = [
            table(part, heading=len(names) > 1) for name in names if name in made for part in made[name].parts(HALF)
        ]
        if anchor == "calibration" and parts:
            parts += _drawings(results, "calibration", about.below)
        sections.append(section(anchor, title, parts, missing))
    return [*sections, _figure_section(results, about, "missing", "missing-modalities", "Missing modalities")]


def _training_sections(results: Results) -> list[Section]:
    parts = []
    experiments: dict[tuple[str, str], list[str]] = {}
    for run in results.runs:
        # The runs of a model that is trained per task share one figure.
        single = run.experiment in TASKS
        group = "one task at a time" if single else "DRG" if run.experiment.startswith("drg_") else "all tasks together"
        experiments.setdefault((run.model, group), []).append(run.experiment)
    order = {name: place for place, name in enumerate(TASKS)}
    first = (methods.reference().model, "all tasks together")  # the curves that are unfolded
    for (model, group), names in sorted(experiments.items(), key=lambda item: (item[0] != first, item[0])):
        figure = figures.training_curves(
            results, model=model, experiments=tuple(sorted(set(names), key=lambda name: (order.get(name, 0), name)))
        )
        if figure is not None:
            title = f"{methods.model_title(model)}, {group}"
            anchor = f"training-{model}-{group}".replace(" ", "-")
            body = picture(figure, "training", f"Loss curves of {title}", anchor=anchor)
            parts.append(details(title, body, is_open=(model, group) == first))
    return [section("training", "Training curves", parts, "No finished runs: run the target `flexcare`.")]
