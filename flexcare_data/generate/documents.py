"""Generate the parts of docs/ that list options, tables and variables.

In: `Options`, `TABLES`, `RAW`, `VARIABLE`, the declarations of the models. Out: Markdown, which
`python -m flexcare_data docs` writes between the marks of the pages; a test compares it with the pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import get_args

import polars as pl

from flexcare_data import discovery
from flexcare_data.config import CONFIG_DIR
from flexcare_data.options import PROTOCOLS, Options
from flexcare_data.schema import RAW, TABLES, Column, Table
from flexcare_data.variables import COLUMNS, VARIABLE, Variable

DOCS = CONFIG_DIR.parent.parent / "docs"


def options() -> str:
    """Every option of the protocol: its values, those of the two protocols, its effect."""
    rows = [("option", "`flexcare`", "`corrected`", "further values", "what it decides")]
    for name, field in Options.model_fields.items():
        published, corrected = (getattr(PROTOCOLS[protocol], name) for protocol in ("flexcare", "corrected"))
        others = [value for value in get_args(field.annotation) if value not in (published, corrected)]
        same = "the same" if corrected == published else f"`{corrected}`"
        meaning = (field.description or "").replace("|", "\\|")
        rows.append((f"`{name}`", f"`{published}`", same, ", ".join(f"`{value}`" for value in others), meaning))
    return _table(rows)


def tables() -> str:
    """Every table that the build writes."""
    return "\n\n".join(_written(table) for table in TABLES.values())


def _written(table: Table) -> str:
    rows = [("column", "type", "meaning")]
    rows += [(f"`{column.name}`", _type(column), column.meaning) for column in table.columns]
    if table.extra is not None:
        rows.append((table.extra.name, str(table.extra.dtype), table.extra.meaning))
    key = ", ".join(f"`{name}`" for name in table.key)
    return f"### {table.name}\n\n`{table.path}`, one row per {key}, sorted by it.\n\n{_table(rows)}"


def _type(column: Column) -> str:
    if isinstance(column.dtype, pl.Enum):
        return " or ".join(column.dtype.categories)
    return f"{column.dtype.base_type()}" + (", may be null" if column.nullable else "")


def raw_tables() -> str:
    """The columns that are read of each raw table."""
    rows = [("data set", "table", "columns read")]
    for table in RAW.values():
        names = [f"`{name}`" for name in table.columns]
        read = ", ".join(names) if len(names) < 12 else f"{', '.join(names[:2])} and {len(names) - 2} labels"
        rows.append((table.root, f"`{table.filename}`", read))
    return _table(rows)


def variables() -> str:
    """Every clinical variable with its unit, its default and its items."""
    rows = [("variable", "unit", "columns", "before the first value", "items")]
    for name, variable in VARIABLE.items():
        n = len(variable.categories) or 1
        items = ", ".join(str(item.itemid) for item in variable.items) or "none: derived, or never filled"
        rows.append((f"`{name}`", _unit(variable), str(n), str(variable.default), items))
    values = sum(len(variable.categories) or 1 for variable in VARIABLE.values())
    return f"{_table(rows)}\n\n{values} columns of values and {len(COLUMNS) - values} of observation masks."


def model_settings() -> str:
    """The settings that models declare in their files."""
    rows = [("model", "setting", "default", "further values", "meaning")]
    for name, model in discovery.models().items():
        for one in model.settings:
            if one.default is None or not one.meaning:
                continue
            default, *others = (_yaml(value) for value in (one.default, *one.choices) if value != "")
            others = [value for value in others if value != default]
            rows.append((f"`{name}`", f"`{one.name}`", default, ", ".join(others), one.meaning.replace("|", "\\|")))
    return _table(rows)


def _yaml(value: bool | int | float | str) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _unit(variable: Variable) -> str:
    if variable.categories:
        return "one-hot"
    return variable.unit or "none"


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "benchmark.md": {"options": options},
    "models.md": {"settings": model_settings},
    "data_dictionary.md": {"tables": tables, "variables": variables, "raw tables": raw_tables},
}
"""The generated parts by page."""


def renewed(page: str) -> str:
    """The text of a page of docs/ with its parts generated again."""
    text = (DOCS / page).read_text()
    for part, made in PARTS[page].items():
        mark = f"<!-- {part}: made by `python -m flexcare_data docs` -->"
        pattern = re.escape(mark) + r"\n.*?<!-- end -->"
        content = f"{mark}\n\n{made()}\n\n<!-- end -->"
        text, found = re.subn(pattern, content.replace("\\", r"\\"), text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"docs/{page}: expected the mark {mark} and an end once, got {found} of them")
    return text


def write_pages() -> None:
    """Renew the generated parts of all pages of docs/."""
    for page in PARTS:
        (DOCS / page).write_text(renewed(page))


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])
