"""Where a tensor lies in a file, whatever the file's format, and how to read it from there."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_mobilellm.errors import MobileLLMError


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint file: its place and form, without its values.

    ``offset`` is in bytes from the start of ``path``; ``strides`` are in elements. The reader of each format
    has checked that the span lies inside the file (inside its zip entry, for a ``.bin``).
    """

    path: Path
    offset: int
    dtype: mx.Dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


class TensorReader:
    """Reads tensors one after another through one buffer.

    A plain read copies the file once and leaves nothing resident, where a mapping of the file would keep every
    page that was touched.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def read(self, tensor: StoredTensor) -> mx.array:
        """The tensor's values, (``shape``) in its stored dtype, evaluated.

        Raises:
            MobileLLMError: The file cannot be read, or ends early.
        """
        if 0 in tensor.shape:
            return mx.zeros(tensor.shape, tensor.dtype)
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        size = (last + 1) * tensor.dtype.size
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        _read_into(view, tensor)
        flat = mx.array(view).view(tensor.dtype)  # type: ignore[arg-type]  # any buffer will do
        if tensor.strides == row_major(tensor.shape):
            values = flat.reshape(tensor.shape)
        else:
            values = mx.contiguous(mx.as_strided(flat, tensor.shape, tensor.strides, 0))
        mx.eval(values)
        return values


def _read_into(view: memoryview, tensor: StoredTensor) -> None:
    done = 0
    try:
        with tensor.path.open("rb", buffering=0) as file:
            while done < len(view):  # one call reads at most about 2 GiB
                count = os.preadv(file.fileno(), [view[done:]], tensor.offset + done)
                if count == 0:
                    raise MobileLLMError(f"{tensor.path}: the file ends early; download it again")
                done += count
    except OSError as error:
        raise MobileLLMError(f"{tensor.path}: cannot be read: {error.strerror}") from None
