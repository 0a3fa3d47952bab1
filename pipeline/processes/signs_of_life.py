"""Which process of a run is dead or hangs, judged from what each tells about itself.

Every process says, every few seconds, that it lives and which of the places of the program it has reached.
All pass the same places in the same order, so that the one that all others wait for has passed the fewest.
"""

from dataclasses import dataclass, field

from pipeline.errors import EXIT_LOST

SUSPECT_SECONDS = 10.0  # of silence are enough when somebody has lost its connection to another
BUSY_FACTOR = 6  # hashing or converting a large checkpoint takes longer than a step


@dataclass(frozen=True)
class Sign:
    """What a process tells.

    Attributes:
        beat: grows with every sign.
        passed: number of places passed.
        place: the last of them, in words.
        who: host and process number.
        busy: this process works while all others wait for it to tell the outcome.
        connection_lost: a collective of this process failed because of another one.
        failed: exit code, if this process ends by an error of its own.
    """

    beat: int
    passed: int
    place: str
    who: str
    busy: bool = False
    connection_lost: bool = False
    failed: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The run is to end.

    Attributes:
        exit_code: for every process.
        message: who is lost, in words; empty if that process tells it itself.
        ranks: whom it is about.
    """

    exit_code: int
    message: str
    ranks: list[int]


@dataclass
class Observer:
    """Remembers when each process's signs last changed. Times are seconds of the observer's own clock."""

    num_processes: int
    silence_seconds: float
    hang_seconds: float
    started: float
    signs: dict[int, Sign] = field(default_factory=dict)
    _heard: dict[int, float] = field(default_factory=dict)
    _moved: float | None = None

    def hear(self, rank: int, sign: Sign, now: float) -> None:
        """Take a process's newest sign."""
        before = self.signs.get(rank)
        if before is None or sign.beat != before.beat:
            self._heard[rank] = now
        if before is None or sign.passed != before.passed:
            self._moved = now
        self.signs[rank] = sign

    def judge(self, now: float) -> Verdict | None:
        """Whether somebody failed, is silent, or nobody has moved for too long."""
        for rank, sign in sorted(self.signs.items()):
            if sign.failed is not None:
                return Verdict(sign.failed, "", [rank])
        suspected = any(sign.connection_lost for sign in self.signs.values())
        limit = min(self.silence_seconds, SUSPECT_SECONDS) if suspected else self.silence_seconds
        silent = [
            rank for rank in range(self.num_processes) if now - self._heard.get(rank, self.started) > limit
        ]
        if silent:
            told = "; ".join(self._describe(rank) for rank in silent)
            return Verdict(EXIT_LOST, f"no sign of life for {limit:.0f} s from {told}", silent)
        is_busy = any(sign.busy for sign in self.signs.values())
        patience = self.hang_seconds * (BUSY_FACTOR if is_busy else 1)
        if now - (self._moved or self.started) > patience:
            return self._judge_hanging(patience)
        return None

    def _judge_hanging(self, waited_seconds: float) -> Verdict:
        fewest = min(sign.passed for sign in self.signs.values())
        behind = [rank for rank, sign in sorted(self.signs.items()) if sign.passed == fewest]
        told = "; ".join(self._describe(rank) for rank in behind)
        waited = f"no progress for {waited_seconds:.0f} s"
        if len(behind) < self.num_processes:
            return Verdict(EXIT_LOST, f"{waited}: all others wait for {told}", behind)
        return Verdict(EXIT_LOST, f"{waited} of any process: {told}", behind)

    def _describe(self, rank: int) -> str:
        sign = self.signs.get(rank)
        if sign is None:
            return f"rank {rank}, which was never heard of"
        return f"rank {rank} ({sign.who}), last seen at: {sign.place}"
