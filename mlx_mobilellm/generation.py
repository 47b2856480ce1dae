"""Generating: rows of ids through one loop, and text around it."""

import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, cast, overload

import mlx.core as mx

from mlx_mobilellm.config import ModelConfig
from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.model import MobileLLM, check_ids, empty_kv, extend, grow, join, select, unembed
from mlx_mobilellm.sampling import REPETITION_CONTEXT, Sampler, SamplingOptions
from mlx_mobilellm.tokenizer import Tokenizer


@dataclass(frozen=True)
class GenerationOptions:
    """What a request asks for.

    Attributes:
        max_tokens: Stop after so many tokens.
        sampling: How tokens are chosen; greedy by default.
        stop: Texts that end the answer; they are not part of it. They need a tokenizer.
        logprobs: Give each token's log-probabilities over the vocabulary.
        prefill_chunk: Tokens of a prompt that run at once.
        prompt_progress: Called behind each chunk of the prompt with the tokens done and the tokens in all.

    Raises:
        MobileLLMError: A value is out of its range.
    """

    max_tokens: int = 256
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    prefill_chunk: int = 512
    prompt_progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "prefill_chunk"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise MobileLLMError(f"{name}: expected a whole number, 1 or more, found {getattr(self, name)!r}")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise MobileLLMError(f"stop: expected texts that are not empty, found {self.stop!r}")


class Row:
    """One request: its ids, how many of them are in the cache, and why it ended.

    Attributes:
        options: What the request asks for; its seed is set.
        ids: The prompt, and the answer as far as it is known.
        prompt_length: How many of ``ids`` are the prompt.
        cached: How many columns of the cache the row has filled.
        launched: How many tokens have been asked of the model, known yet or not.
        finish_reason: None while the row runs; then "eos", "length" (``max_tokens`` reached), "context" (the
            model's context is full), or what a consumer has set, such as "stop".

    Raises:
        MobileLLMError: The prompt is empty, longer than the context, or has ids outside the vocabulary.
    """

    def __init__(
        self, config: ModelConfig, prompt: Sequence[int], options: GenerationOptions, eos: Iterable[int]
    ) -> None:
        context = config.max_position_embeddings
        ids = _whole_numbers(prompt)
        if not ids:
            raise MobileLLMError("the prompt is empty; give at least one token id")
        if len(ids) > context:
            raise MobileLLMError(f"the prompt has {len(ids)} tokens, more than the model's context of {context}")
        check_ids(config, ids)
        self.options = replace(options, sampling=options.sampling.seeded())
        self.eos = frozenset(eos)
        self.ids = ids
        self.prompt_length = len(ids)
        self.cached = 0
        self.launched = 0
        self.finish_reason: str | None = None
        # A token enters the cache when the next one is asked for, so the last one needs no column.
        self.most = min(options.max_tokens, context - len(ids) + 1)

    @property
    def generated(self) -> int:
        """How many tokens of the answer are known."""
        return len(self.ids) - self.prompt_length

    @property
    def prompt_left(self) -> int:
        """How many tokens of the prompt are still to enter the cache."""
        return max(0, self.prompt_length - self.cached) if self.finish_reason is None else 0

    @property
    def decodes(self) -> bool:
        """Whether the row, its prompt cached, wants another token behind those asked for."""
        return self.finish_reason is None and self.cached >= self.prompt_length and self.launched < self.most

    def accept(self, token: int) -> None:
        """Take the next token of the answer."""
        self.ids.append(token)
        if token in self.eos:
            self.finish_reason = "eos"
        elif self.generated == self.most:
            self.finish_reason = "length" if self.most == self.options.max_tokens else "context"


def _whole_numbers(prompt: Any) -> list[int]:
    """The ids of a prompt: a sequence, or an array of one dimension."""
    try:
        return [operator.index(i) for i in (prompt.tolist() if hasattr(prompt, "tolist") else prompt)]
    except TypeError:
        raise MobileLLMError("the prompt: expected text or a list of token ids, which are whole numbers") from None


class Choice(NamedTuple):
    """A token that the loop chose for a row."""

    row: Row
    token: int
    logprobs: mx.array | None  # (V,) float32: the model's own, before penalty, filters and temperature


def run(model: MobileLLM, rows: Iterable[Row], slots: int = 1) -> Iterator[Choice]:
    """Generate for all rows, at most ``slots`` of them at a time, and yield each token as it becomes known.

    A row leaves when it has a ``finish_reason``, which a consumer may set too, and the next one takes its place.
    While a token is read, the step behind it is already under way, unless a row needs to see its answer first.
    """
    if slots < 1:
        raise MobileLLMError(f"slots: expected 1 or more, found {slots}")
    waiting = iter(rows)
    running = _Batch(model, [])
    joining: _Batch | None = None  # rows whose prompts are on their way into the cache
    unread: list[_Answers] = []
    while True:
        if running.looks_back:
            yield from _read(unread)
            unread = []
        if joining is None and (newcomers := list(islice(waiting, slots - running.active))):
            joining = _Batch(model, newcomers)
        if not (unread or joining or running.active):
            return
        launched = (joining.prefill() if joining else []) + running.decode()
        yield from _read(unread)
        unread = launched
        if joining:
            joining.settle()
            if not joining.prefilling:
                running.admit(joining)
                joining = None
        elif 0 < running.active <= len(running.rows) // 2:
            running.drop_ended()


class _Answers(NamedTuple):
    """What a step will have chosen once it is evaluated. A row is None where nobody waits for the token."""

    rows: list[Row | None]
    tokens: mx.array  # (B,) int32
    logprobs: list[mx.array | None]  # of each row, (V,) float32


def _read(answers: Iterable[_Answers]) -> Iterator[Choice]:
    for rows, tokens, logprobs in answers:
        for row, token, row_logprobs in zip(rows, cast(list[int], tokens.tolist()), logprobs, strict=True):
            if row is not None and row.finish_reason is None:
                row.accept(token)
                yield Choice(row, token, row_logprobs)


class _Batch:
    """Rows that share a cache, and the steps over them. Rows that have ended stay until they are dropped.

    Every array is on its way to being evaluated when a method returns, so that the next call may come from
    another thread.
    """

    def __init__(self, model: MobileLLM, rows: list[Row]) -> None:
        if any(row.cached for row in rows):
            raise MobileLLMError("a row runs only once; make a new one of its ids")
        self.model = model
        self.rows = rows
        self.fed: list[Row] = []  # whose prompts the latest chunk is of
        self.last = mx.zeros(len(rows), mx.int32)  # (B,) the latest token of each row, known yet or not
        self.kv = empty_kv(model.config, len(rows), max((len(row.ids) + 1 for row in rows), default=0), model.dtype)
        self.sampler = Sampler([row.options.sampling for row in rows])

    @property
    def active(self) -> int:
        """How many rows want another token."""
        return sum(row.decodes for row in self.rows)

    @property
    def prefilling(self) -> bool:
        """Whether a prompt is still to enter the cache."""
        return any(row.prompt_left for row in self.rows)

    @property
    def looks_back(self) -> bool:
        """Whether a row must know its last token before it can choose the next."""
        return any(row.decodes and row.options.sampling.looks_back for row in self.rows)

    def prefill(self) -> list[_Answers]:
        """Start the next chunk of every prompt; a row whose prompt ends in it is given its first token."""
        self.fed = [row for row in self.rows if row.prompt_left]
        if not self.fed:
            return []
        chunk = min(row.options.prefill_chunk for row in self.fed)
        fed = [row.ids[row.cached :][: min(chunk, row.prompt_left)] for row in self.rows]
        width = max(map(len, fed))
        hidden = self._extend(mx.array([ids + [0] * (width - len(ids)) for ids in fed]), [len(ids) for ids in fed])
        mx.async_eval(self.kv)  # type: ignore[no-untyped-call]
        ended = [bool(ids) and row.decodes for ids, row in zip(fed, self.rows, strict=True)]
        if not any(ended):
            return []
        ends = mx.array([max(0, len(ids) - 1) for ids in fed])
        return [self._choose(hidden[mx.arange(len(fed)), ends], ended)]

    def settle(self) -> None:
        """Wait for the chunk, so that a long prompt takes the memory of one, and report it."""
        reports = [(row, report) for row in self.fed if (report := row.options.prompt_progress) is not None]
        if reports or self.prefilling:
            mx.eval(self.kv)
        for row, report in reports:
            if row.finish_reason is None:  # an earlier report may have ended it
                report(row.cached, row.prompt_length)

    def decode(self) -> list[_Answers]:
        """Start one token of every row that wants another."""
        wanted = [row.decodes for row in self.rows]
        if not any(wanted):
            return []
        return [self._choose(self._extend(self.last[:, None], [int(want) for want in wanted])[:, 0], wanted)]

    def admit(self, joining: "_Batch") -> None:
        """Take over the rows of another batch, in place of those that have ended."""
        if self.active:
            self.drop_ended()
            self.rows = self.rows + joining.rows
            self.last = mx.concatenate([self.last, joining.last])
            self.kv = join(self.kv, joining.kv)
        else:
            self.rows, self.last, self.kv = joining.rows, joining.last, joining.kv
        self._renew()

    def drop_ended(self) -> None:
        """Let go of the rows that want no more tokens."""
        stay = [index for index, row in enumerate(self.rows) if row.decodes]
        if len(stay) < len(self.rows):
            kept = mx.array(stay, dtype=mx.int32)
            self.rows = [self.rows[index] for index in stay]
            self.last = self.last[kept]
            self.kv = select(self.kv, kept)
            self._renew()

    def _renew(self) -> None:
        self.sampler = Sampler([row.options.sampling for row in self.rows])
        mx.async_eval(self.last, self.kv)  # type: ignore[no-untyped-call]

    def _extend(self, tokens: mx.array, counts: list[int]) -> mx.array:
        """Run tokens (B, T), of which each row means its first ``counts[b]``; returns hidden states (B, T, D)."""
        positions = [row.cached for row in self.rows]
        grow(self.kv, max(positions) + tokens.shape[1])
        position = mx.array(positions) if any(positions) else None
        for row, count in zip(self.rows, counts, strict=True):
            row.cached += count
        return extend(self.model.config, self.model.weights, self.kv, tokens, position)

    def _choose(self, hidden: mx.array, wanted: list[bool]) -> _Answers:
        """Start the choice of a token behind hidden states (B, D), for the rows that want one."""
        logits = unembed(self.model.weights, hidden)
        chosen = self.sampler(logits, mx.array([row.cached for row in self.rows]), self._recent())
        self.last = chosen if all(wanted) else mx.where(mx.array(wanted), chosen, self.last)
        logprobs = _logprobs(
            logits, [row.options.logprobs and want for row, want in zip(self.rows, wanted, strict=True)]
        )
        mx.async_eval(chosen, self.last, logprobs)  # type: ignore[no-untyped-call]
        for row, want in zip(self.rows, wanted, strict=True):
            row.launched += want
        return _Answers([row if want else None for row, want in zip(self.rows, wanted, strict=True)], chosen, logprobs)

    def _recent(self) -> mx.array | None:
        if not self.sampler.penalises:
            return None
        recent = [row.ids[-REPETITION_CONTEXT:] for row in self.rows]
        return mx.array([ids + ids[:1] * (REPETITION_CONTEXT - len(ids)) for ids in recent])


def _logprobs(logits: mx.array, wanted: list[bool]) -> list[mx.array | None]:
    """Log-probabilities (V,) float32 of the rows of logits (B, V) that want them."""
    if not any(wanted):
        return [None] * len(wanted)
    logits = logits.astype(mx.float32)
    every = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return [every[index] if want else None for index, want in enumerate(wanted)]


@dataclass(frozen=True)
class Statistics:
    """How a request went.

    Attributes:
        prompt_tokens: Tokens of the prompt, BOS included.
        prompt_tps: Prompt tokens per second, up to the first token of the answer.
        generation_tokens: Tokens of the answer, EOS included.
        generation_tps: Tokens per second behind the first one; 0 if there is only one.
        time_to_first_token: Seconds.
        peak_memory: The most bytes that MLX's arrays have taken in this process.
        seed: Gives the same answer again.
    """

    prompt_tokens: int
    prompt_tps: float
    generation_tokens: int
    generation_tps: float
    time_to_first_token: float
    peak_memory: int
    seed: int


@dataclass(frozen=True)
class Piece:
    """One token of an answer.

    Attributes:
        token: Its id.
        text: The text that it completes. It is empty inside a character, inside what may become a stop text, and
            for EOS; the pieces' texts joined are the answer.
        logprobs: (V,) float32, on request: the model's own, before penalty, filters and temperature.
        finish_reason: On the last piece: "eos", "stop" (a stop text), "length" (``max_tokens``) or "context" (the
            model's context is full).
        statistics: On the last piece.
    """

    token: int
    text: str
    logprobs: mx.array | None = None
    finish_reason: str | None = None
    statistics: Statistics | None = None


def stream_generate(
    model: MobileLLM,
    tokenizer: Tokenizer | None,
    prompt: str | Sequence[int],
    options: GenerationOptions | None = None,
    **changes: Any,
) -> Iterator[Piece]:
    """Continue a prompt, one ``Piece`` for each token as soon as it is known.

    Args:
        model: From ``load``.
        tokenizer: From ``load``. None runs on ids alone: every text is empty, and EOS is the config's.
        prompt: Text, which gets BOS in front, or ids, which are taken as they are.
        options: What to generate.
        changes: Fields of ``GenerationOptions`` to set instead, such as ``max_tokens=100``.

    Raises:
        MobileLLMError: The prompt or an option is wrong; raised before anything runs.
    """
    row = new_row(model, tokenizer, prompt, replace(options or GenerationOptions(), **changes))
    return _stream(model, row, None if tokenizer is None else _Text(tokenizer, row))


def new_row(
    model: MobileLLM, tokenizer: Tokenizer | None, prompt: str | Sequence[int], options: GenerationOptions
) -> Row:
    """A row for a prompt, text or ids.

    Raises:
        MobileLLMError: The prompt does not fit the model, or text comes without a tokenizer.
    """
    eos = set(model.config.eos_token_ids)
    if tokenizer is not None:
        eos.add(tokenizer.eos_token_id)
        prompt = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    elif isinstance(prompt, str) or options.stop:
        raise MobileLLMError("this model came without a tokenizer.model: give the prompt as ids, and no stop texts")
    return Row(model.config, prompt, options, eos)


def _stream(model: MobileLLM, row: Row, text: "_Text | None") -> Iterator[Piece]:
    start = time.perf_counter()
    first = 0.0
    for choice in run(model, [row]):
        now = time.perf_counter()
        first = first or now
        piece = Piece(choice.token, text.add(choice.token) if text else "", choice.logprobs)
        if row.finish_reason is not None:
            statistics = Statistics(
                prompt_tokens=row.prompt_length,
                prompt_tps=row.prompt_length / (first - start),
                generation_tokens=row.generated,
                generation_tps=(row.generated - 1) / (now - first) if row.generated > 1 else 0.0,
                time_to_first_token=first - start,
                peak_memory=mx.get_peak_memory(),
                seed=cast(int, row.options.sampling.seed),
            )
            piece = replace(piece, finish_reason=row.finish_reason, statistics=statistics)
        yield piece


class _Text:
    """A row's text as its tokens come, held back where it may become a stop text.

    A model may have more ids than its tokenizer has pieces; those beyond have no text.
    """

    def __init__(self, tokenizer: Tokenizer, row: Row) -> None:
        self.row = row
        self.pieces = tokenizer.vocab_size
        self.detokenizer = tokenizer.detokenizer([i for i in row.ids if i < self.pieces])
        self.held = ""

    def add(self, token: int) -> str:
        """The text that can be shown once ``token`` is known; ends the row where a stop text is complete."""
        if token not in self.row.eos and token < self.pieces:
            self.held += self.detokenizer.add(token)
        if self.row.finish_reason is not None:
            self.held += self.detokenizer.flush()
        found = [(at + len(stop), at) for stop in self.row.options.stop if (at := self.held.find(stop)) >= 0]
        if found:  # the one that is complete first, however the text was cut into pieces
            self.row.finish_reason = "stop"
            return self.held[: min(found)[1]]
        return self._release(0 if self.row.finish_reason is not None else self._partial_stop())

    def _release(self, keep: int) -> str:
        shown = self.held[: len(self.held) - keep]
        self.held = self.held[len(shown) :]
        return shown

    def _partial_stop(self) -> int:
        """Length of the longest end of the held text with which a stop text begins."""
        longest = min(len(self.held), max(map(len, self.row.options.stop), default=0))
        return next((size for size in range(longest, 0, -1) if self._may_stop(self.held[-size:])), 0)

    def _may_stop(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self.row.options.stop)


@overload
def generate(
    model: MobileLLM,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    options: GenerationOptions | None = None,
    **changes: Any,
) -> str: ...
@overload
def generate(
    model: MobileLLM,
    tokenizer: None,
    prompt: Sequence[int],
    options: GenerationOptions | None = None,
    **changes: Any,
) -> list[int]: ...
@overload
def generate(
    model: MobileLLM,
    tokenizer: Tokenizer | None,
    prompt: str | Sequence[int],
    options: GenerationOptions | None = None,
    **changes: Any,
) -> str | list[int]: ...
def generate(
    model: MobileLLM,
    tokenizer: Tokenizer | None,
    prompt: str | Sequence[int],
    options: GenerationOptions | None = None,
    **changes: Any,
) -> str | list[int]:
    """Continue a prompt and return the answer: its text, or its ids (EOS included) without a tokenizer.

    Arguments and errors are those of ``stream_generate``.
    """
    pieces = list(stream_generate(model, tokenizer, prompt, options, **changes))
    return [piece.token for piece in pieces] if tokenizer is None else "".join(piece.text for piece in pieces)
