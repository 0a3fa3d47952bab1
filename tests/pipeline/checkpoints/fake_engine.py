"""An engine that saves and loads one file, as DeepSpeed would."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipeline.checkpoints.manifest import step_of


class FakeEngine:
    """Gives one tensor to its checkpoint engine; counts the barriers it came to."""

    def __init__(self, weights: torch.Tensor | None = None) -> None:
        self.weights = torch.zeros(3) if weights is None else weights
        self.global_steps = self.barriers = 0
        self.checkpoint_engine = SimpleNamespace(save=self._never, makedirs=self._never)
        self.optimizer = SimpleNamespace(param_groups=[{"params": [], "weight_decay": 0.1}])
        self._config = SimpleNamespace(load_universal_checkpoint=False)

    def _never(self, *_arguments: Any, **_settings: Any) -> None:
        raise AssertionError("DeepSpeed must not write by itself")

    def save_checkpoint(self, save_dir: str, tag: str, save_latest: bool) -> None:
        assert not save_latest
        path = Path(save_dir) / tag
        self.checkpoint_engine.makedirs(path, exist_ok=True)
        self.checkpoint_engine.save(state_dict={"weights": self.weights}, path=str(path / "model.pt"))
        self._copy_recovery_script(save_dir)
        self.barriers += 1

    def _copy_recovery_script(self, save_dir: str) -> None:
        (Path(save_dir) / "zero_to_fp32.py").touch()

    def zero_optimization(self) -> bool:
        return False

    def load_checkpoint(self, load_dir: str, tag: str) -> tuple[str | None, dict]:
        path = Path(load_dir) / tag / "model.pt"
        self.weights = torch.load(path)["weights"]
        self.global_steps = step_of(path.parent)
        self.optimizer.param_groups[0]["weight_decay"] = 0.5  # as ZeRO 3 does with a universal checkpoint
        return str(path), {}
