"""The two networks of replaced-token detection, from a recipe."""

import copy

import torch
from torch import nn
from transformers import AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from pipeline.config.schema import Recipe
from pipeline.encoder.model import model_config, open_network
from pipeline.encoder.replaced_token import detector_class, make_detector
from pipeline.objectives.electra.settings import ElectraSection
from pipeline.objectives.protocol import Facts


def build_networks(recipe: Recipe, facts: Facts) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Discriminator and generator in float32; weights that no checkpoint has are a function of the seed."""
    section = recipe.objective
    assert isinstance(section, ElectraSection)
    config = model_config(recipe.model, facts.vocabulary, facts.positions)
    small = generator_config(section, config)
    make_detector(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        checkpoint = recipe.model.checkpoint if facts.with_weights else None
        discriminator = open_network(detector_class(config), config, checkpoint)
        generator = open_network(AutoModelForMaskedLM, small, None)
    if section.tie_embeddings:
        tie_embeddings(generator, discriminator)
    return discriminator, generator


def generator_config(section: ElectraSection, config: PretrainedConfig) -> PretrainedConfig:
    """The discriminator's configuration with the generator's sizes."""
    small = copy.deepcopy(config)
    num_layers = section.num_generator_layers(config.num_hidden_layers)
    small.num_hidden_layers = num_layers
    for name, value in list(vars(small).items()):  # such as layer_types: one entry for each layer
        if isinstance(value, list) and len(value) == config.num_hidden_layers:
            setattr(small, name, value[:num_layers])
    if section.generator_width < 1.0:
        head_size = config.hidden_size // config.num_attention_heads
        small.num_attention_heads = max(1, round(section.generator_width * config.num_attention_heads))
        small.hidden_size = head_size * small.num_attention_heads
        if getattr(config, "num_key_value_heads", None) is not None:
            group = config.num_attention_heads // config.num_key_value_heads
            small.num_key_value_heads = max(1, small.num_attention_heads // group)
        small.intermediate_size = max(1, round(section.generator_width * config.intermediate_size))
    return small


def embedding_size(config: PretrainedConfig) -> int:
    """Features of a token's embedding."""
    return int(getattr(config, "embedding_size", config.hidden_size))


def tie_embeddings(generator: PreTrainedModel, discriminator: PreTrainedModel) -> None:
    """Make the generator's embeddings of tokens, and of positions if it has any, the discriminator's."""
    generator.set_input_embeddings(discriminator.get_input_embeddings())
    generator.tie_weights()
    theirs = dict(discriminator.base_model.named_modules())
    for name, module in list(generator.base_model.named_modules()):
        other = theirs.get(name)
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            assert isinstance(other, nn.Embedding)
            if other.weight.shape == module.weight.shape:
                parent, _, child = name.rpartition(".")
                setattr(generator.base_model.get_submodule(parent), child, other)
