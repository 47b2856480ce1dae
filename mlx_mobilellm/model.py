"""The model: blocks stored once and executed in a row, and the one step that everything is built from."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict, cast

import mlx.core as mx

from mlx_mobilellm.config import ModelConfig
from mlx_mobilellm.errors import MobileLLMError


class Block(TypedDict):
    """One block's weights. D: hidden size, F: intermediate size, A: width of all query heads, K: of all keys.

    Projections that read the same input are one matrix, so that a step makes one product of them.
    """

    input_layernorm: mx.array  # (D,)
    qkv_proj: mx.array  # (A + 2 K, D): q_proj, k_proj, v_proj
    o_proj: mx.array  # (D, A)
    post_attention_layernorm: mx.array  # (D,)
    gate_up_proj: mx.array  # (2 F, D): gate_proj, up_proj
    down_proj: mx.array  # (D, F)


class Weights(TypedDict):
    """All weights, each array once however often its block runs. V: vocabulary size."""

    embed_tokens: mx.array  # (V, D)
    blocks: list[Block]
    norm: mx.array  # (D,)
    lm_head: NotRequired[mx.array]  # (V, D); absent where the embedding is the output matrix too


class KV(TypedDict):
    """Keys and values, one pair of arrays (B, KV heads, capacity, head width) for each execution of a block.

    Row b holds its tokens in columns 0 … position[b] - 1; what lies beyond is never seen.
    """

    keys: list[mx.array]
    values: list[mx.array]


def extend(
    config: ModelConfig,
    weights: Weights,
    kv: KV | None,
    tokens: mx.array,
    position: mx.array | None = None,
) -> mx.array:
    """Run ``tokens`` through the model behind what each row of the cache already holds.

    The tokens enter row b at columns ``position[b]`` … ``position[b] + T - 1``. A query at column i sees the
    columns j <= i of its own row.

    Args:
        config: The model's sizes.
        weights: The model's weights.
        kv: The cache, with room for the tokens; arrays that hold them too take the place of its own. None: no cache.
        tokens: (B, T) int32, inside the vocabulary (MLX reads out of bounds otherwise).
        position: (B,) int32, how many tokens each row holds. None: the rows are empty, which is cheaper.

    Returns:
        (B, T, D) hidden states behind the final norm; ``unembed`` makes logits of those that are wanted.
    """
    hidden = weights["embed_tokens"][tokens]
    attend = _Attention(config, kv, tokens.shape[1], position)
    execution = 0
    for block in weights["blocks"]:
        for _ in range(config.layer_sharing_repeats):
            normed = mx.fast.rms_norm(hidden, block["input_layernorm"], config.rms_norm_eps)
            hidden = hidden + attend(block, normed, execution)
            normed = mx.fast.rms_norm(hidden, block["post_attention_layernorm"], config.rms_norm_eps)
            hidden = hidden + _feed_forward(block, normed)
            execution += 1
    return mx.fast.rms_norm(hidden, weights["norm"], config.rms_norm_eps)


def unembed(weights: Weights, hidden: mx.array) -> mx.array:
    """Logits (..., V) of hidden states (..., D), by the output matrix or the shared embedding."""
    return hidden @ weights.get("lm_head", weights["embed_tokens"]).T


class _Attention:
    """Grouped-query attention of one step: the columns and mask that all executions share, and the cache."""

    def __init__(self, config: ModelConfig, kv: KV | None, length: int, position: mx.array | None) -> None:
        self.config = config
        self.kv = kv
        self.position = position
        self.mask: mx.array | str | None = "causal" if length > 1 else None
        self.origin = mx.array([0])
        if kv is not None and position is not None:
            columns = position[:, None] + mx.arange(length)  # (B, T)
            self.mask = (mx.arange(capacity_of(kv)) <= columns[..., None])[:, None]  # (B, 1, T, capacity)
            self.columns = columns[:, None, :, None]  # (B, 1, T, 1)

    def __call__(self, block: Block, x: mx.array, execution: int) -> mx.array:
        config = self.config
        batch, length, _ = x.shape
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        qkv = (x @ block["qkv_proj"].T).reshape(batch, length, heads + 2 * kv_heads, config.head_dim)
        qkv = qkv.transpose(0, 2, 1, 3)  # (B, heads + 2 KV heads, T, head width)
        rotated = mx.fast.rope(
            qkv[:, : heads + kv_heads],
            config.head_dim,
            traditional=False,
            base=config.rope_theta,
            scale=1.0,
            offset=0 if self.position is None else self.position,
        )
        keys, values = self._store(execution, rotated[:, heads:], qkv[:, heads + kv_heads :])
        out = mx.fast.scaled_dot_product_attention(
            rotated[:, :heads], keys, values, scale=config.head_dim**-0.5, mask=self.mask
        )
        return out.transpose(0, 2, 1, 3).reshape(batch, length, config.attention_width) @ block["o_proj"].T

    def _store(self, execution: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write new keys and values (B, KV heads, T, head width) to the cache; return what to attend to."""
        if self.kv is None:
            return keys, values
        stored: list[mx.array] = []
        for arrays, new in ((self.kv["keys"], keys), (self.kv["values"], values)):
            if self.position is None:
                arrays[execution] = mx.slice_update(arrays[execution], new, self.origin, axes=[2])
                stored.append(new)  # nothing else is in the rows yet
            else:
                arrays[execution] = mx.put_along_axis(arrays[execution], self.columns, new, axis=2)
                stored.append(arrays[execution])
        return stored[0], stored[1]


def _feed_forward(block: Block, x: mx.array) -> mx.array:
    """SwiGLU. ``mx.sigmoid`` rather than ``nn.silu``, whose first use calls a C++ compiler on a CPU."""
    gate, up = mx.split(x @ block["gate_up_proj"].T, 2, axis=-1)
    return (gate * mx.sigmoid(gate) * up) @ block["down_proj"].T


CAPACITY_STEP = 256
"""Columns by which a cache grows, so that its arrays seldom change their shape."""


def empty_kv(config: ModelConfig, batch: int, capacity: int, dtype: mx.Dtype) -> KV:
    """A cache of ``batch`` rows with room for at least ``capacity`` tokens each."""
    shape = (batch, config.num_key_value_heads, _rounded(capacity), config.head_dim)
    return {
        "keys": [mx.zeros(shape, dtype) for _ in range(config.executions)],
        "values": [mx.zeros(shape, dtype) for _ in range(config.executions)],
    }


def grow(kv: KV, capacity: int) -> None:
    """Make room for at least ``capacity`` tokens in every row; what is there stays."""
    missing = _rounded(capacity) - capacity_of(kv)
    if missing > 0:
        for arrays in (kv["keys"], kv["values"]):
            for index, array in enumerate(arrays):
                arrays[index] = mx.pad(array, [(0, 0), (0, 0), (0, missing), (0, 0)])


def select(kv: KV, rows: mx.array) -> KV:
    """A cache of some rows (int32) of another."""
    return {"keys": [array[rows] for array in kv["keys"]], "values": [array[rows] for array in kv["values"]]}


def join(kv: KV, other: KV) -> KV:
    """A cache of the rows of one and then those of another."""
    capacity = max(capacity_of(kv), capacity_of(other))
    grow(kv, capacity)
    grow(other, capacity)
    return {
        "keys": [mx.concatenate([a, b]) for a, b in zip(kv["keys"], other["keys"], strict=True)],
        "values": [mx.concatenate([a, b]) for a, b in zip(kv["values"], other["values"], strict=True)],
    }


def capacity_of(kv: KV) -> int:
    """How many columns each row has."""
    return kv["keys"][0].shape[2]


def _rounded(capacity: int) -> int:
    return -(-capacity // CAPACITY_STEP) * CAPACITY_STEP


def check_ids(config: ModelConfig, ids: Sequence[int]) -> None:
    """Refuse ids outside the vocabulary.

    Raises:
        MobileLLMError: Names the first such id and the vocabulary's size.
    """
    for i in ids:
        if not 0 <= i < config.vocab_size:
            raise MobileLLMError(f"token id {i} is outside the vocabulary of {config.vocab_size}")


class MobileLLM:
    """A model ready to run: its config and its evaluated weights."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that hidden states and the cache have."""
        return self.weights["embed_tokens"].dtype

    def __call__(self, ids: mx.array) -> mx.array:
        """Logits (B, L, V) of token ids (B, L) in one plain forward pass, without a cache.

        Raises:
            MobileLLMError: The ids are not a (B, L) array of whole numbers inside the vocabulary.
        """
        if ids.ndim != 2 or ids.size == 0 or not mx.issubdtype(ids.dtype, mx.integer):
            raise MobileLLMError(f"ids: expected whole numbers (B, L), found {ids.dtype} {ids.shape}")
        check_ids(self.config, cast(list[int], mx.stack([ids.min(), ids.max()]).tolist()))
        return unembed(self.weights, extend(self.config, self.weights, None, ids))
