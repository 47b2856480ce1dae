"""Where a tensor lies in a file, whatever the file's format."""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx


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
