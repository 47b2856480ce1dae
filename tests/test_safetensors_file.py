"""The header of a safetensors file: real files, every refusal, and damage of every kind."""

import json
import os
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.safetensors_file import read_safetensors
from mlx_mobilellm.tensors import StoredTensor, TensorReader

GOLDEN = Path(__file__).parent / "golden"


def pack(header: object, data: bytes = b"") -> bytes:
    """A safetensors file; ``header`` is a JSON value, or the bytes that stand in its place."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refusal(path: Path) -> str:
    """The message with which the file is refused: one line that begins with its path."""
    with pytest.raises(MobileLLMError) as caught:
        read_safetensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


# --- Whole files


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*/*.safetensors")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_a_real_file_is_read_as_mlx_reads_it(path: Path) -> None:
    expected = mx.load(str(path))
    assert isinstance(expected, dict)
    found = read_safetensors(path)
    assert found.keys() == expected.keys()
    reader = TensorReader()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert mx.array_equal(reader.read(found[name]), array), name


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint64",
        "uint32",
        "uint16",
        "uint8",
        "bool_",
    ],
)
def test_each_dtype_is_known(path: Path, dtype: str) -> None:
    array = mx.array([[0, 1, 1], [1, 0, 1]], getattr(mx, dtype))
    mx.save_safetensors(str(path), {"x": array}, metadata={"format": "mlx"})
    read = TensorReader().read(read_safetensors(path)["x"])
    assert read.dtype == array.dtype
    assert mx.array_equal(read, array)


def test_places_count_from_the_start_of_the_file(path: Path) -> None:
    header = {
        "__metadata__": {"a": "b"},
        "y": entry("F64", (3, 1), (8, 32)),
        "x": entry(),
        "none": entry("I8", (0, 5), (8, 8)),
    }
    path.write_bytes(pack(header, bytes(32)))
    start = path.stat().st_size - 32
    assert read_safetensors(path) == {
        "x": StoredTensor(path, start, mx.float32, (2,), (1,)),
        "y": StoredTensor(path, start + 8, mx.float64, (3, 1), (1, 1)),
        "none": StoredTensor(path, start + 8, mx.int8, (0, 5), (5, 1)),
    }


def test_a_file_may_hold_scalars_or_nothing(path: Path) -> None:
    path.write_bytes(pack({"x": entry(shape=(), offsets=(0, 4))}, b"\0\0\x80\x3f"))
    assert TensorReader().read(read_safetensors(path)["x"]).item() == 1
    path.write_bytes(pack({}))
    assert read_safetensors(path) == {}


# --- Files that are refused


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "its header claims 0 of 0 bytes"),
    "seven bytes": (b"\x02" + bytes(6), "its header claims 2 of 7 bytes"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "`git lfs pull`"),
    "web page": (b"<!DOCTYPE html><html></html>", "web page"),
    "zip": (b"PK\x03\x04" + bytes(60), "its header claims 67324752 of 64 bytes"),
    "no header": (pack(b""), "its header claims 0 of 8 bytes"),
    "long header": (pack(b"{}" + b" " * (1 << 20)), "its header claims 1048578 of 1048586 bytes"),
    "endless header": (b"\xff" * 8 + b"{}", "its header claims 18446744073709551615 of 10 bytes"),
    "no JSON": (pack(b"{]"), "its header is not JSON"),
    "not a number": (pack(b'{"x": 1' + b"0" * 5000 + b"}"), "its header is not JSON"),
    "deep": (pack(b"[" * 500_000), "its header is not JSON"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "its header is not JSON"),
    "UTF-16": (pack("{}".encode("utf-16")), "its header is not JSON"),
    "list": (pack([]), "its header is not a JSON object"),
}


@pytest.mark.parametrize(("content", "fault"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_no_safetensors_is_refused(path: Path, content: bytes, fault: str) -> None:
    path.write_bytes(content)
    assert fault in refusal(path)


HUGE = 10**4000

NO_ENTRY = "tensor 'x' has no proper header entry"
ENTRIES: dict[str, tuple[object, str]] = {
    "null": (None, NO_ENTRY),
    "number": (1, NO_ENTRY),
    "list": ([1, 2, 3], NO_ENTRY),
    "text": ("dtype", NO_ENTRY),
    "no dtype": ({"shape": [2], "data_offsets": [0, 8]}, NO_ENTRY),
    "no shape": ({"dtype": "F32", "data_offsets": [0, 8]}, NO_ENTRY),
    "no offsets": ({"dtype": "F32", "shape": [2]}, NO_ENTRY),
    "shape is a number": (entry(shape=2), NO_ENTRY),
    "shape of text": (entry(shape="2"), NO_ENTRY),
    "shape of floats": (entry(shape=[2.0]), NO_ENTRY),
    "shape of bools": (entry(shape=[True, 2]), NO_ENTRY),
    "negative shape": (entry(shape=[-1, -2]), NO_ENTRY),
    "too long for MLX": (entry(shape=[0, 2**31], offsets=[0, 0]), NO_ENTRY),
    "huge shape": (entry(shape=[HUGE, 0]), NO_ENTRY),
    "many axes": (entry(shape=[1] * 300_000), NO_ENTRY),
    "one offset": (entry(offsets=[8]), NO_ENTRY),
    "three offsets": (entry(offsets=[0, 4, 8]), NO_ENTRY),
    "offsets of floats": (entry(offsets=[0.0, 8.0]), NO_ENTRY),
    "offset of nothing": (entry(offsets=[None, 8]), NO_ENTRY),
    "negative offset": (entry(offsets=[-8, 0]), NO_ENTRY),
    "huge offsets": (entry(offsets=[HUGE, HUGE + 8]), NO_ENTRY),
    "dtype is a list": (entry(dtype=["F32"]), NO_ENTRY),
    "too few bytes": (entry(shape=[3]), "tensor 'x': float32 (3,) does not take 8 bytes"),
    "too many bytes": (entry(shape=[1]), "tensor 'x': float32 (1,) does not take 8 bytes"),
    "backwards": (entry(offsets=[8, 0]), "tensor 'x': float32 (2,) does not take -8 bytes"),
    "unknown dtype": (entry("F8_E4M3", [8]), "tensor 'x': expected float32, float16 or bfloat16, found 'F8_E4M3'"),
    "long dtype": (entry("F" * 1000), "found 'FFF"),
    "dtype is null": (entry(None), "found 'None'"),
    "starts late": (entry(shape=[1], offsets=[4, 8]), "tensor 'x' starts at byte"),
    "ends early": (entry(shape=[1], offsets=[0, 4]), "bytes, found"),
    "past the end": (entry(shape=[4], offsets=[0, 16]), "bytes, found"),
    "far past the end": (entry(offsets=[2**62, 2**62 + 8]), "tensor 'x' starts at byte"),
}


@pytest.mark.parametrize(("value", "fault"), ENTRIES.values(), ids=ENTRIES)
def test_an_entry_that_does_not_describe_bytes_of_the_file_is_refused(path: Path, value: object, fault: str) -> None:
    path.write_bytes(pack({"x": value}, bytes(8)))
    assert fault in refusal(path)


@pytest.mark.parametrize("second", [(0, 8), (4, 12), (9, 17), (16, 24)], ids=["same", "overlap", "gap", "long gap"])
def test_tensors_that_overlap_or_leave_a_gap_are_refused(path: Path, second: tuple[int, int]) -> None:
    path.write_bytes(pack({"x": entry(), "y": entry(offsets=second)}, bytes(second[1])))
    start = path.stat().st_size - second[1]
    assert f"starts at byte {start + second[0]}, expected {start + 8}" in refusal(path)


def test_a_name_cannot_write_to_the_terminal(path: Path) -> None:
    path.write_bytes(pack({"\n\x1b[2J" + "x" * 1000: None}))
    assert "tensor '\\n\\x1b[2Jxxx" in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(path: Path) -> None:
    assert refusal(path) == "cannot be read: No such file or directory"
    path.mkdir()
    assert refusal(path) == "cannot be read: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(path: Path) -> None:
    path.write_bytes(pack({}))
    path.chmod(0)
    assert refusal(path) == "cannot be read: Permission denied"


# --- Damage of every kind


WHOLE = pack(
    {
        "__metadata__": {"format": "pt"},
        "b": entry("F16", (2, 3), (8, 20)),
        "a": entry(),
        "c": entry("BF16", (), (20, 22)),
    },
    bytes(range(22)),
)
HEADER_END = len(WHOLE) - 22


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage") / "model.safetensors"


def check(path: Path) -> None:
    """Whatever the file: a clear error, or tensors that lie inside it."""
    try:
        found = read_safetensors(path)
    except MobileLLMError:
        assert refusal(path)
        return
    size = path.stat().st_size
    for tensor in found.values():
        array = TensorReader().read(tensor)
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
        assert 8 <= tensor.offset <= tensor.offset + array.nbytes <= size


def test_a_file_cut_short_anywhere_is_refused(scratch: Path) -> None:
    for length in range(len(WHOLE)):
        scratch.write_bytes(WHOLE[:length])
        assert "not a whole safetensors file" in refusal(scratch)
    scratch.write_bytes(WHOLE)
    assert read_safetensors(scratch).keys() == {"a", "b", "c"}


def test_a_header_with_any_bit_flipped_is_refused_or_read(scratch: Path) -> None:
    for place in range(HEADER_END):
        for bit in range(8):
            scratch.write_bytes(WHOLE[:place] + bytes([WHOLE[place] ^ 1 << bit]) + WHOLE[place + 1 :])
            check(scratch)


PIECES = [
    b"0",
    b"-1",
    b"8",
    b"22",
    b"9" * 30,
    b"[]",
    b"{}",
    b"null",
    b'"F32"',
    b'"I64"',
    b'"a"',
    b",",
    b"[[",
    b"1e3",
    b"NaN",
]
changes = st.lists(
    st.tuples(
        st.integers(0, HEADER_END),
        st.integers(0, 6),
        st.one_of(st.binary(max_size=4), st.sampled_from(PIECES)),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(changes, st.booleans())
def test_a_header_changed_anywhere_is_refused_or_read(
    scratch: Path, changes: list[tuple[int, int, bytes]], repair: bool
) -> None:
    header, data = WHOLE[8:HEADER_END], WHOLE[HEADER_END:]
    for start, length, new in changes:
        header = header[:start] + new + header[start + length :]
    scratch.write_bytes(pack(header, data) if repair else WHOLE[:8] + header + data)
    check(scratch)
