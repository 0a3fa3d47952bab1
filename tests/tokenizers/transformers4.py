"""Run with transformers 4: reads {directory: texts} as JSON, prints {directory: [[ids, offsets], ...]}.

For a directory that holds a model, too, its logits for the first text come last, rounded.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer

assert transformers.__version__.startswith("4."), transformers.__version__
transformers.logging.set_verbosity_error()
read = {}
for directory, texts in json.load(sys.stdin).items():
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    encodings = [tokenizer(text, return_offsets_mapping=True) for text in texts]
    read[directory] = [[encoding["input_ids"], encoding["offset_mapping"]] for encoding in encodings]
    if list(Path(directory).glob("*.safetensors")):
        model = AutoModelForMaskedLM.from_pretrained(directory, local_files_only=True).eval()
        with torch.no_grad():
            logits = model(torch.tensor([encodings[0]["input_ids"]])).logits[0, 0, :8]
        read[directory].append([round(value, 3) for value in logits.tolist()])
print(json.dumps(read))
