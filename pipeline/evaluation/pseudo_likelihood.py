"""Scores of sentences under an encoder: a higher one is a likelier sentence.

The pseudo-log-likelihood under a masked language model (Salazar et al. 2020, section 2) is

    PLL(w) = sum over positions t of log p(w_t | w with position t masked)

and costs n masked copies of a sentence of n tokens. A discriminator of replaced tokens has no p; it gives

    sum over positions t of log P(w_t is original | w)

in one forward pass. Only what one forward pass takes exists at a time, and logits
only at the masked position of each.

Shapes: B masked copies, N positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.encoder.replaced_token import replaced_logits


@dataclass(frozen=True)
class TokenizedSentence:
    """Token ids of a sentence, and the positions that are scored: those of all but special tokens."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]


def tokenize(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> list[TokenizedSentence]:
    """Sentences as the tokenizer gives them to the model; tokens it adds are not scored."""
    encoded = tokenizer(list(sentences), return_special_tokens_mask=True)
    return [
        TokenizedSentence(tuple(ids), tuple(np.flatnonzero(np.array(special) == 0).tolist()))
        for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"])
    ]


@torch.no_grad()
def pseudo_log_likelihoods(
    model: PreTrainedModel, sentences: Sequence[TokenizedSentence], mask_id: int, pad_id: int, batch_size: int
) -> npt.NDArray[np.float64]:
    """Scores of some sentences in nats, (len(sentences),).

    Sentences with the same tokens are scored once and have the same bits.

    Args:
        model: a transformers `...ForMaskedLM` in evaluation mode.
        sentences: at least one; none longer than the model's longest input.
        mask_id: token put in the place of the one scored.
        pad_id: any token; what stands in padding is not attended to.
        batch_size: masked copies per forward pass.
    """
    # By length, so that the copies of a forward pass need hardly any padding.
    distinct = sorted(dict.fromkeys(sentences), key=lambda sentence: len(sentence.token_ids))
    copies = [(index, place) for index, one in enumerate(distinct) for place in one.positions]
    scores = np.zeros(len(distinct))
    for start in range(0, len(copies), batch_size):
        indices, places = zip(*copies[start : start + batch_size])
        log_probs = _masked_log_probs(model, [distinct[i] for i in indices], places, mask_id, pad_id)
        np.add.at(scores, list(indices), log_probs)
    score_of = dict(zip(distinct, scores))
    return np.array([score_of[sentence] for sentence in sentences])


@torch.no_grad()
def originality(
    model: PreTrainedModel, sentences: Sequence[TokenizedSentence], pad_id: int, batch_size: int
) -> npt.NDArray[np.float64]:
    """Log-probability that all tokens of each sentence are original, in nats, (len(sentences),).

    Args:
        model: one of `detector_class`, in evaluation mode.
        sentences: at least one; none longer than the model's longest input.
        pad_id: any token; what stands in padding is not attended to.
        batch_size: sentences per forward pass.
    """
    distinct = sorted(dict.fromkeys(sentences), key=lambda sentence: len(sentence.token_ids))
    score_of: dict[TokenizedSentence, float] = {}
    for start in range(0, len(distinct), batch_size):
        chosen = distinct[start : start + batch_size]
        input_ids, is_real = _pad(chosen, pad_id)
        output = model(input_ids=input_ids.to(model.device), attention_mask=is_real.to(model.device))
        originals = F.logsigmoid(-replaced_logits(output).double()).cpu()
        for sentence, by_token in zip(chosen, originals):
            score_of[sentence] = by_token[list(sentence.positions)].sum().item()
    return np.array([score_of[sentence] for sentence in sentences])


def _pad(sentences: Sequence[TokenizedSentence], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of sentences, and 1 for those that are no padding, both (B, N)."""
    lengths = torch.tensor([len(sentence.token_ids) for sentence in sentences])
    input_ids = torch.full((len(sentences), int(lengths.max())), pad_id)
    for row, sentence in zip(input_ids, sentences):
        row[: len(sentence.token_ids)] = torch.tensor(sentence.token_ids)
    return input_ids, (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()


def _masked_log_probs(
    model: PreTrainedModel,
    sentences: Sequence[TokenizedSentence],
    places: Sequence[int],
    mask_id: int,
    pad_id: int,
) -> npt.NDArray[np.float64]:
    """Log-probability of the token at one place of each sentence when it is masked, (B,)."""
    input_ids, is_real = _pad(sentences, pad_id)
    rows, positions = torch.arange(len(sentences)), torch.tensor(places)
    labels = input_ids[rows, positions]
    input_ids[rows, positions] = mask_id
    device = model.device
    logits = logits_at(model, input_ids.to(device), is_real.to(device), positions.to(device))
    log_probs = logits.float().log_softmax(-1).gather(1, labels.to(device)[:, None])[:, 0]
    return log_probs.double().cpu().numpy()


def logits_at(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Logits at one position of each sequence, (B, V); the output layer sees no other.

    Args:
        model: a transformers `...ForMaskedLM` of any family.
        input_ids: (B, N).
        attention_mask: 1 for real tokens, (B, N).
        positions: (B,).
    """

    def keep_positions(_module: nn.Module, _inputs: tuple, output: dict[str, torch.Tensor]) -> dict:
        hidden = output["last_hidden_state"]
        output["last_hidden_state"] = hidden[torch.arange(len(hidden)), positions][:, None]
        return output

    # The model's own forward pass, so that whatever its family does between body and logits is done.
    hook = model.base_model.register_forward_hook(keep_positions)
    try:
        return model(input_ids=input_ids, attention_mask=attention_mask).logits[:, 0]
    finally:
        hook.remove()
