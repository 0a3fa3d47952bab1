"""`train --profile N`: what the time of a few steps goes into, by torch's profiler.

RUN/profile/ gets, named after the profiled steps:
    steps-4-8-rank0.json.gz  a trace for chrome://tracing or ui.perfetto.dev; each process writes its own
    steps-4-8.txt            shares of the step, and the kernels (on CPU: operators) with the most time of
                             their own, on the main process
Nothing that is trained depends on the profiler. It makes steps slower, most where operators are small: what
it tells are shares rather than speeds.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from pipeline.guidance.timer import SPAN as GUIDANCE_SPAN
from pipeline.processes.cluster import Cluster
from pipeline.processes.exchanges import SPAN as COMMUNICATION_SPAN
from pipeline.runs.run_dir import RunDir
from pipeline.training.step import BACKWARD_SPAN, FORWARD_SPAN, OPTIMIZER_SPAN
from pipeline.training.timings import LOADER_SPAN

logger = logging.getLogger(__name__)

WAIT_STEPS = 3  # the first steps allocate, compile and tune; the last of them warms the profiler up
_SPANS = (LOADER_SPAN, FORWARD_SPAN, BACKWARD_SPAN, OPTIMIZER_SPAN, GUIDANCE_SPAN)
_NCCL = "nccl"  # what its kernels' names begin with
_PROFILER_STEP = "ProfilerStep"  # torch's own range around a step and what follows it
_LINES_WRITTEN, _LINES_SHOWN = 40, 8


@dataclass(frozen=True)
class Entry:
    """All calls of an operator, a kernel or a range of the program together.

    Attributes:
        name: of it.
        calls: number of them.
        own_seconds: on the device that the profile is about, without what it called.
        seconds: the same with what it called.
        is_range: it is a range.
    """

    name: str
    calls: int
    own_seconds: float
    seconds: float
    is_range: bool


@dataclass(frozen=True)
class Summary:
    """What a profile says.

    Attributes:
        num_steps: profiled.
        seconds: from the begin of the first to the end of the last, on the host.
        shares: of these seconds, by part of a step; the parts lie within each other in places.
        entries: operators or kernels, most time of their own first.
    """

    num_steps: int
    seconds: float
    shares: dict[str, float]
    entries: list[Entry]

    def render(self, title: str, num_lines: int) -> str:
        """A table with so many entries."""
        lines = [
            f"{title}: {self.num_steps} step(s), {1000 * self.seconds / self.num_steps:.1f} ms each",
            "share of the time (guidance and communication lie within forward, backward and optimizer, too)",
            *(f"  {name:<14}{100 * share:6.1f} %" for name, share in self.shares.items()),
            "time of their own, per step",
            *(self._render(entry) for entry in self.entries[:num_lines]),
        ]
        return "\n".join(lines) + "\n"

    def _render(self, entry: Entry) -> str:
        milliseconds, calls = 1000 * entry.own_seconds / self.num_steps, entry.calls / self.num_steps
        share = 100 * entry.own_seconds / self.seconds
        return f"  {milliseconds:9.2f} ms {share:6.1f} % {calls:8.1f} calls  {entry.name[:80]}"


def summarize(entries: list[Entry], num_steps: int, seconds: float) -> Summary:
    """Shares of the parts of a step, and what is left when the ranges are taken out."""
    ranges = {entry.name: entry.seconds for entry in entries if entry.is_range}
    # Collectives of NCCL run on the device, whoever queued them; those of gloo are ranges on the host.
    kernels = [entry.own_seconds for entry in entries if entry.name.lower().startswith(_NCCL)]
    exchanged = sum(kernels) or ranges.get(COMMUNICATION_SPAN, 0.0)
    shares = {name: ranges.get(name, 0.0) / seconds for name in _SPANS}
    found = [entry for entry in entries if not entry.is_range and entry.own_seconds > 0]
    return Summary(
        num_steps=num_steps,
        seconds=seconds,
        shares=shares | {COMMUNICATION_SPAN: exchanged / seconds},
        entries=sorted(found, key=lambda entry: -entry.own_seconds),
    )


class StepProfiler:
    """Profiles some steps, once. Every process calls the same methods."""

    def __init__(self, num_steps: int, run: RunDir, cluster: Cluster) -> None:
        """The next `num_steps` steps, after WAIT_STEPS."""
        self._run, self._cluster = run, cluster
        self._on_cuda = cluster.device.type == "cuda"
        self._num_steps, self._steps_seen, self._last_step = num_steps, 0, 0
        self._is_done = False
        cuda = [ProfilerActivity.CUDA] if self._on_cuda else []
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *cuda],
            schedule=schedule(wait=WAIT_STEPS - 1, warmup=1, active=num_steps, repeat=1),
            on_trace_ready=self._write,
        )
        self._profile.start()

    def step_done(self, step: int) -> None:
        """After step number `step`, as the logs count, and what followed it."""
        if not self._is_done:
            self._last_step = step
            self._steps_seen += 1
            self._profile.step()

    def finish(self) -> None:
        """The run ends: write what has been profiled so far, if it is not written yet."""
        if self._is_done:
            return
        if self._steps_seen <= WAIT_STEPS and self._cluster.is_main:
            logger.warning("no profile: --profile skips %d steps, and the run ended before", WAIT_STEPS)
        self._profile.stop()

    def _write(self, found: profile) -> None:
        self._is_done = True
        num_steps = min(self._steps_seen - WAIT_STEPS, self._num_steps)
        if num_steps < 1:
            return
        steps = f"{self._last_step - num_steps + 1}-{self._last_step}"
        directory = self._run.profile
        try:
            directory.mkdir(exist_ok=True)
            found.export_chrome_trace(str(directory / f"steps-{steps}-rank{self._cluster.rank}.json.gz"))
            if self._cluster.is_main:
                entries, seconds = read_entries(found, self._on_cuda)
                self._tell(summarize(entries, num_steps, seconds), steps)
        except (OSError, RuntimeError) as error:  # no reason for a run to end
            logger.warning("the profile could not be written: %s", error)

    def _tell(self, summary: Summary, steps: str) -> None:
        title = f"steps {steps} of {self._run.path}"
        path = self._run.profile / f"steps-{steps}.txt"
        path.write_text(summary.render(title, _LINES_WRITTEN), encoding="utf-8")
        logger.info("profile\n%s  more in %s", summary.render(title, _LINES_SHOWN), path)
        shares = {name: round(share, 4) for name, share in summary.shares.items()}
        self._run.add_event("profile", steps=steps, shares=shares, directory=str(self._run.profile))


def read_entries(found: profile, on_cuda: bool) -> tuple[list[Entry], float]:
    """What torch's profiler has found, and the seconds of all steps on the host.

    On CUDA, times are the device's: those of kernels, and for a range those of the kernels launched in it.
    """
    entries, seconds = [], 0.0
    for event in found.key_averages():
        on_device = event.device_type != torch.autograd.DeviceType.CPU
        if event.key.startswith(_PROFILER_STEP):
            seconds += event.cpu_time_total / 1e6
        elif not event.is_user_annotation:
            # On CUDA an operator's own time is that of its kernels, which are there themselves.
            if on_device == on_cuda:
                entries.append(_entry(event, on_cuda))
        elif not on_device:  # the device has copies of the host's ranges
            entries.append(_entry(event, on_cuda and event.key != LOADER_SPAN))
    return entries, seconds


def _entry(event: Any, on_device: bool) -> Entry:
    own = event.self_device_time_total if on_device else event.self_cpu_time_total
    total = event.device_time_total if on_device else event.cpu_time_total
    return Entry(event.key, event.count, own / 1e6, total / 1e6, event.is_user_annotation)
