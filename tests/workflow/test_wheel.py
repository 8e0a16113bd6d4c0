"""The package as it is installed: what is in it, and that it works far from the repository.

The wheel is built from a copy of the sources and installed into a new environment, which sees the pinned
packages of this one. Every Python process of that environment notes which files of the repository it opens: none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import polars as pl
import pytest
import yaml
from support.paths import ROOT

pytestmark = [pytest.mark.wheel, pytest.mark.slow]

SOURCES = (
    "pyproject.toml", "setup.py", "README.md", "LICENSE", "Snakefile",
    "rules", "workflow", "profiles", "flexcare_data", "flexcare_model", "tests",
)  # fmt: skip
WORKFLOW = "flexcare_workflow"
SMALL = {"synthetic": {"patients": 30, "seed": 3}, "tasks": ["in_hospital_mortality"]}

WATCH = """
import os, sys

def watch(event, arguments, root={root!r}, own={own!r}, log={log!r}):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, os.PathLike)):
        path = os.path.abspath(arguments[0])
        if path.startswith(root) and not path.startswith(own):
            with open(log, "a") as opened:
                print(path, file=opened)

sys.addaudithook(watch)
"""


def copy_sources(to: Path) -> Path:
    """A checkout without what git ignores."""
    to.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, to / name)
    return to


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("source") / "checkout")


@pytest.fixture(scope="module")
def wheel(source) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--quiet", "--wheel-dir", "dist"], cwd=source, check=True)
    (made,) = (source / "dist").glob("*.whl")
    return made


class Installed:
    """An environment with the wheel, and an empty working directory."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.bin = folder / "env" / "bin"
        self.work = folder / "work"
        self.opened = folder / "opened.txt"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        command = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet"]
        subprocess.run([*command, "--no-deps", "--no-index", wheel], check=True)
        (self.packages,) = (folder / "env" / "lib").glob("*/site-packages")
        # After the installation, so that pip sees an empty environment. An editable installation is not seen, as Python
        # reads no .pth files of a folder that a .pth file names.
        (self.packages / "pinned.pth").write_text(sysconfig.get_path("purelib") + "\n")
        watch = WATCH.format(root=f"{ROOT}/", own=f"{ROOT}/.venv/", log=str(self.opened))
        (self.packages / "watch_repository.py").write_text(watch)
        (self.packages / "watch.pth").write_text("import watch_repository\n")
        # A package of the same name in the working directory is not what runs.
        (self.work / "flexcare_data").mkdir(parents=True)
        (self.work / "flexcare_data/__init__.py").write_text("raise SystemExit('code of the working directory')\n")

    def __call__(self, *command: str | Path, expect: int = 0) -> str:
        """Run a program of the environment in the working directory; returns what it printed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [self.bin / command[0], *command[1:]], cwd=self.work, env=kept, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == expect, done.stdout[-4000:]
        return done.stdout

    def flexcare(self, *arguments: str | Path, expect: int = 0) -> str:
        return self("flexcare", *arguments, expect=expect)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


@pytest.fixture(scope="module")
def built(installed) -> Path:
    """Output folder of `flexcare run --cores 2 cohorts`."""
    (installed.work / "mine.yaml").write_text(yaml.safe_dump(SMALL))
    installed.flexcare("run", "--cores", "2", "--configfile", "mine.yaml", "--", "cohorts")
    return installed.work / "results"


def key_of(results: Path, stage: str) -> str:
    (mark,) = (results / "by_key/stages").glob(f"{stage}-*")
    return mark.name.removeprefix(f"{stage}-")


# --- what is in it ----------------------------------------------------------------------------------------------


def test_the_wheel_holds_the_packages_and_the_workflow_and_nothing_else(source, wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {f"{WORKFLOW}/Snakefile"}
    for folder in ("flexcare_data", "flexcare_model", "rules", "workflow", "profiles"):
        above = f"{WORKFLOW}/" if folder in ("rules", "workflow", "profiles") else ""
        files = [path for path in (source / folder).rglob("*") if path.is_file()]
        expected |= {above + path.relative_to(source).as_posix() for path in files}
    assert names == expected
    for name in ("rules/helpers/plan.smk", "workflow/config/default.yaml", "workflow/report/report.html.j2"):
        assert f"{WORKFLOW}/{name}" in names
    assert "flexcare_data/resources/variables.toml" in names


# --- what it does -----------------------------------------------------------------------------------------------


def test_the_menu_comes_from_the_installed_code(installed):
    menu = installed.flexcare("--help")
    for command in ("run", "targets", "doctor", "store", "explain", "predict", "convert-encoder"):
        assert f"\n  {command} " in menu
        assert "Usage: flexcare " + command in installed.flexcare(command, "--help")
    assert "Usage: flexcare store verify" in installed.flexcare("store", "verify", "--help")
    assert Path(installed.flexcare("where").strip()) == installed.packages / WORKFLOW
    code = "import flexcare_data, flexcare_model; print(flexcare_data.__file__, flexcare_model.__file__)"
    for path in installed("python", "-P", "-c", code).split():
        assert Path(path).is_relative_to(installed.packages)


def test_targets_are_listed(installed):
    assert "\nall (Everything" in "\n" + installed.flexcare("targets")


def test_cohorts_are_built_with_the_packaged_rules(installed, built):
    assert pl.read_parquet(built / "data/splits.parquet").height == 30
    cohort = pl.read_parquet(built / "cohorts/in_hospital_mortality.parquet")
    assert cohort.height > 0
    text = installed.flexcare("run", "--cores", "2", "--configfile", "mine.yaml", "--", "cohorts")
    assert "Nothing to be done" in text
    # The default profile beside the packaged Snakefile is used.
    assert f"{WORKFLOW}/profiles/default" in text


def test_tools_read_what_the_workflow_built(installed, built):
    sample = pl.read_parquet(built / "cohorts/in_hospital_mortality.parquet")["sample_id"][0]
    text = installed.flexcare("explain", "--task", "in_hospital_mortality", "--sample", str(sample))
    assert str(sample) in text
    listed = installed.flexcare("store", "ls", "--store", str(built / "store"))
    assert f"splits-{key_of(built, 'splits')}" in listed
    assert "no problems" in installed.flexcare("store", "verify", "--store", str(built / "store"))


def test_doctor_reads_the_configuration_that_the_workflow_reads(installed, built):
    assert "fabricated" in installed.flexcare("doctor", "--configfile", "mine.yaml")
    (installed.work / "wrong.yaml").write_text("synthetic: {patient: 3}\n")
    text = installed.flexcare("doctor", "--configfile", "wrong.yaml", expect=1)
    assert "synthetic.patient" in text
    assert "Traceback" not in text


def test_exit_status_and_message_of_snakemake_are_passed_on(installed):
    text = installed.flexcare("run", "--cores", "1", "cohrts", expect=1)
    assert "did you mean cohorts" in text


def test_another_checkout_runs_with_its_own_code(installed, built, tmp_path):
    """One environment, two copies of the code: the plan and the jobs of `-s OTHER/Snakefile` are those of OTHER.

    A job compares the code that it runs with the code of the plan, so a mixture fails.
    """
    other = copy_sources(tmp_path / "other")
    module = other / "flexcare_data/stages/splits.py"
    module.write_text(module.read_text() + "\n\nOTHER = True\n")
    out = tmp_path / "out"
    common = ["--cores", "2", "--configfile", "mine.yaml", "--config", f"output={out}"]
    target = f"{out}/data/splits.parquet"
    installed("python", "-m", "snakemake", "-s", other / "Snakefile", *common, "--", target)
    assert key_of(out, "splits") != key_of(built, "splits")
    assert key_of(out, "synthetic") == key_of(built, "synthetic")
    shutil.rmtree(out)
    installed.flexcare("run", "--snakefile", other / "Snakefile", *common, "--", target)
    assert key_of(out, "splits") != key_of(built, "splits")


def test_no_file_of_the_repository_was_opened(installed, built):
    """Last in this file, after all that was run above."""
    opened = installed.opened.read_text().splitlines() if installed.opened.exists() else []
    assert opened == []
    installed("python", "-c", f"open({str(ROOT / 'README.md')!r}).close()")  # the watch works
    assert installed.opened.read_text().splitlines() == [str(ROOT / "README.md")]
    installed.opened.unlink()
