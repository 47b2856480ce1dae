"""What the tests share: the golden checkpoints, read once."""

import os
import signal

os.environ["MLX_ENABLE_TF32"] = "0"  # the golden outputs are true float32; set before MLX is imported

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_mobilellm import MobileLLM, Tokenizer, load
from mlx_mobilellm.loading import DEMO

# A process in the background ignores Ctrl-C and hands that down to its children; a handler is not handed down.
signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN_FOLDERS = sorted(folder for folder in (Path(__file__).parent / "golden").iterdir() if folder.is_dir())


@dataclass(frozen=True)
class Golden:
    """A golden checkpoint in float32, and what the official code computes from it (golden/README.md)."""

    model: MobileLLM
    prompts: list[list[int]]  # 2 prompts of 13 ids
    logits: np.ndarray  # (2, 13, 256) for the prompts
    greedy: list[list[int]]  # the prompts, each with its 24 greedy tokens


@cache
def read_golden(folder: Path) -> Golden:
    model, _ = load(folder, dtype=mx.float32)
    with np.load(folder / "expected.npz") as expected:
        return Golden(model, expected["prompt_ids"].tolist(), expected["logits"], expected["greedy_ids"].tolist())


@pytest.fixture(params=GOLDEN_FOLDERS, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest) -> Golden:
    """Each golden checkpoint in turn."""
    return read_golden(request.param)


@pytest.fixture(scope="session")
def layer_share() -> Golden:
    """The layer-shared golden checkpoint: 2 blocks, each run twice."""
    return read_golden(next(folder for folder in GOLDEN_FOLDERS if folder.name == "layer-share"))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The demo model's tokenizer."""
    return Tokenizer(DEMO / "tokenizer.model")
