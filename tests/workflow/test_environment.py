"""One set of pins: pyproject.toml's bounds, requirements.lock and environment.yml agree."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def required() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    listed = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in [*listed, *PROJECT["build-system"]["requires"]]]


def pinned() -> dict[str, list[Requirement]]:
    pins: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^([A-Za-z0-9][^\\\n]*?)\s*\\$", LOCK, flags=re.MULTILINE):
        requirement = Requirement(line)
        pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_lock_pins_what_pyproject_asks_for(requirement):
    pins = pinned()[canonicalize_name(requirement.name)]
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert Version(specifier.version) in requirement.specifier


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_installed_is_within_the_bounds(requirement):
    assert Version(version(requirement.name)) in requirement.specifier


def test_every_pin_has_hashes():
    blocks = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) == sum(map(len, pinned().values()))
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_lock_names_no_index_and_no_machine():
    assert not re.search(r"https?:|file:|--index|--find-links|^/| /[a-z]+/", LOCK, flags=re.MULTILINE)


def test_environment_yml_takes_its_pins_from_the_lock():
    """Versions live in one place: conda brings Python and pip, everything else is requirements.lock."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert pip == "pip"
    assert packages == {"pip": ["--require-hashes", "-r requirements.lock"]}
    lower = Requirement(PROJECT["project"]["requires-python"].join(["python", ""])).specifier
    assert Requirement(python.replace(" ", "")).specifier.contains("3.11") and lower.contains("3.11")
    assert not Requirement(python.replace(" ", "")).specifier.contains("3.10") and not lower.contains("3.10")


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"setup", "demo", "test", "lint", "bench", "clean", "help"} <= targets
    used = set(re.findall(r"(?:`|^ +)make ([a-z]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert {"demo", "test"} <= used <= targets


def test_ci_runs_the_tests_and_the_linters():
    text = (ROOT / ".ci" / "run").read_text()
    assert "make test" in text
    assert "make lint" in text
