"""The two files that are made from the configuration model: ``default.yaml`` with its comments, and the JSON schema.

In: `Config` and `Options`. Out: their text, which `python -m flexcare_data config-schema` writes to workflow/config/
and a test compares with what lies there.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flexcare_data.config import CONFIG_DIR, Config
from flexcare_data.options import Options

_WIDTH = 110
_HEADER = """\
# Every key with its default, its unit and its meaning. Leave this file as it is: put your own values into a file of
# yours (`snakemake --configfile mine.yaml`) or on the command line (`--config 'raw={mimiciv: /data/mimiciv/2.2}'`).
# Later settings win: this file, then the preset, then yours. Made by `python -m flexcare_data config-schema`.
"""


def default_yaml() -> str:
    """Text of workflow/config/default.yaml: one commented line per key."""
    lines = [_HEADER]
    for name, field in Config.model_fields.items():
        lines += _section(name, field) if _is_section(field) else _key(name, field, "")
        if name == "options":
            lines += _options()
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def json_schema() -> str:
    """Text of workflow/config/config.schema.json, for editors and for the test of the documentation."""
    schema = Config.model_json_schema()
    options = Options.model_json_schema()
    options["description"] = schema["properties"]["options"]["description"]
    schema["properties"]["options"] = options
    return json.dumps(schema, indent=2) + "\n"


def write_config_files(folder: Path = CONFIG_DIR) -> None:
    """Write both files into ``folder``."""
    (folder / "default.yaml").write_text(default_yaml())
    (folder / "config.schema.json").write_text(json_schema())


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _section(name: str, field: FieldInfo) -> list[str]:
    lines = [*_comment(field.description or "", ""), f"{name}:"]
    model = cast("type[BaseModel]", field.annotation)
    for key, inner in model.model_fields.items():
        lines += _key(key, inner, "  ")
    return lines


def _key(name: str, field: FieldInfo, indent: str) -> list[str]:
    choices = _choices(field.annotation)
    text = (field.description or "") + (f" [{' | '.join(choices)}]" if choices else "")
    return [*_comment(text, indent), f"{indent}{name}: {_scalar(field.get_default(call_default_factory=True))}"]


def _options() -> list[str]:
    lines = ["  # One line per option; the first value is that of protocol flexcare."]
    for name, field in Options.model_fields.items():
        lines += _comment(f"{name}: {' | '.join(_choices(field.annotation))}", "  ")
        lines += _comment(field.description or "", "      ")
    return lines


def _comment(text: str, indent: str) -> list[str]:
    wrapped = textwrap.wrap(text, _WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in wrapped]


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def _scalar(value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    # repr of a float keeps all its digits; YAML wants a dot before the exponent.
    if isinstance(value, float):
        return f"{value:.10f}".rstrip("0") + ("0" if value == int(value) else "")
    # Quoted where YAML would read another type: "2.2" is a name, not a number.
    return value if isinstance(value, str) and yaml.safe_load(value) == value else json.dumps(value)
