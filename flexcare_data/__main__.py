"""``python -m flexcare_data COMMAND``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flexcare_data.cli import commands, run_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    return run_commands(commands, "python -m flexcare_data", arguments)


if __name__ == "__main__":
    sys.exit(main())
