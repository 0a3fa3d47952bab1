"""The plan's memory is that of real processes."""

from pathlib import Path

import pytest
import torch

from benchmarks.memory import read_plan
from benchmarks.witness import read_accounts, witness_command
from tests.e2e.running import run_command


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is the resident set that is compared")
def test_resident_set_of_two_processes(recipe_file, tmp_path: Path) -> None:
    """Genuine ones: what is forked shares pages with others. Half of the peak is the libraries'."""
    recipe = recipe_file(
        model={"num_layers": 8, "hidden_size": 192, "num_heads": 4, "intermediate_size": 768},
        train={"num_steps": 4, "global_batch_size": 256, "micro_batch_size": 128, "deepspeed": "zero1"},
        checkpoint={"every_steps": 2},
    )
    settings = [f"run_dir={tmp_path / 'run'}"]
    predicted = read_plan(recipe, 2, settings, "cpu")["memory_bytes_per_process"]

    finished = run_command(witness_command(tmp_path, recipe, 2, settings), genuine=True)
    assert finished.code == 0, finished.output
    peak = max(rank.peak_bytes for rank in read_accounts(tmp_path, 2))

    assert predicted["resident"] == pytest.approx(peak, rel=0.15)
    assert peak > 1.5 * predicted["process"]
