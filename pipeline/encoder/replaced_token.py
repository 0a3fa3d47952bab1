"""Networks that tell, for every token, whether it was replaced, as transformers has them.

The ELECTRA family has a class for it. In every other family it is the one for labelling tokens, with a single
label called `replaced`, so that what is exported says what it is. A positive logit means replaced.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForPreTraining, AutoModelForTokenClassification, PretrainedConfig

_LABEL = "replaced"


def detector_class(config: PretrainedConfig) -> type:
    """The class that opens such a network of this configuration's family."""
    return AutoModelForPreTraining if config.model_type == "electra" else AutoModelForTokenClassification


def make_detector(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration with the label that a detector has."""
    config.num_labels = 1
    config.id2label, config.label2id = {0: _LABEL}, {_LABEL: 0}
    return config


def is_detector(config: PretrainedConfig) -> bool:
    """Whether a Hugging Face directory with this configuration holds such a network."""
    (architecture, *_) = [*(config.architectures or []), ""]
    if architecture == "ElectraForPreTraining":
        return True
    return architecture.endswith("ForTokenClassification") and config.id2label == {0: _LABEL}


def without_head(directory: Path, config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """The weights of a detector's encoder alone, by name, from its Hugging Face directory.

    Its head would be taken for the new head of a fine-tuning that has the same name.
    """
    detector: Any = detector_class(config)
    model = detector.from_pretrained(str(directory), local_files_only=True, dtype=torch.float32)
    prefix = f"{model.base_model_prefix}."
    return {name: weight for name, weight in model.state_dict().items() if name.startswith(prefix)}


def replaced_logits(output: Any) -> torch.Tensor:
    """From what such a network returns, (B, T)."""
    logits: torch.Tensor = output.logits
    return logits if logits.ndim == 2 else logits.squeeze(-1)
