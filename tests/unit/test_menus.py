"""The menus of the command line: every command on one line of a narrow terminal, in a whole sentence."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from flexcare_data.cli import commands as data
from flexcare_model.cli import commands as model
from flexcare_model.console import SECTIONS
from flexcare_model.console import commands as flexcare

MENUS = {"flexcare": flexcare, "data": data, "model": model, "store": data.commands["store"]}


@pytest.mark.parametrize("menu", MENUS.values(), ids=MENUS)
def test_every_command_has_one_line(menu: click.Group):
    shown = CliRunner().invoke(menu, ["--help"], terminal_width=80)
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    for name, command in menu.commands.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        sentence = line.removeprefix(f"  {name}").strip()
        assert sentence.endswith(".") and not sentence.endswith("...")
        assert (command.help or "").startswith(sentence)


def test_the_menu_of_flexcare_lists_all_its_commands_once():
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(flexcare.commands)


def test_arguments_of_run_are_passed_on_as_they_are(monkeypatch):
    """Snakemake takes the place of this process, so exit status and Ctrl-C are its own."""
    started = []
    monkeypatch.setattr("os.execv", lambda program, command: started.append(command))
    given = ["--cores", "2", "-np", "--config", "a=b", "--help", "--", "all", "--", "-h"]
    assert CliRunner().invoke(flexcare, ["run", *given]).exit_code == 0
    (command,) = started
    assert command[-len(given) :] == given
    assert command[1:4] == ["-P", "-m", "snakemake"]


@pytest.mark.parametrize("question", ["-h", "--help"])
def test_help_of_run_is_answered_here(question, monkeypatch):
    monkeypatch.setattr("os.execv", lambda *arguments: pytest.fail("Snakemake was started"))
    shown = CliRunner().invoke(flexcare, ["run", question])
    assert shown.exit_code == 0
    assert "flexcare run --cores 2 all" in shown.output
