"""A real SLURM on this machine: munged, slurmctld and two slurmd on ports and in directories of their own."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

NODES = ("n1", "n2")
_DAEMONS = ("munged", "slurmctld", "slurmd")
# cred_expire is how long a requeued job waits before it starts; 5 seconds are the least, 120 the default.
_CONFIGURATION = """
ClusterName=lodestar
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
JobRequeue=1
ReturnToService=2
KillWait=2
SlurmdTimeout=5
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PartitionName=test Nodes=ALL Default=YES MaxTime=60 State=UP
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2\n"


def missing_for_slurm() -> str | None:
    """Why there can be no SLURM here; None if there can."""
    if missing := [name for name in _DAEMONS if _find_daemon(name) is None]:
        return f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "SLURM's daemons need root"


class SlurmCluster:
    """Two nodes of two CPUs each; `with running_cluster(directory) as cluster`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configuration = root / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen] = {}

    def submit(self, source: Path, *arguments: object, **variables: str) -> int:
        """`sbatch ARGUMENTS` in a directory, with variables beside this process's; the job's number."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("LODESTAR", "SLURM"))
        }
        environment = kept | {"SLURM_CONF": str(self.configuration)} | variables
        command = ["sbatch", "--parsable", *map(str, arguments)]
        return int(subprocess.check_output(command, cwd=source, env=environment, text=True).split(";")[0])

    def control(self, *arguments: object, check: bool = True) -> str:
        """A client command, `scancel` or `scontrol`, and what it prints."""
        environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        command = [str(argument) for argument in arguments]
        return subprocess.run(command, env=environment, check=check, stdout=subprocess.PIPE, text=True).stdout

    def job(self, job: int | str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Restarts, ExitCode and the rest."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.control("scontrol", "--oneliner", "show", "job", job)))

    def wait_for_state(self, job: int | str, *states: str, seconds: float = 180.0) -> dict[str, str]:
        """Wait until a job is in one of the states."""
        wait_until(lambda: self.job(job)["JobState"] in states, f"job {job} {' or '.join(states)}", seconds)
        return self.job(job)

    def wait_for_restart(self, job: int, number: int) -> None:
        """Wait until a requeued job starts for the `number`-th time again."""

        def is_started() -> bool:
            state = self.job(job)
            return state["JobState"] == "RUNNING" and state["Restarts"] == str(number)

        wait_until(is_started, f"restart {number} of job {job}")

    def tasks_of(self, node: str) -> list[psutil.Process]:
        """Everything that runs in jobs on a node."""
        return [process for process in psutil.process_iter() if self._is_of(process, node)]

    def kill_node(self, node: str) -> None:
        """As if its power had failed: SIGKILL to its slurmd and to everything in its jobs."""
        self._daemons[node].kill()
        self._daemons[node].wait()
        for process in psutil.process_iter():
            if self._is_of(process, node) or self._is_step_daemon(process, node):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._start(node, "slurmd", "-D", "-N", node, "-f", self.configuration)

    def start(self) -> None:
        """Start everything and wait until the nodes are idle."""
        (self.root / "munge").mkdir(mode=0o755)
        (self.root / "state").mkdir()
        host = socket.gethostname()
        ports = free_ports(1 + len(NODES))
        text = _CONFIGURATION.format(root=self.root, host=host, port=ports[0])
        for name, port in zip(NODES, ports[1:]):
            text += _NODE.format(name=name, host=host, port=port)
        self.configuration.write_text(text, encoding="utf-8")
        self._start_munge()
        self._start("slurmctld", "slurmctld", "-D", "-f", self.configuration)
        for node in NODES:
            self.start_node(node)
        wait_until(self.is_idle, "idle nodes", 30.0)

    def is_idle(self) -> bool:
        """Whether all nodes are there and no job runs."""
        states = self.control("sinfo", "--noheader", "--Node", "--format=%T", check=False).split()
        return states == ["idle"] * len(NODES)

    def stop(self) -> None:
        """End all jobs and daemons."""
        self.control("scancel", "--user=root", check=False)
        for node in NODES:
            self.kill_node(node)
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()

    def _start_munge(self) -> None:
        directory = self.root / "munge"
        key = directory / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        names = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        options = [f"--{option}={directory / name}" for option, name in names.items()]
        self._start("munged", "munged", "--foreground", "--force", *options)
        wait_until((directory / "socket").exists, "munged", 10.0)

    def _start(self, name: str, program: str, *arguments: object) -> None:
        """A daemon dies with the process of the tests, however that ends."""
        daemon = str(_find_daemon(program))
        with (self.root / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", daemon, *map(str, arguments)],
                env=os.environ | {"SLURM_CONF": str(self.configuration)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _is_of(self, process: psutil.Process, node: str) -> bool:
        try:
            environment = process.environ()
        except psutil.Error:  # it has ended meanwhile
            return False
        ours = environment.get("SLURM_CONF") == str(self.configuration)
        return ours and environment.get("SLURMD_NODENAME") == node

    def _is_step_daemon(self, process: psutil.Process, node: str) -> bool:
        """Its environment and its name do not tell the node, but it writes to its slurmd's log."""
        try:
            logs = [file.path for file in process.open_files()] if process.name() == "slurmstepd" else []
        except psutil.Error:
            return False
        return str(self.root / f"slurmd-{node}.log") in logs


@contextlib.contextmanager
def running_cluster(root: Path) -> Iterator[SlurmCluster]:
    """A cluster that is there inside the block."""
    cluster = SlurmCluster(root)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 180.0) -> None:
    """Poll; an AssertionError names what did not come."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """TCP ports of this machine that nobody listens on."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def _find_daemon(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
