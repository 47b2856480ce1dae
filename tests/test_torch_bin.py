"""Finding the tensors of a ``pytorch_model.bin``: real files, every refusal, and files made to do harm.

The files are written here by Python's own pickler, with stand-ins for torch's names, so torch is not needed.
"""

import dataclasses
import datetime
import io
import itertools
import os
import pickle
import struct
import sys
import types
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.tensors import StoredTensor, TensorReader
from mlx_mobilellm.torch_bin import read_torch_bin

GOLDEN = Path(__file__).parent / "golden"

exhaustive = settings(max_examples=200, deadline=None, derandomize=True, database=None)


# --- Writing what torch.save writes


def stand_in(module: str, name: str) -> type:
    return type(name, (), {"__module__": module})


TORCH = types.ModuleType("torch")
UTILS = types.ModuleType("torch._utils")
STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat")
for _name in STORAGES:
    setattr(TORCH, f"{_name}Storage", stand_in("torch", f"{_name}Storage"))
for _name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"):
    setattr(UTILS, _name, stand_in("torch._utils", _name))


@dataclasses.dataclass
class Storage:
    """Raw values; `size` and `key` as the pickle claims them."""

    kind: str
    values: bytes
    size: object
    key: object = "0"


@dataclasses.dataclass
class Tensor:
    storage: Storage
    offset: object
    shape: object
    strides: object

    def __reduce__(self) -> tuple[object, ...]:
        hooks: OrderedDict[str, object] = OrderedDict()
        return UTILS._rebuild_tensor_v2, (self.storage, self.offset, self.shape, self.strides, False, hooks)


@dataclasses.dataclass
class Parameter:
    tensor: Tensor

    def __reduce__(self) -> tuple[object, ...]:
        return UTILS._rebuild_parameter, (self.tensor, True, OrderedDict())


class TorchPickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        if not isinstance(obj, Storage):
            return None
        return "storage", getattr(TORCH, f"{obj.kind}Storage"), obj.key, "cpu", obj.size


def pickled(state: object, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": TORCH, "torch._utils": UTILS}):
        TorchPickler(buffer, protocol).dump(state)
    return buffer.getvalue()


def write(path: Path, program: bytes, *storages: bytes, folder: str = "archive") -> Path:
    entries = {"data.pkl": program, "byteorder": b"little"}
    entries |= {f"data/{key}": values for key, values in enumerate(storages)}
    return write_zip(path, {f"{folder}/{name}": content for name, content in entries.items()})


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def floats(*values: float, key: str = "0") -> Storage:
    return Storage("Float", np.array(values, np.float32).tobytes(), len(values), key)


ZERO_TO_SEVEN = floats(*range(8))


def save(path: Path, state: object, *storages: Storage, protocol: int = 2, folder: str = "archive") -> Path:
    return write(path, pickled(state, protocol), *(storage.values for storage in storages), folder=folder)


def values(tensor: StoredTensor) -> object:
    return TensorReader().read(tensor).tolist()


def refusal(path: Path) -> str:
    """The message with which the file is refused: one line that begins with its path."""
    with pytest.raises(MobileLLMError) as caught:
        read_torch_bin(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


# --- Files that torch wrote


@pytest.mark.parametrize("folder", ["layer-share-bin-fp16", "broken-safetensors-good-bin"])
def test_a_real_file_is_read_as_its_safetensors_copy(folder: str) -> None:
    found = read_torch_bin(GOLDEN / folder / "pytorch_model.bin")
    copy = mx.load(str(GOLDEN / "broken-safetensors-good-bin" / "model.safetensors"))
    assert isinstance(copy, dict)
    missing = {"model.embed_tokens.weight", *(f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in (0, 1))}
    assert found.keys() - copy.keys() == missing
    assert copy.keys() <= found.keys()
    assert (found["model.embed_tokens.weight"].dtype, found["model.embed_tokens.weight"].shape) == (
        mx.float16,
        (256, 96),
    )
    assert {found[name].dtype for name in missing if "inv_freq" in name} == {mx.float32}
    reader = TensorReader()
    for name, expected in copy.items():
        tensor = reader.read(found[name])
        assert tensor.dtype == expected.dtype, name
        assert mx.array_equal(tensor, expected), name


# --- What a state dict may hold


@pytest.mark.parametrize(
    ("kind", "numpy_dtype", "dtype"),
    [
        ("Double", np.float64, mx.float64),
        ("Float", np.float32, mx.float32),
        ("Half", np.float16, mx.float16),
        ("Long", np.int64, mx.int64),
        ("Int", np.int32, mx.int32),
        ("Short", np.int16, mx.int16),
        ("Char", np.int8, mx.int8),
        ("Byte", np.uint8, mx.uint8),
        ("Bool", np.bool_, mx.bool_),
    ],
)
def test_each_storage_type_is_read_with_its_dtype(
    path: Path, kind: str, numpy_dtype: np.typing.DTypeLike, dtype: mx.Dtype
) -> None:
    array = np.array([[1, 0, 3], [4, 5, 6]], numpy_dtype)
    storage = Storage(kind, array.tobytes(), 6)
    tensor = read_torch_bin(save(path, {"x": Tensor(storage, 0, (2, 3), (3, 1))}, storage))["x"]
    assert (tensor.path, tensor.dtype, tensor.shape, tensor.strides) == (path, dtype, (2, 3), (3, 1))
    assert path.read_bytes()[tensor.offset :].startswith(array.tobytes())


def test_bfloat16_is_read_with_its_dtype(path: Path) -> None:
    upper_halves = np.array([1.5, -2.0, 3e38], np.float32).view(np.uint32) >> 16
    storage = Storage("BFloat16", upper_halves.astype(np.uint16).tobytes(), 3)
    tensor = read_torch_bin(save(path, {"x": Tensor(storage, 0, (3,), (1,))}, storage))["x"]
    assert tensor.dtype == mx.bfloat16
    assert values(tensor) == pytest.approx([1.5, -2.0, 3e38], rel=1 / 128)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (2, 4), (4, 1), [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (0, (4, 2), (1, 4), [[0, 4], [1, 5], [2, 6], [3, 7]]),
        (5, (3,), (1,), [5, 6, 7]),
        (1, (3,), (3,), [1, 4, 7]),
        (7, (), (), 7),
        (7, (1, 1), (1000, 10), [[7]]),
        (8, (0,), (1,), []),
        (0, (3, 0), (1, 1), [[], [], []]),
        (2, (2, 2), (1, 1), [[2, 3], [3, 4]]),
    ],
    ids=["whole", "transposed", "offset", "every third", "scalar", "one", "empty", "empty rows", "overlapping"],
)
def test_a_view_is_read_by_its_offset_and_strides(
    path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], expected: object
) -> None:
    save(path, {"x": Tensor(ZERO_TO_SEVEN, offset, shape, strides)}, ZERO_TO_SEVEN)
    assert values(read_torch_bin(path)["x"]) == expected


def test_tied_tensors_and_views_share_one_storage(path: Path) -> None:
    tied = Tensor(ZERO_TO_SEVEN, 0, (2, 4), (4, 1))
    state = {"embedding": tied, "output": tied, "row": Tensor(ZERO_TO_SEVEN, 4, (4,), (1,))}
    found = read_torch_bin(save(path, state, ZERO_TO_SEVEN))
    assert list(found) == ["embedding", "output", "row"]
    assert found["embedding"] == found["output"]
    assert values(found["row"]) == [4, 5, 6, 7]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_ordered_dict_of_parameters_with_metadata_is_a_state_dict(path: Path, protocol: int) -> None:
    many = [floats(i, i + 0.5, key=str(i)) for i in range(100)]  # enough for every form of memo index
    state = OrderedDict((f"layer.{s.key}", Parameter(Tensor(s, 0, (2,), (1,)))) for s in many)
    state._metadata = OrderedDict({"": {"version": 1}, "layer": {"version": 70_000}})  # type: ignore[attr-defined]
    found = read_torch_bin(save(path, state, *many, protocol=protocol))
    assert [values(tensor) for tensor in found.values()] == [[i, i + 0.5] for i in range(100)]
    assert list(found) == list(state)


@pytest.mark.parametrize("folder", ["archive", "pytorch_model", "a b", "模型"])
def test_the_folder_in_the_zip_may_have_any_name(path: Path, folder: str) -> None:
    save(path, {"x": Tensor(ZERO_TO_SEVEN, 0, (8,), (1,))}, ZERO_TO_SEVEN, folder=folder)
    assert values(read_torch_bin(path)["x"]) == list(range(8))


def test_a_file_over_four_gib_is_read(path: Path) -> None:
    state = {"x": Tensor(ZERO_TO_SEVEN, 0, (8,), (1,))}
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(state))
        archive.start_dir = file.seek(5 << 30)  # a hole, which takes no space on the disk
        archive.writestr("archive/data/0", ZERO_TO_SEVEN.values)
    tensor = read_torch_bin(path)["x"]
    assert tensor.offset > 5 << 30
    assert values(tensor) == list(range(8))


def test_a_file_without_checksums_is_read(path: Path) -> None:
    program = pickled({"x": Tensor(ZERO_TO_SEVEN, 0, (8,), (1,))})
    write(path, program, ZERO_TO_SEVEN.values)
    checksum = struct.pack("<I", zlib.crc32(program))
    assert path.read_bytes().count(checksum) == 2
    path.write_bytes(path.read_bytes().replace(checksum, bytes(4)))
    assert values(read_torch_bin(path)["x"]) == list(range(8))


# --- Files that are something else

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", "is empty; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (LEGACY, "save it again in torch"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", "is cut short or damaged (File is not a zip file)"),
        (b"PK\x03\x04 and no more", "is cut short or damaged"),
    ],
    ids=["empty", "lfs", "html", "legacy", "safetensors", "start of a zip"],
)
def test_a_file_of_another_kind_is_named(path: Path, content: bytes, advice: str) -> None:
    path.write_bytes(content)
    assert advice in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(path: Path) -> None:
    assert refusal(path) == "cannot be read: No such file or directory"
    assert refusal(path.parent) == "cannot be read: Is a directory"


def test_a_torchscript_program_is_named(path: Path) -> None:
    write_zip(path, {"m/data.pkl": b"}.", "m/constants.pkl": b").", "m/code/__torch__.py": b""})
    assert "TorchScript" in refusal(path)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_checkpoint_around_a_state_dict_is_refused_by_what_it_holds(path: Path, wrapper: str) -> None:
    save(path, {wrapper: {"x": Tensor(ZERO_TO_SEVEN, 0, (8,), (1,))}, "epoch": 3}, ZERO_TO_SEVEN)
    message = refusal(path)
    assert f"holds a dict under '{wrapper}'" in message
    assert "torch.save(model.state_dict(), ...)" in message


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        (Tensor(ZERO_TO_SEVEN, 0, (8,), (1,)), "holds a tensor, not a state dict"),
        (("a", 1), "holds a tuple, not"),
        (None, "holds a nonetype, not"),
        ({"x": True}, "holds a bool under 'x'"),
        ({"x": ZERO_TO_SEVEN}, "holds a storage under 'x'"),
        ({3: "a"}, "a key of type int"),
        ({"x": [1]}, "something other than a plain dict of tensors"),
        ({"x": 1.5}, "something other than a plain dict of tensors"),
        ({"x": b"1"}, "asks for '_codecs.encode'"),
        ({"x": datetime.date(2024, 6, 1)}, "asks for 'datetime.date'"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_dict_of_tensors_is_refused(path: Path, state: object, fault: str) -> None:
    assert fault in refusal(save(path, state, ZERO_TO_SEVEN))


# --- Tensors that do not lie in their storage


MISFITS: dict[str, tuple[object, object, object]] = {
    "one past the end": (1, (8,), (1,)),
    "empty past the end": (9, (0,), (1,)),
    "before the start": (-1, (2,), (1,)),
    "a size below zero": (0, (-1,), (1,)),
    "a last row cut short": (0, (2, 5), (4, 1)),
    "a stride as long as the storage": (0, (2,), (8,)),
    "backwards": (7, (2,), (-1,)),
    "fewer strides than sizes": (0, (2, 3), (3,)),
    "true for a size": (0, (True,), (1,)),
    "true for a stride": (0, (2,), (True,)),
    "a string for a size": (0, ("2",), (1,)),
    "a tuple for a size": (0, ((2,),), (1,)),
    "more elements than the storage": (0, (3, 4), (0, 0)),
    "an empty tensor too wide for MLX": (0, (0, 2**31), (1, 1)),
    "a stride too long for MLX": (0, (1,), (2**63,)),
    "a huge size": (0, (2**2000,), (0,)),
    "a huge offset": (2**2000, (1,), (1,)),
    "too many dimensions": (0, (1,) * 65, (1,) * 65),
}


@pytest.mark.parametrize(("offset", "shape", "strides"), MISFITS.values(), ids=MISFITS)
def test_a_tensor_that_does_not_fit_into_its_storage_is_refused(
    path: Path, offset: object, shape: object, strides: object
) -> None:
    save(path, {"x": Tensor(ZERO_TO_SEVEN, offset, shape, strides)}, ZERO_TO_SEVEN)
    assert "a tensor 'x' that does not fit into its storage of 8 values" in refusal(path)


@pytest.mark.parametrize(
    ("claim", "fault"),
    [
        ({"size": 7}, "has 32 bytes in zip entry 'archive/data/0', where 'x' needs 7 values of 4 bytes"),
        ({"size": -8}, "needs -8 values"),
        ({"size": -(2**40)}, "needs -1099511627776 values"),
        ({"size": 2**2000}, "values of 4 bytes"),
        ({"kind": "Half"}, "needs 8 values of 2 bytes"),
        ({"key": "1"}, "lacks zip entry 'archive/data/1' for 'x'"),
        ({"key": "../data.pkl"}, "lacks zip entry"),
        ({"size": "8"}, "something other than a storage"),
        ({"size": None}, "something other than a storage"),
        ({"key": 0}, "something other than a storage"),
        ({"kind": "ComplexFloat"}, "asks for 'torch.ComplexFloatStorage'"),
    ],
)
def test_a_storage_that_is_not_as_claimed_is_refused(path: Path, claim: dict[str, object], fault: str) -> None:
    storage = dataclasses.replace(ZERO_TO_SEVEN, **claim)  # type: ignore[arg-type]
    assert fault in refusal(save(path, {"x": Tensor(storage, 0, (1,), (1,))}, ZERO_TO_SEVEN))


small = st.integers(-1, 4)


@exhaustive
@given(st.integers(-1, 9), st.lists(st.tuples(small, small), max_size=3))
def test_a_tensor_is_accepted_exactly_when_its_elements_lie_in_its_storage(
    tmp_path_factory: pytest.TempPathFactory, offset: int, axes: list[tuple[int, int]]
) -> None:
    shape, strides = tuple(size for size, _ in axes), tuple(stride for _, stride in axes)
    path = tmp_path_factory.getbasetemp() / "exact.bin"
    save(path, {"x": Tensor(ZERO_TO_SEVEN, offset, shape, strides)}, ZERO_TO_SEVEN)
    indices = itertools.product(*(range(size) for size in shape))
    elements = [offset + sum(i * stride for i, stride in zip(index, strides, strict=True)) for index in indices]
    if (
        min((*shape, *strides, offset), default=0) < 0
        or offset > 8
        or len(elements) > 8
        or max(elements, default=0) > 7
    ):
        assert "does not fit" in refusal(path)
    else:
        assert np.array(values(read_torch_bin(path)["x"])).ravel().tolist() == elements


# --- Zips that torch does not write


def good_zip() -> dict[str, bytes]:
    program = pickled({"x": Tensor(ZERO_TO_SEVEN, 0, (8,), (1,))})
    return {"a/data.pkl": program, "a/byteorder": b"little", "a/data/0": ZERO_TO_SEVEN.values}


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ({"a/byteorder": b"big"}, "little-endian"),
        ({"b/data.pkl": b"}."}, "holds 2 zip entries */data.pkl"),
        ({"a/data.pkl": b"}." + bytes(1 << 20)}, "has 1048578 bytes in zip entry 'a/data.pkl'"),
        ({"a/byteorder": bytes(2 << 20)}, "has 2097152 bytes in zip entry 'a/byteorder'"),
        ({f"a/{i:060000}": b"" for i in range(20)}, "its zip directory claims to take 12"),
    ],
    ids=["big-endian", "two pickles", "long pickle", "long byteorder", "long directory"],
)
def test_a_zip_with_odd_entries_is_refused(path: Path, entries: dict[str, bytes], fault: str) -> None:
    assert fault in refusal(write_zip(path, good_zip() | entries))


def test_a_zip_without_a_state_dict_is_refused(path: Path) -> None:
    assert "holds 0 zip entries */data.pkl" in refusal(write_zip(path, {"data.pkl": b"}.", "a/b/data.pkl": b"}."}))


def test_a_compressed_entry_is_refused(path: Path) -> None:
    with zipfile.ZipFile(write_zip(path, good_zip()), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/1", bytes(1000))
    assert "compressed or encrypted zip entry 'a/data/1'" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(path: Path) -> None:
    with zipfile.ZipFile(write_zip(path, good_zip()), "a") as archive:
        archive.writestr("a/data/0", bytes(32))
    assert "two zip entries 'a/data/0'" in refusal(path)


def local_header(content: bytes, name: bytes) -> int:
    return content.index(name) - 30


def directory_entry(content: bytes, name: bytes) -> int:
    return content.rindex(name) - 46


PACKED = "compressed or encrypted zip entry 'a/data/0'"
HEADER_FAULTS: dict[str, tuple[Callable[[bytes, bytes], int], int, bytes, str]] = {
    "another name": (local_header, 30, b"b", "has no zip entry 'a/data/0' where its directory says"),
    "no header": (local_header, 0, b"PK\x05\x06", "has no zip entry 'a/data/0' where its directory says"),
    "compressed, says the entry": (local_header, 8, b"\x08\x00", PACKED),
    "compressed, says the directory": (directory_entry, 10, b"\x08\x00", PACKED),
    "compressed, say the sizes": (directory_entry, 20, b"\x1f", PACKED),
    "encrypted, says the entry": (local_header, 6, b"\x01\x00", PACKED),
    "encrypted, says the directory": (directory_entry, 8, b"\x01\x00", PACKED),
    "padded past the end": (local_header, 28, b"\xff\xff", "ends past the end of the file"),
    "long past the end": (directory_entry, 20, struct.pack("<II", 3000, 3000), "ends past the end of the file"),
    "starts past the end": (directory_entry, 42, struct.pack("<I", 10_000), "cut short or damaged"),
    "for a zip reader to come": (directory_entry, 6, b"\xff", "cut short or damaged"),
    "starts inside another": (directory_entry, 42, struct.pack("<I", 40), "overlaps another"),
}


@pytest.mark.parametrize(("find", "field", "change", "fault"), HEADER_FAULTS.values(), ids=HEADER_FAULTS)
def test_a_zip_whose_headers_disagree_is_refused(
    path: Path, find: Callable[[bytes, bytes], int], field: int, change: bytes, fault: str
) -> None:
    content = bytearray(write_zip(path, good_zip()).read_bytes())
    start = find(bytes(content), b"a/data/0") + field
    content[start : start + len(change)] = change
    path.write_bytes(content)
    assert fault in refusal(path)


def test_an_entry_that_starts_past_the_end_of_any_file_is_refused(path: Path) -> None:
    entry = zipfile.ZipInfo("a/data/1")
    entry.extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)  # where zip64 has an offset of 64 bits
    with zipfile.ZipFile(write_zip(path, good_zip()), "a") as archive:
        archive.writestr(entry, b"")
    content = bytearray(path.read_bytes())
    start = directory_entry(bytes(content), b"a/data/1") + 42
    content[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert "cut short or damaged" in refusal(path)


def test_entries_that_overlap_are_refused(path: Path) -> None:
    content = bytearray(write_zip(path, good_zip()).read_bytes())
    entry = directory_entry(bytes(content), b"a/byteorder")
    content[entry + 20 : entry + 28] = struct.pack("<II", 60, 60)
    path.write_bytes(content)
    assert "'a/data/0' that overlaps another" in refusal(path)


def test_a_damaged_pickle_is_found_by_its_checksum(path: Path) -> None:
    content = write_zip(path, good_zip()).read_bytes()
    path.write_bytes(content.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"))
    assert "wrong checksum" in refusal(path)


# --- Pickles made to do harm


class Touch:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.victim}'",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["top", "value", "key", "metadata"])
def test_a_pickle_that_runs_a_command_is_refused_unexecuted(path: Path, protocol: int, place: str) -> None:
    victim = path.parent / "victim"
    harm = Touch(victim)
    metadata: OrderedDict[str, object] = OrderedDict()
    metadata._metadata = harm  # type: ignore[attr-defined]
    state = {"top": harm, "value": {"x": harm}, "key": {harm: 1}, "metadata": metadata}[place]
    program = pickled(state, protocol)
    message = refusal(write(path, program))
    assert "nothing was executed" in message
    if protocol >= 2:  # older ones use opcodes that torch never does, and may be refused for those first
        assert f"asks for '{os.name}.system'" in message
    assert not victim.exists()
    pickle.loads(program)
    assert victim.exists(), "the pickle is not the threat that this test takes it for"


def short(text: bytes) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text


FLOAT_STORAGE = b"ctorch\nFloatStorage\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n"
# From one empty tuple, pairs of pairs, 64 deep: 2**64 leaves to hash, compare or print.
BUSHY_TUPLE = b")" + b"q\x00h\x00\x86" * 64
ONE_TENSOR = pickled(Tensor(ZERO_TO_SEVEN, 0, (8,), (1,)))[2:-1]


HOSTILE = {
    "eval": (b"cbuiltins\neval\n" + short(b"1") + b"\x85R.", "asks for 'builtins.eval'"),
    "old eval": (b"c__builtin__\neval\n.", "asks for '__builtin__.eval'"),
    "a path through an allowed name": (
        short(b"torch._utils") + short(b"_rebuild_tensor_v2.__globals__") + b"\x93.",
        "asks for 'torch._utils._rebuild_tensor_v2.__globals__'",
    ),
    "a global with control characters": (b"cos\x1b[2J\r\nx\n.", r"asks for 'os\x1b[2J\r.x'"),
    "a long global": (b"c" + b"x" * 10_000 + b"\ny\n.", "asks for '" + "x" * 100 + "'"),
    "a bushy tuple as a module": (BUSHY_TUPLE + short(b"x") + b"\x93.", "a global without a name"),
    "a call in one opcode": (b"(ios\nsystem\n.", "opcode b'i'"),
    "an object in one opcode": (b"(" + ORDERED_DICT + b"o.", "opcode b'o'"),
    "a new object": (ORDERED_DICT + b")\x81.", "opcode b'\\x81'"),
    "an extension": (b"\x82\x01.", "opcode b'\\x82'"),
    "an out-of-band buffer": (b"\x97.", "opcode b'\\x97'"),
    "a persistent id as text": (b"Pstorage\n.", "opcode b'P'"),
    "a frozen set": (b"(\x91.", "opcode b'\\x91'"),
    "calling a storage type": (FLOAT_STORAGE + b"K\x08\x85R.", "calls torch.FloatStorage"),
    "calling a string": (short(b"eval") + b")R.", "calls a str"),
    "calling a tensor": (ONE_TENSOR + b")R.", "calls a tensor"),
    "calling a bushy tuple": (BUSHY_TUPLE + b")R.", "calls a tuple"),
    "a dict with arguments": (ORDERED_DICT + b"}\x85R.", "calls collections.OrderedDict"),
    "a dict with no tuple of arguments": (ORDERED_DICT + b"NR.", "calls collections.OrderedDict"),
    "a tensor of nothing": (TENSOR + b")R.", "calls torch._utils._rebuild_tensor_v2"),
    "a tensor of bushy tuples": (
        TENSOR + b"(" + BUSHY_TUPLE + b"h\x00h\x00h\x00h\x00h\x00tR.",
        "calls torch._utils._rebuild_tensor_v2",
    ),
    "a parameter of a dict": (PARAMETER + b"(}\x88}tR.", "calls torch._utils._rebuild_parameter"),
    "attributes of a tensor": (ONE_TENSOR + b"}" + short(b"x") + b"Nsb.", "sets attributes of a tensor"),
    "attributes of a global": (ORDERED_DICT + b"}b.", "sets attributes of a global"),
    "slots of a dict": (b"}N}\x86b.", "sets attributes of a dict"),
    "a persistent id that is a string": (short(b"storage") + b"Q.", "something other than a storage"),
    "a persistent id of the wrong kind": (
        b"(" + short(b"module") + FLOAT_STORAGE + short(b"0") + short(b"cpu") + b"K\x08tQ.",
        "something other than a storage",
    ),
    "a persistent id with a string for a type": (
        b"(" + short(b"storage") + short(b"torch.FloatStorage") + short(b"0") + short(b"cpu") + b"K\x08tQ.",
        "something other than a storage",
    ),
    "a persistent id with a function for a type": (
        b"(" + short(b"storage") + TENSOR + short(b"0") + short(b"cpu") + b"K\x08tQ.",
        "something other than a storage",
    ),
    "a bushy tuple as a persistent id": (BUSHY_TUPLE + b"Q.", "something other than a storage"),
    "a bushy tuple as a key": (b"}" + BUSHY_TUPLE + b"Ns.", "a key of type tuple"),
    "a key twice": (b"}(" + short(b"x") + b"N" + short(b"x") + b"Nu.", "names 'x' twice"),
    "an item in a tuple": (b")" + short(b"x") + b"Ns.", "holds a tuple with a key"),
    "a dict in itself": (b"}q\x00" + short(b"x") + b"h\x00s.", "holds a dict under 'x'"),
    "deep tuples": (b")" + b"\x85" * 500_000 + b".", "holds a tuple, not a state dict"),
    "deep marks": (b"(" * 500_000 + b"t" * 500_000 + b".", "holds a tuple, not a state dict"),
    "a string of four gigabytes": (b"X\xff\xff\xff\xffabc.", "is damaged at byte"),
    "a number of two gigabytes": (b"\x8b\xff\xff\xff\x7f.", "opcode b'\\x8b'"),
    "bytes of eight exabytes": (b"\x8e" + b"\xff" * 7 + b"\x7f.", "opcode b'\\x8e'"),
    "a number as endless text": (b"I" + b"9" * 100_000 + b"\n.", "opcode b'I'"),
    "a string that is not UTF-8": (short(b"\xff") + b".", "is damaged at byte"),
    "a string of half a character": (short("\ud800".encode(errors="surrogatepass")) + b".", "is damaged at byte"),
    "no end": (b"}", "is damaged at byte"),
    "nothing": (b"", "is damaged at byte"),
    "no result": (b".", "is damaged at byte"),
    "a line without an end": (b"ctorch", "is damaged at byte"),
    "a memo never written": (b"h\x05.", "is damaged at byte"),
    "a memo of an empty stack": (b"q\x00.", "is damaged at byte"),
    "a tuple without a mark": (b"Nt.", "is damaged at byte"),
    "a pair of one": (b"N\x86.", "is damaged at byte"),
    "a key without a value": (b"}(" + short(b"x") + b"u.", "is damaged at byte"),
    "a dict below the mark": (b"}(R.", "is damaged at byte"),
}


@pytest.mark.parametrize(("program", "fault"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_is_refused(path: Path, program: bytes, fault: str) -> None:
    message = refusal(write(path, program, ZERO_TO_SEVEN.values))
    assert fault in message
    assert len(message) < 400


def test_a_huge_memo_index_takes_no_memory(path: Path) -> None:
    assert read_torch_bin(write(path, b"}r\xff\xff\xff\xffj\xff\xff\xff\xff.")) == {}


# --- Damage of every kind


def check(path: Path) -> None:
    """Whatever the file: a clear error, or tensors that can be read."""
    try:
        found = read_torch_bin(path)
    except MobileLLMError:
        assert refusal(path)
        return
    for tensor in found.values():
        size = (
            0
            if 0 in tensor.shape
            else 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        )
        assert 0 <= tensor.offset <= tensor.offset + size * tensor.dtype.size <= path.stat().st_size
        assert TensorReader().read(tensor).shape == tensor.shape


def sample() -> bytes:
    tied = Tensor(ZERO_TO_SEVEN, 0, (2, 4), (4, 1))
    state = OrderedDict(a=tied, b=Parameter(Tensor(ZERO_TO_SEVEN, 1, (2, 2), (1, 3))), c=tied)
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return pickled(state)


PROGRAM = sample()
PIECES = [
    *(bytes([opcode]) for opcode in range(256)),
    *(b"(", b")", b"}", b"R", b"Q", b"s", b"u", b"t", b"\x86", b"\x93", b"h\x00", b"q\x00", b"K\x01", b"b") * 8,
    *(short(b"0"), short(b"cpu"), short(b"storage"), FLOAT_STORAGE, TENSOR, PARAMETER, ORDERED_DICT, ONE_TENSOR) * 8,
    *(short(b"x") + ONE_TENSOR + b"s", short(b"y") + ONE_TENSOR + b"s", b"}") * 20,
]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage") / "pytorch_model.bin"


def damaged(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """`content` with some stretches replaced: (start, length, new bytes) each."""
    for start, length, new in changes:
        start %= len(content) + 1
        content = content[:start] + new + content[start + length :]
    return content


changes = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 4), st.one_of(st.binary(max_size=4), st.sampled_from(PIECES))),
    min_size=1,
    max_size=4,
)


@exhaustive
@given(st.integers(0, 10_000))
def test_a_file_cut_short_anywhere_is_refused(scratch: Path, length: int) -> None:
    content = write(scratch, PROGRAM, ZERO_TO_SEVEN.values).read_bytes()
    scratch.write_bytes(content[: length % len(content)])
    assert refusal(scratch)


@exhaustive
@given(changes)
def test_a_file_changed_anywhere_is_refused_or_read(scratch: Path, changes: list[tuple[int, int, bytes]]) -> None:
    content = write(scratch, PROGRAM, ZERO_TO_SEVEN.values).read_bytes()
    scratch.write_bytes(damaged(content, changes))
    check(scratch)


@exhaustive
@given(changes)
def test_a_pickle_changed_anywhere_is_refused_or_read(scratch: Path, changes: list[tuple[int, int, bytes]]) -> None:
    check(write(scratch, damaged(PROGRAM, changes), ZERO_TO_SEVEN.values))


@exhaustive
@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_a_pickle_of_random_steps_is_refused_or_read(scratch: Path, steps: list[bytes]) -> None:
    check(write(scratch, b"}" + b"".join(steps) + b".", ZERO_TO_SEVEN.values))
