"""Conditions of a process under test: no privileges, a small disk, a read-only disk, no network.

Linux only, by system calls that Python does not offer. As root, a process without capabilities obeys file modes like
any other user, so these tests can check what a second user sees. Where the kernel refuses, `OSError` is raised.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from functools import cache
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_DROP_FROM_BOUNDING_SET = 24
_CAPABILITY_VERSION = 0x20080522


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def without_privileges(groups: tuple[int, ...] = ()) -> None:
    """Give up every capability, for this process and what it starts; belong to ``groups`` beside the own one."""
    if os.geteuid() != 0:
        return
    os.setgroups(groups)
    for capability in range(64):
        if _LIBC.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0) != 0:
            break  # the last one that this kernel has
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _call(_LIBC.capset(header, (ctypes.c_uint32 * 6)()))


def without_network() -> None:
    """Enter a network namespace without any connection, loopback included."""
    _unshare(_NEW_NETWORK)


def small_disk(folder: Path, size: int) -> None:
    """Mount an empty disk of ``size`` bytes on ``folder``, seen by this process and what it starts."""
    _private_mounts()
    _mount("none", folder, "tmpfs", 0, f"size={size},mode=0750")


def resize_disk(folder: Path, size: int) -> None:
    """Change the size of a `small_disk`."""
    _mount("none", folder, "tmpfs", _REMOUNT, f"size={size}")


def read_only_disk(folder: Path) -> None:
    """Make ``folder`` read-only for this process and what it starts, also for root."""
    _private_mounts()
    _mount(str(folder), folder, "", _BIND)
    _mount("none", folder, "", _BIND | _REMOUNT | _READ_ONLY)


def short_files(size: int) -> None:
    """No file that this process writes may grow beyond ``size`` bytes: the one full disk that needs no privilege."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@cache
def possible(condition: Callable[..., None], *arguments: object) -> bool:
    """Whether this machine allows ``condition``, tried in a separate process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            condition(*arguments)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _unshare(what: int) -> None:
    if os.geteuid() == 0 and _LIBC.unshare(what) == 0:
        return
    user, group = os.geteuid(), os.getegid()
    _call(_LIBC.unshare(what | _NEW_USER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _private_mounts() -> None:
    _unshare(_NEW_MOUNTS)
    _mount("none", Path("/"), "", _RECURSIVE | _PRIVATE)


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    _call(_LIBC.mount(source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()))
