"""Variables and tasks are declared in one place each: the published benchmark, and errors of wrong declarations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flexcare_data import tasks
from flexcare_data.options import PAPER_TASKS, Options
from flexcare_data.schema import PHENOTYPES, RAW
from flexcare_data.stages.phenotypes import code_list
from flexcare_data.tasks import TASKS, TaskError
from flexcare_data.variables import ITEMS, VARIABLE, VariableError, parse_variables

GOOD = """
[lactate]
unit = "mmol/L"
default = 1.2
limits = [0.05, 0.2, 30, 50]
mimic3 = [2.1, 1.7]
items = [{ itemid = 50813, table = "labevents", unit = "mmol/L", fluid = "blood" }]
"""


def test_a_variable_is_read_as_declared():
    lactate = parse_variables(GOOD)["lactate"]
    (item,) = lactate.items
    assert (lactate.name, lactate.default, lactate.limits, lactate.mimic3) == (
        "lactate", 1.2, (0.05, 0.2, 30, 50), (2.1, 1.7),
    )  # fmt: skip
    assert (item.itemid, item.variable, item.factor, item.fluid, item.option) == (50813, "lactate", 1.0, "blood", "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("default = 1.2\n", "", r"\[lactate\]: missing 1 required positional argument: 'default'"),
        ("mimic3", "mimic_3", r"\[lactate\]: expected fields of .*mimic3.*; got mimic_3"),
        ("[0.05, 0.2, 30, 50]", "[0.2, 30]", "expected limits with 4 numbers and mimic3 with 2, or categories"),
        ("fluid =", "liquid =", r"\[lactate\], items: expected fields of .*; got liquid"),
        ("items = [", "items = [5, ", r"\[lactate\]: expected items as a list of tables, got \[5,"),
        ("itemid = 50813", 'itemid = "50813"', "expected itemid to be a whole number, got '50813'"),
        ('unit = "mmol/L"\ndefault', "unit = 5\ndefault", "expected unit to be a text, got 5"),
        ("[2.1, 1.7]", '[2.1, "1.7"]', "expected mimic3 to be a list of numbers"),
        (" }]", ' }, { itemid = 50813, table = "labevents" }]', "itemid 50813 is listed twice, expected once"),
        ("default = 1.2", 'default = "low"\ncategories = ["normal"]', "expected a default among its categories"),
        ("default = 1.2", "default = ", "Invalid value"),
    ],
)
def test_a_wrong_variable_is_reported(old, new, message):
    assert old in GOOD
    with pytest.raises(VariableError, match=message):
        parse_variables(GOOD.replace(old, new))


def test_items_name_tables_and_options_that_exist():
    assert {item.table for item in ITEMS} == {"chartevents", "labevents"} <= set(RAW)
    assert {item.option for item in ITEMS if item.option} <= set(Options.model_fields)
    assert {item.variable for item in ITEMS} <= set(VARIABLE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "another"}, r"drg\.py: expected a task named drg, got 'another'"),
        ({"kind": "multi-class"}, r"drg\.py: expected kind to be one of .*multiclass; got 'multi-class'"),
        ({"section": "history"}, r"drg\.py: expected section to be one of past_medical_history, .*; got 'history'"),
        ({"labels": "label"}, r"drg\.py: expected labels as a tuple such as \('label',\), got 'label'"),
        ({"kind": "binary", "n_outputs": 2}, r"drg\.py: expected n_outputs=1 for its labels, got 2"),
        ({"classes": ("a", "b"), "n_outputs": 3}, r"drg\.py: expected 3 classes, got 2"),
        ({"raw": ("drugcodes",)}, "expected raw tables of .*drgcodes.*; got drugcodes"),
        ({"options": ("sample",)}, "expected options of .*sampling.*; got sample"),
    ],
)
def test_a_wrong_task_is_reported(change, message):
    with pytest.raises(TaskError, match=message):
        tasks._check("drg", replace(TASKS["drg"], **change))


def test_tasks_come_in_the_papers_order():
    assert tuple(TASKS)[: len(PAPER_TASKS)] == PAPER_TASKS
    assert [TASKS[name].id for name in PAPER_TASKS] == [0, 3, 1, 2, 4, 5, 6]


@pytest.mark.parametrize("icd10", ["published", "ccs"])
def test_phenotypes_are_those_of_the_code_lists(icd10):
    assert tuple(code_list(Options(icd10=icd10))["phenotype"].unique().sort()) == PHENOTYPES
