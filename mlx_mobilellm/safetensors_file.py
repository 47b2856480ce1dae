"""Where the tensors of a safetensors file lie, by its header.

``mx.load`` trusts the header. Here it is read once, and every tensor's span is held against the file.
Format: github.com/huggingface/safetensors, README, "Format".
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.tensors import StoredTensor, dtype_name, quoted, row_major

_MOST_HEADER = 1 << 20  # bytes; the 1.5B model's takes some 60 kB
_MOST_DIMENSIONS = 8

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
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if not 2 <= length <= min(size - 8, _MOST_HEADER):
                raise _damaged(path, _why_no_header(prefix, size))
            header = json.loads(file.read(length).decode())
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


def _why_no_header(prefix: bytes, size: int) -> str:
    if prefix == b"version ":
        return "it is a Git LFS pointer: `git lfs pull` fetches the file"
    if prefix.startswith(b"<"):
        return "it is a web page; is a login needed?"
    return f"its header claims {int.from_bytes(prefix, 'little')} of {size} bytes"


def _tensor(path: Path, name: str, entry: Any, start: int) -> StoredTensor:
    try:
        dtype, shape = _DTYPES.get(entry["dtype"]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        proper = _are_counts(shape, below=2**31) and _are_counts((begin, end), below=2**63)
    except (KeyError, TypeError, ValueError):
        proper = False
    if not proper or len(shape) > _MOST_DIMENSIONS:
        raise _damaged(path, f"tensor {quoted(name)} has no proper header entry")
    if dtype is None:
        found = quoted(str(entry["dtype"]))
        raise MobileLLMError(f"{path}: tensor {quoted(name)}: expected float32, float16 or bfloat16, found {found}")
    if end - begin != math.prod(shape) * dtype.size:
        raise _damaged(path, f"tensor {quoted(name)}: {dtype_name(dtype)} {shape} does not take {end - begin} bytes")
    return StoredTensor(path, start + begin, dtype, shape, row_major(shape))


def _are_counts(values: tuple[Any, ...], below: int) -> bool:
    return all(type(value) is int and 0 <= value < below for value in values)


def _check_spans(path: Path, tensors: dict[str, StoredTensor], start: int, size: int) -> None:
    """Tensors must follow each other without a gap, up to the end of the file."""
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, math.prod(item[1].shape))):
        if tensor.offset != end:
            raise _damaged(path, f"tensor {quoted(name)} starts at byte {tensor.offset}, expected {end}")
        end += math.prod(tensor.shape) * tensor.dtype.size
    if end != size:
        raise _damaged(path, f"expected {end} bytes, found {size}")


def _damaged(path: Path, why: str) -> MobileLLMError:
    return MobileLLMError(f"{path}: not a whole safetensors file ({why}); download it again")
