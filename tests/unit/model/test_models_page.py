"""docs/models.md: its numbers are computed here, and every setting and discrepancy is named."""

from __future__ import annotations

import re

import pytest
from support.paths import ROOT

from flexcare_data import discovery
from flexcare_data.config import load_config
from flexcare_data.options import PAPER_TASKS, Options
from flexcare_data.tasks import TASKS
from flexcare_data.train_settings import Train, settings_of
from flexcare_model.models import MODELS, ModelConfig

TEXT = (ROOT / "docs/models.md").read_text()
SIX = {name: TASKS[name].n_outputs for name in PAPER_TASKS[:-1]}
ONE = {"in_hospital_mortality": 1}


def rows_of(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    part = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("row", rows_of("Parameters"), ids=lambda row: row[0])
def test_parameters(row):
    name, *setting = re.findall(r"`([^`]+)`", row[0])
    own = dict(text.split(": ") for text in setting)
    for outputs, written in ((ONE, row[1]), (SIX, row[2])):
        assert (written == "") == (outputs is SIX and not MODELS[name].multi_task)
        if written:
            model = MODELS[name](ModelConfig(**MODELS[name].usual(), own=own), outputs)
            assert f"{sum(value.numel() for value in model.parameters()):,}" == written


def test_every_compared_model_is_on_the_page():
    counted = {re.findall(r"`([^`]+)`", row[0])[0] for row in rows_of("Parameters")}
    titles = {row[0] for row in rows_of("Hyper-parameters")}
    assert counted == set(discovery.models()) - {
        model.name for role in ("ablation", "task_token") for model in discovery.models_of(role)
    }
    for model in (*discovery.models_of("baseline"), discovery.reference()):
        assert model.title in titles and f"\n### {model.title}\n" in TEXT


def test_our_hyper_parameters_are_the_defaults():
    """Learning rate and epochs of every row, as the plan resolves them."""
    for row in rows_of("Hyper-parameters"):
        model = next(model for model in discovery.models().values() if model.title == row[0])
        found = settings_of(Train(), model.name)
        assert f"lr {float(found['lr']):.0e}".replace("e-0", "e-") in row[2]
        assert f"{found['epochs']} epochs" in row[2] and f"batch {Train().batch_size}" in row[2]
        assert found["weight_decay"] == 0 and found["optimizer"] == "adam"


def test_all_discrepancies_are_in_one_table_with_options_that_exist():
    rows = rows_of("Discrepancies")
    assert [row[0] for row in rows] == [f"D{number}" for number in range(1, 22)]
    own = {one.name for model in discovery.models().values() for one in model.settings}
    for row in rows:
        named = re.findall(r"`([^`]+)`", row[5])
        assert named or row[5] == "none", row[0]
        for option in named:
            name, _, value = option.partition(": ")
            if name.startswith("options."):
                assert name.removeprefix("options.") in Options.model_fields
            else:
                assert name in Train.model_fields or name in own, option
            if value and name in Train.model_fields:
                load_config({"train": {name: value}})


def test_the_released_model_has_the_sides_that_the_page_says():
    """D1, D7, D9 and D21."""
    found = settings_of(Train(), "flexcare_released")
    options = dict(re.findall(r"`(\w+): (\w+\.?\w*)`", "".join(
        row[5] for row in rows_of("Discrepancies") if row[0] in ("D1", "D7", "D9", "D21")
    )))  # fmt: skip
    assert {name: str(found[name]).lower() for name in options} == options
    flexcare = settings_of(Train(), "flexcare")
    assert {name for name in found if found[name] != flexcare[name]} == set(options)
