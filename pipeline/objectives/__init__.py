"""What is learned: a folder for each objective, named in OBJECTIVES. protocol.py says what is in one."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.objectives.protocol import Objective

OBJECTIVES = {  # `objective.kind` -> package, loaded when it is needed
    "mlm": "pipeline.objectives.mlm",
    "electra": "pipeline.objectives.electra",
}


def load_settings(kind: str) -> Any:
    """The class of the recipe's `objective` section for a kind in OBJECTIVES."""
    return importlib.import_module(f"{OBJECTIVES[kind]}.settings").SETTINGS


def load_objective(kind: str) -> "Objective":
    """The objective of a kind in OBJECTIVES."""
    return importlib.import_module(f"{OBJECTIVES[kind]}.objective").OBJECTIVE
