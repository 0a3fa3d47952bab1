"""What `evaluate --task` can measure: a file each, named here, which has a TASK."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.evaluation.task import Task

TASKS = {  # for --help, which is not to import torch
    "held_out": "the objective's metrics on held-out rows of the run's corpus (the default)",
    "glue": "fine-tuning on GLUE's data sets, each with several seeds",
    "classify": "fine-tuning on any labelled texts in TSV files: macro-F1 and accuracy",
    "tag": "fine-tuning on tagged words in CoNLL's layout: F1 of spans, such as named entities",
    "blimp": "minimal pairs: how often the acceptable sentence has the higher score",
    "probe": "what heads look at: positional patterns, entropy, the antecedents of reflexives",
    "ood": "detection of queries out of scope by an encoder as it is and fine-tuned (CLINC150)",
}

FORMER_NAMES = {"mlm": "held_out"}  # still understood


def load_task(name: str) -> "Task":
    """The task of this name in TASKS."""
    return importlib.import_module(f"{__name__}.{name}").TASK
