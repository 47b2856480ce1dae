"""The info command: facts that match the published numbers, the files and MLX; readable; never a traceback."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from conftest import GOLDEN_FOLDERS
from mlx_mobilellm import PRESETS, MobileLLMError, ModelConfig
from mlx_mobilellm.checkpoint import tensor_shapes
from mlx_mobilellm.info import ZERO_SHOT_AVERAGE, all_models, model_info, weight_bytes
from mlx_mobilellm.info.__main__ import main
from mlx_mobilellm.loading import DEMO

GOLDEN = {folder.name: folder for folder in GOLDEN_FOLDERS}
BASES = {"125M-layer-share": "125M", "350M-layer-share": "350M"}


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints when all is well: to stdout only."""
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def json_output(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(output(capsys, *arguments, "--json"))


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when something is wrong: one line on stderr, and exit code 2."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def folder_with_config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    values = json.loads((GOLDEN["plain"] / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**values, **changes}), encoding="utf-8")
    return folder


def test_the_numbers_of_a_layer_shared_model_are_right() -> None:
    info = model_info("125M-layer-share")
    assert info.executions == 60
    assert info.parameters == {
        "embedding": 32000 * 576,
        "output": 0,
        "attention": 30 * (576 * 576 * 2 + 576 * 192 * 2),
        "feed_forward": 30 * 3 * 576 * 1536,
        "norms": (30 * 2 + 1) * 576,
        "total": 124_635_456,
    }
    assert info.weight_bytes == {"at_16_bits": 249_270_912, "at_8_bits": 132_458_112, "at_4_bits": 70_157_952}
    assert info.cache_bytes == {"per_token": 46_080, "full_context": 94_371_840}
    assert info.saved_by_sharing == {"parameters": 106_202_880, "bytes_at_16_bits": 212_405_760}


def test_a_base_model_saves_nothing_and_has_half_the_cache() -> None:
    info = model_info("125M")
    assert set(info.saved_by_sharing.values()) == {0}
    assert info.cache_bytes == {"per_token": 23_040, "full_context": 47_185_920}


def test_three_runs_of_a_block_save_two_blocks(tmp_path: Path) -> None:
    info = model_info(folder_with_config(tmp_path, layer_sharing=True, layer_sharing_repeats=3))
    one_block = 2 * 96 * 96 + 2 * 96 * 32 + 3 * 96 * 128 + 2 * 96
    assert info.executions == 9
    assert info.saved_by_sharing["parameters"] == 3 * 2 * one_block


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("width", [64, 96])
def test_quantised_bytes_are_what_mlx_makes_of_the_matrices(bits: int, width: int) -> None:
    config = ModelConfig(50, width, 128, 2, 3, 1, 32, share_embedding=False)
    expected = 0
    for shape in tensor_shapes(config).values():
        matrix = mx.zeros(shape, mx.float16)
        quantisable = matrix.ndim == 2 and shape[-1] % 64 == 0
        arrays = mx.quantize(matrix, group_size=64, bits=bits) if quantisable else [matrix]
        expected += sum(array.nbytes for array in arrays)
    assert weight_bytes(config, bits) == expected


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("plain", "float32"),
        ("layer-share", "float32"),
        ("untied", "float32"),
        ("llama-named-tied-copy", "float32"),
        ("sharded-bf16", "bfloat16"),
    ],
)
def test_a_folder_is_described_as_its_files_are(name: str, dtype: str) -> None:
    info = model_info(GOLDEN[name])
    files = sorted(GOLDEN[name].glob("*.safetensors"))
    arrays = [array for file in files for array in mx.load(str(file)).values()]
    values = sum(array.size for array in arrays)
    assert info.stored is not None
    assert (info.name, info.folder) == (name, str(GOLDEN[name]))
    assert info.parameters["total"] == info.stored.parameters == values
    assert info.weight_bytes["at_16_bits"] == sum(array.nbytes for array in arrays) * 2 // arrays[0].dtype.size
    assert info.stored.files == [file.name for file in files]
    assert info.stored.size_bytes == sum(len(file.read_bytes()) for file in files)
    assert info.stored.dtypes == [dtype]


def test_a_bin_file_is_described_without_its_stale_buffers() -> None:
    info = model_info(GOLDEN["layer-share-bin-fp16"])
    assert info.stored is not None
    assert info.stored.files == ["pytorch_model.bin"]
    assert info.stored.dtypes == ["float16"]
    assert info.stored.parameters == info.parameters["total"] == 147_936


def test_a_broken_safetensors_file_is_passed_over_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        info = model_info(GOLDEN["broken-safetensors-good-bin"])
    assert "pytorch_model.bin" in caplog.text
    assert info.stored is not None
    assert info.stored.files == ["pytorch_model.bin"]


def test_the_values_of_weights_are_not_looked_at(tmp_path: Path) -> None:
    folder = folder_with_config(tmp_path)
    tensors = mx.load(str(GOLDEN["plain"] / "model.safetensors"))
    mx.save_safetensors(str(folder / "model.safetensors"), {name: mx.nan * a for name, a in tensors.items()})
    assert model_info(folder).stored is not None


def test_a_folder_needs_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_with_config(tmp_path, layer_sharing=True)
    assert model_info(folder).stored is None
    assert "3, each run 2 times in a row: 6 executions" in output(capsys, str(folder))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"\x00"),
        ("pytorch_model.bin", b"version https://git-lfs.github.com/spec/v1"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
    ],
)
def test_damaged_weights_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes
) -> None:
    folder = folder_with_config(tmp_path)
    (folder / file).write_bytes(content)
    assert file in error(capsys, str(folder))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("form", ["{}", "MobileLLM-{}", "facebook/MobileLLM-{}"])
def test_a_published_model_goes_by_its_names_in_any_case(preset: str, form: str) -> None:
    name = form.format(preset)
    assert model_info(name) == model_info(name.lower()) == model_info(name.upper())
    assert model_info(name).config == PRESETS[preset]


def test_a_local_folder_wins_over_a_published_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_with_config(tmp_path / "125M")
    folder_with_config(tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert model_info("125M").config.hidden_size == 96
    assert model_info("demo").terms.commercial_use is None
    assert {model.name: model.config for model in all_models() if model.name != "demo"} == PRESETS


def test_a_folder_is_named_by_its_last_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN["plain"])
    assert model_info(".").name == "plain"
    assert model_info("../untied/").name == "untied"


@pytest.mark.parametrize("model", ["nowhere", "x" * 5000, ""])
def test_a_name_that_is_neither_folder_nor_published_model_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = error(capsys, model)
    assert "no such folder" in message
    assert "125M-layer-share" in message


def test_a_file_or_an_impossible_id_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "this is a file" in error(capsys, str(Path(__file__)))
    assert "no such folder" in error(capsys, "no/such/folder")


def test_of_another_hub_id_only_the_config_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def find(model: str, *, weights: bool) -> Path:
        asked.append((model, weights))
        return folder_with_config(tmp_path)

    monkeypatch.setattr("mlx_mobilellm.info.find_model", find)
    info = model_info("someone/a-model")
    assert asked == [("someone/a-model", False)]
    assert (info.name, info.config.hidden_size, info.stored) == ("someone/a-model", 96, None)


@pytest.mark.parametrize("arguments", [["--nope"], ["125M", "350M"], ["125M", "--js"]])
def test_wrong_flags_are_an_error(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert "--help" in error(capsys, *arguments)


def test_a_folder_that_is_no_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "config.json" in error(capsys, str(tmp_path))
    assert "expected" in error(capsys, str(folder_with_config(tmp_path, num_attention_heads=5)))


@pytest.mark.parametrize("model", ["demo", str(DEMO)])
def test_the_demo_may_be_used_freely_and_is_not_gated(model: str) -> None:
    info = model_info(model)
    assert info.name == "demo"
    assert info.terms.licence.startswith("MIT")
    assert info.terms.commercial_use is True
    assert info.terms.gated == ""


def test_published_models_say_licence_and_gate(capsys: pytest.CaptureFixture[str]) -> None:
    for name in PRESETS:
        terms = json_output(capsys, name)["terms"]
        assert "Noncommercial" in terms["licence"]
        assert terms["commercial_use"] is False
        assert terms["gated"] == "name, birth date, organisation"
    assert "commercial use    not allowed" in output(capsys, "125M")


def test_the_terms_of_a_folder_are_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    terms = json_output(capsys, str(GOLDEN["plain"]))["terms"]
    assert terms == {"licence": "unknown: see where the weights came from", "commercial_use": None, "gated": None}


def test_json_keys_are_stable_and_numbers_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json_output(capsys, str(GOLDEN["layer-share"]))
    assert list(facts) == [
        "name",
        "folder",
        "config",
        "executions",
        "parameters",
        "weight_bytes",
        "cache_bytes",
        "saved_by_sharing",
        "zero_shot_average",
        "terms",
        "stored",
    ]
    assert facts["config"]["num_hidden_layers"] == 2
    assert facts["config"]["layer_sharing_repeats"] == 2
    assert facts["executions"] == 4
    assert facts["cache_bytes"] == {"per_token": 512, "full_context": 1_048_576}
    assert facts["stored"]["dtypes"] == ["float32"]


def test_the_json_list_holds_what_each_model_gives_alone(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json_output(capsys)
    assert [facts["name"] for facts in listed] == ["demo", *PRESETS]
    assert listed == [json_output(capsys, facts["name"]) for facts in listed]


def test_the_table_has_a_row_for_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in output(capsys).splitlines()[2:] if " x " in line}
    assert list(rows)[:8] == ["demo", *PRESETS]
    assert rows["125M-layer-share"] == ["124.6M", "30", "x", "2", "576", "249.3", "70.2", "94.4", "47.0"]
    assert rows["1.5B"] == ["1,511.2M", "54", "x", "1", "1,600", "3,022.4", "850.3", "141.6", "59.4"]
    assert rows["demo"][-1] == "-"


def test_without_the_demo_the_table_has_the_published_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlx_mobilellm.info.DEMO", tmp_path / "gone")
    assert [facts["name"] for facts in json_output(capsys)] == list(PRESETS)
    assert "demo" not in output(capsys)
    assert "config.json" in error(capsys, "demo")


def test_what_the_table_advises_follows_from_its_numbers() -> None:
    averages = list(ZERO_SHOT_AVERAGE.values())
    assert list(ZERO_SHOT_AVERAGE) == list(PRESETS)
    assert averages == sorted(averages), "bigger scores higher"
    for name, base in BASES.items():
        shared, twin = model_info(name), model_info(base)
        assert shared.zero_shot_average > twin.zero_shot_average  # type: ignore[operator]
        assert shared.weight_bytes == twin.weight_bytes
        assert shared.executions == 2 * twin.executions
        assert shared.cache_bytes["full_context"] == 2 * twin.cache_bytes["full_context"]


@pytest.mark.parametrize("model", [None, "demo", *PRESETS, *GOLDEN])
def test_output_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str | None
) -> None:
    monkeypatch.chdir(GOLDEN["plain"].parent)
    assert main([model] if model else []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert all(line == line.rstrip() for line in lines)


def test_the_report_shows_units_that_fit_the_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = output(capsys, "1.5B")
    assert "16-bit weights         3.0 GB" in report
    assert "cache per token       69.1 kB" in report
    huge = {"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 2, "num_attention_heads": 1, "num_key_value_heads": 1}
    assert "TB" in output(capsys, str(folder_with_config(tmp_path, **huge)))


def test_a_report_says_what_is_stored_and_what_sharing_saved(capsys: pytest.CaptureFixture[str]) -> None:
    report = output(capsys, str(GOLDEN["layer-share"]))
    assert "stored as         float32, 147,936 parameters" in report
    assert report.count("saved by sharing") == 2
    assert "embedding                  24,576   16.6 %" in report
    assert "plain: a base model" in (base := output(capsys, str(GOLDEN["plain"])))
    assert "saved by sharing" not in base


@pytest.mark.parametrize("arguments", [[], ["125M", "--json"], [str(GOLDEN["layer-share-bin-fp16"])]])
def test_the_command_runs_without_warnings(arguments: list[str]) -> None:
    finished = run_python("-m", "mlx_mobilellm.info", *arguments)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "parameters" in finished.stdout


def test_the_command_imports_nothing_heavy() -> None:
    code = f"""
import sys
from mlx_mobilellm.info.__main__ import main
assert main([{str(GOLDEN["layer-share"])!r}]) == main([]) == 0
print({{"mlx_lm", "transformers", "torch", "numpy", "huggingface_hub", "tqdm"}} & set(sys.modules))
"""
    assert run_python("-c", code).stdout.splitlines()[-1] == "set()"


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_function_raises_for_programs(tmp_path: Path) -> None:
    shutil.copy(GOLDEN["plain"] / "model.safetensors", tmp_path)
    with pytest.raises(MobileLLMError, match=r"has no config\.json"):
        model_info(tmp_path)
