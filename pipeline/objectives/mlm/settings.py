"""The recipe's `objective` section for masked language modelling."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import ObjectiveSection, Share


class MlmSection(ObjectiveSection):
    """Masked language modelling: predict tokens that are hidden."""

    kind: Literal["mlm"] = "mlm"
    mask_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.15, description="share of tokens predicted")
    mask_share: Share = Field(0.8, description="of those, share replaced by the mask token")
    random_share: Share = Field(0.1, description="of those, share replaced by a random token")


SETTINGS = MlmSection
