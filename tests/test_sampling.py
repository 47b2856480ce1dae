"""Choosing a token: filters equal to mlx-lm's, distributions right, and nothing but (logits, options, position)."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mobilellm import MobileLLMError, SamplingOptions
from mlx_mobilellm.sampling import Sampler, _Filter

LOGITS = mx.random.normal((1, 64), key=mx.random.key(7)) * 3


def kept(options: SamplingOptions, logits: mx.array = LOGITS) -> set[int]:
    """The tokens that pass the filters."""
    passed = _Filter([options])(logits)
    return {i for i, value in enumerate(passed[0].tolist()) if value != -np.inf}


def choose(options: SamplingOptions, logits: mx.array = LOGITS, position: int = 5) -> int:
    return Sampler([options])(logits, mx.array([position])).item()


def test_temperature_zero_is_the_likeliest_token() -> None:
    assert choose(SamplingOptions()) == int(mx.argmax(LOGITS).item())


@given(st.integers(1, 70), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_top_k_keeps_the_k_likeliest(k: int, seed: int) -> None:
    logits = mx.random.normal((1, 64), key=mx.random.key(seed))
    ranked = np.argsort(-np.array(logits[0]))
    assert kept(SamplingOptions(top_k=k), logits) == set(ranked[:k].tolist())


@given(st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p: float, seed: int) -> None:
    logits = mx.random.normal((1, 64), key=mx.random.key(seed)) * 3
    probability = np.array(mx.softmax(logits[0]), dtype=np.float64)
    ranked = np.argsort(-probability)
    cumulative = np.cumsum(probability[ranked])
    if np.abs(cumulative - p).min() > 1e-5:  # not a matter of rounding
        assert kept(SamplingOptions(top_p=p), logits) == set(ranked[: int((cumulative < p).sum()) + 1].tolist())


@given(st.floats(0.001, 1.0), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_min_p_keeps_what_is_likely_enough(p: float, seed: int) -> None:
    logits = mx.random.normal((1, 64), key=mx.random.key(seed)) * 3
    ratio = np.exp(np.array(logits[0]) - np.array(logits).max())
    if np.abs(ratio - p)[ratio < 1].min() > 1e-5:
        assert kept(SamplingOptions(min_p=p), logits) == set(np.flatnonzero(ratio >= p).tolist())


def test_filters_keep_what_mlx_lm_keeps() -> None:
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

    logprobs = LOGITS - mx.logsumexp(LOGITS, axis=-1, keepdims=True)
    for options, reference in (
        (SamplingOptions(top_k=9), apply_top_k(logprobs, 9)),
        (SamplingOptions(top_p=0.8), apply_top_p(logprobs, 0.8)),
        (SamplingOptions(min_p=0.05), apply_min_p(logprobs, 0.05)),
    ):
        assert kept(options) == {i for i, value in enumerate(reference[0].tolist()) if value != -np.inf}


def test_a_token_must_pass_every_filter() -> None:
    together = kept(SamplingOptions(top_k=9, top_p=0.9, min_p=0.05))
    each = [kept(SamplingOptions(top_k=9)), kept(SamplingOptions(top_p=0.9)), kept(SamplingOptions(min_p=0.05))]
    assert together == set.intersection(*each)


@pytest.mark.parametrize("options", [SamplingOptions(top_p=1e-9), SamplingOptions(min_p=1.0), SamplingOptions(top_k=1)])
def test_the_likeliest_token_always_passes(options: SamplingOptions) -> None:
    assert kept(options) == {int(mx.argmax(LOGITS).item())}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    logits = mx.array([[2.0, 1.0, 0.0, -1.0]])
    rows = 4000
    sampler = Sampler([SamplingOptions(temperature=temperature, seed=3)] * rows)
    chosen = sampler(mx.broadcast_to(logits, (rows, 4)), mx.arange(rows))
    frequency = np.bincount(np.array(chosen), minlength=4) / rows
    np.testing.assert_allclose(frequency, np.array(mx.softmax(logits[0] / temperature)), atol=0.03)


def test_a_choice_depends_on_seed_and_position_only() -> None:
    hot = SamplingOptions(temperature=2.0, seed=11)
    assert choose(hot) == choose(hot)
    assert len({choose(hot, position=position) for position in range(20)}) > 5
    assert len({choose(SamplingOptions(temperature=2.0, seed=seed)) for seed in range(20)}) > 5


def test_rows_with_different_options_choose_as_they_do_alone() -> None:
    options = [
        SamplingOptions(),
        SamplingOptions(temperature=1.5, seed=1),
        SamplingOptions(temperature=1.5, seed=1, top_k=5),
        SamplingOptions(temperature=0.7, seed=2, top_p=0.9, min_p=0.01),
        SamplingOptions(repetition_penalty=1.8),
    ]
    logits = mx.random.normal((len(options), 64), key=mx.random.key(1)) * 3
    positions = mx.array([3, 8, 1, 40, 7])
    recent = mx.argmax(logits, axis=-1, keepdims=True)
    together = Sampler(options)(logits, positions, recent).tolist()
    alone = [
        Sampler([row])(logits[i : i + 1], positions[i : i + 1], recent[i : i + 1]).item()
        for i, row in enumerate(options)
    ]
    assert together == alone


def test_the_repetition_penalty_makes_recent_tokens_less_likely() -> None:
    sampler = Sampler([SamplingOptions(repetition_penalty=2.0)])
    recent = mx.array([[0, 0, 1]])
    assert sampler(mx.array([[3.0, -1.0, 1.4, -1.9]]), mx.array([0]), recent).item() == 0  # 1.5, -2, 1.4, -1.9
    assert sampler(mx.array([[2.0, -1.0, 1.4, -1.9]]), mx.array([0]), recent).item() == 2  # 1.0, -2, 1.4, -1.9
    assert sampler(mx.array([[-3.0, -1.0, -9.0, -1.9]]), mx.array([0]), recent).item() == 3  # -6, -2, -9, -1.9


def test_without_a_seed_each_request_draws_one() -> None:
    drawn = {SamplingOptions().seeded().seed for _ in range(10)}
    assert len(drawn) == 10
    assert SamplingOptions(seed=4).seeded().seed == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(MobileLLMError, match=f"{name}: expected .* found {value!r}"):
        SamplingOptions(**{name: value})
