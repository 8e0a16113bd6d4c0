"""``python -m flexcare_model COMMAND``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flexcare_data.cli import run_commands
from flexcare_model.cli import commands, prepare_environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    prepare_environment()
    return run_commands(commands, "python -m flexcare_model", arguments)


if __name__ == "__main__":
    sys.exit(main())
