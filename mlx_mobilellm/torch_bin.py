"""Where the tensors of a ``pytorch_model.bin`` lie, found without torch and without unpickling.

``torch.save`` writes a zip of uncompressed entries: ``NAME/data.pkl``, a pickle that describes a dict of
tensors, and for each storage an entry ``NAME/data/KEY`` with the values that one or more tensors look into
(https://docs.pytorch.org/docs/stable/notes/serialization.html).

A pickle is a program for a small stack machine. Python's own machine is not safe on a hostile one even with
every global refused: a dozen bytes make it reserve gigabytes for its memo, or hash nested tuples for hours.
So `_Machine` below is ours. It knows the steps that a state dict is made of, it makes nothing but strings,
whole numbers, tuples, dicts and three inert records, and it imports and calls nothing.
"""

import io
import math
import pickle  # for the names of its opcodes: nothing here is unpickled
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import mlx.core as mx

from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.tensors import StoredTensor, quoted

# The zip's directory and data.pkl are read whole. The 1.5B model's take some 50 kB each.
_MOST_READ = 1 << 20
# Far more than any model has, and few enough that hostile shapes are checked in no time.
_MOST_DIMENSIONS = 64

_DOWNLOAD = "download it again"
_RESAVE = "save it again in torch, as safetensors or with torch.save(model.state_dict(), ...)"
_DISTRUST = (
    "nothing was executed; ask its maker for safetensors, and do not load this file with torch unless you trust it"
)

# What people have under this name that is no zip, by how it starts.
_STARTS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the weights; run `git lfs pull`",
    b"<": f"is a web page, not the weights; {_DOWNLOAD} (is a login needed?)",
    b"\x80": f"is a bare pickle (torch before 1.6), which is never executed here; if you trust it, {_RESAVE}",
}

_DTYPES = {
    "torch.DoubleStorage": mx.float64,
    "torch.FloatStorage": mx.float32,
    "torch.HalfStorage": mx.float16,
    "torch.BFloat16Storage": mx.bfloat16,
    "torch.LongStorage": mx.int64,
    "torch.IntStorage": mx.int32,
    "torch.ShortStorage": mx.int16,
    "torch.CharStorage": mx.int8,
    "torch.ByteStorage": mx.uint8,
    "torch.BoolStorage": mx.bool_,
}
_GLOBALS = {
    *_DTYPES,
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}


class _RefusedError(Exception):
    """What is wrong with the file and what to do, in words that follow its path."""


@dataclass(frozen=True)
class _Entry:
    """A zip entry: where its bytes lie in the file, and their checksum (torch can leave it out, as 0)."""

    start: int
    size: int
    checksum: int


@dataclass(frozen=True)
class _Global:
    """A name that the pickle asks for. It stays a name: nothing is imported."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """``size`` values of ``dtype`` in the entry ``data/KEY``, as the pickle claims."""

    key: str
    dtype: mx.Dtype
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A view into a storage, as the pickle claims; ``offset`` and ``strides`` are in elements."""

    storage: _Storage
    offset: int
    shape: tuple[object, ...]
    strides: tuple[object, ...]


def read_torch_bin(path: Path) -> dict[str, StoredTensor]:
    """Find every tensor of the state dict that ``torch.save`` wrote to ``path``.

    The structure of the whole file is checked, its values are not read. Tensors may share a storage (ties,
    views). Each tensor lies inside its zip entry and has at most as many elements as its storage, so a small
    file never stands for a huge tensor.

    Raises:
        MobileLLMError: The file cannot be read, is damaged, or is anything but a plain state dict.
    """
    try:
        with _BoundedFile(path) as file:
            _check_start(file)
            with zipfile.ZipFile(file) as archive:
                folder = _find_folder(archive.namelist())
                entries = _find_entries(file, archive.infolist())
            state = _read_state_dict(file, entries, folder)
        return {name: _place(path, entries, f"{folder}data/", name, tensor) for name, tensor in state.items()}
    except _RefusedError as error:
        raise MobileLLMError(f"{path}: {error}") from None
    except OSError as error:
        raise MobileLLMError(f"{path}: cannot be read: {error.strerror}") from None
    except _ZIP_ERRORS as error:
        raise MobileLLMError(f"{path}: is cut short or damaged ({error}); {_DOWNLOAD}") from None


# --- The zip


# What zipfile and the code around it raise for damaged zips.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError, struct.error)


class _BoundedFile(io.FileIO):
    """A file that refuses long reads, because `zipfile` reads as much as the file tells it to."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MOST_READ:
            raise zipfile.BadZipFile(f"its zip directory claims to take {size} bytes")
        return super().read(size)


def _check_start(file: io.FileIO) -> None:
    start = file.read(256).lstrip()
    if not start:
        raise _RefusedError(f"is empty; {_DOWNLOAD}")
    for prefix, fault in _STARTS.items():
        if start.startswith(prefix):
            raise _RefusedError(fault)


def _find_folder(names: list[str]) -> str:
    """The folder, ending in a slash, that holds ``data.pkl`` and the storages; the writer chose its name."""
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _RefusedError(f"holds {len(pickles)} zip entries */data.pkl, where torch.save writes one; {_DOWNLOAD}")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise _RefusedError(f"is a TorchScript program, not a state dict; {_RESAVE}")
    return folder


def _find_entries(file: io.FileIO, infos: list[zipfile.ZipInfo]) -> dict[str, _Entry]:
    """All entries by name; they neither overlap nor leave the file."""
    entries: dict[str, _Entry] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.filename in entries:
            raise _RefusedError(f"has two zip entries {quoted(info.filename)}; {_DOWNLOAD}")
        if info.header_offset < end:
            raise _RefusedError(f"has a zip entry {quoted(info.filename)} that overlaps another; {_DOWNLOAD}")
        entry = _Entry(_find_data(file, info), info.file_size, info.CRC)
        end = entry.start + entry.size
        entries[info.filename] = entry
    if end > file.seek(0, io.SEEK_END):
        raise _RefusedError(f"has a zip entry that ends past the end of the file; {_DOWNLOAD}")
    return entries


# Signature, flags, compression method, name length, extra length.
_LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")
_ENCRYPTED = 0x1  # a flag


def _find_data(file: io.FileIO, info: zipfile.ZipInfo) -> int:
    """Where the entry's bytes start: after its local header, whose padding the directory does not know."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    signature, flags, method, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    name = file.read(name_length).decode()
    if (signature, name) != (b"PK\x03\x04", info.filename):
        raise _RefusedError(f"has no zip entry {quoted(info.filename)} where its directory says; {_DOWNLOAD}")
    encrypted = (flags | info.flag_bits) & _ENCRYPTED
    stored = method == info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if encrypted or not stored:
        raise _RefusedError(
            f"has a compressed or encrypted zip entry {quoted(info.filename)}, which torch never writes; {_DOWNLOAD}"
        )
    return info.header_offset + len(header) + int(name_length) + int(extra_length)


def _read_entry(file: io.FileIO, entries: dict[str, _Entry], name: str) -> bytes:
    entry = entries[name]
    if entry.size > _MOST_READ:
        raise _RefusedError(
            f"has {entry.size} bytes in zip entry {quoted(name)}, "
            f"where a state dict needs at most {_MOST_READ}; {_RESAVE}"
        )
    file.seek(entry.start)
    content = file.read(entry.size)
    if entry.checksum not in (0, zlib.crc32(content)):
        raise _RefusedError(f"is damaged in zip entry {quoted(name)} (wrong checksum); {_DOWNLOAD}")
    return content


# --- The pickle


def _read_state_dict(file: io.FileIO, entries: dict[str, _Entry], folder: str) -> dict[str, _Tensor]:
    """What ``data.pkl`` says of the tensors, not yet held against the file."""
    order = f"{folder}byteorder"  # written since torch 2.1
    if order in entries and _read_entry(file, entries, order) != b"little":
        raise _RefusedError(f"does not have its values in little-endian order; {_RESAVE}")
    found = _Machine(_read_entry(file, entries, f"{folder}data.pkl")).run()
    if not isinstance(found, dict):
        raise _RefusedError(f"holds a {_kind(found)}, not a state dict; {_RESAVE}")
    for name, value in found.items():
        if not isinstance(value, _Tensor):
            raise _RefusedError(
                f"holds a {_kind(value)} under {quoted(name)}, where a state dict has tensors only; {_RESAVE}"
            )
    return found


class _Machine:
    """The stack machine that pickles are written for, without the steps that a state dict does not need."""

    def __init__(self, program: bytes) -> None:
        self.program = program
        self.position = 0
        self.stack: list[object] = []
        self.outer: list[list[object]] = []  # the stacks below the open marks
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Run to the end and return what the program leaves on the stack."""
        try:
            while (opcode := self.take(1)) != pickle.STOP:
                if opcode not in _STEPS:
                    raise _RefusedError(
                        "holds something other than a plain dict of tensors "
                        f"(opcode {opcode!r} at byte {self.position - 1} of its data.pkl); {_DISTRUST}"
                    )
                _STEPS[opcode](self)
            return self.stack.pop()
        except (IndexError, KeyError, ValueError):
            raise _RefusedError(f"is damaged at byte {self.position} of its data.pkl; {_DOWNLOAD}") from None

    # Reading the program

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > len(self.program):
            raise ValueError("the program ends early")
        return self.program[start : self.position]

    def number(self, width: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def text(self, length: int) -> str:
        return self.take(length).decode()

    def line(self) -> str:
        text = self.text(self.program.index(b"\n", self.position) - self.position)
        self.take(1)
        return text

    # Working on the stack

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> Sequence[object]:
        if len(self.stack) < count:
            raise IndexError("the stack is too short")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> Sequence[object]:
        values, self.stack = self.stack, self.outer.pop()
        return values

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def fill(self, items: Sequence[object]) -> None:
        """Put keys and values, in turn, into the dict on top of the stack."""
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Strings only: another key could take for ever to hash.
            if not isinstance(target, dict) or not isinstance(key, str):
                raise _RefusedError(
                    f"holds a {_kind(target)} with a key of type {_kind(key)}, "
                    f"where a state dict has names only; {_RESAVE}"
                )
            if key in target:
                raise _RefusedError(f"names {quoted(key)} twice; {_RESAVE}")
            target[key] = value

    def build(self) -> None:
        """Drop what would become attributes: a state dict carries its modules' versions so."""
        (state,) = self.pop(1)
        if not (isinstance(state, dict) and isinstance(self.stack[-1], dict)):
            raise _RefusedError(f"sets attributes of a {_kind(self.stack[-1])}; {_DISTRUST}")

    # Naming and making

    def find_global(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _RefusedError(f"asks for a global without a name; {_DISTRUST}")
        found = f"{module}.{name}"
        if found not in _GLOBALS:
            raise _RefusedError(f"asks for {quoted(found)}, which no plain state dict needs; {_DISTRUST}")
        self.push(_Global(found))

    def find_storage(self) -> None:
        match self.pop(1)[0]:
            case "storage", _Global(name), str(key), str(), int(size) if name in _DTYPES:
                self.push(_Storage(key, _DTYPES[name], size))
            case _:
                raise _RefusedError(f"refers to something other than a storage of numbers; {_DISTRUST}")

    def reduce(self) -> None:
        """Stand in for a call: make our record of what it would have made."""
        match self.pop(2):
            case _Global("collections.OrderedDict"), ():
                self.push({})
            case (
                _Global("torch._utils._rebuild_tensor_v2"),
                (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()),
            ):
                self.push(_Tensor(storage, offset, shape, strides))
            case _Global("torch._utils._rebuild_parameter"), (_Tensor() as tensor, bool(), dict()):
                self.push(tensor)
            case function, _:
                called = function.name if isinstance(function, _Global) else f"a {_kind(function)}"
                raise _RefusedError(f"calls {called} as no plain state dict does; {_DISTRUST}")


# The language: every opcode that torch.save needs for a state dict, in pickle protocols 2 to 5.
_STEPS: dict[bytes, Callable[[_Machine], object]] = {
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number(4, signed=True)),
    pickle.BININT1: lambda m: m.push(m.number(1)),
    pickle.BININT2: lambda m: m.push(m.number(2)),
    pickle.LONG1: lambda m: m.push(m.number(m.number(1), signed=True)),
    pickle.BINUNICODE: lambda m: m.push(m.text(m.number(4))),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.text(m.number(1))),
    pickle.MARK: _Machine.mark,
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.push(tuple(m.pop(1))),
    pickle.TUPLE2: lambda m: m.push(tuple(m.pop(2))),
    pickle.TUPLE3: lambda m: m.push(tuple(m.pop(3))),
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_to_mark())),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.SETITEM: lambda m: m.fill(m.pop(2)),
    pickle.SETITEMS: lambda m: m.fill(m.pop_to_mark()),
    pickle.BINPUT: lambda m: m.remember(m.number(1)),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number(4)),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.BINGET: lambda m: m.push(m.memo[m.number(1)]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number(4)]),
    pickle.GLOBAL: lambda m: m.find_global(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.find_global(*m.pop(2)),
    pickle.BINPERSID: _Machine.find_storage,
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
}


# --- The tensors


def _place(path: Path, entries: dict[str, _Entry], data: str, name: str, tensor: _Tensor) -> StoredTensor:
    """Hold what the pickle says of a tensor against the file, whose storages lie in the folder ``data``."""
    storage, dtype, shape, strides = tensor.storage, tensor.storage.dtype, tensor.shape, tensor.strides
    entry_name = data + storage.key
    if entry_name not in entries:
        raise _RefusedError(f"lacks zip entry {quoted(entry_name)} for {quoted(name)}; {_DOWNLOAD}")
    entry = entries[entry_name]
    if entry.size != storage.size * dtype.size:
        raise _RefusedError(
            f"has {entry.size} bytes in zip entry {quoted(entry_name)}, "
            f"where {quoted(name)} needs {storage.size} values of {dtype.size} bytes; {_DOWNLOAD}"
        )
    if not (
        len(shape) == len(strides) <= _MOST_DIMENSIONS
        and _are_counts(shape, below=2**31)  # as MLX's sizes
        and _are_counts(strides, below=2**63)  # as MLX's strides
        and math.prod(shape) <= storage.size
        and 0 <= tensor.offset <= storage.size - _reach(shape, strides)
    ):
        raise _RefusedError(
            f"has a tensor {quoted(name)} that does not fit into its storage of {storage.size} values; {_RESAVE}"
        )
    return StoredTensor(path, entry.start + tensor.offset * dtype.size, dtype, shape, strides)


def _are_counts(values: tuple[object, ...], *, below: int) -> TypeGuard[tuple[int, ...]]:
    return all(type(value) is int and 0 <= value < below for value in values)


def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements lie between a view's first and its last, both counted."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _kind(value: object) -> str:
    return type(value).__name__.lstrip("_").lower()
