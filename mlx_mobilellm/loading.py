"""A folder or a Hub id -> a model and its tokenizer. The only part that knows the Hub."""

import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from mlx_mobilellm.checkpoint import EMBEDDING, find_tensors, read_weights
from mlx_mobilellm.config import ModelConfig
from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.model import MobileLLM
from mlx_mobilellm.tokenizer import Tokenizer

DEMO = Path(__file__).parent / "demo"
"""The demo model's folder, inside the package."""


def load(
    model: str | Path | None = None,
    *,
    dtype: mx.Dtype | None = None,
    revision: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[MobileLLM, Tokenizer | None]:
    """Load a model, ready to generate from any thread.

    Args:
        model: A folder as published, or a Hub id such as ``facebook/MobileLLM-125M``, which is downloaded into the
            Hub's cache. None: the demo model inside the package.
        dtype: The dtype of weights and cache. None keeps the stored one on a GPU and takes float32 on a CPU.
        revision: A branch, tag or commit of a Hub repository.
        progress: Called while weights are read, with the blocks done and the blocks in all.

    Returns:
        The model, and its tokenizer; None where the folder has no ``tokenizer.model``.

    Raises:
        MobileLLMError: Says in one line what is wrong and what to do.
    """
    folder = find_model(model, revision)
    config, weights = read_weights(folder, dtype, progress)
    tokenizer = None
    if (folder / "tokenizer.model").exists():
        tokenizer = Tokenizer(folder / "tokenizer.model")
        if tokenizer.vocab_size > config.vocab_size:
            raise MobileLLMError(
                f"{folder}: tokenizer.model has {tokenizer.vocab_size} pieces, the model a vocabulary of"
                f" {config.vocab_size}; they do not belong together"
            )
    return MobileLLM(config, weights), tokenizer


def find_model(model: str | Path | None = None, revision: str | None = None) -> Path:
    """The folder of a model: a local one, the demo's, or the snapshot of a Hub id, downloaded if need be.

    Raises:
        MobileLLMError: There is no such folder or repository, or it cannot be had.
    """
    if model is None:
        return DEMO
    if Path(model).is_dir():
        return Path(model)
    if isinstance(model, Path) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model):
        raise MobileLLMError(f"{model}: no such folder (and no Hub id, which would look like facebook/MobileLLM-125M)")
    return _download_model(model, revision)


def _download_model(repo: str, revision: str | None) -> Path:
    """The config comes first, so that a model we cannot run costs no download; a .bin only where it is needed."""
    folder = _download(repo, revision, ["config.json", "tokenizer.model"])
    ModelConfig.from_file(folder / "config.json")
    commit = folder.name  # the files that follow are of the same commit
    _download(repo, commit, ["model*.safetensors", "model.safetensors.index.json"])
    if not _has_weights(folder):
        _download(repo, commit, ["pytorch_model*.bin", "pytorch_model.bin.index.json"])
    return folder


def _has_weights(folder: Path) -> bool:
    try:
        return EMBEDDING in find_tensors(folder)
    except MobileLLMError:
        return False


def _download(repo: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise MobileLLMError(
            f"{repo} is gated: open its page on the Hub, agree to its terms, then run `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise MobileLLMError(f"{repo} has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise MobileLLMError(
            f"{repo}: no such folder, and no such repository on the Hub (if it is private, run `hf auth login`)"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise MobileLLMError(
            f"{repo} is not in the Hub's cache, and the Hub cannot be reached; connect once without HF_HUB_OFFLINE"
        ) from None
    except Exception as error:  # of the HTTP library beneath, which is not the same in all versions
        raise MobileLLMError(f"{repo}: the download failed: {str(error).splitlines()[0]}; try again") from None
