"""The shape of a model: the only reader of ``config.json`` keys, and the published shapes as presets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_mobilellm.errors import MobileLLMError

# Newer Meta models that share the name but not the architecture, by how `architectures` or `model_type` begins.
_RELATIVES = {
    "mobilellmp1": "this is MobileLLM-Pro, another architecture; run it with transformers, as its model card shows",
    "llama4": "this looks like MobileLLM-R1, a Llama 4 text model; run it with `mlx_lm.generate`",
}

_MOST_INT = 2**31 - 1  # MLX counts the elements along an axis in 32 bits
_MOST_BLOCKS = 1000  # far more than any model has, and few enough to list the tensors of each


@dataclass(frozen=True)
class ModelConfig:
    """A MobileLLM's sizes and constants, under Hugging Face's names.

    ``num_hidden_layers`` counts the blocks that are stored. Each is executed ``layer_sharing_repeats`` times
    in a row (immediate block-wise weight sharing, arXiv 2402.14905; 1 means no sharing).
    ``share_embedding`` says that the input embedding is the output matrix too.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_sharing_repeats: int = 1
    share_embedding: bool = True
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    eos_token_ids: tuple[int, ...] = (2,)

    @property
    def executions(self) -> int:
        """How many blocks run for one token; each has keys and values of its own."""
        return self.num_hidden_layers * self.layer_sharing_repeats

    @property
    def attention_width(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.num_key_value_heads * self.head_dim

    def parameters(self) -> dict[str, int]:
        """Count the stored parameters by part. A shared embedding counts once, and so does a shared block."""
        attention = 2 * self.hidden_size * (self.attention_width + self.kv_width)
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        embedding = self.vocab_size * self.hidden_size
        return {
            "embedding": embedding,
            "output": 0 if self.share_embedding else embedding,
            "attention": self.num_hidden_layers * attention,
            "feed_forward": self.num_hidden_layers * feed_forward,
            "norms": (2 * self.num_hidden_layers + 1) * self.hidden_size,
        }

    def cache_bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes that one token's keys and values take, over all executions."""
        return 2 * self.executions * self.kv_width * bytes_per_value

    @classmethod
    def from_file(cls, path: Path) -> "ModelConfig":
        """Read a ``config.json``.

        Raises:
            MobileLLMError: The file cannot be read, or does not describe a model that this package runs.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MobileLLMError(
                f"{path.parent} has no {path.name}; expected the folder of a model, as published on the Hub"
            ) from None
        except OSError as error:
            raise MobileLLMError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise MobileLLMError(f"{path}: not JSON in UTF-8: {error}") from None
        if not isinstance(values, dict):
            raise MobileLLMError(f"{path}: expected a JSON object, found {type(values).__name__}")
        return cls.from_dict(values, source=str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config.json") -> "ModelConfig":
        """Read the keys of a published config: ``mobilellm`` or ``llama``, as transformers 4 or 5 wrote it.

        Raises:
            MobileLLMError: A key is missing, has a wrong type or value, or asks for something not supported.
        """
        read = _Keys(values, source)
        _check_architecture(read)
        hidden_size = read.positive_int("hidden_size")
        heads = read.positive_int("num_attention_heads")
        config = cls(
            vocab_size=read.positive_int("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=read.positive_int("intermediate_size"),
            num_hidden_layers=read.positive_int("num_hidden_layers", most=_MOST_BLOCKS),
            num_attention_heads=heads,
            num_key_value_heads=read.positive_int("num_key_value_heads", heads),
            head_dim=_head_dim(read, hidden_size, heads),
            layer_sharing_repeats=_repeats(read),
            share_embedding=read.boolean("share_embedding", read.boolean("tie_word_embeddings", False)),
            rms_norm_eps=read.positive_float("rms_norm_eps", 1e-5),
            rope_theta=_rope_theta(read),
            max_position_embeddings=read.positive_int("max_position_embeddings", 2048),
            eos_token_ids=_eos_token_ids(read),
        )
        if heads % config.num_key_value_heads:
            raise read.error("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
        return config

    def to_dict(self, dtype: str) -> dict[str, Any]:
        """The ``config.json`` of this model in the published ``mobilellm`` form; ``dtype`` as in "float16"."""
        return {
            "architectures": ["MobileLLMForCausalLM"],
            "model_type": "mobilellm",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "layer_sharing": self.layer_sharing_repeats > 1,
            "layer_sharing_repeats": self.layer_sharing_repeats,
            "share_embedding": self.share_embedding,
            "tie_word_embeddings": False,  # as published; share_embedding decides
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "max_position_embeddings": self.max_position_embeddings,
            "bos_token_id": 1,
            "eos_token_id": self.eos_token_ids[0] if len(self.eos_token_ids) == 1 else list(self.eos_token_ids),
            "torch_dtype": dtype,
        }


class _Keys:
    """Typed access to the keys of one config file; every error names the file, the key and what was found."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values = values
        self.source = source

    def get(self, key: str, default: Any = None) -> Any:
        """A key that is null counts as absent, as in transformers."""
        value = self.values.get(key)
        return default if value is None else value

    def error(self, key: str, expected: str) -> MobileLLMError:
        if key not in self.values:
            return MobileLLMError(f"{self.source}: {key} is missing, expected {expected}")
        return MobileLLMError(f"{self.source}: {key}: expected {expected}, found {_as_json(self.values[key])}")

    def positive_int(self, key: str, default: int | None = None, most: int = _MOST_INT) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.error(key, f"a whole number from 1 to {most}")
        return value

    def positive_float(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
            raise self.error(key, "a number between 0 and 1e30")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value


def _as_json(value: Any) -> str:
    """A value as its file shows it, shortened."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # not from JSON, or a number with thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_architecture(read: _Keys) -> None:
    names = [*_as_list(read.get("architectures")), read.get("model_type")]
    families = [name.lower().replace("_", "") for name in names if isinstance(name, str)]
    for beginning, advice in _RELATIVES.items():
        if any(family.startswith(beginning) for family in families):
            raise MobileLLMError(f"{read.source}: {advice}")
    if read.get("model_type") not in ("mobilellm", "llama"):
        raise read.error("model_type", '"mobilellm" or "llama" (this package runs MobileLLM models)')
    if read.get("hidden_act", "silu") not in ("silu", "swish"):
        raise read.error("hidden_act", '"silu"')
    for key in ("attention_bias", "mlp_bias"):
        if read.boolean(key, False):
            raise read.error(key, "false (MobileLLM has no biases)")
    for key in ("quantization", "quantization_config"):
        if read.get(key) is not None:
            raise MobileLLMError(
                f"{read.source}: {key}: the weights are quantised, which this version does not read;"
                " use the original fp32, fp16 or bf16 folder"
            )


def _head_dim(read: _Keys, hidden_size: int, heads: int) -> int:
    if read.get("head_dim") is None and hidden_size % heads:
        raise read.error("num_attention_heads", f"a divisor of hidden_size ({hidden_size})")
    head_dim = read.positive_int("head_dim", hidden_size // heads)
    if head_dim % 2:
        raise MobileLLMError(f"{read.source}: expected an even head width, for rotary embedding, found {head_dim}")
    return head_dim


def _repeats(read: _Keys) -> int:
    sharing = read.boolean("layer_sharing", False)
    repeats = read.positive_int("layer_sharing_repeats", 2 if sharing else 1, most=_MOST_BLOCKS)
    if sharing != (repeats > 1):
        expected = "2 or more, as layer_sharing is true" if sharing else "1, as layer_sharing is not true"
        raise read.error("layer_sharing_repeats", expected)
    return repeats


def _rope_theta(read: _Keys) -> float:
    """``rope_theta``: a key of its own (transformers 4), or inside ``rope_parameters`` (transformers 5)."""
    theta = read.positive_float("rope_theta", 10000.0)
    for key in ("rope_scaling", "rope_parameters"):
        rope = read.get(key, {})
        if not isinstance(rope, dict):
            raise read.error(key, "an object or null")
        # Whatever else stands there changes the positions in some way.
        if any(value not in (None, "default") for name, value in rope.items() if name != "rope_theta"):
            raise read.error(key, 'no scaling (null, or a rope_type of "default")')
        theta = _Keys(rope, f"{read.source}: {key}").positive_float("rope_theta", theta)
    return theta


def _eos_token_ids(read: _Keys) -> tuple[int, ...]:
    ids = _as_list(read.get("eos_token_id", 2))
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i <= _MOST_INT for i in ids):
        raise read.error("eos_token_id", "an id or a list of ids")
    return tuple(ids)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _published(blocks: int, dim: int, ffn: int, heads: int, kv_heads: int, repeats: int = 1) -> ModelConfig:
    return ModelConfig(32000, dim, ffn, blocks, heads, kv_heads, 64, repeats)


PRESETS: dict[str, ModelConfig] = {
    "125M": _published(30, 576, 1536, 9, 3),
    "125M-layer-share": _published(30, 576, 1536, 9, 3, repeats=2),
    "350M": _published(32, 960, 2560, 15, 5),
    "350M-layer-share": _published(32, 960, 2560, 15, 5, repeats=2),
    "600M": _published(40, 1152, 3072, 18, 6),
    "1B": _published(54, 1280, 3584, 20, 5),
    "1.5B": _published(54, 1600, 4352, 25, 5),
}
"""The published shapes: ``facebook/MobileLLM-<name>`` on the Hub.

The output matrix is the embedding in all of them; the files of 1.5B store it a second time, as ``lm_head``.
"""
