"""Progress of a run on the terminal: a bar for people, plain lines for a log file."""

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

_LINE_SECONDS = 10.0  # a batch job's log should stay readable

logger = logging.getLogger(__name__)


class Progress:
    """Step, loss, rate and time left. Only the main process has one."""

    def __init__(self, num_steps: int, first_step: int, *, has_phases: bool = False) -> None:
        """Of a run of `num_steps` that begins, now, at `first_step`; it shows the phase if there are some."""
        self._bar = tqdm(total=num_steps, initial=first_step, unit="step") if sys.stderr.isatty() else None
        self._num_steps, self._has_phases = num_steps, has_phases
        self._first = (first_step, time.monotonic())
        self._last_line = 0.0

    def step_done(self) -> None:
        """Advance by one step."""
        if self._bar is not None:
            self._bar.update()

    def show(self, line: dict[str, Any]) -> None:
        """Show a training line of metrics.jsonl."""
        text = f"phase {line['phase']}  " if self._has_phases else ""
        text += f"loss {line['loss']:.4f}"
        if line.get("guidance_weight", 0.0) > 0:
            errors = [error for error in line["guidance_error"].values() if error is not None]
            text += f"  guidance error {sum(errors) / max(1, len(errors)):.3f}"
        text += f"  lr {line['learning_rate']:.2e}  {line['tokens_per_second']:,.0f} tok/s"
        if line["mfu"] is not None:
            text += f"  MFU {100 * line['mfu']:.1f} %"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS or line["step"] == self._num_steps:
            self._last_line = time.monotonic()
            logger.info(
                "step %d/%d  %s  %s left", line["step"], self._num_steps, text, self._left(line["step"])
            )

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.close()

    def _left(self, step: int) -> str:
        first_step, started = self._first
        seconds = (time.monotonic() - started) / max(1, step - first_step) * (self._num_steps - step)
        return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
