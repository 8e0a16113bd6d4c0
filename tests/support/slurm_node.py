"""A SLURM of one node for tests: real daemons with a key, ports and folders of their own, as the user who starts them.

In: the packages `munge` and `slurm-wlm` (22.05 or newer) of Debian or Ubuntu, with accounting also `slurmdbd` and
`mariadb-server`. Out: a node that takes jobs, found by what runs in the environment given; nothing outside its folder
is written. By hand:

    python tests/support/slurm_node.py        # prints how to reach the node, and ends it on Ctrl-C
"""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")
ACCOUNTING = ("mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
# A GPU is a character device to slurmd. These three are everywhere, and nothing opens them: jobs only get counted.
PRETEND_GPUS = ("/dev/null", "/dev/zero", "/dev/full")
_SECONDS_TO_START = 60


class NodeError(RuntimeError):
    """The node did not come up; the message holds the ends of its logs."""


def missing(programs: tuple[str, ...]) -> list[str]:
    """Those of ``programs`` that are not installed."""
    return [name for name in programs if shutil.which(name, path=PATH) is None]


@contextmanager
def slurm_node(
    *, gpus: int = 2, cpus: int = 16, memory_mb: int = 64000, accounting: bool = False
) -> Iterator[dict[str, str]]:
    """Start a node with the given resources, whatever the machine has; yields the environment in which jobs reach it.

    A job that takes more memory than it asked for is killed. Without ``accounting`` there is no database: sacct fails.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)  # munge needs a socket that every account can reach
        conf = str(folder / "slurm.conf")
        environment = os.environ | {"SLURM_CONF": conf, "PATH": f"{_srun(folder, conf)}{os.pathsep}{PATH}"}
        ports = dict(zip(("slurmctld", "slurmd", "slurmdbd", "mariadbd"), _free_ports(4), strict=True))
        _configure(folder, ports, gpus, cpus, memory_mb, accounting)
        socket_file = folder / "munge.socket"
        options = [f"--key-file={folder / 'munge.key'}", f"--seed-file={folder / 'munge.seed'}"]
        options += [f"--pid-file={folder / 'munge.pid'}", f"--log-file={folder / 'munged.log'}"]
        # --force: the parent is a temporary folder that others may write to.
        munged = ["munged", "--foreground", "--force", f"--socket={socket_file}", *options]
        stack.enter_context(_daemon(munged, environment, folder))
        _wait_for(socket_file.exists, folder)
        if accounting:
            _start_accounting(stack, folder, environment, ports["mariadbd"])
        stack.enter_context(_daemon(["slurmctld", "-D", "-c"], environment, folder))
        stack.enter_context(_daemon(["slurmd", "-D"], environment, folder))

        def is_idle() -> bool:
            done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
            return done.stdout.strip() == "idle"

        _wait_for(is_idle, folder)
        yield environment
        subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, check=False)


def _start_accounting(stack: ExitStack, folder: Path, environment: dict[str, str], port: int) -> None:
    """A database, slurmdbd in front of it, and the cluster entered there."""
    user = getpass.getuser()
    data = folder / "mariadb"
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-test-db"]
    subprocess.run(install, env=environment, check=True, capture_output=True)
    database = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--user={user}", f"--socket={data / 'socket'}"]
    # Only this machine reaches it, and it lives as long as the test: no passwords.
    database += ["--bind-address=127.0.0.1", f"--port={port}", "--skip-grant-tables"]
    stack.enter_context(_daemon(database, environment, folder))
    _wait_for((data / "socket").exists, folder)
    stack.enter_context(_daemon(["slurmdbd", "-D"], environment, folder))
    add = ["sacctmgr", "--immediate", "add", "cluster", "test"]
    _wait_for(lambda: subprocess.run(add, env=environment, capture_output=True, timeout=30).returncode == 0, folder)


def _configure(folder: Path, ports: dict[str, int], gpus: int, cpus: int, memory_mb: int, accounting: bool) -> None:
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    storage = "AccountingStorageType=accounting_storage/none"
    if accounting:
        storage = f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={ports["slurmdbd"]}
AccountingStoragePass=socket={folder / "munge.socket"}"""
        database = folder / "slurmdbd.conf"
        database.touch(mode=0o600)
        database.write_text(f"""\
AuthType=auth/munge
AuthInfo=socket={folder / "munge.socket"}
DbdHost=localhost
DbdPort={ports["slurmdbd"]}
SlurmUser={user}
PidFile={folder / "slurmdbd.pid"}
LogFile={folder / "slurmdbd.log"}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports["mariadbd"]}
StorageUser={user}
""")
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in PRETEND_GPUS[:gpus]))
    (folder / "slurm.conf").write_text(f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports["slurmctld"]}
SlurmdPort={ports["slurmd"]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder / "munge.socket"}
CredType=cred/munge
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder / "spool"}
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder / "slurmd.pid"}
SlurmctldLogFile={folder / "slurmctld.log"}
SlurmdLogFile={folder / "slurmd.log"}
# Neither systemd nor control groups: processes are found through /proc, and their memory is looked at every second.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
{storage}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,sched_min_interval=0
KillWait=2
# Finished jobs are still listed when a test asks for them.
MinJobAge=3600
MpiDefault=none
ReturnToService=2
# The machine may have fewer cores and less memory than the node offers: what is tested is who asks for what.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
""")


def _srun(folder: Path, conf: str) -> Path:
    """A folder with an `srun` that finds the node: the executor plugin starts it without SLURM_CONF."""
    script = folder / "bin" / "srun"
    script.parent.mkdir()
    real = shutil.which("srun", path=PATH)
    script.write_text(f'#!/bin/sh\nSLURM_CONF={shlex.quote(conf)} exec {real} "$@"\n')
    script.chmod(0o755)
    return script.parent


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@contextmanager
def _daemon(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as output:
        # A new session: Ctrl-C goes to the process that started the node, which ends the daemons in their order.
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(condition, folder: Path) -> None:
    end = time.monotonic() + _SECONDS_TO_START
    while not condition():
        if time.monotonic() > end:
            logs = [path for path in sorted(folder.iterdir()) if path.suffix in (".log", ".out")]
            tails = "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in logs)
            raise NodeError(f"SLURM is not ready after {_SECONDS_TO_START} s\n{tails}")
        time.sleep(0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Start a SLURM of one node and keep it up until Ctrl-C.")
    parser.add_argument("--gpus", type=int, default=2, choices=range(len(PRETEND_GPUS) + 1), help="pretend GPUs")
    parser.add_argument("--accounting", action="store_true", help="with a database, so that sacct answers")
    with slurm_node(**vars(parser.parse_args())) as found:
        exports = "".join(f"export {name}={shlex.quote(found[name])}\n" for name in ("SLURM_CONF", "PATH"))
        print(f"{exports}ready; Ctrl-C ends it", flush=True)
        try:
            time.sleep(1e9)
        except KeyboardInterrupt:
            print("ended")
