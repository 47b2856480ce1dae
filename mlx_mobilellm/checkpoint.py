"""Folders <-> weights: find the files, check every tensor, read block by block, join; and save again."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import mlx.core as mx

from mlx_mobilellm.config import ModelConfig
from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.model import Block, Weights
from mlx_mobilellm.safetensors_file import read_safetensors
from mlx_mobilellm.tensors import StoredTensor, TensorReader, dtype_name, quoted

EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"
NORM = "model.norm.weight"

_FLOATS = (mx.float32, mx.float16, mx.bfloat16)

# Each matrix of a Block, and the tensors of a checkpoint that it joins, first rows first.
_PARTS: dict[str, tuple[str, ...]] = {
    "input_layernorm": ("input_layernorm",),
    "qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o_proj": ("self_attn.o_proj",),
    "post_attention_layernorm": ("post_attention_layernorm",),
    "gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "down_proj": ("mlp.down_proj",),
}


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (config.attention_width, hidden),
        "self_attn.k_proj": (config.kv_width, hidden),
        "self_attn.v_proj": (config.kv_width, hidden),
        "self_attn.o_proj": (hidden, config.attention_width),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that a checkpoint of this model must hold, by Hugging Face's names, and their shapes."""
    matrix = (config.vocab_size, config.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: matrix}
    for index in range(config.num_hidden_layers):
        for part, shape in _block_shapes(config).items():
            shapes[_block_tensor(index, part)] = shape
    shapes[NORM] = (config.hidden_size,)
    if not config.share_embedding:
        shapes[OUTPUT] = matrix
    return shapes


def _block_tensor(index: int, part: str) -> str:
    return f"model.layers.{index}.{part}.weight"


def read_weights(
    folder: Path, dtype: mx.Dtype | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[ModelConfig, Weights]:
    """Read a folder as published: one block at a time is read, checked, cast, joined and evaluated.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``, whole or in shards.
        dtype: The dtype of the weights; None keeps the embedding's on a GPU and takes float32 on a CPU, where
            half precision is slower.
        progress: Called behind each block with the blocks done and the blocks in all.

    Returns:
        The config (``share_embedding`` is set where a stored ``lm_head`` equals the embedding) and evaluated
        weights, usable from any thread.

    Raises:
        MobileLLMError: Names the file, the tensor, what was expected and what was found.
    """
    config = ModelConfig.from_file(folder / "config.json")
    tensors = find_tensors(folder)
    _check_tensors(folder, config, tensors)
    join = partial(_join, tensors, _choose_dtype(dtype, tensors[EMBEDDING].dtype))
    weights: Weights = {"embed_tokens": join(EMBEDDING), "blocks": [], "norm": join(NORM)}
    if OUTPUT in tensors:
        output = join(OUTPUT)
        if mx.array_equal(output, weights["embed_tokens"]).item():
            config = replace(config, share_embedding=True)  # one matrix, published twice
        elif config.share_embedding:
            raise MobileLLMError(
                f"{tensors[OUTPUT].path}: {OUTPUT} differs from {EMBEDDING}, yet config.json says that they are one"
                " matrix; if the file is right, set share_embedding to false there"
            )
        else:
            weights["lm_head"] = output
        del output  # a second copy of the embedding goes before the blocks come
    for index in range(config.num_hidden_layers):
        block = {joined: join(*(_block_tensor(index, part) for part in parts)) for joined, parts in _PARTS.items()}
        weights["blocks"].append(cast(Block, block))
        mx.clear_cache()  # a GPU's allocator would keep the buffers of the parts
        if progress is not None:
            progress(index + 1, config.num_hidden_layers)
    return config, weights


def _choose_dtype(dtype: mx.Dtype | None, stored: mx.Dtype) -> mx.Dtype:
    if dtype is None:
        on_cpu = mx.default_device().type == mx.DeviceType.cpu
        return mx.float32 if on_cpu else stored
    if dtype not in _FLOATS:
        raise MobileLLMError(f"dtype: expected float32, float16 or bfloat16, found {dtype_name(dtype)}")
    return dtype


def _join(tensors: Mapping[str, StoredTensor], dtype: mx.Dtype, *names: str) -> mx.array:
    """The named tensors as one, cast and evaluated; every value is finite."""
    reader = TensorReader()
    parts = [reader.read(tensors[name]).astype(dtype) for name in names]
    joined = mx.concatenate(parts) if len(parts) > 1 else parts[0]
    total = joined.sum()
    mx.eval(joined, total)
    # A finite sum proves every summand finite at a fraction of the cost of looking at each.
    if not math.isfinite(cast(float, total.item())):
        for name, part in zip(names, parts, strict=True):
            if not mx.isfinite(part).all().item():
                raise MobileLLMError(
                    f"{tensors[name].path}: {name}: expected finite numbers, found infinity or NaN"
                    f" (as {dtype_name(dtype)}); the file is damaged or the dtype too narrow"
                )
    return joined


def _check_tensors(folder: Path, config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Hold names, shapes and dtypes against the config, before any value is read."""
    shapes = tensor_shapes(config)
    for name, shape in shapes.items():
        if name not in tensors:
            own_output = "; if the embedding is the output matrix too, set share_embedding to true in config.json"
            advice = own_output if name == OUTPUT else "; do config.json and the weights belong together?"
            raise MobileLLMError(f"{folder}: expected tensor {name} of shape {shape}, found none of that name{advice}")
    shapes[OUTPUT] = shapes[EMBEDDING]
    for name, tensor in tensors.items():
        if name not in shapes:
            raise MobileLLMError(
                f"{tensor.path}: unexpected tensor {quoted(name)}; do config.json and the weights belong together?"
            )
        if tensor.shape != shapes[name]:
            raise MobileLLMError(f"{tensor.path}: {name}: expected shape {shapes[name]}, found {tensor.shape}")
        if tensor.dtype not in _FLOATS:
            found = dtype_name(tensor.dtype)
            raise MobileLLMError(f"{tensor.path}: {name}: expected float32, float16 or bfloat16, found {found}")


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Where each tensor of a folder lies. safetensors are preferred, unless they lack the embedding.

    Some published safetensors files were made by a conversion that dropped the embedding; the ``.bin`` beside
    them is right.

    Raises:
        MobileLLMError: There are no weights, or they are damaged.
    """
    lacking: list[str] = []
    for name in ("model.safetensors", "pytorch_model.bin"):
        files = _weight_files(folder, name)
        tensors = _read_files(files)
        if EMBEDDING in tensors:
            if lacking:
                _warn(f"{folder}: {lacking[0]} lacks {EMBEDDING}; reading {name} instead")
            return tensors
        if files:
            lacking.append(name)
    if lacking:
        raise MobileLLMError(
            f"{folder}: expected tensor {EMBEDDING}, found none in {' and '.join(lacking)} (a known fault of some"
            " converted safetensors); get pytorch_model.bin of the original repository"
        )
    raise MobileLLMError(f"{folder}: found neither model.safetensors nor pytorch_model.bin, whole or in shards")


def _warn(message: str) -> None:
    import logging  # only here: it costs milliseconds on the way to the first token

    logging.getLogger("mlx_mobilellm").warning(message)


def _weight_files(folder: Path, name: str) -> list[Path]:
    """The file ``name``, else the shards that its index lists, else nothing."""
    if (folder / name).exists():
        return [folder / name]
    index = folder / f"{name}.index.json"
    if not index.exists():
        return []
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except OSError as error:
        raise MobileLLMError(f"{index}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        shards = []
    if not shards:
        raise MobileLLMError(f"{index}: expected JSON with a weight_map from tensor to file; download it again")
    for shard in shards:
        # A plain name, so that no index leads out of its folder.
        if not re.fullmatch(r"[\w.-]{1,200}" + re.escape(Path(name).suffix), str(shard), re.ASCII):
            raise MobileLLMError(f"{index}: expected names of files beside it, found {quoted(str(shard))}")
        if not (folder / shard).exists():
            raise MobileLLMError(f"{index}: expected {shard} beside it, found no such file; download it too")
    return [folder / shard for shard in shards]


def _read_file(file: Path) -> dict[str, StoredTensor]:
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    from mlx_mobilellm.torch_bin import read_torch_bin  # what reads zips is milliseconds to import

    return read_torch_bin(file)


def _read_files(files: list[Path]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in _read_file(file).items():
            if name.endswith("rotary_emb.inv_freq"):
                continue  # a constant that old versions of transformers stored
            if name in tensors:
                other = tensors[name].path.name
                raise MobileLLMError(f"{file}: expected each tensor once, found {quoted(name)} also in {other}")
            tensors[name] = tensor
    return tensors


def save_weights(folder: Path, config: ModelConfig, weights: Weights, dtype: mx.Dtype) -> None:
    """Write ``config.json`` and ``model.safetensors`` as MobileLLM is published: separate projections, HF names.

    The folder must exist. Each shared block is written once.

    Raises:
        MobileLLMError: A file cannot be written.
    """
    tensors = {name: array.astype(dtype) for name, array in _split(config, weights)}
    text = json.dumps(config.to_dict(dtype_name(dtype)), indent=2)
    try:
        mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise MobileLLMError(f"{folder}: cannot be written: {error}") from None


def _split(config: ModelConfig, weights: Weights) -> Iterator[tuple[str, mx.array]]:
    yield EMBEDDING, weights["embed_tokens"]
    shapes = _block_shapes(config)
    for index, block in enumerate(weights["blocks"]):
        for joined, parts in _PARTS.items():
            ends = [sum(shapes[part][0] for part in parts[: n + 1]) for n in range(len(parts) - 1)]
            pieces = mx.split(cast(dict[str, mx.array], block)[joined], ends)
            for part, piece in zip(parts, pieces, strict=True):
                yield _block_tensor(index, part), piece
    yield NORM, weights["norm"]
    if "lm_head" in weights:
        yield OUTPUT, weights["lm_head"]
