from typing import Literal

from pipeline.objectives.mlm.settings import MlmSection


class ToySection(MlmSection):
    kind: Literal["toy"] = "toy"
    documents_weight: float = 0.25


SETTINGS = ToySection
