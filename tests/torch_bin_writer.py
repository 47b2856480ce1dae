"""Writes a ``pytorch_model.bin`` as ``torch.save`` does, without torch: for tests and benchmarks."""

import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlx.core as mx

STORAGES = {mx.float32: "FloatStorage", mx.float16: "HalfStorage", mx.bfloat16: "BFloat16Storage"}


def write_torch_bin(path: Path, tensors: Mapping[str, mx.array]) -> None:
    """Write a state dict, each tensor contiguous in a storage of its own."""
    items = [_text(name) + _tensor(str(key), tensor) for key, (name, tensor) in enumerate(tensors.items())]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + b"".join(items) + b"u.")
        for key, tensor in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", memoryview(tensor.reshape(-1).view(mx.uint8)))  # type: ignore


# The pickle, in its own words: c names a global, ( … t is a tuple, Q a reference to a storage, R a call.


def _tensor(key: str, tensor: mx.array) -> bytes:
    strides = [1]
    for size in reversed(tensor.shape[1:]):
        strides.insert(0, strides[0] * size)
    kind = f"ctorch\n{STORAGES[tensor.dtype]}\n".encode()
    storage = b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _number(tensor.size) + b"tQ"
    view = _number(0) + _numbers(tensor.shape) + _numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"\x89ccollections\nOrderedDict\n)RtR"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _number(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _numbers(numbers: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"
