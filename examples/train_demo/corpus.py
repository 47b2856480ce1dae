"""What the demo model reads: documents from a seed or from a text file, a tokenizer for them, rows of ids."""

import io
import random
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

import mlx.core as mx
import sentencepiece

from calls import render, write_command
from mlx_mobilellm.tokenizer import Tokenizer
from stories import write_story

LENGTHS = (256, 256, 256, 256, 256, 512)
"""Row lengths, in turn: most rows are as long as a story, some teach the later positions."""

Documents = Callable[[str], Iterator[str]]
"""Endless documents from a seed."""


def written_documents(seed: str, story_share: float = 0.2) -> Iterator[str]:
    """Documents of our own generators, for ever: stories, and commands with their calls, which are far shorter."""
    rng = random.Random(seed)
    while True:
        yield write_story(rng).text if rng.random() < story_share else render(write_command(rng))


def file_documents(path: Path) -> Documents:
    """Documents of a text file, in random order for ever; an empty line ends a document."""
    documents = [text.strip() for text in path.read_text(encoding="utf-8").split("\n\n") if text.strip()]
    if not documents:
        raise SystemExit(f"{path} holds no text")

    def choose(seed: str) -> Iterator[str]:
        rng = random.Random(seed)
        while True:
            yield rng.choice(documents)

    return choose


def train_tokenizer(documents: Documents, path: Path, pieces: int, samples: int = 20_000) -> None:
    """Train a SentencePiece BPE on the first documents: bytes for what it does not know, nothing normalised."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=islice(documents("tokenizer"), samples),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        user_defined_symbols=["\n"],  # a command's end is always a piece of its own
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def rows(documents: Documents, tokenizer: Tokenizer, seed: str, step: int, tokens: int) -> mx.array:
    """The rows of one training step: (tokens // length, length + 1) int32, each beginning with a document.

    A document is BOS, its text, EOS. What is cut off at a row's end is lost; there is no end of documents. In every
    other row the longest come first, so that stories are seen from their first word to their last.
    """
    length = LENGTHS[step % len(LENGTHS)]
    source = documents(f"{seed}/{step}")
    packed = []
    for row in range(tokens // length):
        parts: list[list[int]] = []
        while sum(map(len, parts)) <= length:
            parts.append([*tokenizer.encode(next(source)), tokenizer.eos_token_id])
        if row % 2 == 0:
            parts.sort(key=len, reverse=True)
        packed.append(list(chain.from_iterable(parts))[: length + 1])
    return mx.array(packed, dtype=mx.int32)
