"""From a folder or a Hub id to a model and its tokenizer, against a stand-in for the Hub on this machine."""

import functools
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import mlx.core as mx
import pytest
import sentencepiece
from huggingface_hub import constants

from hub_stand_in import Hub
from mlx_mobilellm import MobileLLM, MobileLLMError, Tokenizer, generate, load
from mlx_mobilellm.generate.__main__ import main
from mlx_mobilellm.loading import DEMO, find_model

GOLDEN = Path(__file__).parent / "golden"
PROMPT = [1, 17, 200, 5]
COMMAND = [sys.executable, "-W", "error", "-m", "mlx_mobilellm.generate"]
PATIENCE = 300  # seconds before the Hub's client gives up: a busy machine is no broken network

# What stands beside the weights in published repositories, and is not for us.
OTHERS = dict.fromkeys(
    [
        ".gitattributes",
        "README.md",
        "adapter_model.safetensors",
        "generation_config.json",
        "model-fp16.safetensors",
        "model.fp16.safetensors",
        "model.gguf",
        "modeling_mobilellm.py",
        "onnx/model-00001-of-00002.safetensors",
        "onnx/model.safetensors",
        "original/config.json",
        "original/consolidated.00.pth",
        "pytorch_model.fp16.bin",
        "tf_model.h5",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_args.bin",
    ],
    b"not for us",
)


@functools.cache
def golden(name: str) -> dict[str, bytes]:
    """The files of a golden folder that a repository would hold."""
    return {file.name: file.read_bytes() for file in (GOLDEN / name).iterdir() if file.suffix != ".npz"}


@functools.cache
def tokenizer_model(pieces: int) -> bytes:
    """A tokenizer.model of so many pieces."""
    lines = (f"The quick brown fox number {i} jumps over {i + 7} lazy dogs and {i * 3} cats" for i in range(300))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=pieces, model_type="bpe", minloglevel=2
    )
    return model.getvalue()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of its own, for which the Hub's client in this process has an empty cache and no token."""
    server = Hub()
    settings = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "home" / "token"),
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_ETAG_TIMEOUT": PATIENCE,
        "HF_HUB_DOWNLOAD_TIMEOUT": PATIENCE,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.close()


def command(hub: Hub, home: Path, *flags: str, **environment: str) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the command in a process whose Hub's client has this Hub, a home folder and no token."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE),
        "HF_HUB_ETAG_TIMEOUT": str(PATIENCE),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return functools.partial(
        subprocess.Popen,
        [*COMMAND, "--model", "org/model", "--max-tokens", "20", *flags],
        env=kept | settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def continued(model: MobileLLM) -> list[int]:
    return generate(model, None, PROMPT, max_tokens=8)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, which must fail with one line; returns it. (What the Hub's client logs is not captured.)"""
    assert main(["--model", "org/model", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


# From the Hub


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"model.safetensors"}),
        ("layer-share-bin-fp16", {"pytorch_model.bin"}),
        ("broken-safetensors-good-bin", {"model.safetensors", "pytorch_model.bin"}),
        (
            "sharded-bf16",
            {
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            },
        ),
    ],
)
def test_a_hub_id_downloads_the_files_it_needs_and_no_others(hub: Hub, name: str, expected: set[str]) -> None:
    hub.push("org/model", OTHERS | golden(name) | {"tokenizer.model": tokenizer_model(256)})
    model, tokenizer = load("org/model")
    assert hub.downloads == dict.fromkeys(expected | {"config.json", "tokenizer.model"}, 1)
    assert continued(model) == continued(load(GOLDEN / name)[0])
    assert tokenizer is not None
    assert tokenizer.vocab_size == 256


def test_good_safetensors_spare_the_bin_and_a_whole_file_spares_the_shards(hub: Hub) -> None:
    hub.push("org/model", golden("sharded-bf16") | golden("layer-share-bin-fp16") | golden("layer-share"))
    load("org/model")
    assert hub.downloads == {"config.json": 1, "model.safetensors": 1}


def test_without_weights_the_small_files_are_downloaded_alone(hub: Hub) -> None:
    hub.push("org/model", golden("plain") | {"tokenizer.model": tokenizer_model(256)})
    folder = find_model("org/model", weights=False)
    assert hub.downloads == {"config.json": 1, "tokenizer.model": 1}
    assert find_model("org/model") == folder  # which a later load completes
    assert hub.downloads == {"config.json": 1, "tokenizer.model": 1, "model.safetensors": 1}


def test_safetensors_without_the_embedding_warn_once_that_the_bin_is_read(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.push("org/model", golden("broken-safetensors-good-bin"))
    for _ in range(2):  # the second time all is in the cache
        caplog.clear()
        load("org/model")
        assert [record.name for record in caplog.records] == ["mlx_mobilellm"]
        assert "reading pytorch_model.bin instead" in caplog.text


def test_bin_shards_are_downloaded_with_their_index(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """One shard, which is enough to see that shards of this kind are found."""
    files = dict(golden("layer-share-bin-fp16"))
    files["pytorch_model-00001-of-00001.bin"] = files.pop("pytorch_model.bin")
    index = {"weight_map": {"model.norm.weight": "pytorch_model-00001-of-00001.bin"}}
    files["pytorch_model.bin.index.json"] = json.dumps(index).encode()
    hub.push("org/model", OTHERS | files)
    model, _ = load("org/model")
    assert continued(model) == continued(load(GOLDEN / "layer-share-bin-fp16")[0])
    assert caplog.records == []


def test_a_second_load_downloads_nothing(hub: Hub) -> None:
    hub.push("org/model", golden("sharded-bf16"))
    first = continued(load("org/model")[0])
    hub.downloads.clear()
    assert continued(load("org/model")[0]) == first
    assert hub.downloads == {}


@pytest.mark.parametrize("revision", ["v1", "some/branch", "commit"])
def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, revision: str) -> None:
    commit = hub.push("org/model", golden("layer-share"), ref="v1" if revision == "commit" else revision)
    hub.push("org/model", golden("plain"))
    model, _ = load("org/model", revision=commit if revision == "commit" else revision)
    assert model.config.layer_sharing_repeats == 2
    assert continued(model) == continued(load(GOLDEN / "layer-share")[0])


def test_all_files_are_of_one_commit_even_if_the_branch_moves_meanwhile(hub: Hub) -> None:
    commit = hub.push("org/model", golden("plain"))

    def move(_: str) -> None:
        hub.push("org/model", golden("layer-share"))

    hub.on_download = move
    folder = find_model("org/model")
    assert folder.name == commit
    for file in ("config.json", "model.safetensors"):
        assert (folder / file).read_bytes() == golden("plain")[file]
    assert load("org/model")[0].config.layer_sharing_repeats == 2  # and the next load follows the branch


def test_a_model_that_cannot_run_is_refused_before_its_weights_are_downloaded(hub: Hub) -> None:
    hub.push("org/model", golden("plain") | {"config.json": json.dumps({"model_type": "gpt2"}).encode()})
    with pytest.raises(
        MobileLLMError, match=r'^/\S*/config.json: model_type: expected "mobilellm" or "llama".*found "gpt2"'
    ):
        load("org/model")
    assert hub.downloads == {"config.json": 1}


def test_a_repository_without_weights_says_what_is_missing(hub: Hub) -> None:
    hub.push("org/model", {"config.json": golden("plain")["config.json"], "model.gguf": b"GGUF"})
    with pytest.raises(MobileLLMError, match=r"found neither model.safetensors nor"):
        load("org/model")


@pytest.mark.parametrize("name", ["plain", "layer-share-bin-fp16", "broken-safetensors-good-bin", "sharded-bf16"])
@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_what_is_in_the_cache_loads_without_the_hub(
    hub: Hub, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("org/model", golden(name))
    first = continued(load("org/model")[0])
    hub.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    assert continued(load("org/model")[0]) == first


@pytest.mark.parametrize("name", ["layer-share-bin-fp16", "sharded-bf16"])
def test_what_another_program_has_cached_loads_without_the_hub(
    hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many do not leave the list of the repository's files."""
    hub.push("org/model", golden(name))
    folder = find_model("org/model")
    shutil.rmtree(folder.parents[1] / "trees")
    moved = folder.parents[2].with_name("moved")  # the client remembers the lists of a folder
    folder.parents[2].rename(moved)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(moved))
    hub.close()
    assert continued(load("org/model")[0]) == continued(load(GOLDEN / name)[0])


def test_a_gated_model_loads_with_a_token_that_may_read_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("org/model", golden("plain"))
    hub.tokens.add("mine")
    hub.repositories["org/model"].readers = {"mine"}
    monkeypatch.setenv("HF_TOKEN", "mine")
    assert continued(load("org/model")[0]) == continued(load(GOLDEN / "plain")[0])


# What the Hub refuses


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        (None, "is gated; agree to its terms at https://huggingface.co/org/model, then run `hf auth login`"),
        ("stranger's", "your token has no access yet; agree to its terms at https://huggingface.co/org/model"),
        (
            "mistyped",
            "the Hub refuses access: 401 Unauthorized. Invalid credentials in Authorization header; run `hf auth",
        ),
    ],
)
def test_a_gated_model_says_how_to_get_access(
    hub: Hub, token: str | None, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.push("org/model", golden("plain"))
    hub.repositories["org/model"].readers = {"the owner's"}
    hub.tokens |= {"the owner's", "stranger's"}
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert advice in error_of(capsys)
    assert hub.downloads == {}


@pytest.mark.parametrize("token", [None, "mine"])
def test_a_missing_repository_says_so(
    hub: Hub, token: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.tokens.add("mine")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert "org/model: no such folder, and no such repository on the Hub" in error_of(capsys)


@pytest.mark.parametrize("revision", ["v2", "0" * 40])
def test_a_missing_revision_says_where_to_look(hub: Hub, revision: str, capsys: pytest.CaptureFixture[str]) -> None:
    hub.push("org/model", golden("plain"))
    line = error_of(capsys, "--revision", revision)
    assert f"no revision '{revision}'; https://huggingface.co/org/model/tree/main shows" in line


def test_offline_without_a_cache_names_the_variable_to_unset(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.push("org/model", golden("plain"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the Hub's cache does not hold all of it; unset HF_HUB_OFFLINE" in error_of(capsys)
    assert hub.requests == 0


def test_an_unreachable_hub_without_a_cache_asks_to_connect(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.close()
    line = error_of(capsys)
    assert "the Hub cannot be reached" in line
    assert "Connection refused; connect and try again" in line


@pytest.mark.parametrize("status", [HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.TOO_MANY_REQUESTS])
def test_a_hub_in_trouble_is_not_asked_again_and_again(
    hub: Hub, status: HTTPStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.push("org/model", golden("plain"))
    hub.down = status
    line = error_of(capsys)
    assert line == f"error: org/model: the Hub answered: {status.value} {status.phrase}; try again later\n"
    assert hub.requests == 1


@pytest.mark.parametrize("name", ["plain", "sharded-bf16"])
@pytest.mark.parametrize("fault", ["cut", "short"])
def test_half_a_file_is_an_error_and_is_downloaded_whole_by_the_next_load(
    hub: Hub, name: str, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A connection that breaks off, and one that ends too early without an error."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # before the Hub's client tries again
    hub.push("org/model", golden(name))
    last = max(file for file in golden(name) if file.endswith(".safetensors"))
    getattr(hub, fault).add(last)
    line = error_of(capsys)
    assert "org/model: the download failed: " in line
    assert line.endswith("; try again\n")
    getattr(hub, fault).clear()
    hub.downloads.clear()
    assert continued(load("org/model")[0]) == continued(load(GOLDEN / name)[0])
    assert hub.downloads == {last: 1}


# The command as a process of its own


def test_a_download_shows_the_hubs_progress_on_stderr_and_leaves_stdout_to_the_text(hub: Hub, tmp_path: Path) -> None:
    files = golden("plain") | {"tokenizer.model": tokenizer_model(256)}
    hub.push("org/model", files)
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(stderr, (24, 100))
    with command(hub, tmp_path)(stderr=stderr) as process:
        os.close(stderr)
        shown = read_terminal(terminal)
        assert process.stdout is not None
        text = process.stdout.read()
    assert process.returncode == 0, shown
    assert "model.safetensors: 100%" in shown
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    model, tokenizer = load(tmp_path)
    assert tokenizer is not None
    assert text.decode() == generate(model, tokenizer, "Once upon a time", max_tokens=20) != ""


def read_terminal(terminal: int) -> str:
    shown = b""
    while True:
        try:
            read = os.read(terminal, 4096)
        except OSError:  # Linux's way to say that the other side is closed
            read = b""
        if not read:
            os.close(terminal)
            return shown.decode()
        shown += read


def test_a_second_run_shows_no_progress_and_works_offline(hub: Hub, tmp_path: Path) -> None:
    hub.push("org/model", golden("plain") | {"tokenizer.model": tokenizer_model(256)})
    text, _ = command(hub, tmp_path)().communicate()
    assert text != b""
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        hub.requests = 0
        process = command(hub, tmp_path, "--quiet", **environment)()
        assert process.communicate() == (text, b"")
        assert process.returncode == 0
        assert hub.requests == (0 if environment else 1)


def test_an_error_of_the_hub_is_one_line_and_exit_code_2(hub: Hub, tmp_path: Path) -> None:
    process = command(hub, tmp_path)()
    text, error = process.communicate()
    assert process.returncode == 2
    assert text == b""
    assert error.startswith(b"error: org/model: no such folder, and no such repository on the Hub")
    assert error.count(b"\n") == 1


def test_ctrl_c_ends_a_download_in_the_middle_of_a_file(hub: Hub, tmp_path: Path) -> None:
    hub.push("org/model", golden("plain"))
    sending, ended = threading.Event(), threading.Event()
    waited_for: list[str] = []

    def stall(name: str) -> None:
        if name == "model.safetensors":
            sending.set()
            if not ended.wait(PATIENCE):
                waited_for.append(name)

    hub.on_download = stall
    with command(hub, tmp_path)() as process:
        assert sending.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"\n")
        ended.set()
    assert process.returncode == 130
    assert waited_for == []


# From a folder


def test_no_model_is_the_demo_in_the_package() -> None:
    assert find_model(None) == DEMO


def test_a_folder_named_like_a_hub_id_wins(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("org/model", golden("layer-share"))
    shutil.copytree(GOLDEN / "plain", tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    assert load("org/model")[0].config.layer_sharing_repeats == 1
    assert hub.requests == 0


@pytest.mark.parametrize(
    "model",
    [
        "no/such/local/folder",
        Path("x/y"),
        "facebook/..",
        "../x",
        "x",
        "",
        "facebook/",
        "a b/c",
        "é/x",
        "x\0/y",
        "-" * 5000,
    ],
)
def test_what_is_neither_a_folder_nor_a_hub_id_says_so(hub: Hub, model: str | Path) -> None:
    with pytest.raises(MobileLLMError) as error:
        load(model)
    assert str(error.value).endswith("no such folder, and no Hub id, which would look like facebook/MobileLLM-125M")
    assert "\n" not in str(error.value)
    assert hub.requests == 0


@pytest.mark.parametrize("model", ["or--g/x", "org/x..y", "org/x.git", "org/" + "x" * 200])
def test_a_hub_id_that_the_hub_does_not_allow_is_none(hub: Hub, model: str) -> None:
    with pytest.raises(MobileLLMError, match="no such folder, and no Hub id"):
        load(model)
    assert hub.requests == 0


def test_a_file_asks_for_its_folder(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    for model in ("plain/model.safetensors", GOLDEN / "plain" / "config.json"):
        with pytest.raises(MobileLLMError, match="this is a file; give the folder"):
            load(model)
    assert hub.requests == 0


@pytest.mark.parametrize("model", [None, GOLDEN / "plain"])
def test_a_revision_of_a_folder_is_refused(model: Path | None) -> None:
    with pytest.raises(MobileLLMError, match="has no revision 'main'; leave it out"):
        load(model, revision="main")


def test_a_folder_without_a_tokenizer_loads_as_model_and_none() -> None:
    model, tokenizer = load(GOLDEN / "plain")
    assert isinstance(model, MobileLLM)
    assert tokenizer is None


def test_a_tokenizer_as_large_as_the_vocabulary_is_taken_and_a_larger_one_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "plain", tmp_path / "plain")
    (folder / "tokenizer.model").write_bytes(tokenizer_model(256))
    assert isinstance(load(folder)[1], Tokenizer)
    (folder / "tokenizer.model").write_bytes(tokenizer_model(257))
    with pytest.raises(MobileLLMError, match=r"tokenizer\.model has 257 pieces, the model a vocabulary of 256"):
        load(folder)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_dtype_is_that_of_all_weights(dtype: mx.Dtype) -> None:
    model, _ = load(GOLDEN / "untied", dtype=dtype)
    matrices = [model.weights["embed_tokens"], model.weights["norm"], model.weights["lm_head"]]
    for block in model.weights["blocks"]:
        matrices += block.values()
    assert {matrix.dtype for matrix in matrices} == {dtype}
    assert model(mx.array([PROMPT])).dtype == dtype


def test_progress_counts_the_blocks() -> None:
    calls: list[tuple[int, int]] = []
    load(GOLDEN / "plain", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", ["plain", "layer-share-bin-fp16", "sharded-bf16"])
def test_a_model_loaded_in_one_thread_generates_the_same_in_another(name: str) -> None:
    here, _ = load(GOLDEN / name)
    expected = continued(here)
    with ThreadPoolExecutor(1) as worker:
        assert worker.submit(continued, here).result() == expected
        there, _ = worker.submit(load, GOLDEN / name).result()
    assert continued(there) == expected
