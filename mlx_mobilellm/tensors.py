"""Where a tensor lies in a file, whatever the file's format, and how to read it from there."""

import math
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


def dtype_name(dtype: mx.Dtype) -> str:
    """A dtype as config files and messages write it: ``float16``."""
    return str(dtype).removeprefix("mlx.core.")


def quoted(name: str) -> str:
    """A name that a file gives, safe to print: on one line and short."""
    return repr(name[:100])


class TensorReader:
    """Reads tensors one after another through one buffer, as large as the largest of them.

    A plain read copies the file once and leaves nothing resident, where a mapping of the file would keep every
    page that was touched.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def read(self, tensor: StoredTensor) -> mx.array:
        """The tensor's values, (``shape``) in its stored dtype. They are read at once, though not yet evaluated.

        Raises:
            MobileLLMError: The file cannot be read, or ends early.
        """
        if 0 in tensor.shape:
            return mx.zeros(tensor.shape, tensor.dtype)
        count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        values = mx.array(self._fill(tensor, count)).view(tensor.dtype)  # type: ignore[arg-type]  # any buffer will do
        if tensor.strides == row_major(tensor.shape):
            return values.reshape(tensor.shape)
        return mx.contiguous(mx.as_strided(values, tensor.shape, tensor.strides, 0))

    def _fill(self, tensor: StoredTensor, count: int) -> memoryview:
        """The file's bytes behind the tensor's offset, (``count``, bytes of an element).

        One axis of bytes would be too long for MLX at 2 GiB.
        """
        size = count * tensor.dtype.size
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        _read_into(view, tensor.path, tensor.offset)
        return view.cast("B", (count, tensor.dtype.size))


def _read_into(view: memoryview, path: Path, offset: int) -> None:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while view:  # one call reads at most about 2 GiB
                count = file.readinto(view)
                if not count:
                    raise MobileLLMError(f"{path}: the file ends early; download it again")
                view = view[count:]
    except OSError as error:
        raise MobileLLMError(f"{path}: cannot be read: {error.strerror}") from None
