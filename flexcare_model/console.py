"""The command `flexcare`: the workflow and the tools of both packages, from any directory.

`flexcare run` starts Snakemake with the Snakefile of this installation; the other commands are those of
`python -m flexcare_data` and `python -m flexcare_model` that are useful by hand. This is the top of both packages:
it imports their two `cli` modules, and nothing imports it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from flexcare_data import cli as data
from flexcare_data.package_files import workflow_root
from flexcare_model import cli as model

SECTIONS = {
    "Build": ("run", "targets", "where"),
    "Raw data": ("doctor", "synthesize", "image-list"),
    "Note encoder": ("convert-encoder",),
    "Results": ("explain", "fingerprint", "predict", "meds-labels"),
    "Shared store": ("store",),
}
"""Heading of the menu -> names of its commands."""


class SectionMenu(data.Menu):
    """A menu with headings."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            self.write_section(formatter, title, names)


class PassedOn(click.Command):
    """A command that passes its arguments to another program unchanged, except for a single `--help`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_question = len(args) == 1 and args[0] in ctx.help_option_names
        # After the first "--" click parses no options and keeps every argument, a second "--" too.
        return super().parse_args(ctx, args if is_question else ["--", *args])


@click.group(cls=SectionMenu, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flexcare", message="flexcare %(version)s")
def commands() -> None:
    """Seven clinical prediction tasks from MIMIC, and the models compared on them.

    Without a configuration, `flexcare run --cores 2 all` builds everything on embedded fabricated data. COMMAND --help
    lists the options of a command.
    """
    model.start_logging()


def start_snakemake(*arguments: str) -> None:
    """Replace this process by Snakemake, so that its exit status, Ctrl-C and other signals are those of Snakemake."""
    # -P: the working directory may hold other code.
    command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(workflow_root() / "Snakefile"), *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)


@commands.command("run", cls=PassedOn, options_metavar="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[SNAKEMAKE ARGUMENTS]...")
def run(arguments: tuple[str, ...]) -> None:
    """Build targets: `flexcare run --cores 2 all`.

    Everything after `run` is passed to Snakemake unchanged, such as:

    \b
      --cores 16 all                        everything, with 16 cores
      --cores 16 -n cohorts                 only list what would be done
      --cores 16 all --configfile my.yaml   with your settings
      --cores 2 all --config preset=paper   a setting on the command line

    `snakemake --help` lists its options, `flexcare targets` what can be built. Results are written to results/ in the
    working directory, unless `output` is set.
    """
    start_snakemake(*arguments)


@commands.command("targets")
def targets() -> None:
    """List what `flexcare run` can build."""
    start_snakemake("--list-target-rules")


@commands.command("where")
def where() -> None:
    """Print the folder of the Snakefile, rules and profiles."""
    print(workflow_root())


# The other commands are those of the two packages, under the same names.
for menu in (data.commands, model.commands):
    for names in SECTIONS.values():
        for name in names:
            if name in menu.commands:
                commands.add_command(menu.commands[name])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    model.prepare_environment()
    return data.run_commands(commands, "flexcare", arguments)
