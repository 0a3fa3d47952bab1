"""The recipe's `objective` section for replaced-token detection."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat
from pydantic_core import PydanticCustomError

from pipeline.config.section import ObjectiveSection, Share


def _check_layers(value: Any) -> Any:
    is_count = type(value) is int and value >= 1
    is_share = isinstance(value, float) and 0.0 < value <= 1.0
    if not (is_count or is_share):
        raise PydanticCustomError(
            "layers", "write a number of layers (an integer from 1) or a share of the model's (up to 1.0)"
        )
    return value


class ElectraSection(ObjectiveSection):
    """A generator fills masked places in; the discriminator, `model`, tells which tokens are replaced."""

    kind: Literal["electra"] = "electra"
    mask_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.15, description="share of tokens that the generator predicts and fills in"
    )
    mask_share: Share = Field(1.0, description="of those, share that it sees as the mask token, not as it is")
    discriminator_weight: PositiveFloat = Field(
        50.0, description="factor on the discriminator's loss, beside the generator's"
    )
    generator_layers: Annotated[int | float, BeforeValidator(_check_layers)] = Field(
        0.34, description="layers of the generator, or a share of the discriminator's"
    )
    generator_width: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="its hidden and feed-forward size and its heads, as a share of the discriminator's; with "
        "tied embeddings below 1.0 only in families whose embeddings have a size of their own",
    )
    tie_embeddings: bool = Field(True, description="token and position embeddings are those of both networks")

    def num_generator_layers(self, num_layers: int) -> int:
        """Layers of the generator beside a discriminator with `num_layers`."""
        layers = self.generator_layers
        return max(1, round(layers * num_layers)) if isinstance(layers, float) else layers


SETTINGS = ElectraSection
