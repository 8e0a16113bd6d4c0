"""report.html: one self-contained file that opens from disk.

In: `Results`, facts about the build (`About`). Out: the page as text. The texts and the style are in
`workflow/report/`; this module puts the sections together. The page has no data of a single
patient.
"""

from __future__ import annotations

import html
import json
from typing import Any

import yaml

from flexcare_data.tasks import TASKS
from flexcare_model.report.about import About
from flexcare_model.report.catalogue import BY_YEARS, SECTIONS, figures_of, tables_of
from flexcare_model.report.figures.training_curves import training_curves
from flexcare_model.report.make import make_figure, make_tables
from flexcare_model.report.numbers import facts, methods, provenance
from flexcare_model.report.numbers.flow import FLOW_TITLES, FlowStep, flow_diagrams
from flexcare_model.report.numbers.layout import Layout
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
        (
            "What was built",
            [_origin(results, about), _fingerprint(results, about), _config(about), _resources(results, about)],
        ),
        ("Data", _data_sections(results, about)),
        *(
            (heading, [_section(results, about, anchor, title) for anchor, title in sections.items()])
            for heading, sections in SECTIONS.items()
        ),
        *([("Split by time", by_years)] if (by_years := _year_groups(results, about)) else []),
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
    lines += [("Left out", f"{task} is left out: {reason}") for task, reason in about.left_out.items()]
    untrained = {
        (f"{run.model} on {run.experiment}", task): reason
        for run in results.runs
        for task, reason in run.metrics.get("left_out", {}).items()
        if task not in about.left_out
    }
    lines += [("Left out", f"{task} is left out of {run}: {reason}") for (run, task), reason in untrained.items()]
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


def _fingerprint(results: Results, about: About) -> Section:
    found = provenance.fingerprint(results, below=about.below)
    if found is None:
        return Section("fingerprint", "Fingerprint", missing="No fingerprint found: run the target `cohorts`.")
    header, rows, total = found
    body = paragraph(f"Total: `{total}`") + plain_table(header, rows)
    return Section("fingerprint", "Fingerprint", introduction("fingerprint") + body)


def _config(about: About) -> Section:
    if not about.config:
        return Section("config", "Configuration", missing="No configuration was given: run the target `report`.")
    text = yaml.safe_dump(about.config, sort_keys=False, default_flow_style=None, width=100)
    version = paragraph(f"Code version: {about.code_version}") if about.code_version else ""
    return Section("config", "Configuration", version + f"<pre>{html.escape(text)}</pre>")


def _resources(results: Results, about: About) -> Section:
    made = provenance.resources(results, about.products)
    missing = "No benchmark files found: the workflow writes them while it runs."
    if made is None:
        return section("resources", "Time and memory", [], missing)
    rules, jobs = made
    parts = [table(rules, heading=False)]
    if len(jobs.rows) > len(rules.rows):
        parts.append(details("Every job", table(jobs, heading=False), is_printed=False))
    return section("resources", "Time and memory", parts, missing)


def _data_sections(results: Results, about: About) -> list[Section]:
    below = about.below
    no_cohorts, not_written = (
        "No cohorts found: run the target `cohorts`.",
        "Not written yet: run the target `cohorts`.",
    )
    sizes, values = facts.cohort_sizes(results, below=below), facts.missing_values(results, below=below)
    drops, audit = facts.dropped(results, below=below), facts.audit(results, below=below)
    diagrams = flow_diagrams(results, below=below)
    layouts = _tables(results, about, "cohorts") if results.cohorts else []
    figures = [(entry, make_figure(entry, results, below=below)) for entry in figures_of("cohorts")]
    return [
        section("flow", "Selection of the cohorts", [_flow_diagrams(diagrams)], not_written),
        section(
            "cohorts",
            "Samples and modalities",
            [
                table(sizes) if sizes else None,
                *map(table, layouts),
                side_by_side([drawn(figure, entry.name, entry.title) for entry, figure in figures]),
            ],
            no_cohorts,
        ),
        section(
            "prevalence",
            "Label prevalence by split",
            [
                details(layout.title, table(layout, heading=False), is_open=len(layout.rows) == 1)
                for layout in facts.prevalence(results, below=below)
            ],
            no_cohorts,
        ),
        section(
            "missing-values",
            "Missing values in the time series",
            [table(layout) for layout in (values, facts.implausible_scaling(results)) if layout],
            "No hourly grids found: run the target `cohorts`.",
        ),
        section("dropped", "Dropped values", [table(drops, heading=False) if drops else None], not_written),
        section("leakage", "Leakage certificate", [table(layout) for layout in audit], not_written),
    ]


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


SPLIT_ABOVE = 14
"""A table with more columns is shown in two parts, one below the other."""


def _section(results: Results, about: About, anchor: str, title: str) -> Section:
    """A section of the catalogue: its tables, then its figures."""
    entries, figures = tables_of(anchor), figures_of(anchor)
    layouts = _tables(results, about, anchor)
    missing = f"Not made yet: run the target `{[*entries, *figures][0].target}`."
    if entries and not layouts:
        return Section(anchor, title, missing=missing)
    has_headings = sum(len(entry.stems_in(anchor)) for entry in entries) > 1
    parts: list[str | None] = []
    for layout in layouts:
        if layout.name.endswith("_wide"):  # the same numbers in another form
            parts.append(details(layout.title, table(layout, heading=False)))
        else:
            parts += [table(part, heading=has_headings) for part in layout.parts(SPLIT_ABOVE)]
    for entry in figures:
        figure = make_figure(entry, results, below=about.below)
        if figure is not None:
            parts.append(picture(figure, entry.name, entry.title))
        elif entries:
            parts.append(paragraph(f"{entry.title}: not drawn, run the target `{entry.target}`."))
    return section(anchor, title, parts, missing)


def _year_groups(results: Results, about: About) -> list[Section]:
    """Metrics by groups of years, where the patients are split by them."""
    layouts = make_tables(BY_YEARS, results, below=about.below)
    return [Section(BY_YEARS.sections[layout.name], layout.title, table(layout, heading=False)) for layout in layouts]


def _tables(results: Results, about: About, anchor: str) -> list[Layout]:
    """Tables of a section; none of those for which too few methods were trained."""
    found: list[Layout] = []
    for entry in tables_of(anchor):
        layouts = make_tables(entry, results, below=about.below, seeds=about.seeds)
        if entry.fewest_methods:
            frame = layouts[0].frame
            if frame.filter(frame["n_seeds"] > 0)["method"].n_unique() < entry.fewest_methods:
                continue
        found += [layout for layout in layouts if layout.name in entry.stems_in(anchor)]
    return found


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
        figure = training_curves(
            results, model=model, experiments=tuple(sorted(set(names), key=lambda name: (order.get(name, 0), name)))
        )
        if figure is not None:
            title = f"{methods.model_title(model)}, {group}"
            anchor = f"training-{model}-{group}".replace(" ", "-")
            body = picture(figure, "training", f"Loss curves of {title}", anchor=anchor)
            parts.append(details(title, body, is_open=(model, group) == first))
    return [section("training", "Training curves", parts, "No finished runs: run the target `flexcare`.")]
