import random

import numpy as np
import torch

from pipeline.checkpoints.random_state import random_state, restore_random_state


def test_random_state_comes_back() -> None:
    state = random_state()
    drawn = (random.random(), np.random.random(), torch.rand(3).tolist())

    restore_random_state(state)

    assert (random.random(), np.random.random(), torch.rand(3).tolist()) == drawn
