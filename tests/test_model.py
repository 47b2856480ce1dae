"""The step: equal to the official code and to itself, in whatever pieces it is run."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from conftest import Golden
from mlx_mobilellm import MobileLLM, MobileLLMError, ModelConfig
from mlx_mobilellm.model import CAPACITY_STEP, KV, Weights, capacity_of, empty_kv, extend, grow, join, select, unembed


def logits_in_chunks(golden: Golden, chunk: int) -> mx.array:
    """Logits of the golden prompts, run through a cache ``chunk`` tokens at a time."""
    model, ids = golden.model, mx.array(golden.prompts)
    kv = empty_kv(model.config, 2, ids.shape[1], mx.float32)
    parts = []
    for start in range(0, ids.shape[1], chunk):
        position = mx.array([start, start]) if start else None
        parts.append(
            unembed(model.weights, extend(model.config, model.weights, kv, ids[:, start : start + chunk], position))
        )
    return mx.concatenate(parts, axis=1)


def test_logits_without_a_cache_are_the_official_ones(golden: Golden) -> None:
    np.testing.assert_allclose(np.array(golden.model(mx.array(golden.prompts))), golden.logits, rtol=0, atol=2e-4)


@pytest.mark.parametrize("chunk", [13, 8, 3, 1])
def test_logits_through_the_cache_are_the_official_ones(golden: Golden, chunk: int) -> None:
    np.testing.assert_allclose(np.array(logits_in_chunks(golden, chunk)), golden.logits, rtol=0, atol=2e-4)


def test_rows_of_different_lengths_share_a_step(layer_share: Golden) -> None:
    model, (first, second) = layer_share.model, layer_share.prompts
    kv = empty_kv(model.config, 2, 32, mx.float32)
    # Row 0 holds 5 tokens, row 1 holds 2 and padding that is overwritten before it can be seen.
    extend(model.config, model.weights, kv, mx.array([first[:5], [*second[:2], 0, 0, 0]]))
    hidden = extend(model.config, model.weights, kv, mx.array([first[5:9], second[2:6]]), mx.array([5, 2]))
    logits = np.array(unembed(model.weights, hidden))
    np.testing.assert_allclose(logits[0], layer_share.logits[0, 5:9], rtol=0, atol=2e-4)
    np.testing.assert_allclose(logits[1], layer_share.logits[1, 2:6], rtol=0, atol=2e-4)


def test_taking_tokens_back_is_a_smaller_position(layer_share: Golden) -> None:
    model, (prompt, other) = layer_share.model, layer_share.prompts
    kv = empty_kv(model.config, 1, 32, mx.float32)
    extend(model.config, model.weights, kv, mx.array([prompt[:6] + other[:4]]))  # the last four are a wrong guess
    hidden = extend(model.config, model.weights, kv, mx.array([prompt[6:]]), mx.array([6]))
    np.testing.assert_allclose(
        np.array(unembed(model.weights, hidden))[0], layer_share.logits[0, 6:], rtol=0, atol=2e-4
    )


def test_each_execution_of_a_shared_block_keeps_its_own_keys_and_values(layer_share: Golden) -> None:
    model = layer_share.model
    kv = empty_kv(model.config, 2, 13, mx.float32)
    extend(model.config, model.weights, kv, mx.array(layer_share.prompts))
    assert len(kv["keys"]) == len(kv["values"]) == 2 * len(model.weights["blocks"]) == 4
    assert not mx.allclose(kv["keys"][0], kv["keys"][1])


def test_growing_a_cache_keeps_what_is_in_it(layer_share: Golden) -> None:
    model, prompts = layer_share.model, mx.array(layer_share.prompts)
    kv = empty_kv(model.config, 2, 13, mx.float32)
    extend(model.config, model.weights, kv, prompts[:, :7])
    grow(kv, CAPACITY_STEP + 1)
    assert capacity_of(kv) == 2 * CAPACITY_STEP
    hidden = extend(model.config, model.weights, kv, prompts[:, 7:], mx.array([7, 7]))
    np.testing.assert_allclose(np.array(unembed(model.weights, hidden)), layer_share.logits[:, 7:], rtol=0, atol=2e-4)


def test_joined_caches_hold_the_kept_rows_and_then_the_others(layer_share: Golden) -> None:
    model, (first, second) = layer_share.model, layer_share.prompts

    def cached(rows: list[list[int]], capacity: int) -> KV:
        kv = empty_kv(model.config, len(rows), capacity, mx.float32)
        extend(model.config, model.weights, kv, mx.array(rows))
        return kv

    kept = select(cached([first[:4], second[:4]], 13), mx.array([1]))
    kv = join(kept, cached([first[:6]], CAPACITY_STEP + 1))
    hidden = extend(model.config, model.weights, kv, mx.array([second[4:6], first[6:8]]), mx.array([4, 6]))
    logits = np.array(unembed(model.weights, hidden))
    np.testing.assert_allclose(logits[0], layer_share.logits[1, 4:6], rtol=0, atol=2e-4)
    np.testing.assert_allclose(logits[1], layer_share.logits[0, 6:8], rtol=0, atol=2e-4)


def random_model(config: ModelConfig) -> MobileLLM:
    mx.random.seed(0)
    width = config.attention_width + 2 * config.kv_width
    weights: Weights = {
        "embed_tokens": mx.random.normal((config.vocab_size, config.hidden_size)),
        "blocks": [
            {
                "input_layernorm": mx.random.uniform(0.5, 1.5, (config.hidden_size,)),
                "qkv_proj": mx.random.normal((width, config.hidden_size)) * 0.2,
                "o_proj": mx.random.normal((config.hidden_size, config.attention_width)) * 0.2,
                "post_attention_layernorm": mx.random.uniform(0.5, 1.5, (config.hidden_size,)),
                "gate_up_proj": mx.random.normal((2 * config.intermediate_size, config.hidden_size)) * 0.2,
                "down_proj": mx.random.normal((config.hidden_size, config.intermediate_size)) * 0.2,
            }
            for _ in range(config.num_hidden_layers)
        ],
        "norm": mx.ones(config.hidden_size),
    }
    return MobileLLM(config, weights)


SMALL = ModelConfig(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,  # not hidden_size / heads
)


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_a_shared_block_runs_as_often_as_the_config_says(repeats: int) -> None:
    shared = random_model(dataclasses.replace(SMALL, layer_sharing_repeats=repeats))
    unrolled_config = dataclasses.replace(SMALL, num_hidden_layers=2 * repeats)
    blocks = [block for block in shared.weights["blocks"] for _ in range(repeats)]
    unrolled = MobileLLM(unrolled_config, {**shared.weights, "blocks": blocks})
    ids = mx.array([[1, 7, 3, 9, 30]])
    assert mx.array_equal(shared(ids), unrolled(ids))


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1), (9, 3), (25, 5)])
def test_any_number_of_heads_gives_the_same_with_and_without_a_cache(heads: tuple[int, int]) -> None:
    model = random_model(dataclasses.replace(SMALL, num_attention_heads=heads[0], num_key_value_heads=heads[1]))
    ids = mx.array([[4, 8, 15, 16, 23, 42]])
    kv = empty_kv(model.config, 1, 6, mx.float32)
    extend(model.config, model.weights, kv, ids[:, :4])
    hidden = extend(model.config, model.weights, kv, ids[:, 4:], mx.array([4]))
    np.testing.assert_allclose(np.array(unembed(model.weights, hidden)), np.array(model(ids)[:, 4:]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "ids",
    [mx.array([1, 2]), mx.zeros((1, 0), mx.int32), mx.array([[0.5]]), mx.array([[256]]), mx.array([[3, -1]])],
    ids=["one dimension", "empty", "not whole", "above the vocabulary", "negative"],
)
def test_ids_that_mlx_would_crash_on_are_refused(layer_share: Golden, ids: mx.array) -> None:
    with pytest.raises(MobileLLMError, match="id"):
        layer_share.model(ids)
