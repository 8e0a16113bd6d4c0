"""Loaded by every Python process whose PYTHONPATH names this folder: notes what a command of the project executes.

At its end a process of ``python -m flexcare_data ...`` or ``python -m flexcare_model ...`` writes its arguments, the
project's modules that were imported, and the files that were opened below FLEXCARE_AUDIT_ROOT.
"""

# ruff: noqa: PTH100, PTH118, PTH123 (loaded by every process: as few imports as possible)
import atexit
import json
import os
import sys
import uuid

_FOLDER, _ROOT = os.environ.get("FLEXCARE_AUDIT"), os.environ.get("FLEXCARE_AUDIT_ROOT", "")
_opened = set()


def _note(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        _opened.add(os.path.abspath(arguments[0]))


def _write():
    line = [arg for arg in getattr(sys, "orig_argv", []) if arg]
    if any(name in line for name in ("flexcare_data", "flexcare_model")):
        content = {
            "arguments": line,
            "modules": sorted(
                name for name in sys.modules if name.split(".")[0] in ("flexcare_data", "flexcare_model")
            ),
            "opened": sorted(name for name in _opened if name.startswith(_ROOT)),
        }
        with open(os.path.join(_FOLDER, f"{uuid.uuid4().hex}.json"), "w") as file:
            json.dump(content, file)


if _FOLDER:
    sys.addaudithook(_note)
    atexit.register(_write)
