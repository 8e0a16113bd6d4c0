"""The catalogue: every entry can be made, every key covers the code of its entry, every name is one of the workflow."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module

import pytest
import yaml
from support.paths import ROOT

from flexcare_data.code_digest import closure
from flexcare_data.config import load_config
from flexcare_data.plan import Plan
from flexcare_model.plan import ModelPlan
from flexcare_model.report.catalogue import ENTRIES, FIGURES, PAGES, SECTIONS, TABLES, modules_of
from flexcare_model.report.make import make_tables
from flexcare_model.report.numbers.results import Results

FIGURE_FOLDER = ROOT / "flexcare_model/report/figures"
SHARED = {"__init__", "style", "method_style", "training_curves"}
"""Modules of the figures that the pages or other figures import."""


@pytest.fixture(scope="module")
def plan() -> ModelPlan:
    return ModelPlan(Plan(load_config({"train": {"seeds": [42], "baselines": ["mt"]}})))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{type(entry).__name__}-{entry.name}")
def test_an_entry_names_its_function_its_section_and_a_target(entry):
    assert callable(getattr(import_module(entry.module), entry.function))
    anchors = {"cohorts", *(anchor for sections in SECTIONS.values() for anchor in sections)}
    assert set(entry.sections.values() if entry in TABLES.values() else [entry.section]) <= anchors
    rules = "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert re.search(rf"^rule {entry.target}:$", rules, flags=re.MULTILINE)


def test_every_section_shows_something():
    shown = {anchor for entry in TABLES.values() for anchor in entry.sections.values()}
    shown |= {entry.section for entry in FIGURES.values()}
    assert shown == {"cohorts", *(anchor for sections in SECTIONS.values() for anchor in sections)}


def test_tables_have_the_stems_that_the_plan_publishes(results, tmp_path):
    for entry in TABLES.values():
        if entry.name not in ("statistics", "modalities"):  # the files of the analyses are absent here
            assert tuple(layout.name for layout in make_tables(entry, results, below=10)) == entry.stems
    for name in ("statistics", "modalities"):
        assert make_tables(TABLES[name], Results(tmp_path), below=10) == ()


def test_every_module_of_a_figure_is_in_the_catalogue():
    modules = {path.stem for path in FIGURE_FOLDER.glob("*.py")} - SHARED
    assert {entry.module.rpartition(".")[2] for entry in FIGURES.values()} == modules


def test_every_figure_has_a_caption():
    captions = yaml.safe_load((ROOT / "workflow/report/captions.yaml").read_text())
    assert set(FIGURES) <= set(captions)


def test_a_key_covers_the_code_of_its_entry(plan):
    """The function is found by the name of its module, which the digest of the code cannot follow."""
    for name, entry in TABLES.items():
        assert entry.module in plan.table(name).spec["code"]["modules"]
    for name, entry in FIGURES.items():
        assert entry.module in plan.figure(name).spec["code"]["modules"]
    for name in PAGES:
        covered = closure(*plan.page(name).spec["code"]["modules"])
        assert set(modules_of(ENTRIES)) <= covered
        assert {f"flexcare_model.report.figures.{path.stem}" for path in FIGURE_FOLDER.glob("[a-z]*.py")} <= covered


def test_the_paper_shows_all_that_tables_and_figures_need(plan):
    shown = {product.key for product in plan.page("paper").inputs.values()}
    needed = [plan.table(name) for name in TABLES] + [plan.figure(name) for name in FIGURES]
    assert {read.key for product in needed for read in product.inputs.values()} <= shown


def test_the_plan_loads_no_library_of_models_or_drawings():
    heavy = {"matplotlib", "torch", "sklearn", "scipy", "jinja2", "flexcare_model.report.numbers"}
    code = f"import sys, flexcare_model.plan, flexcare_model.cli; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
