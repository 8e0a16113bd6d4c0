"""What counts as the code of a key: all that is executed, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

from flexcare_data import code_digest as source
from flexcare_data.code_digest import changed_code, closure, code_digest, opened_files
from flexcare_data.config import load_config
from flexcare_data.plan import Plan, code_spec
from flexcare_data.tasks import TASKS

FILES = {
    "__init__.py": "def __getattr__(name):\n    from grown import asked_for\n    return getattr(asked_for, name)\n",
    "asked_for.py": "",
    "top.py": (
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "import json, grown.absolute\n"
        "from grown.part import inner\n"
        "if TYPE_CHECKING:\n    from grown import only_for_types\n"
        "def run():\n"
        '    """Words."""\n'
        "    from grown.late import LATE  # only when it is called\n"
        "    return import_module('grown.named'), package_file('grown/table.csv'), package_folder('grown/templates')\n"
    ),
    "absolute.py": "A = 1\n",
    "part/__init__.py": "P = 1\n",
    "part/inner.py": "from . import sibling\nfrom ..late import LATE\n",
    "part/sibling.py": "S = 1\n",
    "part/unused.py": "U = 1\n",
    "late.py": "LATE = 1\n",
    "named.py": "N = 1\n",
    "only_for_types.py": "T = 1\n",
    "table.csv": "a\n1\n",
    "templates/page.html": "<p>\n",
    "unread.csv": "b\n",
}


@pytest.fixture
def grown(tmp_path, monkeypatch) -> Path:
    """A small package in place of ours."""
    folder = tmp_path / "grown"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "PACKAGES", ("grown",))
    monkeypatch.setattr(source, "package_file", lambda name: tmp_path / name)
    monkeypatch.setattr(source, "package_folder", lambda name: tmp_path / name)
    forget()
    yield folder
    forget()


def forget() -> None:
    """As a new process would begin."""
    for remembered in (source.code_digest, source.closure, source.opened_files, source._path, source._module_code):
        remembered.cache_clear()


def test_what_is_executed_counts(grown):
    """Absolute, relative, late and literal imports, and the packages on the way; not what only type checkers read."""
    names = {name.removeprefix("grown").removeprefix(".") for name in closure("grown.top")}
    assert names == {"", "top", "absolute", "part", "part.inner", "part.sibling", "late", "named"}
    found = {path.relative_to(grown).as_posix() for path in opened_files("grown.top")}
    assert found == {"table.csv", "templates/page.html"}


@pytest.mark.parametrize("name", [name for name in FILES if name != "top.py"])
def test_a_changed_file_moves_the_digest_if_it_is_executed_or_opened(grown, name):
    before = code_digest("grown.top")
    path = grown / name
    path.write_text(path.read_text() + ("B = 2\n" if name.endswith(".py") else "2\n"))
    forget()
    unused = {"asked_for.py", "part/unused.py", "only_for_types.py", "unread.csv"}
    assert (code_digest("grown.top") == before) == (name in unused)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# only when it is called", "# a better sentence", True),
        ("Words.", "Other words,\n    on two lines.", True),
        ("import json, grown.absolute", "import json\n\nimport grown.absolute", False),  # another statement
        ("def run():", "def run(threads=1):", False),
        ("'grown.named'", '"grown.named"', True),
    ],
)
def test_words_do_not_count(grown, old, new, same):
    before = code_digest("grown.top")
    text = (grown / "top.py").read_text()
    assert old in text
    (grown / "top.py").write_text(text.replace(old, new))
    forget()
    assert (code_digest("grown.top") == before) is same


def test_code_that_changed_since_the_plan_is_named(grown):
    planned = code_spec("grown.top", "grown.named")
    assert changed_code(planned) == "" == changed_code(None)
    (grown / "late.py").write_text("LATE = 2\n")
    assert changed_code(planned) == "grown.top, grown.named"


def test_what_is_remembered_is_of_this_content(grown):
    """A second process reads what the first one remembered; a damaged memory is made again."""
    before = code_digest("grown.top")
    (folder,) = grown.parent.glob("cache/flexcare/code")
    assert len(list(folder.iterdir())) == 8
    forget()
    assert code_digest("grown.top") == before
    for path in folder.iterdir():
        path.write_text("{")
    forget()
    assert code_digest("grown.top") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("code_digest.py", "return isinstance(target, ast.Name) and target.id in SHOWN_ONLY", "return False"),
        ("discovery.py", '- {"name", *_COMPUTED', '- {"title", "name", *_COMPUTED'),
    ],
)
def test_what_is_remembered_is_of_the_code_that_decides_what_counts(tmp_path, name, old, new):
    """A change of these files is not hidden by what was remembered before; a title of a class does not count."""
    for package in ("flexcare_data", "flexcare_model"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / "checkout" / package, ignore=ignored)

    def digest(cache: str) -> str:
        code = "from flexcare_data.code_digest import code_digest; print(code_digest('flexcare_model.models.mt'))"
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "checkout"), "XDG_CACHE_HOME": str(tmp_path / cache)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, check=True)
        return done.stdout

    before = digest("used")
    path = tmp_path / "checkout/flexcare_data" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert digest("used") == digest("fresh") != before


def test_an_unknown_module_is_refused(grown):
    for name in ("grown.tops", "json", "flexcare_data.plan"):
        with pytest.raises(ValueError, match=f"expected a module of grown, got {name}"):
            closure(name)


# --- ours -------------------------------------------------------------------------------------------------------


def plan(tmp_path: Path) -> Plan:
    return Plan(load_config({"output": str(tmp_path)}))


def stages(plan: Plan) -> list[str]:
    names = [
        "synthetic",
        "stays",
        "splits",
        "events",
        "hourly",
        "sections",
        "radiographs",
        "audit",
        "images",
        "encoder",
        "notes",
    ]
    return [*names, *plan.cohorts]


def test_no_stage_depends_on_commands_plans_or_how_errors_are_shown(tmp_path):
    above = {"cli", "__main__", "plan", "publish", "origin", "faults", "config", "doctor", "generate", "export"}
    for name in stages(plan(tmp_path)):
        parts = {module.split(".")[1] for module in closure(*plan(tmp_path).stage(name).code) if "." in module}
        assert parts & above == set(), name


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        ("flexcare_data.stages.hourly", {"hourly", *(f"cohort-{task}" for task in TASKS)}),
        ("flexcare_data.stages.splits", {"splits"}),
        ("flexcare_data.stages.phenotypes", {"stays"}),
        ("flexcare_data.stages.images.decoding", {"images"}),
        ("flexcare_data.tasks.drg", {"cohort-drg", "audit", "notes"}),
        ("flexcare_data.stages.work", None),
    ],
)
def test_a_changed_module_moves_its_stages(monkeypatch, tmp_path, changed, moved):
    """What is read and filtered between the tables decides the content as much as the stage itself."""
    codes = {name: plan(tmp_path).stage(name).code for name in stages(plan(tmp_path))}
    before = {name: code_digest(*modules) for name, modules in codes.items()}
    real = source._module_code

    def other(module: str):
        found = real(module)
        return source._ModuleCode("other", found.imports, found.files, found.folders) if module == changed else found

    other.cache_clear = real.cache_clear
    forget()
    monkeypatch.setattr(source, "_module_code", other)
    after = {name: code_digest(*modules) for name, modules in codes.items()}
    monkeypatch.undo()
    forget()
    assert {name for name in before if before[name] != after[name]} == (moved or set(before))
