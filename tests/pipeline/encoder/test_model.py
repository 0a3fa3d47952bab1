from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from pipeline.encoder.families import attention_dropout, attention_reach, usable_positions
from pipeline.encoder.model import (
    build_model,
    has_safetensors,
    model_config,
)
from tests.pipeline.tiny_models import FAMILIES, LENGTH, VOCABULARY, tiny_inputs, tiny_model, tiny_section

every_family = pytest.mark.parametrize("family", FAMILIES)


def built(family: str, seed: int = 0, **settings: object) -> torch.nn.Module:
    return build_model(tiny_section(family, **settings), VOCABULARY, LENGTH, seed)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@every_family
def test_sizes_are_the_recipes(family: str) -> None:
    model = built(family, num_layers=4, hidden_size=24, num_heads=3, intermediate_size=40)

    config = model.config
    assert config.model_type == family
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (4, 3, 24)
    assert config.intermediate_size == 40
    assert model.get_input_embeddings().weight.shape == (128, 24)  # 97 tokens
    assert config._attn_implementation == "sdpa"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@every_family
def test_special_tokens_are_the_corpuss(family: str) -> None:
    config = built(family).config

    assert config.pad_token_id == VOCABULARY.pad_id
    assert config.bos_token_id == VOCABULARY.cls_id
    assert config.eos_token_id == VOCABULARY.sep_id


@every_family
def test_dropouts_are_the_recipes(family: str) -> None:
    model = built(family, dropout=0.3, attention_dropout=0.2)

    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert 0.3 in rates
    assert 0.1 not in rates  # the families' own default
    assert 0.2 in {
        getattr(model.config, "attention_probs_dropout_prob", None),
        getattr(model.config, "attention_dropout", None),
    }


@every_family
def test_attention_dropout_is_the_rate_on_attention_alone(family: str) -> None:
    assert attention_dropout(built(family, dropout=0.3, attention_dropout=0.2).config) == 0.2
    assert attention_dropout(built(family, dropout=0.3, attention_dropout=0.0).config) == 0.0


@every_family
def test_weights_are_a_function_of_the_seed(family: str) -> None:
    assert same_weights(built(family, seed=5), built(family, seed=5))
    assert not same_weights(built(family, seed=5), built(family, seed=6))


def test_building_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)

    built("roberta", seed=9)

    assert torch.equal(torch.rand(1), expected)


@every_family
@pytest.mark.parametrize("max_positions", [None, 40])
def test_usable_positions_are_all_that_can_be_used(family: str, max_positions: int | None) -> None:
    model = built(family, max_positions=max_positions)
    length = max_positions or LENGTH

    assert usable_positions(model.config) == length
    assert model(**tiny_inputs([length], length)).logits.shape == (1, length, 128)


@pytest.mark.parametrize(
    "model_type",
    ["bert", "roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "ibert", "luke", "mpnet"],
)
def test_usable_positions_of_encoders_that_others_trained(model_type: str) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model(model_type, vocab_size=20, max_position_embeddings=12, **sizes)
    model = AutoModel.from_config(config).eval()
    longest = usable_positions(config)

    assert longest == (12 if model_type == "bert" else 10)
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))


@pytest.mark.parametrize("family", ["roberta", "bert"])  # ModernBERT's rotary positions have no table
def test_one_token_more_does_not_fit(family: str) -> None:
    model = built(family)

    with pytest.raises((IndexError, RuntimeError)):
        model(**tiny_inputs([LENGTH + 1], LENGTH + 1))


def test_options_reach_the_family() -> None:
    config = model_config(
        tiny_section("modernbert", options={"local_attention": 6, "global_attn_every_n_layers": 2}),
        VOCABULARY,
        LENGTH,
    )

    assert config.local_attention == 6
    assert config.layer_types == ["full_attention", "sliding_attention", "full_attention"]


def test_reach_is_what_the_model_attends_to() -> None:
    model = tiny_model("modernbert")
    model.set_attn_implementation("eager")

    attentions = model(**tiny_inputs([LENGTH]), output_attentions=True).attentions

    for layer, probs in enumerate(attentions):
        rows, columns = torch.nonzero(probs[0, 0] > 0, as_tuple=True)
        furthest = (rows - columns).abs().max().item()
        assert furthest == (attention_reach(model.config, layer) or LENGTH - 1)


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_global_attention_reaches_all_the_way(family: str) -> None:
    assert attention_reach(built(family).config, 0) is None


# From a checkpoint


@every_family
def test_checkpoint_gives_its_own_sizes_and_weights(family: str, tmp_path: Path) -> None:
    original = tiny_model(family, num_layers=2)
    original.save_pretrained(tmp_path)
    section = tiny_section(family, checkpoint=str(tmp_path))

    model = build_model(section, VOCABULARY, LENGTH, seed=123)

    assert model.config.num_hidden_layers == 2
    assert same_weights(model, original)
    assert model.config._attn_implementation == "sdpa"
    inputs = tiny_inputs()
    assert torch.equal(model.eval()(**inputs).logits, original.eval()(**inputs).logits)


def test_half_precision_checkpoint_is_trained_in_float32(tmp_path: Path) -> None:
    tiny_model("bert").bfloat16().save_pretrained(tmp_path)

    model = build_model(tiny_section("bert", checkpoint=str(tmp_path)), VOCABULARY, LENGTH, 0)

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    model = tiny_model("bert")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")

    assert not has_safetensors(tmp_path)
    with pytest.raises(OSError, match="safetensors"):
        build_model(tiny_section("bert", checkpoint=str(tmp_path)), VOCABULARY, LENGTH, 0)


def test_sizes_beside_a_checkpoint_are_listed() -> None:
    section = tiny_section("bert", checkpoint="somewhere")

    assert {"family", "num_layers", "hidden_size"} <= set(section.settings_beside_checkpoint())
    assert tiny_section("bert").settings_beside_checkpoint() == []


def test_built_model_saves_and_opens_like_any_other(tmp_path: Path) -> None:
    model = tiny_model("roberta").eval()
    model.save_pretrained(tmp_path)

    reopened = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()

    assert torch.equal(reopened(**tiny_inputs()).logits, model(**tiny_inputs()).logits)
