import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.format import read_manifest
from pipeline.build import Corpus
from pipeline.config.checks import World
from pipeline.config.schema import Recipe
from pipeline.encoder.model import build_model
from pipeline.planning.plan import make_plan, print_plan

MakeRecipe = Callable[..., Recipe]
# So many that a pass over them is the peak.
MANY_ROWS = {"train.global_batch_size": 256, "train.micro_batch_size": 64}


def on_cpu(world_size: int) -> World:
    return World(world_size=world_size, on_cuda=False)


def plan(recipe: Recipe, world_size: int = 4) -> dict[str, Any]:
    return make_plan(recipe, on_cpu(world_size))


def memory(recipe: Recipe, world_size: int = 4) -> dict[str, Any]:
    return plan(recipe, world_size)["memory_bytes_per_process"]


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_parameters_are_those_of_the_real_model(make_recipe: MakeRecipe, family: str) -> None:
    recipe = make_recipe({"model.family": family})
    corpus = Corpus.open(recipe.corpus)
    model = build_model(recipe.model, corpus.vocabulary, corpus.manifest.sequence_length, 0)

    found = plan(recipe)

    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["embedding_parameters"] == model.get_input_embeddings().weight.numel()


def test_run_in_numbers(make_recipe: MakeRecipe, tiny_corpus: Path) -> None:
    manifest = read_manifest(tiny_corpus)
    rows = sum(shard.rows for shard in manifest.shards_of("train"))

    found = plan(make_recipe({"train.num_steps": 1000, "train.global_batch_size": 16}))

    assert found["epochs"] == pytest.approx(16_000 / rows)
    scarce = plan(
        make_recipe({"train.num_steps": 1000, "train.global_batch_size": 16, "data.train_share": 0.5})
    )
    assert scarce["epochs"] == pytest.approx(16_000 / round(rows / 2))
    assert found["tokens"] == pytest.approx(16_000 / rows * manifest.splits["train"].tokens, rel=1e-6)
    assert found["tokens_per_step"] * 1000 == pytest.approx(found["tokens"], rel=0.01)
    assert found["sequence_length"] == 32


def test_fourteen_bytes_per_parameter_in_mixed_precision(make_recipe: MakeRecipe) -> None:
    """2 for weights, 12 for master weights and two moments (ZeRO paper, section 3.1); gradients pass."""
    recipe = make_recipe({"train.precision": "bf16", "train.deepspeed": "zero1"})
    alone, found = memory(recipe, world_size=1), plan(recipe, world_size=1)

    assert alone["weights"] + alone["optimizer"] == 14 * found["parameters"]
    four = memory(recipe, world_size=4)
    assert four["weights"] == alone["weights"]
    assert four["optimizer"] == pytest.approx(alone["optimizer"] / 4, abs=12 * 2)


def test_offloading_moves_the_optimizer_to_host_memory(make_recipe: MakeRecipe) -> None:
    on_device, offloaded = (
        make_plan(make_recipe({"train.deepspeed": name}), World(world_size=4, on_cuda=True))
        for name in ("zero2", "zero2_offload")
    )

    before, after = on_device["memory_bytes_per_process"], offloaded["memory_bytes_per_process"]
    assert after["optimizer_in_host_memory"]
    assert after["on_device"] == before["on_device"] - before["optimizer"]


def test_checkpointing_and_smaller_micro_batches_save_activations(make_recipe: MakeRecipe) -> None:
    deep = {"model.num_layers": 8, "train.global_batch_size": 128, "train.micro_batch_size": 128}
    plain, checkpointed, smaller = (
        memory(make_recipe(deep | change), 1)
        for change in ({}, {"train.activation_checkpointing": True}, {"train.micro_batch_size": 64})
    )

    assert "update" not in {found["peak_at"] for found in (plain, checkpointed, smaller)}
    assert checkpointed["activations"] < plain["activations"] / 2
    # Gradients of the output layer's weight are kept too, however few the rows.
    assert smaller["activations"] == pytest.approx(plain["activations"] / 2, rel=0.02)
    assert smaller["weights"] == plain["weights"]


def test_on_cpu_the_process_itself_counts(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    bare = make_plan(recipe, World(world_size=4, on_cuda=False))["memory_bytes_per_process"]
    loaded = make_plan(recipe, World(world_size=4, on_cuda=False), 1 << 30)["memory_bytes_per_process"]

    assert loaded["resident"] == bare["resident"] + (1 << 30)
    assert "on_device" not in loaded


def test_guidance_costs_memory_only_where_it_is_used(make_recipe: MakeRecipe) -> None:
    assert memory(make_recipe(MANY_ROWS))["guidance"] > 0
    assert memory(make_recipe(MANY_ROWS | {"guidance.weight": 0}))["guidance"] == 0
    assert memory(make_recipe(MANY_ROWS | {"guidance.heads": {}}))["guidance"] == 0


def test_guidance_memory_grows_with_the_guided_heads(make_recipe: MakeRecipe) -> None:
    one, upper, three = (
        memory(make_recipe(MANY_ROWS | {"guidance.heads": heads}))["guidance"]
        for heads in ({"next": 1}, {"1-1": {"next": 3}}, {"next": 3})
    )

    assert one < upper < three


def test_a_bias_costs_a_mask_for_every_guided_layer(make_recipe: MakeRecipe) -> None:
    """64 rows x 4 heads x 32 x 32 scores of 4 bytes, which fused attention keeps instead of a row's mask."""
    rows = MANY_ROWS | {"model.attention_dropout": 0.0, "data.attend_across_documents": False}
    whole, half, none = (
        memory(make_recipe(rows | {"guidance": {"heads": heads, "method": "bias"}}))["guidance"]
        for heads in ({"next": 1}, {"1-1": {"next": 3}}, {})
    )

    in_place_of = 64 * 32 * 32 * 4
    assert whole == pytest.approx(2 * (4 - 1) * in_place_of, rel=0.1)
    assert half == pytest.approx(whole / 2, rel=0.1)
    assert none == 0


def test_guidance_in_numbers(make_recipe: MakeRecipe) -> None:
    """The weight as it acts on rows of 32 tokens, and the authors' alpha: their loss is a mean over n x n."""
    squared = {"error": "squared", "weight": 7.0, "heads": {"next": 2, "first": 2}}
    by_weight = plan(make_recipe({"guidance": squared}))
    by_alpha = plan(
        make_recipe(
            {"guidance": {"heads": {"0-0": {"next": 2}, "1-": {"last": 2, "self": 2}}, "alpha": 10.0}}
        )
    )

    assert by_weight["guidance"] == {
        "guided_layers": 2,
        "guided_heads": 8,
        "factor": pytest.approx(7.0 * 32 / 512),
        "alpha": pytest.approx(7.0 * 32 / 512 * 32 / 4),  # 2 layers of 2 types
        "bias": None,
    }
    assert by_alpha["guidance"] == {
        "guided_layers": 2,
        "guided_heads": 6,
        "factor": pytest.approx(10.0 * 3 / 32),
        "alpha": pytest.approx(10.0),
        "bias": None,
    }


@pytest.mark.parametrize(
    "guidance",
    [
        {},
        {"heads": {"next": 1}, "weight": 0.0},
        {"heads": {"next": 1}, "method": "bias", "weight": 0.0},
        {"heads": {"next": 1}, "method": "bias", "bias": 0.0},
    ],
)
def test_without_guidance_it_has_no_numbers(make_recipe: MakeRecipe, guidance: dict[str, Any]) -> None:
    assert plan(make_recipe({"guidance": guidance}))["guidance"] is None


def test_other_guidance_has_no_alpha(make_recipe: MakeRecipe) -> None:
    bias = plan(make_recipe({"guidance": {"heads": {"next": 1}, "method": "bias", "bias": 5.0}}))["guidance"]
    entropy = plan(make_recipe({"guidance": {"heads": {"next": 1}}}))["guidance"]
    unequal = {"error": "squared", "weight": 7.0, "heads": {"next": 1, "first": 2}}

    assert (bias["factor"], bias["alpha"], bias["bias"]) == (None, None, 5.0)
    assert (entropy["factor"], entropy["alpha"], entropy["bias"]) == (0.1, None, None)
    assert plan(make_recipe({"guidance": unequal}))["guidance"]["alpha"] is None
    published = plan(make_recipe({"guidance": {**unequal, "normalization": "authors"}}))["guidance"]
    assert published["alpha"] == pytest.approx(7.0 * 32 / 512 * 32 / 4)


def test_plan_is_printed_as_one_json_object(
    tiny_recipe: Callable, write_recipe: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan(str(write_recipe(tiny_recipe())), ["train.num_steps=77"], on_cpu(2), as_json=True)

    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["processes"]) == (77, 2)
    config = found["deepspeed_config"]
    assert (
        config["train_batch_size"]
        == config["train_micro_batch_size_per_gpu"] * 2 * (config["gradient_accumulation_steps"])
    )


def test_plan_is_printed_for_people(
    tiny_recipe: Callable, write_recipe: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    squared = {"guidance.error": "squared", "guidance.weight": 7.0}
    print_plan(str(write_recipe(tiny_recipe(squared))), [], on_cpu(1), as_json=False)

    text = capsys.readouterr().out
    assert "parameters" in text
    assert "memory per process at its peak" in text
    assert "resident set" in text
    assert "each process sends" in text
    assert "6 heads in 2 layers, 0.4375 times the mean row error" in text
    assert "alpha: 2.333" in text  # 0.4375 * 32 tokens / (2 layers of 3 types)


def test_plan_tells_people_when_there_is_no_guidance(
    tiny_recipe: Callable, write_recipe: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tiny_recipe({"guidance.weight": 0}))
    print_plan(str(path), [], on_cpu(1), as_json=False)

    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("guidance")]
    assert line.split() == ["guidance", "none"]


@pytest.fixture
def phased(make_recipe: MakeRecipe, short_corpus: Path) -> Recipe:
    """Twelve steps: three of 4 short rows, three of 12, then six of 8 long ones."""
    short = {"corpus": str(short_corpus)}
    curriculum = [
        {"until": 3, "global_batch_size": 4, **short},
        {"until": 6, "global_batch_size": 12, "micro_batch_size": 12, **short},
    ]
    return make_recipe({"curriculum": curriculum})


def test_phases_in_numbers(phased: Recipe, short_corpus: Path, tiny_corpus: Path) -> None:
    found = plan(phased, world_size=2)

    shapes = [(p["global_batch_size"], p["micro_batch_size"], p["sequence_length"]) for p in found["phases"]]
    assert shapes == [(4, 2, 16), (12, 6, 16), (8, 4, 32)]
    assert [(p["first_step"], p["end_step"]) for p in found["phases"]] == [(0, 3), (3, 6), (6, 12)]
    rows = {
        path: sum(s.rows for s in read_manifest(path).shards_of("train"))
        for path in (short_corpus, tiny_corpus)
    }
    assert found["epochs_by_corpus"] == pytest.approx(
        {str(short_corpus): 48 / rows[short_corpus], str(tiny_corpus): 48 / rows[tiny_corpus]}
    )
    assert found["epochs"] == found["epochs_by_corpus"][str(tiny_corpus)]
    assert found["tokens"] == sum(phase["tokens"] for phase in found["phases"])
    tokens = read_manifest(short_corpus).splits["train"].tokens
    assert found["phases"][1]["tokens"] == pytest.approx(36 * tokens / rows[short_corpus], abs=1)


def test_memory_is_that_of_the_phase_with_the_most(make_recipe: MakeRecipe, phased: Recipe) -> None:
    """On one process 12 rows of 16 tokens are more than 4 of 32; the model has the positions of 32."""
    short = {
        "train.global_batch_size": 12,
        "train.micro_batch_size": 12,
        "corpus": phased.curriculum[0].corpus,
        "model.max_positions": 32,
    }
    found, expected = memory(phased, 1), memory(make_recipe(short), 1)

    assert expected["activations"] > memory(make_recipe(), 1)["activations"]
    for part in ("activations", "passing", "weights", "optimizer", "peak_at"):
        assert found[part] == expected[part], part


def test_phases_are_printed_for_people(
    phased: Recipe, write_recipe: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan(str(write_recipe(phased.model_dump(exclude_unset=True))), [], on_cpu(2), as_json=False)

    text = capsys.readouterr().out
    assert "12 in 3 phases" in text
    assert "steps 3 to 6 with 12 rows of 16 tokens, 6 per process and pass" in text
    assert f"passes over {phased.corpus}" in text
