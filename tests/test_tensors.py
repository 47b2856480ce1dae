"""Reading a tensor from where it lies in a file: forms, dtypes, views, short reads and files that change."""

import io
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.tensors import StoredTensor, TensorReader, dtype_name, quoted, row_major

FLOATS = np.arange(64, dtype=np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 float32 numbers from 0 up."""
    path = tmp_path_factory.mktemp("tensors") / "floats.bin"
    path.write_bytes(FLOATS.tobytes())
    return path


def stored(path: Path, shape: tuple[int, ...], offset: int = 0, dtype: mx.Dtype = mx.float32) -> StoredTensor:
    return StoredTensor(path, offset, dtype, shape, row_major(shape))


def error_of(tensor: StoredTensor) -> str:
    with pytest.raises(MobileLLMError) as caught:
        TensorReader().read(tensor)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool_"])
def test_values_are_read_in_their_stored_dtype(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0, 1, 3], [100, 7, 5]]).astype(dtype)
    path = tmp_path / "x"
    path.write_bytes(b"before" + values.tobytes() + b"behind")
    read = TensorReader().read(stored(path, (2, 3), 6, getattr(mx, dtype)))
    assert read.dtype == getattr(mx, dtype)
    assert np.array_equal(np.array(read), values)


def test_bfloat16_is_read_bit_for_bit(tmp_path: Path) -> None:
    values = mx.array([[1.5, -2.0], [3e38, 1e-40]], mx.bfloat16)
    path = tmp_path / "x"
    path.write_bytes(np.array(values.view(mx.uint16)).tobytes())
    read = TensorReader().read(stored(path, (2, 2), dtype=mx.bfloat16))
    assert read.dtype == mx.bfloat16
    assert np.array_equal(np.array(read.view(mx.uint16)), np.array(values.view(mx.uint16)))


axes = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), max_size=3)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 18), axes)
def test_a_view_is_read_as_numpy_reads_it(path: Path, offset: int, axes: list[tuple[int, int]]) -> None:
    shape, strides = tuple(size for size, _ in axes), tuple(stride for _, stride in axes)
    expected = np.lib.stride_tricks.as_strided(FLOATS[offset:], shape, tuple(4 * stride for stride in strides))
    read = TensorReader().read(StoredTensor(path, 4 * offset, mx.float32, shape, strides))
    assert read.shape == shape
    assert np.array_equal(np.array(read), expected)


def test_a_tensor_without_elements_needs_no_bytes() -> None:
    read = TensorReader().read(stored(Path("no such file"), (3, 0, 2), dtype=mx.float16))
    assert (read.shape, read.dtype) == ((3, 0, 2), mx.float16)


def test_a_tensor_outlives_the_next_reading(path: Path) -> None:
    reader = TensorReader()
    plain = reader.read(stored(path, (8,)))
    view = reader.read(StoredTensor(path, 0, mx.float32, (4, 2), (1, 4)))
    reader.read(stored(path, (16,), offset=128))
    assert plain.tolist() == list(range(8))
    assert view.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_tensors_of_one_storage_are_arrays_of_their_own(path: Path) -> None:
    reader = TensorReader()
    whole, row = reader.read(stored(path, (2, 4))), reader.read(stored(path, (4,), offset=16))
    row[0] = 99
    assert whole.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert row.tolist() == [99, 5, 6, 7]


def test_short_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trickle(io.FileIO):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            return super().readinto(buffer[:7])

    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Trickle(path))
    assert TensorReader().read(stored(path, (5, 4), offset=8)).tolist() == FLOATS[2:22].reshape(5, 4).tolist()


def test_a_file_that_shrank_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(FLOATS.tobytes())
    tensor = stored(path, (64,))
    assert TensorReader().read(tensor).size == 64
    path.write_bytes(FLOATS.tobytes()[:-1])
    assert error_of(tensor) == f"{path}: the file ends early; download it again"
    path.write_bytes(b"")
    assert error_of(tensor) == f"{path}: the file ends early; download it again"
    path.unlink()
    assert error_of(tensor) == f"{path}: cannot be read: No such file or directory"


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    assert error_of(stored(tmp_path, (1,))) == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("shape", "strides"), [((), ()), ((5,), (1,)), ((2, 3, 4), (12, 4, 1)), ((2, 0, 4), (0, 4, 1))]
)
def test_row_major_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    assert row_major(shape) == strides


def test_dtypes_are_named_as_in_config_files() -> None:
    assert [dtype_name(dtype) for dtype in (mx.float32, mx.bfloat16, mx.bool_)] == ["float32", "bfloat16", "bool"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "\ud800", "x" * 10_000, "'"])
def test_a_quoted_name_is_one_short_printable_line(name: str) -> None:
    assert quoted(name).isprintable()
    assert len(quoted(name)) <= 102
