"""One set of pins, and what CI and the contributors' pages say about the checks is what the project runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


EXTRAS = [line for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra]
MAIN = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]


def required() -> list[Requirement]:
    return [Requirement(line) for line in [*MAIN, *EXTRAS]]


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
    """A tool that no test imports may be absent; what the project imports may not."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        if str(requirement) in map(str, map(Requirement, EXTRAS)):
            pytest.skip(f"{requirement.name} is not installed; make setup installs it")
        raise
    assert Version(installed) in requirement.specifier


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


CI = ROOT / ".ci" / "run"


def test_ci_runs_the_tests_and_the_linters():
    text = CI.read_text()
    assert "make test" in text
    assert "make lint" in text


def called(folder: Path, *part: str) -> list[str]:
    """The make targets that .ci/run calls for ``part``, in a copy where every program only notes its call."""
    (folder / ".ci").mkdir(parents=True)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / "bin").mkdir()
    shutil.copy(CI, folder / ".ci/run")
    note = f'#!/bin/sh\necho "$(basename $0) $*" >>{folder}/calls\n'
    for program in (".ci/audit", ".venv/bin/python", "bin/make", "bin/slurmctld"):
        (folder / program).write_text(note)
        (folder / program).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    subprocess.run([folder / ".ci/run", *part], env=environment, check=True, timeout=60)
    return [line for line in (folder / "calls").read_text().splitlines() if line.startswith(("make", "audit"))]


def test_one_part_of_ci_can_be_run(tmp_path):
    assert called(tmp_path / "lint", "lint") == ["make lint", "audit "]
    assert called(tmp_path / "tests", "tests") == ["make test"]
    assert called(tmp_path / "demo", "demo") == ["make demo"]
    assert called(tmp_path / "all") == ["make test", "make lint", "audit "]
    assert subprocess.run([CI, "linters"], capture_output=True, check=False).returncode == 2


def test_the_forge_runs_every_part_on_the_oldest_and_a_newer_python():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert runs == {name: [f".ci/run {name}"] for name in ("lint", "tests", "demo")}
    pythons = jobs["tests"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.13"]
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    assert min(pythons, key=Version) in supported
    assert "3.10" not in supported


def test_the_hooks_of_a_commit_have_the_locked_versions():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {line for hook in repo["hooks"] for line in hook["additional_dependencies"]}
    assert {Requirement(hook).name for hook in hooks} == {"ruff", "snakefmt", "codespell"}
    for hook in map(Requirement, hooks):
        assert [pin.specifier for pin in pinned()[hook.name]] == [hook.specifier]


def test_contributors_read_about_every_marker():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    markers = [line.split(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    assert [name for name in markers if f"`{name}`" not in text] == []
    left_out = re.findall(r"not (\w+)", PROJECT["tool"]["pytest"]["ini_options"]["addopts"])
    (command,) = re.findall(r'-m "(not slow[^"]*)"', text)
    assert set(re.findall(r"not (\w+)", command)) == {*left_out, "slow", "wheel"}


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_an_issue_warns_of_patient_data(path):
    if path.name == "config.yml":
        assert yaml.safe_load(path.read_text()) == {"blank_issues_enabled": False}
        return
    body = yaml.safe_load(path.read_text())["body"]
    assert "Never paste patient data" in body[0]["attributes"]["value"]
    (box,) = [part for part in body if part["type"] == "checkboxes"]
    assert all(option["required"] for option in box["attributes"]["options"])
