"""How every benchmark ends: its result as one JSON object, on the last line and, if wanted, in a file."""

import json
from pathlib import Path
from typing import Any


def tell(result: dict[str, Any], out: Path | None = None) -> None:
    """Print a result, and write it to `out`."""
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
