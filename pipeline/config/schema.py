"""The recipe: every setting of a run, its default and its bounds.

A *duration* is a number of steps (an integer) or a share of `train.num_steps` (0.0 to 1.0), so that
a recipe keeps its shape when the number of steps changes.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, SerializeAsAny
from pydantic_core import PydanticCustomError

from pipeline.config.section import ObjectiveSection, Section, Share
from pipeline.data.phases import Phase
from pipeline.data.token_sets import CLS_AND_SEP
from pipeline.guidance.allocation import DEFAULT_GUIDED_LAYERS, pattern_names, says_layers
from pipeline.guidance.patterns import TOKEN_PATTERNS
from pipeline.objectives import OBJECTIVES, load_settings

DEFAULT_OBJECTIVE = "mlm"


def _check_duration(value: Any, other: str = "") -> Any:
    is_steps = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    is_share = isinstance(value, float) and 0.0 <= value <= 1.0
    if not (is_steps or is_share):
        raise PydanticCustomError(
            "duration",
            f"write {other}a number of steps (an integer from 0) or a share of the run (0.0 to 1.0)",
        )
    return value


def _check_heads(value: Any) -> Any:
    def is_counts(counts: Any) -> bool:
        return isinstance(counts, dict) and all(type(c) is int and c > 0 for c in counts.values())

    is_table = isinstance(value, dict) and all(is_counts(counts) and counts for counts in value.values())
    if not (isinstance(value, str) or is_counts(value) or is_table):
        raise PydanticCustomError(
            "heads",
            "write a preset (paper, grid or clark), pattern: number of heads, from 1 (next: 1), or a range "
            "of layers with such a table below it (0-3: {next: 2})",
        )
    return value


def _check_layers(value: Any) -> Any:
    is_count = type(value) is int and value >= 1
    is_list = isinstance(value, list) and all(type(layer) is int and layer >= 0 for layer in value)
    if not (is_count or is_list or value == "all"):
        raise PydanticCustomError(
            "layers", "write how many of the lowest layers (6), a list of layers from 0 ([0, 2, 4]), or all"
        )
    return value


def _check_dense(value: Any) -> Any:
    return value if value == "formed" else _check_duration(value, "formed, ")


def _check_layers_per_step(value: Any) -> Any:
    is_count = type(value) is int and value >= 1
    is_share = isinstance(value, float) and 0.0 < value < 1.0
    if not (is_count or is_share):
        raise PydanticCustomError(
            "layers_per_step", "write a number of layers (an integer from 1) or a share of them (below 1.0)"
        )
    return value


RowError = Literal["squared", "cross_entropy"]
Heads = Annotated[str | dict[str, Any], BeforeValidator(_check_heads)]
Dense = Annotated[str | int | float, BeforeValidator(_check_dense)]
GuidedLayers = Annotated[int | list[int] | str, BeforeValidator(_check_layers)]
LayersPerStep = Annotated[int | float, BeforeValidator(_check_layers_per_step)]
TokenTexts = Annotated[list[str], Field(min_length=1)]
Duration = Annotated[int | float, BeforeValidator(lambda value: _check_duration(value))]


class ModelSection(Section):
    """The encoder: a family and its sizes, or a local checkpoint to start from."""

    family: str = Field(
        "roberta", description="a model type of transformers that has a masked-LM class (docs/families.md)"
    )
    num_layers: PositiveInt = 12
    hidden_size: PositiveInt = 768
    num_heads: PositiveInt = 12
    intermediate_size: PositiveInt = 3072
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    attention_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    max_positions: PositiveInt | None = Field(None, description="longest input; default: the corpus's rows")
    options: dict[str, Any] = Field({}, description="further keys of the family's transformers config")
    checkpoint: str | None = Field(
        None, description="start from this local Hugging Face directory (safetensors) instead of from scratch"
    )

    def settings_beside_checkpoint(self) -> list[str]:
        """Keys written in the recipe although the checkpoint decides them."""
        return sorted(self.model_fields_set - {"checkpoint"}) if self.checkpoint is not None else []


def _read_objective(value: Any) -> Any:
    """The section of the kind that is written; its own errors keep their places."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind", DEFAULT_OBJECTIVE)
    if not isinstance(kind, str) or kind not in OBJECTIVES:
        names = ", ".join(OBJECTIVES)
        raise PydanticCustomError(
            "objective",
            "kind: {kind} is no objective; write one of {names}",
            {"kind": repr(kind), "names": names},
        )
    return load_settings(kind).model_validate(value)


_ONLY_FOR_LOSS = (
    *("error", "normalization", "weight", "alpha"),
    *("dense", "formed_mass", "layers_per_step", "layer_weights", "row_stride"),
)


class GuidanceSection(Section):
    """Attention guidance; without heads there is none."""

    heads: Heads = Field(
        {},
        description="preset (paper, grid, clark), pattern -> number of heads in each guided layer, or range "
        "of layers -> pattern -> number of heads",
    )
    networks: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="guided networks of an objective with several, such as [generator, discriminator]; "
        "default: the one that is evaluated",
    )
    layers: GuidedLayers | None = Field(
        None,
        description="guided layers: so many of the lowest (6), these ([0, 2, 4]) or all; default: the lowest "
        "6, or all with normalization 'authors', unless heads says it by range of layers",
    )
    delimiters: TokenTexts = Field(list(CLS_AND_SEP), description="tokens of the pattern 'delimiters'")
    sentence_ends: TokenTexts = Field([".", "!", "?"], description="tokens of the pattern 'sentence_ends'")
    method: Literal["loss", "bias"] = Field("loss", description="bias: add to the targets' scores instead")
    error: RowError | None = Field(
        None,
        description="of a row: cross_entropy or squared; default: cross_entropy, but squared, as published, "
        "with alpha or normalization 'authors'",
    )
    normalization: Literal["mean", "authors"] = Field("mean", description="authors: as in the published code")
    weight: Annotated[float, Field(ge=0.0)] | None = Field(
        None,
        description="factor on the mean row error; default: 0.1 for cross_entropy (whatever the length of "
        "rows), 7.0 for squared errors (meant for rows of 512 tokens and scaled by T/512)",
    )
    alpha: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="the weight in the authors' unit, for rows as they are; instead of weight"
    )
    bias: Annotated[float, Field(ge=0.0)] = Field(8.0, description="with method 'bias': added to the scores")
    plateau: Duration = Field(0.5, description="full weight for so long")
    end: Duration | None = Field(None, description="weight falls linearly to zero here; default: last step")
    dense: Dense = Field(
        "formed",
        description="all guided layers count for so long; formed: until the patterns have formed, at the "
        "latest to the end of the plateau",
    )
    formed_mass: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="attention on target at which a head counts as formed; nine in ten must have it"
    )
    layers_per_step: LayersPerStep | None = Field(
        0.25, description="afterwards so many of them (1, 2, ...) or so large a share (below 1); null: all"
    )
    layer_weights: list[PositiveFloat] | None = Field(
        None, description="chances of the guided layers relative to each other; default: equal"
    )
    row_stride: PositiveInt = Field(1, description="afterwards one query row in so many counts")

    @property
    def row_error(self) -> RowError:
        """The error of a row: `error`, or its default."""
        if self.error is not None:
            return self.error
        return "squared" if self.alpha is not None or self.normalization == "authors" else "cross_entropy"

    @property
    def acts_by(self) -> Literal["loss", "bias"] | None:
        """How guidance acts on some step; None where it is off: no heads, or nothing that weighs them."""
        if not self.heads or 0.0 in (self.weight, self.bias if self.method == "bias" else self.alpha):
            return None
        return self.method

    def layers_of(self, num_layers: int) -> list[int] | None:
        """The guided layers of a model with `num_layers`; None where `heads` says which, or for all."""
        if isinstance(self.layers, list):
            return self.layers
        if isinstance(self.layers, int):
            return list(range(min(self.layers, num_layers)))
        if self.layers == "all" or self.normalization == "authors" or says_layers(self.heads):
            return None
        return list(range(min(DEFAULT_GUIDED_LAYERS, num_layers)))

    def num_layers_per_step(self, num_guided: int) -> int | None:
        """Layers looked at in a sampled step of a model with `num_guided` guided ones; None for all."""
        share = self.layers_per_step
        return math.ceil(share * num_guided) if isinstance(share, float) else share

    def token_texts(self) -> dict[str, list[str]]:
        """Texts of those patterns that have heads and are made of tokens."""
        texts = {"delimiters": self.delimiters, "sentence_ends": self.sentence_ends}
        return {name: texts[name] for name in TOKEN_PATTERNS if name in pattern_names(self.heads)}

    def without_effect(self) -> dict[str, str]:
        """Keys that change nothing beside the others' values, with the reason."""
        reasons = {
            name: f"no head has the pattern {name!r}"
            for name in TOKEN_PATTERNS
            if name not in pattern_names(self.heads)
        }
        if self.method == "bias":
            reasons |= dict.fromkeys(_ONLY_FOR_LOSS, "method 'bias' has no loss")
        else:
            reasons["bias"] = "it belongs to method 'bias'"
        if self.alpha is not None:
            reasons["weight"] = "alpha is the weight in another unit"
        if self.dense != "formed":
            reasons["formed_mass"] = "it belongs to dense: formed"
        if self.layers_per_step is None:
            reasons["layer_weights"] = "without layers_per_step no layers are drawn"
        if self.weight == 0.0:
            reasons.pop("weight", None)  # it switches guidance off, whatever the method or unit
        return reasons


class OptimizerSection(Section):
    """How gradients become steps; see docs/optimizers.md."""

    kind: Literal["adamw", "lamb"] = Field(
        "adamw", description="lamb: AdamW with a trust ratio per matrix, for batches of thousands of rows"
    )
    learning_rate: PositiveFloat = 5e-4
    betas: Annotated[list[Annotated[float, Field(ge=0.0, lt=1.0)]], Field(min_length=2, max_length=2)] = (
        Field([0.9, 0.98])
    )
    eps: PositiveFloat = 1e-6
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.01, description="not on biases and norms")
    gradient_clipping: PositiveFloat = Field(1.0, description="largest norm of the whole gradient")


class ScheduleSection(Section):
    """Learning rate: linear warm-up, then a shape down to `final_ratio` of the peak."""

    kind: Literal["linear", "cosine", "wsd"] = Field("linear", description="wsd: constant, then linear decay")
    warmup: Duration = 0.06
    decay: Duration = Field(0.1, description="length of the decay at the end; only for wsd")
    final_ratio: Share = 0.0


class TrainSection(Section):
    """Size and engine of the run. Batch sizes are in rows of T tokens."""

    num_steps: PositiveInt = 10_000
    global_batch_size: PositiveInt = Field(256, description="rows per optimizer step, over all processes")
    micro_batch_size: PositiveInt = Field(
        32, description="most rows per process and forward pass; fewer where it does not divide the batch"
    )
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    deepspeed: str = Field("zero1", description="a file of ds_configs/ by name, or a path to a JSON file")
    activation_checkpointing: bool = Field(False, description="recompute activations: less memory, slower")
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="torch.compile the encoder's blocks, up to ZeRO stage 2; auto: on CUDA. Where it does "
        "not work a warning says why, and the run goes on without",
    )


class PhaseSection(Section):
    """A phase before the recipe's own values hold; what it leaves out is the recipe's own."""

    until: Duration = Field(description="the next phase begins here")
    corpus: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="of the same tokenizer; its rows may have another length"
    )
    global_batch_size: PositiveInt | None = Field(None, description="as in train")
    micro_batch_size: PositiveInt | None = Field(None, description="as in train")


class DataSection(Section):
    """How batches reach the model."""

    num_workers: Annotated[int, Field(ge=0)] = Field(1, description="processes that prepare batches ahead")
    train_share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="train on this share of a corpus's rows only, its first; to study scarce data"
    )
    attend_across_documents: bool = Field(
        True,
        description="false: in a row of several documents each attends to itself only, and positions begin "
        "anew with each, as if every document had a row of its own",
    )


class EvaluationSection(Section):
    """Held-out loss while training, always with the same masks."""

    every_steps: PositiveInt = 1000
    max_rows: PositiveInt | None = Field(2048, description="held-out rows used; null: all")


class CheckpointSection(Section):
    """What is kept to resume from. A checkpoint is also written at the end and on a stop request."""

    every_steps: PositiveInt = 1000
    asynchronous: bool = Field(True, description="write while training goes on, from a copy in host memory")
    keep_last: Annotated[int, Field(ge=2)] = 2
    keep_every_steps: PositiveInt | None = Field(
        None, description="checkpoints at its multiples stay forever"
    )


class RecoverySection(Section):
    """What happens when something goes wrong; without effect on a healthy run.

    A bad step is one whose loss or gradient is not finite. It is skipped, without an update.
    """

    max_bad_steps: PositiveInt = Field(
        3, description="after so many in a row: back to the last checkpoint, and these steps are passed over"
    )
    max_rollbacks: Annotated[int, Field(ge=0)] = Field(
        2, description="times the run goes back, ever; instead of once more it ends with a message"
    )
    spike_sigmas: PositiveFloat | None = Field(
        6.0,
        description="a loss so many standard deviations above the usual one becomes an event with its rows; "
        "null: none does",
    )
    silence_seconds: Annotated[float, Field(ge=5.0)] = Field(
        60.0, description="a process without a sign of life for so long is taken for dead, and the run ends"
    )
    hang_seconds: Annotated[float, Field(ge=5.0, le=1500.0)] = Field(
        1200.0, description="without progress of any process for so long the run ends; above any evaluation"
    )


class LoggingSection(Section):
    """What is written while training."""

    every_steps: PositiveInt = Field(10, description="lines of metrics.jsonl; a terminal gets fewer")
    tensorboard: bool = True


class Recipe(Section):
    """A complete run."""

    run_dir: str = Field(description="everything the run writes")
    corpus: str = Field(description="directory made by 'python -m data_prep shard'")
    curriculum: list[PhaseSection] = Field(
        [], description="phases that come before: other batch sizes, or other corpora with other row lengths"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    model: ModelSection = ModelSection()
    objective: Annotated[SerializeAsAny[ObjectiveSection], BeforeValidator(_read_objective)] = Field(
        default_factory=lambda: load_settings(DEFAULT_OBJECTIVE)(), description="what is learned, by kind"
    )
    guidance: GuidanceSection = GuidanceSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    train: TrainSection = TrainSection()
    data: DataSection = DataSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    recovery: RecoverySection = RecoverySection()
    logging: LoggingSection = LoggingSection()

    def steps_of(self, duration: float) -> int:
        """A duration in steps."""
        if isinstance(duration, int):
            return duration
        return round(duration * self.train.num_steps)

    @property
    def phases(self) -> list[Phase]:
        """The phases of the run; the last has the recipe's own values and goes to the end."""
        train = self.train
        last = PhaseSection(until=train.num_steps)
        ends = [*(self.steps_of(section.until) for section in self.curriculum), train.num_steps]
        return [
            Phase(
                first_step=first_step,
                end_step=end_step,
                corpus=section.corpus or self.corpus,
                global_batch_size=section.global_batch_size or train.global_batch_size,
                micro_batch_limit=section.micro_batch_size or train.micro_batch_size,
            )
            for section, first_step, end_step in zip([*self.curriculum, last], [0, *ends], ends)
        ]

    def micro_batch_size(self, world_size: int) -> int:
        """Rows per forward pass in the last phase, see Phase.micro_batch_size."""
        return self.phases[-1].micro_batch_size(world_size)

    @property
    def guided(self) -> bool:
        """Whether any step has a guidance loss."""
        return self.guidance.acts_by == "loss"
