"""From logits to a token. A choice depends on its logits, its row's options and its position, and on nothing else."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_mobilellm.errors import MobileLLMError

REPETITION_CONTEXT = 20
"""How many of a row's last ids the repetition penalty looks at, as in mlx-lm."""


@dataclass(frozen=True)
class SamplingOptions:
    """How a row chooses its tokens.

    The filters (``top_k``, ``top_p``, ``min_p``) look at the probabilities behind the penalty and before the
    temperature. A token must pass all of them; of equally likely ones all pass or none.

    Attributes:
        temperature: 0 takes the likeliest token; 1 samples from the model's probabilities.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the likeliest tokens that together reach this probability; 1 keeps all.
        min_p: Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
        repetition_penalty: Divides positive logits, and multiplies negative ones, of the row's last 20 ids
            (arXiv 1909.05858, section 4.1); 1 changes nothing.
        seed: 0 … 2**32 - 1. The same seed gives the same text. None draws one for each request.

    Raises:
        MobileLLMError: A value is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        seed_fits = self.seed is None or (isinstance(self.seed, int) and 0 <= self.seed < 2**32)
        for name, fits, expected in (
            ("temperature", 0 <= self.temperature < 1e6, "0 or more"),
            ("top_k", isinstance(self.top_k, int) and self.top_k >= 0, "a whole number, 0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < 1e6, "above 0"),
            ("seed", seed_fits, "a whole number from 0 to 4294967295"),
        ):
            if not fits:
                raise MobileLLMError(f"{name}: expected {expected}, found {getattr(self, name)!r}")

    def seeded(self) -> "SamplingOptions":
        """The same options with a seed, drawn from the system if there is none."""
        return self if self.seed is not None else replace(self, seed=int.from_bytes(os.urandom(4), "little"))

    @property
    def looks_back(self) -> bool:
        """Whether a choice needs the ids before it, which then must be known."""
        return self.repetition_penalty != 1.0


class Sampler:
    """The choices of several rows at once; what all of them leave off costs nothing."""

    def __init__(self, options: Sequence[SamplingOptions]) -> None:
        self.greedy = all(row.temperature == 0 for row in options)
        self.penalises = any(row.looks_back for row in options)
        if self.penalises:
            self._penalty = _column([row.repetition_penalty for row in options])
        if not self.greedy:
            self._temperature = _column([row.temperature for row in options])
            self._seed = mx.array([row.seeded().seed for row in options], dtype=mx.uint32)
            self._filter = _Filter(options)

    def __call__(self, logits: mx.array, position: mx.array, recent: mx.array | None = None) -> mx.array:
        """Choose a token for each row.

        Args:
            logits: (B, V) in any float dtype.
            position: (B,) int32, the column that each choice will enter.
            recent: (B, N) int32, each row's last ids; needed where a row has a repetition penalty.

        Returns:
            (B,) int32.
        """
        logits = logits.astype(mx.float32)
        if self.penalises:
            assert recent is not None
            logits = _penalise(logits, recent, self._penalty)
        if not self.greedy:
            # The largest of logits / temperature + Gumbel noise is a sample of their softmax; multiplied by the
            # temperature, so that 0 is the greedy choice.
            keys = mx.stack([self._seed, position.astype(mx.uint32)], axis=-1)
            noise = mx.vmap(lambda key: mx.random.gumbel(logits.shape[1:], key=key))(keys)
            logits = self._filter(logits) + self._temperature * noise
        return mx.argmax(logits, axis=-1).astype(mx.int32)


class _Filter:
    """Top-k, top-p and min-p: each is a lowest logit that passes."""

    def __init__(self, options: Sequence[SamplingOptions]) -> None:
        self.sorts = any(row.top_k > 0 or row.top_p < 1 for row in options)
        self.compares = any(row.min_p > 0 for row in options)
        if self.sorts:
            self._top_k = _column([float(row.top_k or 2**31) for row in options])
            self._top_p = _column([row.top_p if row.top_p < 1 else 2.0 for row in options])
        if self.compares:
            self._log_min_p = _column([math.log(row.min_p) if row.min_p else -math.inf for row in options])

    def __call__(self, logits: mx.array) -> mx.array:
        """Logits (B, V) float32, minus infinity where a token does not pass. The likeliest always does."""
        kept = logits
        if self.compares:
            lowest = logits.max(axis=-1, keepdims=True) + self._log_min_p
            kept = mx.where(logits >= lowest, kept, -mx.inf)
        if self.sorts:
            ranked = -mx.sort(-logits, axis=-1)
            probability = mx.softmax(ranked, axis=-1)
            likelier = mx.cumsum(probability, axis=-1) - probability  # of all tokens ranked before
            passes = (mx.arange(ranked.shape[-1]) < self._top_k) & (likelier < self._top_p)
            last = mx.maximum(passes.sum(axis=-1, keepdims=True), 1) - 1
            kept = mx.where(logits >= mx.take_along_axis(ranked, last, axis=-1), kept, -mx.inf)
        return kept


def _penalise(logits: mx.array, recent: mx.array, penalty: mx.array) -> mx.array:
    found = mx.take_along_axis(logits, recent, axis=-1)
    return mx.put_along_axis(logits, recent, mx.where(found > 0, found / penalty, found * penalty), axis=-1)


def _column(values: list[float]) -> mx.array:
    return mx.array([[value] for value in values], dtype=mx.float32)
