"""Task blimp: of two sentences that differ in one point, which does the encoder find more probable?

Warstadt et al. 2020 score sentences with left-to-right models; a masked one scores them by their
pseudo-log-likelihood (Salazar et al. 2020), and a discriminator by the log-probability that all their tokens
are original. A unit is a paradigm. A pair counts as right where the acceptable
sentence scores higher; a tie counts half, which is what guessing would give (BLiMP has a few pairs of twice
the same sentence). As in the paper, a phenomenon's accuracy is the mean over its paradigms, and the overall
one that over all paradigms.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from pipeline.errors import DataError, UsageError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.minimal_pairs import Paradigm, paradigm_files, read_paradigms
from pipeline.evaluation.pseudo_likelihood import (
    TokenizedSentence,
    originality,
    pseudo_log_likelihoods,
    tokenize,
)
from pipeline.evaluation.task import Measured, Settings, Summary, Task

_NORMAL_QUANTILE = 1.96  # of a two-sided interval of 95 %


class MinimalPairs:
    """The task begun on an encoder and a directory of paradigms."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Reads all pairs, so that a damaged line is told before anything is measured."""
        assert settings.data is not None
        assert settings.batch_size is not None
        self._encoder, self._batch_size = encoder, settings.batch_size
        self._paradigms = {one.uid: one for one in read_paradigms(settings.data, settings.limit)}
        if encoder.tokenizer.mask_token_id is None and not encoder.is_detector:
            raise UsageError(
                f"{encoder.path}: the tokenizer names no mask token; write the one that the model was "
                'pretrained with as "mask_token" in tokenizer_config.json'
            )

    @property
    def units(self) -> Sequence[str]:
        """The paradigms."""
        return list(self._paradigms)

    @cached_property
    def _model(self) -> PreTrainedModel:
        return self._encoder.pretrained_model()

    def measure(self, unit: str) -> Measured:
        """Accuracy on a paradigm, difference of the scores in nats, and tokens scored per sentence."""
        paradigm = self._paradigms[unit]
        sentences = self._tokenize(paradigm)
        tokenizer = self._encoder.tokenizer
        mask_id, pad_id = tokenizer.mask_token_id, tokenizer.pad_token_id or 0
        if self._encoder.is_detector:
            scores = originality(self._model, sentences, pad_id, self._batch_size)
        else:
            scores = pseudo_log_likelihoods(self._model, sentences, mask_id, pad_id, self._batch_size)
        if not np.isfinite(scores).all():  # not seen in the weights: an overflow
            raise UsageError(
                f"{self._encoder.path}: the scores of paradigm {unit} are no finite numbers; name a model "
                "whose training did not diverge"
            )
        difference = scores[0::2] - scores[1::2]
        num_tokens = np.array([len(sentence.positions) for sentence in sentences])
        return {
            "term": paradigm.term,
            "field": paradigm.field,
            "num_pairs": len(difference),
            "accuracy": pair_accuracy(difference),
            "num_ties": int((difference == 0).sum()),
            "mean_difference": float(difference.mean()),
            "mean_tokens_good": float(num_tokens[0::2].mean()),
            "mean_tokens_bad": float(num_tokens[1::2].mean()),
        }

    def _tokenize(self, paradigm: Paradigm) -> list[TokenizedSentence]:
        """Acceptable and unacceptable sentences by turns."""
        sentences = tokenize(self._encoder.tokenizer, [text for pair in paradigm.pairs for text in pair])
        longest = self._encoder.longest_input()
        for index, sentence in enumerate(sentences):
            if len(sentence.token_ids) > longest:
                raise DataError(
                    f"{paradigm.places[index // 2]}: a sentence of {len(sentence.token_ids)} tokens, and "
                    f"{self._encoder.path} takes {longest}; leave the pair out"
                )
        return sentences

    def summarize(self, measured: Mapping[str, Measured]) -> Summary:
        """By phenomenon, and over all paradigms."""
        by_term: dict[str, list[Measured]] = {}
        for found in measured.values():
            by_term.setdefault(found["term"], []).append(found)
        groups = {**dict(sorted(by_term.items())), "all paradigms": list(measured.values())}
        rows = [_row(name, paradigms) for name, paradigms in groups.items()]
        overall = groups.pop("all paradigms")
        numbers = {"accuracy": _mean(overall, "accuracy")}
        numbers |= {f"accuracy/{term}": _mean(paradigms, "accuracy") for term, paradigms in groups.items()}
        numbers["accuracy_half_width"] = half_width(overall)
        header = ["phenomenon", "paradigms", "pairs", "accuracy", "+-", "nats", "tokens", "ties"]
        notes = [
            "accuracy: mean over paradigms, ties count half; +-: 95 % interval, pairs drawn anew; "
            "nats: mean difference of the scores"
        ]
        return Summary(numbers, header, rows, notes)


def pair_accuracy(difference: np.ndarray) -> float:
    """Share of the pairs whose difference of scores is positive, ties as a half; the latter is exact."""
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def half_width(paradigms: Sequence[Mapping[str, Any]]) -> float:
    """Half the 95 % interval of the mean accuracy of some paradigms, whose pairs are samples.

    Binomial within each paradigm, normal for their mean. For the variance one pair more counts as right and
    one as wrong (Laplace), or a paradigm without a mistake would seem beyond doubt.
    """
    variances = []
    for found in paradigms:
        num_pairs = found["num_pairs"]
        likely = (found["accuracy"] * num_pairs + 1) / (num_pairs + 2)
        variances.append(likely * (1 - likely) / num_pairs)
    return _NORMAL_QUANTILE * math.sqrt(sum(variances)) / len(paradigms)


def _row(name: str, paradigms: Sequence[Measured]) -> list[str | float | None]:
    tokens = (_mean(paradigms, "mean_tokens_good") + _mean(paradigms, "mean_tokens_bad")) / 2
    num_pairs, num_ties = (sum(found[key] for found in paradigms) for key in ("num_pairs", "num_ties"))
    accuracy, difference = _mean(paradigms, "accuracy"), _mean(paradigms, "mean_difference")
    return [name, len(paradigms), num_pairs, accuracy, half_width(paradigms), difference, tokens, num_ties]


def _mean(paradigms: Sequence[Measured], name: str) -> float:
    return sum(found[name] for found in paradigms) / len(paradigms)


def _sources(settings: Settings) -> dict[str, Sequence[Path]]:
    assert settings.data is not None
    return {"pairs": paradigm_files(settings.data)}


TASK = Task(
    data="a directory of paradigms, UID.jsonl or UID.jsonl.gz each",
    begin=MinimalPairs,
    sources=_sources,
    defaults={"batch_size": 256},
    optional=["only", "limit"],
)
