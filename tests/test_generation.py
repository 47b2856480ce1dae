"""The loop: equal to the official code and to a plain forward pass, alone or in company, and ending when it should."""

import dataclasses
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Golden
from mlx_mobilellm import (
    GenerationOptions,
    MobileLLM,
    MobileLLMError,
    ModelConfig,
    SamplingOptions,
    Tokenizer,
    generate,
    stream_generate,
)
from mlx_mobilellm.generation import Row, _Batch, _Text, run
from mlx_mobilellm.model import Weights
from mlx_mobilellm.sampling import REPETITION_CONTEXT, Sampler

HOT = SamplingOptions(temperature=1.0, seed=17)
FILTERED = SamplingOptions(temperature=1.3, top_k=40, top_p=0.95, min_p=0.01, seed=3)
PENALISED = SamplingOptions(repetition_penalty=1.5)


def without_eos(model: MobileLLM) -> MobileLLM:
    """The model, with a config that knows no end of text."""
    return MobileLLM(dataclasses.replace(model.config, eos_token_ids=()), model.weights)


def plain_generate(model: MobileLLM, prompt: Sequence[int], tokens: int, sampling: SamplingOptions) -> list[int]:
    """The oracle: the whole prefix runs again for every token, without a cache."""
    ids = list(prompt)
    for _ in range(tokens):
        recent = mx.array([ids[-REPETITION_CONTEXT:]])
        ids.append(Sampler([sampling])(model(mx.array([ids]))[:, -1], mx.array([len(ids)]), recent).item())
    return ids[len(prompt) :]


def finished(model: MobileLLM, rows: list[Row], slots: int = 1) -> list[list[int]]:
    """Run the rows to their ends; return their answers."""
    for _ in run(model, rows, slots):
        pass
    return [row.ids[row.prompt_length :] for row in rows]


# --- Equal to the oracles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [512, 8, 3, 1])
def test_greedy_tokens_are_the_official_ones(golden: Golden, chunk: int) -> None:
    model = without_eos(golden.model)
    for prompt, expected in zip(golden.prompts, golden.greedy, strict=True):
        assert generate(model, None, prompt, max_tokens=24, prefill_chunk=chunk) == expected[13:]


def test_the_oracle_without_a_cache_is_the_official_one(golden: Golden) -> None:
    for prompt, expected in zip(golden.prompts, golden.greedy, strict=True):
        assert plain_generate(golden.model, prompt, 24, SamplingOptions()) == expected[13:]


@pytest.mark.parametrize("sampling", [HOT, FILTERED, PENALISED], ids=["hot", "filtered", "penalised"])
def test_sampled_tokens_equal_a_plain_forward_pass(golden: Golden, sampling: SamplingOptions) -> None:
    prompt = golden.prompts[0]
    answer = generate(without_eos(golden.model), None, prompt, max_tokens=12, sampling=sampling, prefill_chunk=5)
    assert answer == plain_generate(golden.model, prompt, 12, sampling)


def test_rows_in_a_ragged_batch_give_the_official_tokens(golden: Golden) -> None:
    # The prompts and what follows them, cut at different places: each row must find the rest of the same text.
    starts = [(0, 13), (1, 17), (0, 20), (1, 13), (0, 15), (1, 30), (0, 31)]
    rows = [
        Row(golden.model.config, golden.greedy[i][:length], GenerationOptions(37 - length, prefill_chunk=4), ())
        for i, length in starts
    ]
    assert finished(golden.model, rows, slots=3) == [golden.greedy[i][length:] for i, length in starts]


def test_the_cache_grows_without_changing_the_answer(layer_share: Golden) -> None:
    model, prompt = without_eos(layer_share.model), layer_share.prompts[0]
    answer = generate(model, None, prompt, max_tokens=280, sampling=HOT)
    assert len(answer) == 280
    # The plain pass over the whole text predicts every one of its tokens, on both sides of column 256.
    logits = model(mx.array([prompt + answer]))[0, 12:-1]
    sampler = Sampler([HOT] * 280)
    assert sampler(logits, mx.arange(13, 293)).tolist() == answer


ENDS: list[tuple[int, ...]] = [(), (5,), tuple(range(0, 256, 8))]  # never, seldom and often the end of a text
ROWS = st.lists(
    st.tuples(
        st.integers(1, 40),  # prompt length
        st.integers(1, 20),  # tokens
        st.sampled_from([SamplingOptions(), HOT, FILTERED, PENALISED]),
        st.sampled_from([1, 3, 7, 16]),  # prefill chunk
        st.sampled_from(ENDS),
    ),
    min_size=1,
    max_size=7,
)


@given(rows=ROWS, slots=st.integers(1, 4), chance=st.randoms(use_true_random=False), cancels=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_row_gives_the_same_among_others_as_alone(
    layer_share: Golden,
    rows: list[tuple[int, int, SamplingOptions, int, tuple[int, ...]]],
    slots: int,
    chance: random.Random,
    cancels: bool,
) -> None:
    """Also where rows are cancelled at any moment, in the middle of a prompt or before they begin."""
    model = layer_share.model
    made: list[Row] = []

    def maybe_cancel(*_: object) -> None:
        row = chance.choice(made)
        if cancels and chance.random() < 0.1 and row.finish_reason is None:
            row.finish_reason = "cancelled"

    for length, tokens, sampling, chunk, eos in rows:
        options = GenerationOptions(tokens, sampling, prefill_chunk=chunk, prompt_progress=maybe_cancel)
        made.append(Row(model.config, [chance.randrange(256) for _ in range(length)], options, eos))
    for _ in run(model, made, slots):
        maybe_cancel()
    for row in made:
        alone = Row(
            model.config, row.ids[: row.prompt_length], dataclasses.replace(row.options, prompt_progress=None), row.eos
        )
        finished(model, [alone])
        if row.finish_reason == "cancelled":
            assert row.ids == alone.ids[: len(row.ids)]
        else:
            assert (row.ids, row.finish_reason) == (alone.ids, alone.finish_reason)


def test_rows_behind_one_that_ended_at_once_still_run(layer_share: Golden) -> None:
    """Where no step is under way when the row's end is seen."""
    model, prompt = layer_share.model, layer_share.prompts[0]
    penalised = Row(model.config, prompt, GenerationOptions(24, PENALISED), range(256))
    cancelled = Row(model.config, prompt, GenerationOptions(24), ())
    cancelled.finish_reason = "cancelled"
    last = Row(model.config, prompt, GenerationOptions(24), ())
    finished(model, [penalised, cancelled, last])
    assert penalised.generated == 1
    assert cancelled.generated == 0
    assert last.ids == layer_share.greedy[0]


def test_rows_that_ended_leave_the_cache(layer_share: Golden) -> None:
    model, prompt = layer_share.model, layer_share.prompts[0]
    rows = [Row(model.config, prompt, GenerationOptions(tokens), ()) for tokens in (2, 2, 2, 24)]
    assert finished(model, rows, slots=4)[3] == layer_share.greedy[0][13:]
    batch = _Batch(model, [Row(model.config, prompt, GenerationOptions(4), ()) for _ in range(3)])
    batch.prefill()
    batch.rows[1].finish_reason = "cancelled"
    batch.drop_ended()
    assert [array.shape[0] for array in batch.kv["keys"]] == [2] * model.config.executions


def test_another_thread_gives_the_same(layer_share: Golden) -> None:
    model, prompt = layer_share.model, layer_share.prompts[1]
    answers: list[list[int]] = []

    def work() -> None:
        answers.append(generate(model, None, prompt, max_tokens=20, sampling=FILTERED))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [generate(model, None, prompt, max_tokens=20, sampling=FILTERED)] * 3


def test_each_token_may_be_fetched_by_another_thread(layer_share: Golden) -> None:
    """As a web framework does that hands an iterator to a pool of threads."""
    model, prompts = layer_share.model, layer_share.prompts
    for sampling in (FILTERED, PENALISED):
        rows = [
            Row(model.config, prompt[: 13 - i], GenerationOptions(6 + i, sampling, logprobs=True, prefill_chunk=5), ())
            for i, prompt in enumerate(prompts * 2)
        ]
        choices = run(model, rows, slots=3)
        while (choice := in_a_thread(lambda choices=choices: next(choices, None))) is not None:  # type: ignore[misc]
            assert np.array(choice.logprobs).shape == (256,)
        for i, row in enumerate(rows):
            assert row.ids[row.prompt_length :] == plain_generate(model, row.ids[: row.prompt_length], 6 + i, sampling)


def in_a_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_log_probabilities_are_those_of_the_model(layer_share: Golden) -> None:
    model, prompt = layer_share.model, layer_share.prompts[0]
    pieces = list(stream_generate(model, None, prompt, max_tokens=5, sampling=FILTERED, logprobs=True))
    ids = prompt + [piece.token for piece in pieces]
    logits = model(mx.array([ids]))[0, 12:-1]
    expected = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    np.testing.assert_allclose(np.array(mx.stack([piece.logprobs for piece in pieces])), np.array(expected), atol=2e-4)
    assert next(stream_generate(model, None, prompt)).logprobs is None


# --- Ending -----------------------------------------------------------------------------------------------------------


def test_an_answer_ends_at_eos_which_is_its_last_token(layer_share: Golden) -> None:
    expected = layer_share.greedy[0][13:]
    config = dataclasses.replace(layer_share.model.config, eos_token_ids=(expected[4], 999))
    pieces = list(stream_generate(MobileLLM(config, layer_share.model.weights), None, layer_share.prompts[0]))
    assert [piece.token for piece in pieces] == expected[: expected.index(expected[4]) + 1]
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == "eos"


def test_an_answer_ends_at_max_tokens(layer_share: Golden) -> None:
    pieces = list(stream_generate(without_eos(layer_share.model), None, layer_share.prompts[0], max_tokens=3))
    assert [piece.finish_reason for piece in pieces] == [None, None, "length"]


@pytest.mark.parametrize("length", [1, 19, 20])
def test_an_answer_ends_where_the_context_does(layer_share: Golden, length: int) -> None:
    config = dataclasses.replace(layer_share.model.config, max_position_embeddings=20, eos_token_ids=())
    model = MobileLLM(config, layer_share.model.weights)
    pieces = list(stream_generate(model, None, [9] * length))
    assert len(pieces) == 21 - length  # the last token needs no place in the context
    assert pieces[-1].finish_reason == "context"


def test_a_consumer_may_end_a_row_and_the_next_takes_its_place(layer_share: Golden) -> None:
    model = without_eos(layer_share.model)
    rows = [Row(model.config, prompt, GenerationOptions(24), ()) for prompt in layer_share.prompts * 2]
    seen: list[Row] = []
    for row, _, _ in run(model, rows, slots=2):
        seen.append(row)
        if row is rows[0] and row.generated == 3:
            row.finish_reason = "cancelled"
    assert rows[0].ids == layer_share.greedy[0][:16]
    assert [row.ids for row in rows[1:]] == [layer_share.greedy[i] for i in (1, 0, 1)]
    assert seen.index(rows[2]) < len(seen) - seen[::-1].index(rows[1])  # rows[2] ran beside rows[1]


def test_a_row_ended_in_its_prompt_is_not_run_to_its_end(layer_share: Golden) -> None:
    model = layer_share.model
    seen: list[tuple[int, int]] = []

    def cancel(*at: int) -> None:
        seen.append(at)  # type: ignore[arg-type]
        row.finish_reason = "cancelled"

    options = GenerationOptions(5, prefill_chunk=4, prompt_progress=cancel)
    row = Row(model.config, layer_share.prompts[0], options, ())
    assert list(run(model, [row])) == []
    assert seen == [(4, 13)]
    assert row.cached == 4


def test_a_row_may_be_ended_while_its_prompt_runs_beside_others(layer_share: Golden) -> None:
    model = without_eos(layer_share.model)
    first, second = (
        Row(model.config, layer_share.prompts[i], GenerationOptions(24, prefill_chunk=1), ()) for i in (0, 1)
    )
    short = Row(model.config, layer_share.prompts[0], GenerationOptions(2), ())
    for row, _, _ in run(model, [short, first, second], slots=2):
        if row is first and first.generated == 3:
            assert 0 < second.cached < second.prompt_length
            second.finish_reason = "cancelled"
    assert first.ids == layer_share.greedy[0]
    assert second.generated == 0


def test_a_stream_left_early_leaves_the_model_as_it_was(layer_share: Golden) -> None:
    stream = stream_generate(layer_share.model, None, layer_share.prompts[0])
    next(stream)
    del stream
    assert (
        generate(without_eos(layer_share.model), None, layer_share.prompts[0], max_tokens=24)
        == (layer_share.greedy[0][13:])
    )


# --- Statistics and progress ------------------------------------------------------------------------------------------


def test_the_last_piece_carries_the_statistics(layer_share: Golden) -> None:
    *others, last = stream_generate(
        without_eos(layer_share.model), None, layer_share.prompts[0], max_tokens=10, sampling=HOT
    )
    assert all(piece.statistics is None for piece in others)
    statistics = last.statistics
    assert statistics is not None
    assert (statistics.prompt_tokens, statistics.generation_tokens, statistics.seed) == (13, 10, 17)
    assert statistics.prompt_tps == pytest.approx(13 / statistics.time_to_first_token)
    assert statistics.generation_tps > 0
    assert statistics.peak_memory > 0


def test_a_seed_that_was_drawn_is_reported_and_gives_the_text_again(layer_share: Golden) -> None:
    model, prompt = layer_share.model, layer_share.prompts[0]
    drawn = SamplingOptions(temperature=1.0)
    pieces = list(stream_generate(model, None, prompt, max_tokens=10, sampling=drawn))
    assert pieces[-1].statistics is not None
    again = dataclasses.replace(drawn, seed=pieces[-1].statistics.seed)
    assert generate(model, None, prompt, max_tokens=10, sampling=again) == [piece.token for piece in pieces]


def test_a_long_prompt_reports_its_progress(layer_share: Golden) -> None:
    seen: list[tuple[int, int]] = []
    options = GenerationOptions(1, prefill_chunk=5, prompt_progress=lambda *at: seen.append(at))
    generate(layer_share.model, None, layer_share.prompts[0], options)
    assert seen == [(5, 13), (10, 13), (13, 13)]


# --- Text -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def talker(layer_share: Golden, tokenizer: Tokenizer) -> MobileLLM:
    """The golden model with as many rows of embedding as the test tokenizer has pieces. It talks nonsense."""
    weights = layer_share.model.weights
    embedding = mx.random.normal((tokenizer.vocab_size, 96), key=mx.random.key(5)) * 0.1
    config = dataclasses.replace(layer_share.model.config, vocab_size=tokenizer.vocab_size, eos_token_ids=())
    return MobileLLM(config, {**weights, "embed_tokens": embedding})


def test_pieces_joined_are_what_the_ids_add_to_the_prompt(talker: MobileLLM, tokenizer: Tokenizer) -> None:
    for seed in range(5):
        prompt = "Once upon a time"
        sampling = SamplingOptions(temperature=1.0, seed=seed)
        pieces = list(stream_generate(talker, tokenizer, prompt, max_tokens=60, sampling=sampling))
        ids = tokenizer.encode(prompt) + [piece.token for piece in pieces]
        assert prompt + "".join(piece.text for piece in pieces) == tokenizer.decode(ids)


def test_generate_returns_the_text_of_the_stream(talker: MobileLLM, tokenizer: Tokenizer) -> None:
    pieces = stream_generate(talker, tokenizer, "A fox", max_tokens=20, sampling=HOT)
    assert generate(talker, tokenizer, "A fox", max_tokens=20, sampling=HOT) == "".join(p.text for p in pieces)


@given(start=st.integers(0, 40), length=st.integers(1, 12), seed=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_a_stop_text_ends_the_answer_before_it(
    talker: MobileLLM, tokenizer: Tokenizer, start: int, length: int, seed: int
) -> None:
    sampling = SamplingOptions(temperature=1.0, seed=seed)
    options = GenerationOptions(max_tokens=60, sampling=sampling)
    whole = generate(talker, tokenizer, "One day", options)
    stop = whole[start : start + length]  # anywhere: inside a piece or across several
    if stop:
        pieces = list(stream_generate(talker, tokenizer, "One day", options, stop=("never said", stop)))
        assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
        assert pieces[-1].finish_reason == "stop"


def test_what_only_began_like_a_stop_text_is_given(talker: MobileLLM, tokenizer: Tokenizer) -> None:
    whole = generate(talker, tokenizer, "One day", max_tokens=40, sampling=HOT)
    almost = whole[-3:] + "\0"
    pieces = list(stream_generate(talker, tokenizer, "One day", max_tokens=40, sampling=HOT, stop=(almost,)))
    assert "".join(piece.text for piece in pieces) == whole
    assert pieces[-1].finish_reason == "length"


@pytest.mark.parametrize("cuts", [("abcd",), ("abc", "d"), ("a", "b", "c", "d")])
def test_of_nested_stop_texts_the_one_complete_first_wins(cuts: tuple[str, ...]) -> None:
    text = _Text.__new__(_Text)
    text.row = Row(ModelConfig(9, 8, 8, 1, 1, 1, 8), [1], GenerationOptions(stop=("abcd", "bc")), ())
    text.detokenizer = SimpleNamespace(add=lambda token: cuts[token], flush=lambda: "")  # type: ignore[assignment]
    text.pieces, text.held = 9, ""
    shown = ""
    for token in range(len(cuts)):
        if text.row.finish_reason is None:
            shown += text.add(token)
    assert (shown, text.row.finish_reason) == ("a", "stop")


def test_ids_beyond_the_tokenizer_have_no_text(talker: MobileLLM, tokenizer: Tokenizer) -> None:
    padding = mx.full((8, 96), 50.0)  # makes one of these the likeliest
    weights: Weights = {**talker.weights, "embed_tokens": mx.concatenate([talker.weights["embed_tokens"], padding])}
    config = dataclasses.replace(talker.config, vocab_size=tokenizer.vocab_size + 8)
    pieces = list(stream_generate(MobileLLM(config, weights), tokenizer, [1, tokenizer.vocab_size], max_tokens=8))
    assert any(piece.token >= tokenizer.vocab_size for piece in pieces)
    assert all(piece.text == "" for piece in pieces if piece.token >= tokenizer.vocab_size)


def test_eos_has_no_text(talker: MobileLLM, tokenizer: Tokenizer) -> None:
    first = next(stream_generate(talker, tokenizer, "One day", sampling=HOT))
    model = MobileLLM(dataclasses.replace(talker.config, eos_token_ids=(first.token,)), talker.weights)
    assert [(p.token, p.text) for p in stream_generate(model, tokenizer, "One day", sampling=HOT)] == [
        (first.token, "")
    ]


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([1] * 2049, "2049 tokens, more than the model's context of 2048"),
        ([1, 256], "token id 256 is outside the vocabulary of 256"),
        ([-1], "token id -1 is outside"),
        ([1.5], "expected text or a list of token ids"),
        (None, "expected text or a list of token ids"),
        ("text", "without a tokenizer.model"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_at_the_call(
    layer_share: Golden, prompt: str | list[int], message: str
) -> None:
    with pytest.raises(MobileLLMError, match=message):
        stream_generate(layer_share.model, None, prompt)


@pytest.mark.parametrize("kind", [np.array, mx.array, tuple, lambda ids: list(np.array(ids))])
def test_a_prompt_may_be_any_sequence_or_array_of_ids(layer_share: Golden, kind: Callable[[list[int]], Any]) -> None:
    prompt = kind(layer_share.prompts[0])
    assert generate(without_eos(layer_share.model), None, prompt, max_tokens=24) == layer_share.greedy[0][13:]


def test_a_row_runs_only_once(layer_share: Golden) -> None:
    row = Row(layer_share.model.config, [1, 2], GenerationOptions(2), ())
    finished(layer_share.model, [row])
    with pytest.raises(MobileLLMError, match="a row runs only once"):
        finished(layer_share.model, [row])


@pytest.mark.parametrize("slots", [0, -1])
def test_rows_need_a_slot(layer_share: Golden, slots: int) -> None:
    with pytest.raises(MobileLLMError, match="slots: expected 1 or more"):
        next(run(layer_share.model, [], slots))


def test_no_rows_are_no_tokens(layer_share: Golden) -> None:
    assert list(run(layer_share.model, [])) == []


@pytest.mark.parametrize(
    "changes", [{"max_tokens": 0}, {"max_tokens": 1.5}, {"prefill_chunk": 0}, {"stop": "text"}, {"stop": ("",)}]
)
def test_an_option_out_of_range_is_refused_by_name(layer_share: Golden, changes: dict[str, object]) -> None:
    with pytest.raises(MobileLLMError, match=f"{next(iter(changes))}: expected"):
        stream_generate(layer_share.model, None, [1], **changes)


def test_an_unknown_option_is_an_error(layer_share: Golden) -> None:
    with pytest.raises(TypeError, match="temprature"):
        stream_generate(layer_share.model, None, [1], temprature=1.0)
