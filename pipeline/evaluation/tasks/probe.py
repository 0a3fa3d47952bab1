"""Task probe: what every head looks at, without training anything.

Two units. "patterns": mean attention of each head on the keys of each guidance pattern, and the entropy of
its rows, on held-out rows of a run, uncorrupted, or on the sentences of the other unit. "reflexives": the
share of sentences in which a head looks from a reflexive most at its antecedent (Deshpande and Narasimhan
2020, section 5.3), beside what always looking at one distance, or at the nearest noun, would reach. Unlike
there, words may be several tokens: the row is that of the reflexive's first, and any of the noun's will do.

--limit is the number of rows for "patterns".
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from transformers import PreTrainedModel

from pipeline.config.schema import GuidanceSection
from pipeline.data.token_sets import tokens_of
from pipeline.encoder.families import attention_reach
from pipeline.errors import UsageError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.probing.head_statistics import (
    HeadSums,
    head_sums,
    looks_most_at,
)
from pipeline.evaluation.probing.reflexives import (
    LocatedSentence,
    ReflexiveSentence,
    best_offset,
    locate,
    reflexive_sentences,
)
from pipeline.evaluation.probing.summary import PATTERNS, REFLEXIVES, summarize_heads
from pipeline.evaluation.probing.text import ProbeText, held_out_text
from pipeline.evaluation.task import Measured, Settings, Summary, Task
from pipeline.guidance.patterns import TOKEN_PATTERNS, parse_pattern
from pipeline.guidance.targets import make_targets

_NUM_SENTENCES = 2000
_PATTERN_NAMES = ("next", "previous", "self", "first", "last", *TOKEN_PATTERNS)  # in canonical order


class Probe:
    """The task begun on an encoder."""

    units: Sequence[str] = (PATTERNS, REFLEXIVES)

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Sentences are looked at word by word, which needs a tokenizer that tells where its tokens are."""
        assert settings.batch_size is not None
        self._encoder, self._batch_size, self._max_rows = encoder, settings.batch_size, settings.limit
        encoder.offset_tokenizer()

    @cached_property
    def _model(self) -> PreTrainedModel:
        # Fused attention never has its probabilities.
        return self._encoder.pretrained_model(attention="eager")

    def measure(self, unit: str) -> Measured:
        """Figures by layer and head."""
        return self._measure_patterns() if unit == PATTERNS else self._measure_reflexives()

    def summarize(self, measured: Mapping[str, Measured]) -> Summary:
        """The best head of each layer, and a figure of all."""
        return summarize_heads(measured)

    @torch.no_grad()
    def _attend(self, text: ProbeText) -> Iterator[tuple[ProbeText, list[torch.Tensor]]]:
        """Batches of sequences with the attention of each layer, (B, H, N, N)."""
        num_layers = self._model.config.num_hidden_layers
        for batch in text.batches(self._batch_size, self._encoder.device):
            mask = batch.attention_mask()
            output = self._model.base_model(batch.input_ids, attention_mask=mask, output_attentions=True)
            attentions = [layer for layer in output.attentions or () if layer is not None]
            if len(attentions) != num_layers:
                raise UsageError(
                    f"{self._encoder.path}: {len(attentions)} of {num_layers} layers gave their attention; "
                    f"{type(self._model).__name__} cannot be probed"
                )
            yield batch, attentions

    # Patterns

    def _measure_patterns(self) -> Measured:
        run = self._encoder.run
        if run is not None:
            text = held_out_text(run, self._max_rows, self._encoder.corpora)
            source = "held-out rows"
        else:
            located = self._locate(reflexive_sentences(_NUM_SENTENCES))[: self._max_rows]
            text, source = ProbeText.of_sequences([one.token_ids for one in located]), "template sentences"
        token_ids = self._pattern_token_ids()
        patterns = [parse_pattern(name, token_ids) for name in _PATTERN_NAMES]
        config = self._model.config
        reaches = [attention_reach(config, layer) for layer in range(config.num_hidden_layers)]
        of_batches = [
            head_sums(
                attentions,
                make_targets(patterns, batch.input_ids, batch.documents, as_published=False),
                batch.lengths,
                reaches,
            )
            for batch, attentions in self._attend(text)
        ]
        sums = HeadSums(*(torch.stack(values).sum(0) for values in zip(*of_batches)))
        mass = sums.mass / sums.num_targets[:, None, None]
        entropy, relative_entropy = sums.entropy / sums.num_choices[:, None]
        return {
            "text": source,
            "num_rows": len(text.lengths),
            "num_tokens": int(text.lengths.sum()),
            # A pattern without a target anywhere has no mass.
            "mass": {
                name: values.tolist() if count else None
                for name, values, count in zip(_PATTERN_NAMES, mass, sums.num_targets)
            },
            "entropy": entropy.tolist(),
            "relative_entropy": relative_entropy.tolist(),
        }

    def _pattern_token_ids(self) -> dict[str, tuple[int, ...]]:
        """As in the run's recipe, else as in one that says nothing; texts that are no token are left out."""
        run = self._encoder.run
        guidance = GuidanceSection() if run is None else run.read_recipe().guidance
        tokens = tokens_of(self._encoder.tokenizer, self._encoder.model_dir)
        texts = {"delimiters": guidance.delimiters, "sentence_ends": guidance.sentence_ends}
        return {
            name: tokens.ids_of([text for text in texts[name] if text.strip() in tokens.by_text])
            for name in TOKEN_PATTERNS
        }

    # Reflexives

    def _measure_reflexives(self) -> Measured:
        sentences = reflexive_sentences(_NUM_SENTENCES)
        located = self._locate(sentences)
        text = ProbeText.of_sequences([one.token_ids for one in located])
        device = self._encoder.device
        reflexives = torch.tensor([one.reflexive for one in located], device=device)
        antecedents = torch.zeros_like(text.input_ids, dtype=torch.bool, device=device)
        for row, one in zip(antecedents, located):
            row[list(one.antecedent)] = True
        hits = torch.zeros(1, device=device)
        for number, (batch, attentions) in enumerate(self._attend(text)):
            chosen = slice(number * self._batch_size, (number + 1) * self._batch_size)
            rows, wanted = reflexives[chosen], antecedents[chosen, : batch.input_ids.shape[1]]
            found = [looks_most_at(attention, rows, wanted) for attention in attentions]
            hits = hits + torch.stack(found).double().sum(1)
        offset, share = best_offset(located)
        nearest = sum(one.sentence.antecedent_is_nearest for one in located)
        return {
            "num_sentences": len(sentences),
            "num_usable": len(located),
            "score": (hits / len(located)).tolist(),
            "best_offset": offset,
            "best_offset_score": share,
            "nearest_noun_score": nearest / len(located),
        }

    def _locate(self, sentences: Sequence[ReflexiveSentence]) -> list[LocatedSentence]:
        """Those that the model can read."""
        tokenizer = self._encoder.tokenizer
        encoded = tokenizer([sentence.text for sentence in sentences], return_offsets_mapping=True)
        longest = self._encoder.longest_input()
        located = [
            locate(sentence, ids, offsets, tokenizer.unk_token_id)
            for sentence, ids, offsets in zip(sentences, encoded["input_ids"], encoded["offset_mapping"])
            if len(ids) <= longest
        ]
        usable = [sentence for sentence in located if sentence is not None]
        if not usable:
            raise UsageError(
                f"{self._encoder.path}: its tokenizer cannot read English sentences such as "
                f"{sentences[0].text!r}; of a run, measure --only {PATTERNS}"
            )
        return usable


TASK = Task(
    data=None,
    begin=Probe,
    defaults={"limit": 128, "batch_size": 8},
    optional=["only"],
)
