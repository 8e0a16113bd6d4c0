"""Models and tasks are found in their folders without an import; a wrong declaration names file and field."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from flexcare_data import discovery, train_settings
from flexcare_data.discovery import DeclarationError
from flexcare_data.options import PAPER_TASKS
from flexcare_model.models import MODELS


def added(monkeypatch, tmp_path, text: str, *, folder: str) -> None:
    """Let discovery find one more file, `added.py`, with ``text``."""
    path = tmp_path / folder / "added.py"
    path.parent.mkdir()
    path.write_text(text)
    original = discovery._files
    monkeypatch.setattr(
        discovery, "_files", lambda *place: [*original(*place), *([path] if place[1] == folder else [])]
    )


def models_with(monkeypatch, tmp_path, text):
    added(monkeypatch, tmp_path, text, folder="models")
    return discovery.models.__wrapped__()


def tasks_with(monkeypatch, tmp_path, text):
    added(monkeypatch, tmp_path, text, folder="tasks")
    return discovery.tasks.__wrapped__()


def test_declared_and_imported_models_agree():
    for name, declared in discovery.models().items():
        assert MODELS[name].name == name
        assert MODELS[name].multi_task == declared.multi_task
        assert (MODELS[name].__module__, MODELS[name].__name__) == (declared.module, declared.class_name)


def test_the_paper_comes_first_and_in_its_order():
    assert tuple(discovery.tasks())[: len(PAPER_TASKS)] == PAPER_TASKS
    assert [model.title for model in discovery.models_of("baseline")[:5]] == [
        "MedFuse", "MT", "M3Care", "MMF", "MultiModN",
    ]  # fmt: skip
    assert discovery.reference().name == "flexcare"


def test_a_class_with_a_name_is_a_model_of_table_3(monkeypatch, tmp_path):
    model = models_with(monkeypatch, tmp_path, "class Added(Model):\n    name = 'added'\n")["added"]
    assert (model.module, model.class_name, model.title) == ("flexcare_model.models.added", "Added", "added")
    assert (model.role, model.multi_task) == ("baseline", False)


def test_multi_task_is_inherited_and_the_place_in_the_report_is_not(monkeypatch, tmp_path):
    text = "from flexcare_model.models.flexcare import FlexCare\n\nclass Added(FlexCare):\n    name = 'added'\n"
    model = models_with(monkeypatch, tmp_path, text)["added"]
    assert model.multi_task and (model.role, model.title, model.colour) == ("baseline", "added", "")


SETTINGS = """
class First(Model):
    name = 'first'
    settings = {"pooling": {"default": "mean", "choices": ("mean", "max"), "meaning": "how"}, "dropout": {}}

class Second(First):
    name = 'second'
    settings = {"pooling": {"default": "max"}, "width": {"default": 8, "least": 1, "meaning": "width"}}
"""


def test_settings_are_declared_in_the_class_and_inherited(monkeypatch, tmp_path):
    """Their types and limits follow from the declaration; no other file names them."""
    found = models_with(monkeypatch, tmp_path, SETTINGS)
    monkeypatch.setattr(discovery, "models", lambda: found)
    assert found["second"].bases == ("first",) and found["first"].bases == ()
    first, second = (train_settings._typed(found[name]) for name in ("first", "second"))
    own = [name for name in second.model_fields if name not in train_settings.PER_MODEL]
    assert own == ["pooling", "dropout", "width"]
    assert (first().pooling, first().dropout, second().pooling, second().width) == ("mean", None, "max", 8)
    assert second(pooling="mean", dropout=0.5, width="3", lr=0.1).width == 3
    for wrong in ({"pooling": "sum"}, {"width": 0}, {"width": 1.5}, {"dropout": 1.5}, {"lr": 0}, {"depth": 1}):
        with pytest.raises(ValidationError):
            second(**wrong)
    with pytest.raises(ValidationError):
        first(width=3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("[1]", "models/added.py, class Added: settings: expected a dict of dicts by name"),
        (
            "{'a': {'default': 1, 'unit': 'm'}}",
            "settings, a: expected choices, default, least, meaning, most; got unit",
        ),
        ("{'a': {'default': 'x', 'choices': ('y',), 'meaning': 'm'}}", "a: expected choices that contain the default"),
        ("{'a': {'default': [1]}}", "settings, a: expected a default that is a number, a text, True or False"),
        ("{'A b': {'default': 1}}", "settings: expected names of lower-case letters"),
        ("{'a': make()}", "settings: expected a literal"),
        ("{'a': {'meaning': 'm'}}", "added: settings: expected a default of a, got none"),
        ("{'batch_size': {'default': 3}}", "added: settings: batch_size of `train` is the same for all models"),
    ],
)
def test_wrong_settings_of_a_model_are_reported(monkeypatch, tmp_path, settings, expected):
    text = f"class Added(Model):\n    name = 'added'\n    settings = {settings}\n"
    with pytest.raises(DeclarationError, match=expected):
        found = models_with(monkeypatch, tmp_path, text)
        monkeypatch.setattr(discovery, "models", lambda: found)
        train_settings._typed(found["added"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("name = 'mt'", "models/added.py, class Added: expected a name that no other model has, got 'mt'"),
        ("name = 'Added!'", "expected name to be lower-case letters, digits and _, got 'Added!'"),
        ("name = 'added'; title = 'MT'", "expected a title that no other model has, got 'MT'"),
        ("name = 'added'; title = make()", r"title: expected a literal, got make\(\)"),
        ("name = 'added'; role = 'best'", "expected role to be one of baseline, reference, .*, got 'best'"),
        ("name = 'added'; colour = 'red'", "expected colour to be a colour such as '#0072B2', got 'red'"),
        ("name = 'added'; marks = (True, False, True)", "expected marks .* got role 'baseline' and 3 marks"),
        ("name = 'added'; role = 'task_token'", "expected multi_task = True, because the role is 'task_token'"),
        (
            "name = 'added'; role = 'reference'; marks = (True, True, True); multi_task = True",
            "expected one model with the role 'reference', got",
        ),
        ("name = = 'added'", "models/added.py, line 2: invalid syntax"),
    ],
)
def test_a_wrong_model_is_reported(monkeypatch, tmp_path, body, expected):
    with pytest.raises(DeclarationError, match=expected):
        models_with(monkeypatch, tmp_path, f"class Added(Model):\n    {body}\n")


def test_a_task_comes_after_those_of_the_paper_unless_it_says_otherwise(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        assert list(tasks_with(patch, tmp_path, "TASK = Task(name='added', id=9)\n"))[-1] == "added"
    (tmp_path / "tasks/added.py").unlink()
    (tmp_path / "tasks").rmdir()
    assert next(iter(tasks_with(monkeypatch, tmp_path, "TASK = Task(name='added', id=9, order=0)\n"))) == "added"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TASK = Task(name='added')", "tasks/added.py, line 1: expected id= with a whole number, got None"),
        ("TASK = Task(name='added', id='9')", "expected id= with a whole number, got '9'"),
        ("TASK = Task(name='added', id=next_id())", r"id: expected a literal, got next_id\(\)"),
        ("TASK = Task(name='added', id=5)", "expected an id that no other task has, got 5, that of diagnosis"),
        ("TASK = OTHER", r"expected TASK = Task\(name=..., id=..., ...\)"),
        ("TASK = Task(", "tasks/added.py, line 1: "),
    ],
)
def test_a_wrong_task_is_reported(monkeypatch, tmp_path, text, expected):
    with pytest.raises(DeclarationError, match=expected):
        tasks_with(monkeypatch, tmp_path, text + "\n")


def test_a_model_or_task_is_imported_when_it_is_used():
    """The names alone import neither polars nor torch."""
    program = """
import sys
from flexcare_data import discovery
names = [*discovery.models(), *discovery.tasks()]
assert not {"polars", "torch", "pydantic"} & set(sys.modules)
from flexcare_data.tasks import TASKS
from flexcare_model.models import MODELS
assert "mt" in MODELS and "drg" in TASKS and len(MODELS) + len(TASKS) == len(names)
files = {"flexcare_model.models." + name for name in ("mt", "mmf", "flexcare", "m3care")}
files |= {discovery.tasks()[name].module for name in TASKS}
assert not files & set(sys.modules)
MODELS["mt"], TASKS["drg"]
assert files & set(sys.modules) == {"flexcare_model.models.mt", "flexcare_data.tasks.drg"}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
