"""Which layers a recipe's guidance means, for any depth."""

import pytest

from pipeline.config.schema import GuidanceSection


@pytest.mark.parametrize(
    ("settings", "num_layers", "guided"),
    [
        ({"heads": "paper"}, 12, [0, 1, 2, 3, 4, 5]),
        ({"heads": {"next": 1}}, 4, [0, 1, 2, 3]),
        ({"heads": {"next": 1}, "layers": 3}, 12, [0, 1, 2]),
        ({"heads": {"next": 1}, "layers": 30}, 12, list(range(12))),
        ({"heads": {"next": 1}, "layers": [4, 2]}, 12, [4, 2]),
        ({"heads": {"next": 1}, "layers": "all"}, 12, None),
        ({"heads": "clark"}, 12, None),
        ({"heads": {"8-": {"next": 1}}}, 12, None),
        ({"heads": "paper", "normalization": "authors"}, 12, None),
        ({"heads": "paper", "normalization": "authors", "layers": 2}, 12, [0, 1]),
    ],
)
def test_guided_layers(settings, num_layers, guided):
    assert GuidanceSection.model_validate(settings).layers_of(num_layers) == guided
