"""A folder or a Hub id -> a model and its tokenizer. The only part that knows the Hub."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_mobilellm.checkpoint import EMBEDDING, read_weights
from mlx_mobilellm.config import ModelConfig
from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.model import MobileLLM
from mlx_mobilellm.safetensors_file import read_safetensors
from mlx_mobilellm.tokenizer import Tokenizer

DEMO = Path(__file__).parent / "demo"
"""The demo model's folder, inside the package."""

_NEITHER = "no such folder, and no Hub id, which would look like facebook/MobileLLM-125M"


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
    tokenizer = _read_tokenizer(folder)  # first: it is quick to read, and may be wrong
    config, weights = read_weights(folder, dtype, progress)
    return MobileLLM(config, weights), tokenizer


def _read_tokenizer(folder: Path) -> Tokenizer | None:
    path = folder / "tokenizer.model"
    if not path.exists():
        return None
    tokenizer = Tokenizer(path)
    vocabulary = ModelConfig.from_file(folder / "config.json").vocab_size
    if tokenizer.vocab_size > vocabulary:
        raise MobileLLMError(
            f"{folder}: tokenizer.model has {tokenizer.vocab_size} pieces, the model a vocabulary of {vocabulary};"
            " they do not belong together"
        )
    return tokenizer


def find_model(model: str | Path | None = None, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a model: a local one, the demo's, or the snapshot of a Hub id, downloaded if need be.

    Without ``weights``, of a Hub id only ``config.json`` and ``tokenizer.model`` are downloaded.

    Raises:
        MobileLLMError: There is no such folder or repository, or it cannot be had.
    """
    if model is None or os.path.isdir(model):  # noqa: PTH112 - Path.is_dir raises where this says no
        if revision is not None:
            raise MobileLLMError(
                f"{model or DEMO}: a folder has no revision {revision!r}; leave it out, or give a Hub id"
            )
        return DEMO if model is None else Path(model)
    if os.path.exists(model):  # noqa: PTH110
        raise MobileLLMError(f"{model}: this is a file; give the folder that holds config.json and the weights")
    if isinstance(model, Path) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model, re.ASCII):
        raise MobileLLMError(f"{str(model)!r}: {_NEITHER}")
    return _download_model(model, revision, weights)


def _download_model(repo: str, revision: str | None, weights: bool) -> Path:
    try:
        folder = _download_small_files(repo, revision)
        # Before the weights, so that a model we cannot run costs no download.
        ModelConfig.from_file(folder / "config.json")
        if weights:
            _download_weights(repo, folder)
        return folder
    except MobileLLMError:
        raise
    except Exception as error:  # also those of the HTTP library beneath, which changes with the Hub's client
        raise MobileLLMError(f"{repo}: {_explain(repo, revision, error)}") from None


def _download_weights(repo: str, folder: Path) -> None:
    """Complete a snapshot, of the same commit; a .bin only where it is needed."""
    from huggingface_hub import hf_hub_download

    listed = _list_files(repo, folder)
    for weights in ("model.safetensors", "pytorch_model.bin"):
        # One by one and in this thread: each has the Hub's own progress bar, and Ctrl-C ends it at once.
        files = [Path(hf_hub_download(repo, name, revision=folder.name)) for name in _files_of(weights, listed)]
        if any(file.suffix == ".safetensors" and EMBEDDING in read_safetensors(file) for file in files):
            break


def _download_small_files(repo: str, revision: str | None) -> Path:
    """The folder of a revision in the Hub's cache, with all that we read but the weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class NoBar(tqdm):
        """The Hub's client shows bars for a whole snapshot even if it is there, and leaves some of them open."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

    names = ["config.json", "tokenizer.model"]
    return Path(snapshot_download(repo, revision=revision, allow_patterns=names, tqdm_class=NoBar))


def _list_files(repo: str, folder: Path) -> list[str]:
    """The files of the repository at a commit, as the Hub told; else what is there."""
    from huggingface_hub import errors, get_cached_repo_tree

    try:
        return [file.path for file in get_cached_repo_tree(repo, revision=folder.name)]
    except errors.CachedRepoTreeNotFoundError:  # cached by another program, and the Hub cannot be reached now
        return [file.name for file in folder.iterdir()]


def _files_of(weights: str, names: list[str]) -> list[str]:
    """Of the names, the file of weights; where there is none, its shards and their index."""
    stem, suffix = weights.split(".")
    shards = re.compile(rf"{stem}-\d+-of-\d+\.{suffix}|{stem}\.{suffix}\.index\.json")
    return [weights] if weights in names else list(filter(shards.fullmatch, names))


def _explain(repo: str, revision: str | None, error: BaseException) -> str:
    """What went wrong with a download, and what to do."""
    from huggingface_hub import errors

    not_cached = isinstance(error, errors.LocalEntryNotFoundError)
    if not_cached and error.__cause__ is not None:  # why the Hub was not asked, or did not answer
        error = error.__cause__
    status, reason = 0, str(error).partition("\n")[0] or type(error).__name__
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        reason = f"{status} {error.response.reason_phrase}. {error.server_message or ''}"
    reason = " ".join(reason.split()).rstrip(".")
    page = f"https://huggingface.co/{repo}"
    match error:
        case errors.GatedRepoError() if status == 401:
            return f"this model is gated; agree to its terms at {page}, then run `hf auth login`"
        case errors.GatedRepoError():
            return f"this model is gated, and your token has no access yet; agree to its terms at {page}"
        case errors.RepositoryNotFoundError():
            return "no such folder, and no such repository on the Hub (if it is private, run `hf auth login`)"
        case errors.RevisionNotFoundError():
            return f"no revision {revision!r}; {page}/tree/main shows its branches and tags"
        case errors.HFValidationError():
            return _NEITHER
        case errors.OfflineModeIsEnabled():
            return "the Hub's cache does not hold all of it; unset HF_HUB_OFFLINE to download it"
        case errors.HfHubHTTPError() if status in (401, 403):
            return f"the Hub refuses access: {reason}; run `hf auth login` with a token that may read it"
        case errors.HfHubHTTPError():
            return f"the Hub answered: {reason}; try again later"
    if not_cached:
        return (
            f"the Hub's cache does not hold all of it, and the Hub cannot be reached: {reason}; connect and try again"
        )
    return f"the download failed: {reason}; try again"
