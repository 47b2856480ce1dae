"""Folders to weights and back: golden folders value by value, every check, fallbacks, indexes, memory."""

import io
import json
import logging
import pickle
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from conftest import GOLDEN_FOLDERS
from mlx_mobilellm.checkpoint import EMBEDDING, NORM, OUTPUT, find_tensors, read_weights, save_weights, tensor_shapes
from mlx_mobilellm.config import ModelConfig
from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.model import Weights
from mlx_mobilellm.torch_bin import read_torch_bin
from torch_bin_writer import write_torch_bin

GOLDEN = {folder.name: folder for folder in GOLDEN_FOLDERS}

TIED = ModelConfig(
    vocab_size=12,
    hidden_size=8,
    intermediate_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
)
UNTIED = replace(TIED, share_embedding=False)
SHARED = replace(TIED, layer_sharing_repeats=2)

Q, K, V = (f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv")
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"


def random_tensors(config: ModelConfig, dtype: mx.Dtype = mx.float32) -> dict[str, mx.array]:
    mx.random.seed(1)
    return {name: mx.random.normal(shape).astype(dtype) for name, shape in tensor_shapes(config).items()}


def write_config(folder: Path, config: ModelConfig = TIED) -> None:
    (folder / "config.json").write_text(json.dumps(config.to_dict("float32")))


def write_model(folder: Path, tensors: Mapping[str, mx.array], config: ModelConfig = TIED) -> None:
    write_config(folder, config)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tensors))


def write_shards(folder: Path, name: str, shards: Mapping[str, Mapping[str, mx.array]]) -> None:
    """Shards by name, and the index ``name`` that lists them."""
    for shard, tensors in shards.items():
        if shard.endswith(".bin"):
            write_torch_bin(folder / shard, tensors)
        else:
            mx.save_safetensors(str(folder / shard), dict(tensors))
    write_index(folder, name, {tensor: shard for shard, tensors in shards.items() for tensor in tensors})


def write_index(folder: Path, name: str, weight_map: object) -> None:
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refusal(folder: Path, dtype: mx.Dtype | None = mx.float32) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(MobileLLMError) as caught:
        read_weights(folder, dtype)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert message.isprintable()
    assert len(message) < len(str(folder)) + 400
    return message


def arrays(weights: Weights) -> dict[str, mx.array]:
    return dict(tree_flatten(weights))


# --- The golden folders, against readers that share no code with the package


class BinUnpickler(pickle.Unpickler):
    """Makes numpy arrays of a ``.bin`` that we trust."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        (self.folder,) = (name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl"))
        super().__init__(io.BytesIO(archive.read(f"{self.folder}data.pkl")))

    def persistent_load(self, pid: tuple[str, type, str, str, int]) -> np.ndarray:
        return np.frombuffer(self.archive.read(f"{self.folder}data/{pid[2]}"), pid[1])

    def find_class(self, _module: str, name: str) -> object:
        def rebuild(storage: np.ndarray, offset: int, shape: list[int], strides: list[int], *_: object) -> np.ndarray:
            in_bytes = [stride * storage.itemsize for stride in strides]
            return np.lib.stride_tricks.as_strided(storage[offset:], shape, in_bytes)

        known = {"HalfStorage": np.float16, "FloatStorage": np.float32, "OrderedDict": OrderedDict}
        return known.get(name, rebuild)


def golden_tensors(folder: Path) -> dict[str, np.ndarray]:
    if (folder / "pytorch_model.bin").exists():
        with zipfile.ZipFile(folder / "pytorch_model.bin") as archive:
            found = BinUnpickler(archive).load()
    else:
        found = {}
        for path in folder.glob("*.safetensors"):
            found |= mx.load(str(path))
    return {name: np.array(mx.array(tensor).astype(mx.float32)) for name, tensor in found.items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_folder_is_read_value_by_value(name: str) -> None:
    expected = golden_tensors(GOLDEN[name])
    config, weights = read_weights(GOLDEN[name], mx.float32)
    names = {"embed_tokens": [EMBEDDING], "norm": [NORM]}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}."
        q, k, v, o = (f"{layer}self_attn.{part}_proj.weight" for part in "qkvo")
        gate, up, down = (f"{layer}mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
        names |= {
            f"blocks.{index}.qkv_proj": [q, k, v],
            f"blocks.{index}.o_proj": [o],
            f"blocks.{index}.gate_up_proj": [gate, up],
            f"blocks.{index}.down_proj": [down],
            f"blocks.{index}.input_layernorm": [f"{layer}input_layernorm.weight"],
            f"blocks.{index}.post_attention_layernorm": [f"{layer}post_attention_layernorm.weight"],
        }
    if name == "untied":
        names["lm_head"] = [OUTPUT]
    found = arrays(weights)
    assert found.keys() == names.keys()
    for joined, parts in names.items():
        assert found[joined].dtype == mx.float32
        assert np.array_equal(np.array(found[joined]), np.concatenate([expected[part] for part in parts])), joined


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_folder_takes_the_memory_of_its_weights(name: str) -> None:
    before = mx.get_active_memory()
    _, weights = read_weights(GOLDEN[name], mx.float32)
    grown = mx.get_active_memory() - before
    sizes = [array.nbytes for array in arrays(weights).values()]
    pages = 16_384 * len(sizes)  # a GPU's allocator rounds up to pages
    assert sum(sizes) <= grown <= 1.05 * sum(sizes) + pages


@pytest.mark.parametrize(("config", "folder"), [(TIED, "plain"), (UNTIED, "untied"), (SHARED, "layer-share")])
def test_tensors_are_named_as_in_published_files(config: ModelConfig, folder: str) -> None:
    config = replace(config, num_hidden_layers=len(read_weights(GOLDEN[folder])[1]["blocks"]))
    assert tensor_shapes(config).keys() == golden_tensors(GOLDEN[folder]).keys()


# --- One matrix or two


@pytest.mark.parametrize("share_embedding", [True, False])
@pytest.mark.parametrize("stored", ["none", "equal", "different"])
def test_a_stored_output_matrix_ties_when_it_equals_the_embedding(
    tmp_path: Path, share_embedding: bool, stored: str
) -> None:
    tensors = random_tensors(UNTIED)
    if stored == "equal":
        tensors[OUTPUT] = tensors[EMBEDDING] + 0
    if stored == "none":
        del tensors[OUTPUT]
    write_model(tmp_path, tensors, replace(TIED, share_embedding=share_embedding))
    match share_embedding, stored:
        case True, "different":
            assert refusal(tmp_path).startswith(
                f"{tmp_path / 'model.safetensors'}: lm_head.weight differs from model.embed_tokens.weight"
            )
        case False, "none":
            message = refusal(tmp_path)
            assert "expected tensor lm_head.weight of shape (12, 8), found none" in message
            assert "set share_embedding to true" in message
        case False, "different":
            config, weights = read_weights(tmp_path, mx.float32)
            assert not config.share_embedding
            assert mx.array_equal(weights["lm_head"], tensors[OUTPUT])
        case _:
            config, weights = read_weights(tmp_path, mx.float32)
            assert config.share_embedding
            assert "lm_head" not in weights


def test_an_output_matrix_that_differs_in_one_value_is_another_matrix(tmp_path: Path) -> None:
    tensors = random_tensors(UNTIED)
    tensors[OUTPUT] = tensors[EMBEDDING] + 0
    tensors[OUTPUT][11, 7] += 0.25
    write_model(tmp_path, tensors, UNTIED)
    config, weights = read_weights(tmp_path, mx.float32)
    assert not config.share_embedding
    assert mx.array_equal(weights["lm_head"], tensors[OUTPUT])


# --- Every tensor is checked


@pytest.mark.parametrize("name", tensor_shapes(UNTIED))
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    tensors = random_tensors(UNTIED)
    del tensors[name]
    write_model(tmp_path, tensors, UNTIED)
    assert f"expected tensor {name}" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias", "a\nb\x1b"])
def test_an_unexpected_tensor_is_named(tmp_path: Path, name: str) -> None:
    write_model(tmp_path, random_tensors(TIED) | {name: mx.zeros(3)})
    assert refusal(tmp_path).startswith(f"{tmp_path / 'model.safetensors'}: unexpected tensor {name!r}")


@pytest.mark.parametrize("name", [*tensor_shapes(TIED), OUTPUT])
def test_a_wrong_shape_is_named(tmp_path: Path, name: str) -> None:
    tensors = random_tensors(UNTIED)
    shape = tensors[name].shape
    tensors[name] = mx.zeros((*shape, 1))
    write_model(tmp_path, tensors)
    assert refusal(tmp_path) == (
        f"{tmp_path / 'model.safetensors'}: {name}: expected shape {shape}, found {(*shape, 1)}"
    )


@pytest.mark.parametrize("dtype", [mx.int32, mx.uint8, mx.bool_], ids=str)
def test_numbers_that_are_not_floats_are_named(tmp_path: Path, dtype: mx.Dtype) -> None:
    tensors = random_tensors(TIED)
    tensors[V] = tensors[V].astype(dtype)
    write_model(tmp_path, tensors)
    found = str(dtype).removeprefix("mlx.core.")
    assert f"model.safetensors: {V}: expected float32, float16 or bfloat16, found {found}" in refusal(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [EMBEDDING, Q, K, V, "model.layers.0.post_attention_layernorm.weight", NORM, OUTPUT])
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, name: str, value: float) -> None:
    tensors = random_tensors(UNTIED)
    flat = tensors[name].reshape(-1)
    flat[-1] = value
    tensors[name] = flat.reshape(tensors[name].shape)
    write_model(tmp_path, tensors, UNTIED)
    for dtype in ("float32", "float16", "bfloat16"):
        expected = f"model.safetensors: {name}: expected finite numbers, found infinity or NaN (as {dtype})"
        assert expected in refusal(tmp_path, getattr(mx, dtype))


def test_infinities_of_both_signs_do_not_cancel(tmp_path: Path) -> None:
    tensors = random_tensors(TIED)
    tensors[Q][0, 0], tensors[V][0, 0] = float("inf"), float("-inf")
    write_model(tmp_path, tensors)
    assert f"{Q}: expected finite numbers" in refusal(tmp_path)


def test_a_value_too_large_for_the_dtype_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(TIED)
    tensors[K][0, 0] = 1e6
    write_model(tmp_path, tensors)
    assert f"{K}: expected finite numbers, found infinity or NaN (as float16)" in refusal(tmp_path, mx.float16)
    for dtype in (mx.float32, mx.bfloat16):
        _, weights = read_weights(tmp_path, dtype)
        assert weights["blocks"][1]["qkv_proj"].max().item() == pytest.approx(1e6, rel=1 / 256)


@pytest.mark.parametrize(
    ("dtype", "large"), [(mx.float16, 6e4), (mx.float32, 3e38), (mx.bfloat16, 3e38)], ids=["fp16", "fp32", "bf16"]
)
def test_large_values_are_read_though_their_sum_overflows(tmp_path: Path, dtype: mx.Dtype, large: float) -> None:
    tensors = {name: mx.full(shape, large, dtype) for name, shape in tensor_shapes(TIED).items()}
    tensors[V] = -tensors[V]
    assert not mx.isfinite(tensors[Q].sum()).item()
    write_model(tmp_path, tensors)
    _, weights = read_weights(tmp_path, dtype)
    assert mx.array_equal(weights["blocks"][1]["qkv_proj"], mx.concatenate([tensors[Q], tensors[K], tensors[V]]))


def test_stale_rotary_buffers_are_ignored_whatever_they_hold(tmp_path: Path) -> None:
    tensors = random_tensors(TIED)
    write_model(tmp_path, tensors | {INV_FREQ: mx.array([float("nan"), 1])})
    assert find_tensors(tmp_path).keys() == tensors.keys()
    read_weights(tmp_path)
    write_model(tmp_path, tensors | {INV_FREQ: mx.zeros((3, 3), mx.int8)})
    read_weights(tmp_path)


# --- Damage


def test_a_header_changed_anywhere_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("damage")
    write_model(folder, random_tensors(TIED))
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.tuples(st.integers(0, end), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3))
    def change(changes: list[tuple[int, int, bytes]]) -> None:
        content = whole
        for start, length, new in changes:
            content = content[:start] + new + content[start + length :]
        path.write_bytes(content)
        try:
            _, weights = read_weights(folder, mx.float32)
        except MobileLLMError:
            assert refusal(folder)
        else:
            assert len(arrays(weights)) == 14

    change()


def test_a_folder_for_a_file_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    assert refusal(tmp_path) == f"{tmp_path / 'model.safetensors'}: cannot be read: Is a directory"


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path)
    assert refusal(tmp_path).startswith(f"{tmp_path}: found neither model.safetensors nor pytorch_model.bin")


# --- safetensors that lack the embedding


@pytest.mark.parametrize("index", [False, True])
def test_safetensors_without_the_embedding_give_way_to_a_bin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, index: bool
) -> None:
    tensors = random_tensors(TIED)
    without = {name: tensor + 1 for name, tensor in tensors.items() if name != EMBEDDING}
    write_model(tmp_path, without)
    if index:
        (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
        write_index(tmp_path, "model.safetensors", {EMBEDDING: "model-1.safetensors"})
    write_torch_bin(tmp_path / "pytorch_model.bin", tensors)
    _, weights = read_weights(tmp_path, mx.float32)
    assert mx.array_equal(weights["embed_tokens"], tensors[EMBEDDING])
    assert mx.array_equal(weights["norm"], tensors[NORM])
    assert caplog.record_tuples == [
        (
            "mlx_mobilellm",
            logging.WARNING,
            f"{tmp_path}: model.safetensors lacks model.embed_tokens.weight; reading pytorch_model.bin instead",
        )
    ]


def test_without_a_bin_a_missing_embedding_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = random_tensors(TIED)
    del tensors[EMBEDDING]
    write_model(tmp_path, tensors)
    assert f"expected tensor {EMBEDDING}, found none in model.safetensors (" in refusal(tmp_path)
    write_torch_bin(tmp_path / "pytorch_model.bin", tensors)
    assert "found none in model.safetensors and pytorch_model.bin (" in refusal(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "found none in pytorch_model.bin (" in refusal(tmp_path)
    assert not caplog.records


def test_whole_safetensors_are_preferred_to_a_bin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = random_tensors(TIED)
    write_model(tmp_path, tensors)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    _, weights = read_weights(tmp_path, mx.float32)
    assert mx.array_equal(weights["norm"], tensors[NORM])
    assert not caplog.records


def test_damaged_safetensors_are_an_error_whatever_lies_beside_them(tmp_path: Path) -> None:
    write_model(tmp_path, random_tensors(TIED))
    write_torch_bin(tmp_path / "pytorch_model.bin", random_tensors(TIED))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(tmp_path).startswith(f"{path}: not a whole safetensors file")


# --- Shards


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_read_as_one(tmp_path: Path, suffix: str) -> None:
    tensors = random_tensors(TIED, mx.float16)
    write_config(tmp_path)
    name = {".safetensors": "model.safetensors", ".bin": "pytorch_model.bin"}[suffix]
    first = {part: tensors[part] for part in (Q, NORM)}
    rest = {part: tensors[part] for part in tensors.keys() - first.keys()}
    write_shards(tmp_path, name, {f"a-1{suffix}": first, f"a-2{suffix}": rest})
    _, weights = read_weights(tmp_path, mx.float16)
    assert mx.array_equal(weights["blocks"][1]["qkv_proj"], mx.concatenate([tensors[Q], tensors[K], tensors[V]]))
    assert mx.array_equal(weights["norm"], tensors[NORM])


def test_a_single_file_is_preferred_to_an_index(tmp_path: Path) -> None:
    write_model(tmp_path, random_tensors(TIED))
    (tmp_path / "model.safetensors.index.json").write_text("never opened")
    assert {tensor.path.name for tensor in find_tensors(tmp_path).values()} == {"model.safetensors"}


def test_a_tensor_in_two_shards_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(TIED)
    write_config(tmp_path)
    write_shards(tmp_path, "model.safetensors", {"a.safetensors": tensors, "b.safetensors": {K: tensors[K]}})
    message = f"{tmp_path / 'b.safetensors'}: expected each tensor once, found {K!r} also in a.safetensors"
    assert refusal(tmp_path) == message


def test_an_index_may_list_tensors_that_no_model_needs(tmp_path: Path) -> None:
    write_model(tmp_path, random_tensors(TIED))
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    write_index(tmp_path, "model.safetensors", {"nowhere": "a.safetensors"})
    assert len(arrays(read_weights(tmp_path)[1])) == 14


def test_a_tensor_that_an_index_lists_and_no_shard_holds_is_missing(tmp_path: Path) -> None:
    tensors = random_tensors(TIED)
    del tensors[K]
    write_config(tmp_path)
    write_shards(tmp_path, "model.safetensors", {"a.safetensors": tensors})
    write_index(tmp_path, "model.safetensors", dict.fromkeys([*tensors, K], "a.safetensors"))
    assert f"expected tensor {K} of shape (4, 8), found none" in refusal(tmp_path)


@pytest.mark.parametrize(
    "form", ["../{}", "{}/../{}", "./{}", "sub/{}", "sub\\{}", "/etc/{}", "{}/", "\n{}", "{}\0", "é{}"]
)
def test_an_index_that_names_no_file_beside_it_is_refused(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    shard = "a.safetensors"
    for place in (tmp_path, folder, folder / "sub"):
        mx.save_safetensors(str(place / shard), random_tensors(TIED))
    write_config(folder)
    write_index(folder, "model.safetensors", {EMBEDDING: form.replace("{}", shard)})
    assert "model.safetensors.index.json: expected names of files beside it, found" in refusal(folder)
    write_index(folder, "model.safetensors", {EMBEDDING: shard})
    read_weights(folder)


@pytest.mark.parametrize(
    "shard", ["..", "", ".", "~", "a.bin", "config.json", "x" * 300 + ".safetensors", 3, None, True, 1.5], ids=repr
)
def test_an_index_that_names_something_else_is_refused(tmp_path: Path, shard: object) -> None:
    write_config(tmp_path)
    write_index(tmp_path, "model.safetensors", {EMBEDDING: shard})
    assert "expected names of files beside it, found" in refusal(tmp_path)


def test_a_shard_that_is_a_link_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"  # the Hub's cache is built so
    folder.mkdir()
    write_config(folder)
    mx.save_safetensors(str(tmp_path / "blob.safetensors"), random_tensors(TIED))
    (folder / "a.safetensors").symlink_to("../blob.safetensors")
    write_index(folder, "model.safetensors", {EMBEDDING: "a.safetensors"})
    read_weights(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_config(tmp_path)
    write_index(tmp_path, "model.safetensors", {EMBEDDING: "model-00001-of-00002.safetensors"})
    assert refusal(tmp_path) == (
        f"{tmp_path / 'model.safetensors.index.json'}: expected model-00001-of-00002.safetensors beside it,"
        " found no such file; download it too"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"3",
        b"[]",
        b"{}",
        b'{"weight_map": null}',
        b'{"weight_map": []}',
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": ["b.safetensors"]}}',
        b'{"weight_map": {"a": 3, "b": "c.safetensors"}}',
        b'{"weight_map": ' + b"[" * 100_000,
    ],
    ids=lambda content: content[:30],
)
def test_an_index_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    write_config(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    assert "model.safetensors.index.json: expected JSON with a weight_map" in refusal(tmp_path)


def test_an_index_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "model.safetensors.index.json").mkdir()
    assert refusal(tmp_path).endswith("model.safetensors.index.json: cannot be read: Is a directory")


# --- What comes back


@pytest.mark.parametrize("stored", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_weights_come_in_the_dtype_asked_for(tmp_path: Path, stored: mx.Dtype, dtype: mx.Dtype) -> None:
    tensors = random_tensors(TIED, stored)
    write_model(tmp_path, tensors)
    _, weights = read_weights(tmp_path, dtype)
    assert {array.dtype for array in arrays(weights).values()} == {dtype}
    assert mx.array_equal(weights["embed_tokens"], tensors[EMBEDDING].astype(dtype))


@pytest.mark.parametrize(("device", "dtype"), [(mx.cpu, mx.float32), (mx.gpu, mx.bfloat16)], ids=["CPU", "GPU"])
def test_without_a_dtype_a_cpu_takes_float32_and_a_gpu_what_is_stored(
    monkeypatch: pytest.MonkeyPatch, device: mx.DeviceType, dtype: mx.Dtype
) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(device))
    _, weights = read_weights(GOLDEN["sharded-bf16"])
    assert {array.dtype for array in arrays(weights).values()} == {dtype}


def test_a_dtype_that_is_not_a_float_is_refused() -> None:
    with pytest.raises(MobileLLMError, match="dtype: expected float32, float16 or bfloat16, found int32"):
        read_weights(GOLDEN["plain"], mx.int32)


def in_a_thread(function: object) -> object:
    """What ``function`` returns when a new thread calls it."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()))  # type: ignore[operator]
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=str)
@pytest.mark.parametrize("name", ["untied", "layer-share-bin-fp16"])
def test_weights_may_be_used_in_another_thread_than_they_were_read_in(name: str, dtype: mx.Dtype) -> None:
    def sums(weights: Weights) -> dict[str, float]:
        return {part: (array * 2).astype(mx.float32).sum().item() for part, array in arrays(weights).items()}  # type: ignore[misc]

    _, here = read_weights(GOLDEN[name], dtype)
    there = in_a_thread(lambda: read_weights(GOLDEN[name], dtype)[1])
    assert in_a_thread(lambda: sums(here)) == sums(there) == sums(here)  # type: ignore[arg-type]


def test_a_shared_block_is_held_once() -> None:
    config, weights = read_weights(GOLDEN["layer-share"])
    assert (config.executions, len(weights["blocks"])) == (4, 2)
    assert sum(array.size for array in arrays(weights).values()) == sum(config.parameters().values())


def test_progress_counts_blocks(tmp_path: Path) -> None:
    config = replace(TIED, num_hidden_layers=3, layer_sharing_repeats=2)
    write_model(tmp_path, random_tensors(config), config)
    calls: list[tuple[int, int]] = []
    read_weights(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


# --- Saving


@pytest.mark.parametrize("config", [TIED, UNTIED, SHARED], ids=["base", "untied", "layer-shared"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_saved_weights_are_read_back_bit_for_bit(tmp_path: Path, config: ModelConfig, dtype: str) -> None:
    original, saved = tmp_path / "original", tmp_path / "saved"
    original.mkdir()
    saved.mkdir()
    tensors = random_tensors(config, getattr(mx, dtype))
    write_model(original, tensors, config)
    read_config, weights = read_weights(original, getattr(mx, dtype))
    assert read_config == config
    save_weights(saved, config, weights, getattr(mx, dtype))

    in_file = mx.load(str(saved / "model.safetensors"))
    assert isinstance(in_file, dict)
    assert in_file.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (in_file[name].dtype, in_file[name].shape) == (tensor.dtype, tensor.shape)
        assert mx.array_equal(in_file[name], tensor), name
    again_config, again = read_weights(saved, getattr(mx, dtype))
    assert again_config == config
    for (name, before), (_, after) in zip(tree_flatten(weights), tree_flatten(again), strict=True):
        assert mx.array_equal(before, after), name
    assert json.loads((saved / "config.json").read_text())["torch_dtype"] == dtype


def test_saved_weights_are_cast(tmp_path: Path) -> None:
    _, weights = read_weights(GOLDEN["plain"], mx.float32)
    save_weights(tmp_path, ModelConfig.from_file(GOLDEN["plain"] / "config.json"), weights, mx.float16)
    assert {tensor.dtype for tensor in find_tensors(tmp_path).values()} == {mx.float16}


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    config, weights = read_weights(GOLDEN["plain"])
    with pytest.raises(MobileLLMError) as caught:
        save_weights(tmp_path / "missing", config, weights, mx.float32)
    assert str(caught.value).startswith(f"{tmp_path / 'missing'}: cannot be written: ")
    assert str(caught.value).isprintable()


# --- The writer that these tests share with the benchmarks


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=str)
def test_the_writer_of_bins_writes_what_other_readers_read(tmp_path: Path, dtype: mx.Dtype) -> None:
    tensors = random_tensors(UNTIED, dtype)
    write_torch_bin(tmp_path / "pytorch_model.bin", tensors)
    assert read_torch_bin(tmp_path / "pytorch_model.bin").keys() == tensors.keys()
    for name, found in golden_tensors(tmp_path).items():
        assert np.array_equal(found, np.array(tensors[name].astype(mx.float32))), name
