"""The clinical variables, their values and the columns of the model input (17 variables and 76 columns as published).

In: `resources/variables.toml`, the one place where a variable is declared. Out: names, categories and columns, in the
published order (FlexCare's discretiser).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from flexcare_data.errors import UserError
from flexcare_data.package_files import package_file

_DECLARED = package_file("flexcare_data/resources/variables.toml")


class VariableError(UserError):
    """A declaration in `resources/variables.toml` is wrong."""


@dataclass(frozen=True)
class Item:
    """An itemid that carries a variable: its table, unit as charted, factor to the variable's unit, fluid, option."""

    itemid: int
    table: str
    variable: str
    unit: str = ""
    factor: float = 1.0
    fluid: str = ""
    option: str = ""


@dataclass(frozen=True)
class Variable:
    """One clinical variable; the head of `resources/variables.toml` says what each field means."""

    name: str
    default: float | str
    unit: str = ""
    limits: tuple[float, float, float, float] | None = None
    mimic3: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()
    grades: dict[str, int] = field(default_factory=dict)
    plain_numbers: bool = False
    compared_as_text: bool = False
    carried: bool = False
    items: tuple[Item, ...] = ()


def parse_variables(text: str) -> dict[str, Variable]:
    """The variables declared in ``text`` (TOML), in its order.

    Raises:
        VariableError: naming the variable, what was expected and what came.
    """
    try:
        declared = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise VariableError(f"{_DECLARED.name}: {error}") from None
    found = {name: _variable(name, values) for name, values in declared.items()}
    itemids = [item.itemid for variable in found.values() for item in variable.items]
    if twice := sorted({itemid for itemid in itemids if itemids.count(itemid) > 1}):
        raise VariableError(f"{_DECLARED.name}: itemid {twice[0]} is listed twice, expected once")
    return found


def _variable(name: str, values: Any) -> Variable:
    where = f"{_DECLARED.name}, [{name}]"
    if not isinstance(values, dict):
        raise VariableError(f"{where}: expected a table of fields, got {values!r}")
    entries = values.get("items", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise VariableError(f"{where}: expected items as a list of tables, got {entries!r}")
    items = tuple(_made(Item, entry, f"{where}, items", variable=name) for entry in entries)
    listed = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    variable = _made(Variable, values | listed | {"items": items}, where, name=name)
    if variable.categories:
        if variable.default not in variable.categories:
            raise VariableError(f"{where}: expected a default among its categories, got {variable.default!r}")
        if strange := sorted(set(variable.grades) - set(variable.categories)):
            raise VariableError(f"{where}: expected grades of its categories, got {strange}")
    elif len(variable.limits or ()) != 4 or len(variable.mimic3 or ()) != 2:
        raise VariableError(f"{where}: expected limits with 4 numbers and mimic3 with 2, or categories")
    return variable


def _made(kind: type[Any], values: dict[str, Any], where: str, **given: Any) -> Any:
    known = {part.name for part in fields(kind)} - set(given)
    if unknown := sorted(set(values) - known):
        raise VariableError(f"{where}: expected fields of {', '.join(sorted(known))}; got {unknown[0]}")
    for name, value in values.items():
        expected, is_valid = _KINDS.get(name, _TEXT)
        if not is_valid(value):
            raise VariableError(f"{where}: expected {name} to be {expected}, got {value!r}")
    try:
        return kind(**given, **values)
    except TypeError as error:  # a field without default is missing
        raise VariableError(f"{where}: {str(error).partition(') ')[2]}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TEXT: tuple[str, Callable[[Any], bool]] = ("a text", lambda value: isinstance(value, str))
_NUMBERS = ("a list of numbers", lambda value: isinstance(value, tuple) and all(map(_is_number, value)))
_SWITCH = ("true or false", lambda value: isinstance(value, bool))
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "default": ("a number or a text", lambda value: _is_number(value) or isinstance(value, str)),
    "limits": _NUMBERS,
    "mimic3": _NUMBERS,
    "categories": ("a list of texts", lambda value: isinstance(value, tuple) and all(map(_TEXT[1], value))),
    "grades": (
        "a table of whole numbers",
        lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    ),
    "plain_numbers": _SWITCH,
    "compared_as_text": _SWITCH,
    "carried": _SWITCH,
    "items": ("a list of tables", lambda value: isinstance(value, tuple)),
    "itemid": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "factor": ("a number", _is_number),
}
"""What a field may hold; fields that are not listed hold a text."""


VARIABLE: dict[str, Variable]
"""All variables by name, in the order of the input columns and of the observation masks."""

VARIABLES: tuple[str, ...]
"""The names of all variables."""

ITEMS: tuple[Item, ...]
"""The items of all variables; the position of an item is its code in a scan."""

CATEGORIES: dict[str, tuple[str, ...]]
"""One-hot values of the categorical variables, in column order."""

CONTINUOUS: tuple[str, ...]
"""The variables with one numeric column each; only these are standardised."""

DEFAULTS: dict[str, float | str]
"""The value before the first charted one."""

COLUMNS: tuple[str, ...]
"""Names of the input columns: the values (59 as published), then a mask per variable (17)."""

GRADES: dict[str, dict[str, int]]
"""Grade of each known spelling of the variables that are charted as text."""

MERGED_SPELLINGS: dict[str, dict[str, str]]
"""Numbered spelling that replaces each spelling (option `gcs_spellings: merged`)."""


def __getattr__(name: str) -> Any:
    # Read at the first use of a constant, so that a mistake in variables.toml is an error of the command that needs
    # it, and importing this module never fails.
    if name not in _CONSTANTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals().update(_constants(parse_variables(_DECLARED.read_text(encoding="utf-8"))))
    return globals()[name]


_CONSTANTS = frozenset(
    ("VARIABLE", "VARIABLES", "ITEMS", "CATEGORIES", "CONTINUOUS", "DEFAULTS", "COLUMNS", "GRADES", "MERGED_SPELLINGS")
)


def _constants(declared: dict[str, Variable]) -> dict[str, Any]:
    categories = {name: variable.categories for name, variable in declared.items() if variable.categories}
    values = [
        column
        for name in declared
        for column in ([f"{name}={text}" for text in categories[name]] if name in categories else [name])
    ]
    grades = {name: variable.grades for name, variable in declared.items() if variable.grades}
    return {
        "VARIABLE": declared,
        "VARIABLES": tuple(declared),
        "ITEMS": tuple(item for variable in declared.values() for item in variable.items),
        "CATEGORIES": categories,
        "CONTINUOUS": tuple(name for name in declared if name not in categories),
        "DEFAULTS": {name: variable.default for name, variable in declared.items()},
        "COLUMNS": (*values, *(f"observed:{name}" for name in declared)),
        "GRADES": grades,
        "MERGED_SPELLINGS": {
            name: {text: _merged(text, grade, declared[name]) for text, grade in texts.items()}
            for name, texts in grades.items()
        },
    }


def _merged(text: str, grade: int, variable: Variable) -> str:
    """The numbered category of the same grade as ``text``, or ``text`` where there is none."""
    # A tube and silence have grade 1 both, and stay two categories.
    is_tube = text in ("No Response-ETT", "1.0 ET/Trach")
    for numbered in variable.categories:
        same_grade = numbered[0].isdigit() and variable.grades.get(numbered) == grade
        if same_grade and ("Trach" in numbered) == is_tube:
            return numbered
    return text
