"""Which implementation tokenizes a corpus: settled once, by the first task, for all of them."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import get_args

from data_prep.cleaning.normalize import clean_text
from data_prep.errors import DataError, UsageError
from data_prep.files import create_atomically
from data_prep.inputs.parts import read_parts
from data_prep.inputs.records import read_records
from data_prep.stages.plan import Plan
from data_prep.stages.work_dir import WorkDir
from data_prep.tokenizing.encoder import Backend, BackendChoice, choose_backend

_DOCUMENTS, _CHARACTERS = 200, 1 << 19  # on which a faster backend must prove itself
_DOCUMENTS_PER_PART = 50


def settle_backend(plan: Plan, work: WorkDir, choice: BackendChoice) -> Backend:
    """The backend of a preparation; whoever comes first chooses it on a sample of the corpus.

    Raises:
        UsageError: Another one was asked for than the preparation began with, or it is not installed here.
    """
    if not work.backend.is_file():
        sample = [] if choice == "huggingface" else list(islice(_sample(plan), _DOCUMENTS))
        chosen, warning = choose_backend(choice, work.tokenizer, sample)
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
        create_atomically(work.backend, f"{chosen}\n")
    settled = _read(work.backend)
    if choice != "auto" and settled == "gigatoken" and choice != settled:
        raise UsageError(
            f"{work.root.parent} was begun with --backend {settled}; go on with it, or delete the directory"
        )
    if settled == "gigatoken":
        choose_backend(settled, work.tokenizer, [])
    return settled


def _read(path: Path) -> Backend:
    name = path.read_text(encoding="utf-8").strip()
    for backend in get_args(Backend):
        if name == backend:
            return backend
    raise DataError(f"{path}: {name!r} is no backend; delete {path} and start the same command again")


def _sample(plan: Plan) -> Iterator[str]:
    """The first documents of the first segments, up to a number of characters."""
    left = _CHARACTERS
    for segment in plan.segments:
        source = plan.sources[segment.source]
        for part in islice(read_parts(segment, source, plan.part_bytes), 1):
            for piece in part.pieces:
                for record in islice(read_records(piece, source), _DOCUMENTS_PER_PART):
                    if isinstance(record, str):
                        text = clean_text(record, plan.settings.unicode)[:left]
                        yield text
                        left -= len(text)
                    if left <= 0:
                        return
