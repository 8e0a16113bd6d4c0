"""The clinical variables, their values and the columns of the model input (17 variables and 76 columns as published).

In: `resources/variables.toml`, the one place where a variable is declared. Out: names, categories and columns, in the
published order (FlexCare's discretiser).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from typing import Any

from flexcare_data.package_files import package_file

_DECLARED = package_file("flexcare_data/resources/variables.toml")


class VariableError(ValueError):
    """A declaration in `resources/variables.toml` is not one of a variable."""


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
        raise VariableError(f"{_DECLARED.name}: itemid {twice[0]} stands twice, expected each once")
    return found


def _variable(name: str, values: Any) -> Variable:
    where = f"{_DECLARED.name}, [{name}]"
    if not isinstance(values, dict):
        raise VariableError(f"{where}: expected a table of fields, got {values!r}")
    items = tuple(_made(Item, entry, f"{where}, items", variable=name) for entry in values.get("items", ()))
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
    try:
        return kind(**given, **values)
    except TypeError as error:  # a field without default is missing
        raise VariableError(f"{where}: {str(error).partition(') ')[2]}") from None


VARIABLE: dict[str, Variable] = parse_variables(_DECLARED.read_text())
"""All variables by name, in the order of the input columns and of the observation masks."""

VARIABLES: tuple[str, ...] = tuple(VARIABLE)

ITEMS: tuple[Item, ...] = tuple(item for variable in VARIABLE.values() for item in variable.items)
"""The items of all variables; the position of an item is its code in a scan."""

CATEGORIES: dict[str, tuple[str, ...]] = {name: v.categories for name, v in VARIABLE.items() if v.categories}
"""One-hot values of the categorical variables, in column order."""

CONTINUOUS: tuple[str, ...] = tuple(name for name in VARIABLES if name not in CATEGORIES)
"""The variables with one numeric column each; only these are standardised."""

DEFAULTS: dict[str, float | str] = {name: variable.default for name, variable in VARIABLE.items()}
"""The value before the first charted one."""

COLUMNS: tuple[str, ...] = tuple(
    column
    for name in VARIABLES
    for column in ([f"{name}={text}" for text in CATEGORIES[name]] if name in CATEGORIES else [name])
) + tuple(f"observed:{name}" for name in VARIABLES)
"""Names of the input columns: the values (59 as published), then a mask per variable (17)."""

GRADES: dict[str, dict[str, int]] = {name: variable.grades for name, variable in VARIABLE.items() if variable.grades}
"""Grade of each known spelling of the variables that are charted as text."""

MERGED_SPELLINGS: dict[str, dict[str, str]] = {
    variable: {
        text: next(
            (
                numbered
                for numbered in CATEGORIES[variable]
                # A tube and silence share grade 1 but stay two categories.
                if numbered[0].isdigit()
                and grades.get(numbered) == grade
                and ("Trach" in numbered) == (text in ("No Response-ETT", "1.0 ET/Trach"))
            ),
            text,
        )
        for text, grade in grades.items()
    }
    for variable, grades in GRADES.items()
}
"""Numbered spelling that stands for each spelling (option `gcs_spellings: merged`)."""
