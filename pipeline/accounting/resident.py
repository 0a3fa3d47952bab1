"""The resident memory of this process, as the kernel tells it."""

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes() -> dict[str, int]:
    """On Linux, by the kernel's names: VmRSS now, VmHWM at its peak, RssAnon of no file, RssFile of files."""
    lines = (line.split() for line in _STATUS.read_text(encoding="utf-8").splitlines())
    return {
        words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if words[0].startswith(("Vm", "Rss"))
    }


def resident_peak_bytes() -> int:
    """The most that this process has had since it started."""
    if _STATUS.is_file():
        return resident_bytes()["VmHWM"]
    # Begins at the parent's, which is why it is the second choice.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
