"""An ordered, bounded map over worker processes that cannot outlive or outwait their parent."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from data_prep.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT_PER_WORKER = 2


def available_cores() -> int:
    """Cores this process may use: SLURM and containers grant fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    start: Callable[..., None] | None = None,
    start_arguments: tuple[Any, ...] = (),
) -> Iterator[tuple[Item, Result]]:
    """Yield `(item, function(item))` in the order of `items`, whatever worker was first.

    At most two items per worker are under way, so `items` is read no faster than results are taken. One
    worker, or one item of a list, needs no process: it is this one.

    Args:
        function: Runs in the workers; a module-level function.
        items: Read lazily, in this process.
        workers: Number of processes.
        start: Called once in every worker with `start_arguments` before the first item.
        start_arguments: See `start`.

    Raises:
        UserError: A worker was killed, most often for want of memory.
    """
    if workers == 1 or (isinstance(items, list) and len(items) <= 1):
        yield from _map_here(function, items, start, start_arguments)
        return
    # A forked worker would inherit the threads' locks of a tokenizer used in this process.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (start, start_arguments))
    under_way: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            with _interrupts_held():  # submitting starts a worker as long as there are too few
                under_way.append((item, pool.submit(function, item)))
            if len(under_way) >= _IN_FLIGHT_PER_WORKER * workers:
                oldest, future = under_way.popleft()
                yield oldest, future.result()
        while under_way:
            oldest, future = under_way.popleft()
            yield oldest, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process was killed (out of memory?); try fewer than --workers {workers}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _map_here(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    start: Callable[..., None] | None,
    start_arguments: tuple[Any, ...],
) -> Iterator[tuple[Item, Result]]:
    if start is not None:
        start(*start_arguments)
    for item in items:
        yield item, function(item)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C; a process started meanwhile holds it back for good.

    A terminal interrupts the whole process group. The workers leave it to the parent to end them,
    rather than fill the screen with a traceback each.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # A batch system sends it to every process of a job; the parent alone acts on it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _exit_with_parent() -> None:
    """Without this, the workers of a parent that was killed with SIGKILL wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
