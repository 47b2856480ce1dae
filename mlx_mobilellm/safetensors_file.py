"""The header of a safetensors file, checked before anything is read from it.

``mx.load`` trusts the header; here every tensor's span is held against the file first.
Format: github.com/huggingface/safetensors, README, "Format".
"""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.tensors import StoredTensor, row_major

_MAX_HEADER = 100_000_000  # bytes, the format's own limit

_DTYPES = {
    "F64": mx.float64,
    "F32": mx.float32,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "I64": mx.int64,
    "I32": mx.int32,
    "I16": mx.int16,
    "I8": mx.int8,
    "U64": mx.uint64,
    "U32": mx.uint32,
    "U16": mx.uint16,
    "U8": mx.uint8,
    "BOOL": mx.bool_,
}


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Where each tensor of a safetensors file lies. Values are not read.

    Raises:
        MobileLLMError: The file cannot be read, is damaged, or holds a dtype that no MobileLLM has.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise _damaged(path, _why_not(path))
            header = json.loads(file.read(length))
    except OSError as error:
        raise MobileLLMError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}
    _check_spans(path, tensors, 8 + length, size)
    return tensors


def _tensor(path: Path, name: str, entry: Any, start: int) -> StoredTensor:
    try:
        dtype, shape = _DTYPES.get(entry["dtype"]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (begin, end, *shape))
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, f"tensor {name!r} has no proper header entry") from None
    if dtype is None:
        raise MobileLLMError(
            f"{path}: tensor {name!r}: expected float32, float16 or bfloat16, found {entry['dtype']!r}"
        )
    if not whole or end - begin != math.prod(shape) * dtype.size:
        raise _damaged(path, f"tensor {name!r}: shape {shape} and bytes {begin} to {end} do not match")
    return StoredTensor(path, start + begin, dtype, shape, row_major(shape))


def _check_spans(path: Path, tensors: dict[str, StoredTensor], start: int, size: int) -> None:
    """Tensors must follow each other without a gap, up to the end of the file."""
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, math.prod(item[1].shape))):
        if tensor.offset != end:
            raise _damaged(path, f"tensor {name!r} starts at byte {tensor.offset}, expected {end}")
        end += math.prod(tensor.shape) * tensor.dtype.size
    if end != size:
        raise _damaged(path, f"expected {end} bytes, found {size}")


def _damaged(path: Path, why: str) -> MobileLLMError:
    return MobileLLMError(f"{path}: not a whole safetensors file ({why}); download it again")


def _why_not(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            return "it is a Git LFS pointer: `git lfs pull` fetches the file"
    return "its header is cut off"
