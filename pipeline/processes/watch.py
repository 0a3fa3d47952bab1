"""The thread that ends a run whose processes have lost each other, and says why.

Without it a process that died or hangs would leave the others in a collective until the batch system's time
limit. The signs of life travel through a TCP store of their own connection, beside NCCL and gloo.
"""

import contextlib
import faulthandler
import json
import logging
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
import torch.distributed as dist

from pipeline.errors import EXIT_LOST, LostProcessError
from pipeline.processes.cluster import Cluster
from pipeline.processes.signs_of_life import SUSPECT_SECONDS, Observer, Sign, Verdict

_BEAT_SECONDS = 1.0
# The others read why from a store that may end with us; and they should not be torn out of a collective
# first, which would give them another exit code.
_READING_SECONDS = 3 * _BEAT_SECONDS
_LAST_WORDS_SECONDS = 5.0
_MAIN_RANK = 0
_MAIN_IS_SILENT = Verdict(EXIT_LOST, "no answer from the main process (rank 0)", [_MAIN_RANK])


class Watch:
    """Tells the others that this process lives, and ends it when the run cannot go on."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        silence_seconds: float,
        hang_seconds: float,
        on_lost: Callable[[Verdict], None],
        chores: list[Callable[[], None]],
    ) -> None:
        """Not started yet.

        Args:
            cluster: the processes.
            silence_seconds: a process that is silent for so long is taken for dead.
            hang_seconds: without progress of any process for so long, the run is taken to hang.
            on_lost: called before this process ends, on the one process that speaks for all.
            chores: small things to do at every beat.
        """
        self._cluster = cluster
        self._on_lost, self._chores = on_lost, chores
        self._sign = Sign(0, 0, "start", f"process {os.getpid()} on {platform.node()}")
        # The main process looks at all, the others only at the main one.
        watched = cluster.world_size if cluster.is_main else 1
        patience = hang_seconds if cluster.is_main else math.inf  # only it can see who hangs
        self._observer = Observer(watched, silence_seconds, patience, time.monotonic())
        self._over = threading.Event()
        self._store: dist.Store | None = None  # of a process alone
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to watch; the process group must be joined."""
        if self._cluster.world_size > 1:
            self._store = self._cluster.connect_store("watch")
            self._thread.start()
        # Beside the signs of life: a file system that pauses must not make this process look dead.
        threading.Thread(target=self._do_chores, name="chores", daemon=True).start()

    def stop(self) -> None:
        """End the watch; to be called when all processes have met for the last time."""
        self._over.set()
        if self._store is not None:
            self._thread.join()

    def at(self, place: str) -> None:
        """Say which place of the program this process has reached; every process must pass the same ones."""
        with self._lock:
            self._sign = replace(self._sign, passed=self._sign.passed + 1, place=place)

    def fail(self, exit_code: int) -> None:
        """Tell the others that this process ends by an error of its own, so that they end as well."""
        if self._store is not None and not self._over.is_set():
            with self._lock:
                self._sign = replace(self._sign, failed=exit_code)
            self._over.set()
            self._thread.join()
            with contextlib.suppress(RuntimeError):
                self._tell()
            time.sleep(_READING_SECONDS)

    def await_verdict(self, error: Exception) -> LostProcessError:
        """What is behind a collective that failed: a verdict normally ends this process in here."""
        with self._lock:
            self._sign = replace(self._sign, connection_lost=True)
        time.sleep(3 * SUSPECT_SECONDS)
        return LostProcessError(f"the processes have lost each other: {error}")

    def _run(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            # A store whose machine is gone without a word may never answer.
            guard = threading.Timer(self._observer.silence_seconds, self._end, [_MAIN_IS_SILENT])
            guard.daemon = True
            guard.start()
            try:
                self._tell()
                verdict = self._judge()
            except RuntimeError:  # the store lives in the main process or its launcher
                if self._over.wait(2 * _BEAT_SECONDS):
                    return
                verdict = Verdict(EXIT_LOST, "the main process (rank 0) is gone", [_MAIN_RANK])
            finally:
                guard.cancel()
            if verdict is not None and not self._over.is_set():
                self._end(verdict)

    def _do_chores(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            for chore in self._chores:
                chore()

    def _tell_loss(self, verdict: Verdict) -> None:
        with contextlib.suppress(OSError):
            self._on_lost(verdict)

    def _tell(self) -> None:
        with self._lock:
            self._sign = replace(self._sign, beat=self._sign.beat + 1, busy=self._cluster.is_busy)
            text = json.dumps(asdict(self._sign))
        assert self._store is not None
        self._store.set(f"sign/{self._cluster.rank}", text)

    def _judge(self) -> Verdict | None:
        assert self._store is not None
        for rank in range(self._observer.num_processes):
            if self._store.check([f"sign/{rank}"]):
                sign = Sign(**json.loads(self._store.get(f"sign/{rank}")))
                self._observer.hear(rank, sign, time.monotonic())
        if self._cluster.is_main:
            verdict = self._observer.judge(time.monotonic())
            if verdict is not None:
                self._store.set("verdict", json.dumps(asdict(verdict)))
            return verdict
        if self._store.check(["verdict"]):
            return Verdict(**json.loads(self._store.get("verdict")))
        return self._observer.judge(time.monotonic())

    def _end(self, verdict: Verdict) -> None:
        is_lost = self._cluster.rank in verdict.ranks
        if is_lost and verdict.message:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)  # where it hangs
        speaker = next((r for r in range(self._cluster.world_size) if r not in verdict.ranks), _MAIN_RANK)
        if self._cluster.rank == speaker and verdict.message:
            print(f"error: {verdict.message}", file=sys.stderr, flush=True)
            # In a thread, because what is lost may be the file system.
            last_words = threading.Thread(target=self._tell_loss, args=[verdict], daemon=True)
            last_words.start()
            last_words.join(_LAST_WORDS_SECONDS)
        time.sleep(_READING_SECONDS)
        logging.shutdown()
        os._exit(verdict.exit_code)


def is_machine_fault(error: Exception) -> bool:
    """Whether an error is the machine's rather than ours: a broken device, a killed loader worker."""
    text = str(error)
    is_device = isinstance(error, torch.AcceleratorError) and "device-side assert" not in text
    ends = ("killed by signal", "exited unexpectedly")
    return is_device or ("DataLoader worker" in text and any(end in text for end in ends))


def is_lost_connection(error: Exception) -> bool:
    """Whether an error is how a collective ends when another process is gone."""
    text = str(error)
    is_collective = isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text
    return is_collective and isinstance(error, RuntimeError)
