"""What the demo model reads: documents from a seed or from a text file, a tokenizer for them, rows of ids."""

import io
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import sentencepiece

from calls import render, write_command
from mlx_mobilellm.tokenizer import Tokenizer
from stories import write_story

STORY_SHARE = 0.2
"""Share of stories among the documents; commands with their calls are far shorter."""

LENGTHS = (256, 256, 256, 256, 256, 512)
"""Row lengths, in turn: most rows are as long as a story, some teach the later positions."""


class Document(NamedTuple):
    """A text, and how it begins: a command is given, and its call is to be learned."""

    given: str
    rest: str

    @property
    def text(self) -> str:
        return self.given + self.rest


Documents = Callable[[str], Iterator[Document]]
"""Endless documents from a seed."""


def written_documents(seed: str) -> Iterator[Document]:
    """Documents of our own generators, for ever: stories, and commands with their calls."""
    rng = random.Random(seed)
    while True:
        if rng.random() < STORY_SHARE:
            yield Document("", write_story(rng).text)
        else:
            command = write_command(rng)
            yield Document(command.prompt, render(command).removeprefix(command.prompt))


def file_documents(path: Path) -> Documents:
    """Documents of a text file, in random order for ever; an empty line ends a document."""
    texts = path.read_text(encoding="utf-8").split("\n\n")
    documents = [Document("", text.strip()) for text in texts if text.strip()]
    if not documents:
        raise SystemExit(f"{path} holds no text")

    def choose(seed: str) -> Iterator[Document]:
        rng = random.Random(seed)
        while True:
            yield rng.choice(documents)

    return choose


def train_tokenizer(documents: Documents, path: Path, pieces: int, samples: int = 20_000) -> None:
    """Train a SentencePiece BPE on the first documents: bytes for what it does not know, nothing normalised."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(document.text for document in islice(documents("tokenizer"), samples)),
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


def rows(
    documents: Documents, tokenizer: Tokenizer, seed: str, step: int, tokens: int, *, learn_given: bool = True
) -> tuple[mx.array, mx.array]:
    """The rows of one training step, each beginning with a document: BOS, its text, EOS.

    What is cut off at a row's end is lost; there is no end of documents. In every other row the longest come first,
    so that stories are seen from their first word to their last.

    Returns:
        Ids (tokens // length, length + 1) int32, and in the same shape which of them are to be learned: all, or
        without ``learn_given`` all but what a document begins with.
    """
    length = LENGTHS[step % len(LENGTHS)]
    source = documents(f"{seed}/{step}")
    packed, learned = [], []
    for row in range(tokens // length):
        parts: list[tuple[list[int], int]] = []  # ids of a document, and how many of them are given
        while sum(len(ids) for ids, _ in parts) <= length:
            document = next(source)
            given = 0 if learn_given else len(tokenizer.encode(document.given))
            parts.append(([*tokenizer.encode(document.text), tokenizer.eos_token_id], given))
        if row % 2 == 0:
            parts.sort(key=lambda part: len(part[0]), reverse=True)
        packed.append([i for ids, _ in parts for i in ids][: length + 1])
        learned.append([at >= given for ids, given in parts for at in range(len(ids))][: length + 1])
    return mx.array(packed, dtype=mx.int32), mx.array(learned)
