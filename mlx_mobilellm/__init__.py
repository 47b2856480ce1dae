"""Meta's MobileLLM language models, layer sharing included, on MLX.

>>> from mlx_mobilellm import load, generate
>>> model, tokenizer = load()                      # the demo model; or a folder, or a Hub id
>>> print(generate(model, tokenizer, "Once upon a time", max_tokens=50))
"""

# The command's package comes first: once imported it is never bound to the name `generate` again, which is the
# function from here on, in whatever order a program imports the two.
import mlx_mobilellm.generate  # noqa: F401  # isort: skip
from mlx_mobilellm.config import PRESETS, ModelConfig
from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.generation import GenerationOptions, Piece, Statistics, generate, stream_generate
from mlx_mobilellm.loading import load
from mlx_mobilellm.model import MobileLLM
from mlx_mobilellm.sampling import SamplingOptions
from mlx_mobilellm.tokenizer import Tokenizer

__all__ = [
    "PRESETS",
    "GenerationOptions",
    "MobileLLM",
    "MobileLLMError",
    "ModelConfig",
    "Piece",
    "SamplingOptions",
    "Statistics",
    "Tokenizer",
    "generate",
    "load",
    "stream_generate",
]
