"""Run commands in separate processes that can be killed at any moment.

A moment is a file operation below a watched folder, counted from 1: a file opened to write, a name, mode or folder
changed. Python reports each to audit hooks just before it happens, so a signal can be sent between any two of them.
These are all states that a killed process can leave behind, up to the length of the file that it was writing.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from flexcare_model.training.log import EVENTS, LOG
from support import conditions

# Processes are forked from a server that has loaded the libraries, as loading them takes longer than any stage here.
# None of the two packages: they start Polars' threads, which a fork does not survive.
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "numba", "polars", "pyarrow.parquet", "PIL.Image", "pydantic", "scipy.stats", "sklearn.metrics", "torch",
        "torch._dynamo", "torch.utils.data", "torchvision", "transformers.models.bert.modeling_bert",
        "transformers.models.bert.tokenization_bert", "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto", "matplotlib.figure", "jinja2",
    ]
)  # fmt: skip
_OPENED = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its status (negative: the signal), what it printed, how many moments it had."""

    status: int
    printed: str
    moments: int


def run(
    command: list[str],
    *,
    watched: Path,
    kill_at: int = 0,
    sent: int = signal.SIGKILL,
    patches: dict[str, Any] | None = None,
    before: tuple[Callable[..., None], ...] = (),
) -> Outcome:
    """Run ``command`` (a package and its arguments); the signal ``sent`` is sent at the moment ``kill_at``.

    ``patches``: values for names such as `flexcare_data.stages.images.build.PART_SIZE`. ``before`` is called first, in
    the process (see `conditions`).
    """
    return call(run_command, command, patches or {}, watched=watched, kill_at=kill_at, sent=sent, before=before)


def call(
    function: Callable[..., int],
    *arguments: Any,
    watched: Path,
    kill_at: int = 0,
    sent: int = signal.SIGKILL,
    before: tuple[Callable[..., None], ...] = (),
) -> Outcome:
    """The same for a function, whose result is the exit status."""
    moments = CONTEXT.RawValue("i", 0)
    with tempfile.NamedTemporaryFile() as printed:
        process = CONTEXT.Process(
            target=_inside, args=(function, arguments, str(watched), kill_at, sent, before, moments, printed.name)
        )
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            process.join()
        return Outcome(process.exitcode, Path(printed.name).read_text(), moments.value)


def run_command(command: list[str], patches: dict[str, Any]) -> int:
    """Run a subcommand of a package in this process."""
    for name, value in patches.items():
        module, _, attribute = name.rpartition(".")
        setattr(import_module(module), attribute, value)
    return import_module(f"{command[0]}.__main__").main([str(part) for part in command[1:]])


def run_on_a_small_disk(command: list[str], patches: dict[str, Any], disk: str, size: int) -> int:
    """Run ``command`` on a disk of ``size`` bytes mounted on ``disk``, then again with more; prints what it leaves.

    It is in this module because a mount namespace belongs to one thread, and importing other modules starts threads.
    """
    folder = Path(disk)
    conditions.small_disk(folder, size)
    first = run_command(command, patches)
    print("left:", hidden(folder), (folder / Path(command[-1]).name).exists())
    conditions.resize_disk(folder, 64 << 20)
    second = run_command(command, patches)
    print("digests:", sorted(digests(folder).items()))
    return 10 * first + second


def _inside(function, arguments, watched, kill_at, sent, before, moments, printed) -> None:
    output = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    for condition in before:
        condition()

    def hook(event: str, details: tuple) -> None:
        if not _is_change(event, details, watched):
            return
        moments.value += 1
        if moments.value == kill_at:
            os.kill(os.getpid(), sent)

    sys.addaudithook(hook)
    sys.exit(function(*arguments))


def _is_change(event: str, details: tuple, watched: str) -> bool:
    if event == "open":
        path, mode, flags = details
        writes = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _OPENED)
        return writes and str(path).startswith(watched)
    return event in _CHANGES and any(str(part).startswith(watched) for part in details[:2])


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below ``folder`` but the log of a training, which has times; and what its links say."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if {LOG, EVENTS} & set(path.relative_to(folder).parts):
            continue
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def hidden(folder: Path) -> list[str]:
    """Leftover temporary names below ``folder``."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob(".*"))
