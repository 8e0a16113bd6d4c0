"""What a command prints for an exception: words that users can act on, and no value of a patient."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from support.invented_batches import make_batch, make_model

import flexcare_data
import flexcare_model
from flexcare_data import tasks
from flexcare_data.errors import FULL_ERRORS, UserError, message, withheld


def project_errors() -> list[type[Exception]]:
    """Exception classes that the two packages define."""
    found = {}
    for package in (flexcare_data, flexcare_model):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.name:
                    found[value.__qualname__] = value
    return list(found.values())


def test_every_error_of_the_project_is_a_user_error():
    errors = project_errors()
    assert len(errors) >= 15
    assert [error.__name__ for error in errors if not issubclass(error, UserError)] == []


def test_the_message_of_a_user_error_is_printed_as_it_is():
    assert message(tasks.TaskError("drg.py: expected a kind")) == "drg.py: expected a kind"
    assert message(KeyError("stay_id")) is None


def raised(call) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def test_an_exception_inside_a_model_shows_its_words_file_and_line():
    model = make_model("medfuse")
    model.heads["in_hospital_mortality"] = torch.nn.Linear(3, 1)
    text = withheld(raised(lambda: model(make_batch())))
    assert text.startswith("error: the model raised an exception")
    assert 'flexcare_model/models/medfuse.py", line ' in text and "in forward" in text
    assert text.splitlines()[-1].startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")


def test_other_exceptions_are_reported_without_their_words():
    """Libraries quote the values that they cannot use."""
    error = raised(lambda: tasks.base.stays_with_series("secret 4711"))
    text = withheld(error)
    assert "flexcare_data/tasks/base.py" in text and type(error).__name__ in text
    assert str(error) not in text and FULL_ERRORS in text
    assert "a bug of this program" in text


def test_an_exception_outside_the_project_is_reported_without_its_words():
    text = withheld(raised(lambda: int("secret 4711")))
    assert "ValueError" in text and "4711" not in text.split("ValueError", 1)[1]


def test_only_the_part_of_a_chain_that_a_model_raised_shows_its_words():
    model = make_model("medfuse")
    model.heads["in_hospital_mortality"] = torch.nn.Linear(3, 1)

    def chained():
        try:
            int("4711 mg")
        except ValueError:
            model(make_batch())

    text = withheld(raised(chained))
    assert "mat1 and mat2" in text and "invalid literal" not in text
