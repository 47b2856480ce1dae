"""Folders <-> weights: find the files, check every tensor, read block by block, join; and save again."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import mlx.core as mx

from mlx_mobilellm.config import ModelConfig
from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.model import Block, Weights
from mlx_mobilellm.safetensors_file import read_safetensors
from mlx_mobilellm.tensors import StoredTensor, TensorReader
from mlx_mobilellm.torch_bin import read_torch_bin

EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"
NORM = "model.norm.weight"

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
        dtype: The dtype of the weights; None keeps the stored one on a GPU and takes float32 on a CPU, where
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
    if dtype is None:
        on_cpu = mx.default_device().type == mx.DeviceType.cpu
        dtype = mx.float32 if on_cpu else tensors[EMBEDDING].dtype
    reader = _WeightReader(tensors, dtype)
    weights = cast(Weights, {"embed_tokens": reader.join([EMBEDDING])})
    if OUTPUT in tensors:
        config = _tie_equal_output(config, reader)
        if not config.share_embedding:
            weights["lm_head"] = reader.join([OUTPUT])
    weights["blocks"] = []
    for index in range(config.num_hidden_layers):
        block = {
            joined: reader.join([_block_tensor(index, part) for part in parts]) for joined, parts in _PARTS.items()
        }
        weights["blocks"].append(cast(Block, block))
        if progress is not None:
            progress(index + 1, config.num_hidden_layers)
    weights["norm"] = reader.join([NORM])
    mx.clear_cache()  # the buffers of the parts
    return config, weights


class _WeightReader:
    """Reads tensors by name, checks their values, casts and joins them; keeps nothing."""

    def __init__(self, tensors: Mapping[str, StoredTensor], dtype: mx.Dtype) -> None:
        self.tensors = tensors
        self.dtype = dtype
        self._bin = TensorReader()
        self._safetensors: dict[Path, dict[str, mx.array]] = {}

    def read(self, name: str) -> mx.array:
        """One tensor as stored. A safetensors file is left to ``mx.load``, which reads straight into an array."""
        tensor = self.tensors[name]
        if tensor.path.suffix != ".safetensors":
            return self._bin.read(tensor)
        if tensor.path not in self._safetensors:
            loaded = mx.load(str(tensor.path))
            self._safetensors[tensor.path] = cast(dict[str, mx.array], loaded)
        return self._safetensors[tensor.path].pop(name)

    def join(self, names: list[str]) -> mx.array:
        """The named tensors as one, cast and evaluated; every value is finite."""
        parts = [self.read(name) for name in names]
        cast_parts = [part.astype(self.dtype) for part in parts]
        joined = mx.concatenate(cast_parts) if len(parts) > 1 else cast_parts[0]
        total = joined.sum()
        mx.eval(joined, total)
        # A finite sum proves every summand finite at a fraction of the cost of looking at each.
        if not math.isfinite(cast(float, total.item())):
            for name, part in zip(names, cast_parts, strict=True):
                if not mx.isfinite(part).all().item():
                    raise MobileLLMError(
                        f"{self.tensors[name].path}: {name}: expected finite numbers, found infinity or NaN"
                        f" (as {_name(self.dtype)}); the file is damaged or the dtype too narrow"
                    )
        return joined


def _tie_equal_output(config: ModelConfig, reader: _WeightReader) -> ModelConfig:
    """A stored output matrix that equals the embedding is dropped: it is the same matrix, published twice."""
    untouched = _WeightReader(reader.tensors, reader.dtype)
    if mx.array_equal(untouched.read(EMBEDDING), untouched.read(OUTPUT)).item():
        return replace(config, share_embedding=True)
    if config.share_embedding:
        raise MobileLLMError(
            f"{reader.tensors[OUTPUT].path}: {OUTPUT} differs from {EMBEDDING}, yet config.json says that they"
            " are one matrix; set share_embedding to false if the file is right"
        )
    return config


def _check_tensors(folder: Path, config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Hold names, shapes and dtypes against the config, before any value is read."""
    shapes = tensor_shapes(config)
    for name, shape in shapes.items():
        if name not in tensors:
            raise MobileLLMError(f"{folder}: tensor {name} is missing, expected shape {shape}")
    if OUTPUT in tensors:
        shapes[OUTPUT] = shapes[EMBEDDING]
    for name, tensor in tensors.items():
        if name not in shapes:
            raise MobileLLMError(f"{tensor.path}: unexpected tensor {name}; does config.json belong to this file?")
        if tensor.shape != shapes[name]:
            raise MobileLLMError(f"{tensor.path}: {name}: expected shape {shapes[name]}, found {tensor.shape}")
        if tensor.dtype not in (mx.float32, mx.float16, mx.bfloat16):
            raise MobileLLMError(
                f"{tensor.path}: {name}: expected float32, float16 or bfloat16, found {_name(tensor.dtype)}"
            )


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Where each tensor of a folder lies. safetensors are preferred, unless they lack the embedding.

    Some published safetensors files were made by a conversion that dropped the embedding; the ``.bin`` beside
    them is right.

    Raises:
        MobileLLMError: There are no weights, or they are damaged.
    """
    tensors: dict[str, StoredTensor] = {}
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        files = _weight_files(folder, stem + suffix)
        if not files:
            continue
        if tensors:
            _warn(f"{folder}: the safetensors lack {EMBEDDING}; reading {stem}{suffix} instead")
        tensors = _read_files(files)
        if EMBEDDING in tensors:
            return tensors
    if tensors:
        raise MobileLLMError(
            f"{folder}: {EMBEDDING} is missing from the weights (a known fault of some converted safetensors);"
            " get pytorch_model.bin of the original repository"
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
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MobileLLMError(f"{index}: expected JSON with a weight_map from tensor to file") from None
    for shard in names:
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(Path(name).suffix):
            raise MobileLLMError(f"{index}: expected the names of files beside it, found {shard!r}")
        if not (folder / shard).exists():
            raise MobileLLMError(f"{index}: names {shard}, which is missing; download it too")
    return [folder / shard for shard in names]


def _read_files(files: list[Path]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        found = read_safetensors(file) if file.suffix == ".safetensors" else read_torch_bin(file)
        for name, tensor in found.items():
            if name.endswith("rotary_emb.inv_freq"):
                continue  # a constant that old versions of transformers stored
            if name in tensors:
                raise MobileLLMError(f"{file}: {name} is also in {tensors[name].path.name}")
            tensors[name] = tensor
    return tensors


def save_weights(folder: Path, config: ModelConfig, weights: Weights, dtype: mx.Dtype) -> None:
    """Write ``config.json`` and ``model.safetensors`` as MobileLLM is published: separate projections, HF names.

    The folder must exist. Each shared block is written once.
    """
    tensors = {name: array.astype(dtype) for name, array in _split(config, weights)}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    text = json.dumps(config.to_dict(_name(dtype)), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


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
