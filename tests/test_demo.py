"""The demo model in the package: the files that its card describes, and what they say."""

import hashlib
import re
from pathlib import Path

import pytest

from mlx_mobilellm import MobileLLM, Tokenizer, generate, load
from mlx_mobilellm.loading import DEMO

CARD = (DEMO / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo() -> tuple[MobileLLM, Tokenizer]:
    model, tokenizer = load()
    assert tokenizer is not None
    return model, tokenizer


def test_the_card_has_the_hash_of_every_file() -> None:
    hashes = dict(re.findall(r"\| ([\w.]+) \| `([0-9a-f]{64})` \|", CARD))
    others = {path.name: path for path in DEMO.iterdir() if path.name != "README.md"}
    assert hashes == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in others.items()}


def test_the_card_has_the_shape_of_the_model(demo: tuple[MobileLLM, Tokenizer]) -> None:
    config = demo[0].config
    parameters = sum(config.parameters().values())
    assert f"{parameters:,} parameters" in CARD
    assert f"{config.num_hidden_layers} blocks, each run {config.layer_sharing_repeats} times" in CARD
    assert f"{config.vocab_size:,} SentencePiece pieces" in CARD
    assert f"context is {config.max_position_embeddings} tokens" in CARD
    assert parameters < 2_000_000
    assert config.layer_sharing_repeats == 2


def test_all_of_it_is_under_5_mb() -> None:
    assert sum(path.stat().st_size for path in Path(DEMO).iterdir()) < 5_000_000


@pytest.mark.parametrize(
    ("prompt", "continuation"),
    [
        (
            "Once upon a time",
            (
                ", there was a curious boy named Jonas who loved to sing songs. He spent every day with his "
                "friend Pebble the otter. One day, Jonas and Pebble played with a purple bag inside the house. "
                'Jonas turned around too fast, and the teapot fell to the floor. Crash! "Oh no," said Jonas. "My'
                ' aunt loves that teapot." "Maybe nobody will see it," he said, and he pushed the pieces under '
                'the bed. But Jonas felt bad. He could not eat and he could not play. At last Jonas said, "It '
                'was me. I broke the teapot, and I am sorry." His aunt was not angry. "The truth is worth more '
                'than a teapot," said his aunt. Jonas felt light again and learned that it is best to tell the '
                "truth."
            ),
        ),
        ("set a timer for ten minutes", '\n{"call": "set_timer", "minutes": 10}'),
    ],
    ids=["story", "call"],
)
def test_what_it_says_at_temperature_0(demo: tuple[MobileLLM, Tokenizer], prompt: str, continuation: str) -> None:
    assert generate(*demo, prompt, max_tokens=300) == continuation
