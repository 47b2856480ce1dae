"""The facts about a model: its shape, what its weights and cache take, where it comes from. No weights are read."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_mobilellm.checkpoint import find_tensors, tensor_shapes
from mlx_mobilellm.config import PRESETS, ModelConfig
from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.loading import DEMO, find_model
from mlx_mobilellm.tensors import dtype_name

ZERO_SHOT_AVERAGE = {
    "125M": 46.3,
    "125M-layer-share": 47.0,
    "350M": 51.3,
    "350M-layer-share": 52.1,
    "600M": 54.3,
    "1B": 57.3,
    "1.5B": 59.4,
}
"""Accuracy in per cent without examples, averaged over arc_easy, arc_challenge, boolq, piqa, siqa, hellaswag, obqa
and winogrande: Meta's figures, from the README of github.com/facebookresearch/MobileLLM."""

GROUP_SIZE = 64
"""Weights per group when quantised. It divides every width of the published models; 128 does not."""


@dataclass(frozen=True)
class Terms:
    """Under what terms one gets and uses the weights; None where that is not known."""

    licence: str
    commercial_use: bool | None
    gated: str | None
    """What the Hub asks for before it gives the weights; empty if nothing."""


@dataclass(frozen=True)
class StoredWeights:
    """What the weight files of a folder hold, by their headers."""

    files: list[str]
    dtypes: list[str]
    parameters: int
    """Every stored value counts, an output matrix that repeats the embedding too."""
    size_bytes: int
    """The size of the files."""


@dataclass(frozen=True)
class ModelInfo:
    """The facts about one model. Bytes are computed from the shapes, not measured."""

    name: str
    folder: str | None
    """None for a published model that is known by its preset."""
    config: ModelConfig
    executions: int
    """How many blocks run for one token."""
    parameters: dict[str, int]
    """By part: embedding, attention, feed_forward, norms, output (0 where the embedding serves); and total."""
    weight_bytes: dict[str, int]
    """``at_16_bits``, ``at_8_bits`` and ``at_4_bits``, see `weight_bytes`."""
    cache_bytes: dict[str, int]
    """Keys and values in 16 bits: ``per_token`` and for the ``full_context``, for one sequence."""
    saved_by_sharing: dict[str, int]
    """Against the same model with a block stored for every execution: ``parameters`` and ``bytes_at_16_bits``."""
    zero_shot_average: float | None
    """Per cent, see `ZERO_SHOT_AVERAGE`."""
    terms: Terms
    stored: StoredWeights | None
    """None where there are no weight files to look at."""


_PUBLISHED_TERMS = Terms(
    "FAIR Noncommercial Research License or CC-BY-NC-4.0 (see the repository)",
    commercial_use=False,
    gated="name, birth date, organisation",
)
_DEMO_TERMS = Terms("MIT (made for this package)", commercial_use=True, gated="")
_UNKNOWN_TERMS = Terms("unknown: see where the weights came from", commercial_use=None, gated=None)


def model_info(model: str | Path) -> ModelInfo:
    """The facts about a model, without the values of its weights.

    Args:
        model: A folder as published (its ``config.json`` is enough), or else a published model by name, in any case:
            ``125M``, ``MobileLLM-125M`` or ``facebook/MobileLLM-125M``; or ``demo``. These need no network; of any
            other Hub id the ``config.json`` is downloaded.

    Raises:
        MobileLLMError: There is no such folder or model, or its files are wrong.
    """
    if os.path.isdir(model):  # noqa: PTH112  # Path.is_dir raises for names that are too long or not ours to see
        return _folder_info(Path(model))
    name = str(model).lower()
    if name == "demo":
        return _folder_info(DEMO)
    for preset in PRESETS:
        if name in (preset.lower(), f"mobilellm-{preset.lower()}", f"facebook/mobilellm-{preset.lower()}"):
            return _preset_info(preset)
    if "/" in str(model):
        return _folder_info(find_model(model, weights=False), name=str(model))
    raise MobileLLMError(
        f"{str(model)!r}: no such folder, none of the published models ({', '.join(PRESETS)}) nor demo, and no Hub id"
    )


def all_models() -> list[ModelInfo]:
    """The demo model, where its folder is there, and every published model, smallest first."""
    demo = [_folder_info(DEMO)] if (DEMO / "config.json").exists() else []
    return demo + [_preset_info(preset) for preset in PRESETS]


def _preset_info(preset: str) -> ModelInfo:
    return _facts(preset, PRESETS[preset], _PUBLISHED_TERMS, zero_shot_average=ZERO_SHOT_AVERAGE[preset])


def _folder_info(folder: Path, name: str | None = None) -> ModelInfo:
    config = ModelConfig.from_file(folder / "config.json")
    stored = _stored_weights(folder)
    if folder.resolve() == DEMO.resolve():
        return _facts("demo", config, _DEMO_TERMS, folder=folder, stored=stored)
    return _facts(name or folder.resolve().name, config, _UNKNOWN_TERMS, folder=folder, stored=stored)


def _facts(
    name: str,
    config: ModelConfig,
    terms: Terms,
    *,
    folder: Path | None = None,
    stored: StoredWeights | None = None,
    zero_shot_average: float | None = None,
) -> ModelInfo:
    parameters = config.parameters()
    total = sum(parameters.values())
    unshared = replace(config, num_hidden_layers=config.executions, layer_sharing_repeats=1)
    saved = sum(unshared.parameters().values()) - total
    per_token = config.cache_bytes_per_token(bytes_per_value=2)
    return ModelInfo(
        name=name,
        folder=None if folder is None else str(folder),
        config=config,
        executions=config.executions,
        parameters={**parameters, "total": total},
        weight_bytes={f"at_{bits}_bits": weight_bytes(config, bits) for bits in (16, 8, 4)},
        cache_bytes={"per_token": per_token, "full_context": per_token * config.max_position_embeddings},
        saved_by_sharing={"parameters": saved, "bytes_at_16_bits": 2 * saved},
        zero_shot_average=zero_shot_average,
        terms=terms,
        stored=stored,
    )


def weight_bytes(config: ModelConfig, bits: int) -> int:
    """Bytes of the weights in 16 bits, or with the matrices quantised to 8 or 4.

    Quantised as MLX does in its affine mode (``mx.quantize``) with groups of 64 along a row: each group has a scale
    and a bias of 16 bits, which is 32 / 64 = 0.5 bits more for each weight. The norms stay in 16 bits, and so
    does a matrix with rows that 64 does not divide.
    """
    return sum(_tensor_bytes(shape, bits) for shape in tensor_shapes(config).values())


def _tensor_bytes(shape: tuple[int, ...], bits: int) -> int:
    values = math.prod(shape)
    if bits == 16 or len(shape) == 1 or shape[-1] % GROUP_SIZE:
        return 2 * values
    return values * bits // 8 + values // GROUP_SIZE * 4


def _stored_weights(folder: Path) -> StoredWeights | None:
    """What the weight files hold; None where there are none, while damaged ones are an error."""
    if not any(path for pattern in ("model*.safetensors*", "pytorch_model*.bin*") for path in folder.glob(pattern)):
        return None
    tensors = find_tensors(folder)
    files = sorted({tensor.path for tensor in tensors.values()})
    return StoredWeights(
        files=[file.name for file in files],
        dtypes=sorted({dtype_name(tensor.dtype) for tensor in tensors.values()}),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        size_bytes=sum(file.stat().st_size for file in files),
    )
