"""The command as a person meets it: text on stdout, all else on stderr, exit codes that scripts can trust."""

import dataclasses
import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from conftest import GOLDEN_FOLDERS
from mlx_mobilellm import GenerationOptions, MobileLLM, Piece, SamplingOptions, Tokenizer, generate, load
from mlx_mobilellm.generate.__main__ import main
from mlx_mobilellm.loading import DEMO

COMMAND = [sys.executable, "-W", "error", "-m", "mlx_mobilellm.generate"]


def run_command(*arguments: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=60, check=False, **more)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module")
def demo() -> tuple[MobileLLM, Tokenizer]:
    model, tokenizer = load()
    assert tokenizer is not None
    return model, tokenizer


def test_stdout_has_the_generated_text_alone(demo: tuple[MobileLLM, Tokenizer]) -> None:
    finished = run_command("--prompt", "One day", "--max-tokens", "30")
    assert finished.returncode == 0
    assert finished.stdout.decode() == generate(*demo, "One day", max_tokens=30)


def test_the_summary_goes_to_stderr_and_says_why_the_text_ended() -> None:
    finished = run_command("--max-tokens", "5")
    assert b"5 tokens at" in finished.stderr
    assert b"reached --max-tokens 5" in finished.stderr
    assert finished.stderr.count(b"\n") == 1
    assert run_command("--max-tokens", "5", "--quiet").stderr == b""


def test_flags_reach_the_model_and_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen where they arrive, because a flag that is lost may change no text."""
    seen: dict[str, object] = {}

    def load_seen(model: Path, **options: object) -> tuple[MobileLLM, Tokenizer | None]:
        seen.update(model=model, dtype=options["dtype"])
        return load(model)

    def stream_seen(_model: object, _tokenizer: object, prompt: str, options: GenerationOptions) -> list[Piece]:
        seen.update(prompt=prompt, options=dataclasses.replace(options, prompt_progress=None))
        return []

    command = sys.modules[main.__module__]  # `mlx_mobilellm.generate` is the function
    monkeypatch.setattr(command, "load", load_seen)
    monkeypatch.setattr(command, "stream_generate", stream_seen)
    flags = "--temp 1.2 --top-k 50 --top-p 0.95 --min-p 0.01 --repetition-penalty 1.2 --seed 7 -m 25"
    assert main([*flags.split(), "-p", "A fox", "--stop", "a", "b", "--dtype", "float16", "--model", str(DEMO)]) == 0
    assert seen == {
        "model": DEMO,
        "dtype": mx.float16,
        "prompt": "A fox",
        "options": GenerationOptions(25, SamplingOptions(1.2, 50, 0.95, 0.01, 1.2, 7), ("a", "b")),
    }


def test_a_sampled_text_shows_the_seed_that_gives_it_again() -> None:
    first = run_command("--temp", "1", "-m", "20")
    seed = first.stderr.decode().split("seed ")[1].split(";")[0]
    assert run_command("--temp", "1", "-m", "20", "--seed", seed).stdout == first.stdout


def test_stop_texts_are_not_printed(demo: tuple[MobileLLM, Tokenizer]) -> None:
    whole = generate(*demo, "Once upon a time", max_tokens=40)
    stop = whole[10:14]
    finished = run_command("-m", "40", "--stop", "no such text", stop)
    assert finished.stdout.decode() == whole[: whole.index(stop)]
    assert b"a stop text came" in finished.stderr


def test_a_dash_reads_the_prompt_from_stdin_without_its_line_end() -> None:
    as_flag = run_command("-p", "Tom and his dog", "-m", "12", "-q")
    for line_end in (b"", b"\n", b"\r\n"):
        assert run_command("-p", "-", "-m", "12", "-q", input=b"Tom and his dog" + line_end).stdout == as_flag.stdout


def test_an_empty_prompt_starts_from_nothing() -> None:
    assert run_command("-p", "", "-m", "5").returncode == 0


def test_a_byte_order_mark_is_not_part_of_the_prompt() -> None:
    with_mark = run_command("-p", "-", "-m", "5", "-q", input=b"\xef\xbb\xbfOne day")
    assert with_mark.stdout == run_command("-p", "One day", "-m", "5", "-q").stdout


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs(dtype: str) -> None:
    assert run_command("-m", "5", "--dtype", dtype).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-tokens", "0"], "max_tokens: expected a whole number, 1 or more, found 0"),
        (["--max-tokens", "many"], "argument --max-tokens/-m: invalid int value: 'many'"),
        (["--temp", "-1"], "temperature: expected 0 or more"),
        (["--tmp", "1"], "unrecognized arguments: --tmp"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--model", "no/such/folder/here"], "no such folder"),
        (["--model", __file__], "this is a file; give the folder"),
        (["--model", str(Path(__file__).parent)], "has no config.json"),
        (["--model", str(GOLDEN_FOLDERS[0])], "has no tokenizer.model"),
        (["--prompt", "word " * 600], "more than the model's context of"),
        (["--prompt", os.fsdecode(b"\xff")], "the text is not valid Unicode"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_stdin_that_is_not_utf8_is_refused() -> None:
    finished = run_command("-p", "-", input=b"caf\xe9")
    assert (finished.returncode, finished.stdout) == (2, b"")
    assert finished.stderr == b"error: stdin: expected UTF-8, found byte 0xE9 at 3\n"


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "examples:" in capsys.readouterr().out


def long_run() -> subprocess.Popen[bytes]:
    """A generation that takes a while: hot, so that it does not end by itself soon."""
    return subprocess.Popen(
        [*COMMAND, "-m", "400", "--temp", "5", "--seed", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_ctrl_c_ends_with_what_was_written_and_130() -> None:
    process = long_run()
    assert process.stdout is not None
    start = process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert start + rest == run_command("-m", "400", "--temp", "5", "--seed", "1", "-q").stdout[: len(start + rest)]
    assert b"Traceback" not in errors


def test_a_closed_pipe_ends_quietly() -> None:
    process = long_run()
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) == 141


def test_a_full_disk_is_said() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("wb") as full:
        finished = subprocess.run(
            [*COMMAND, "-m", "5", "-q"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert finished.returncode == 2
    assert finished.stderr.startswith(b"error: ")
    assert finished.stderr.count(b"\n") == 1


def test_text_comes_while_it_is_made() -> None:
    process = long_run()
    assert process.stdout is not None
    assert process.stdout.read(10)
    assert process.poll() is None
    process.kill()
    process.communicate()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_no_crash(closed: str) -> None:
    command = f"{shlex.join(COMMAND)} -p - -m 5 {closed}"
    finished = subprocess.run(command, shell=True, input=b"One day", capture_output=True, timeout=60, check=False)
    assert finished.returncode == 0
    assert b"Traceback" not in finished.stderr
    assert b"tokens/s" not in finished.stdout


def test_stdin_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    command = f"{shlex.join(COMMAND)} -p - 0>{shlex.quote(str(tmp_path / 'file'))}"
    finished = subprocess.run(command, shell=True, capture_output=True, timeout=60, check=False)
    assert (finished.returncode, finished.stderr) == (2, b"error: stdin: cannot be read: Bad file descriptor\n")


def test_an_output_that_is_not_utf8_gets_question_marks() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    finished = run_command("-m", "60", "--temp", "9", "--seed", "1", "-q", env=environment)
    assert (finished.returncode, finished.stderr) == (0, b"")
    assert b"?" in finished.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_help_that_cannot_be_written_says_so() -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # argparse hides the errors of its own writes
    command = f"{shlex.join(COMMAND)} --help >/dev/full"
    finished = subprocess.run(command, shell=True, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
    assert (finished.returncode, finished.stderr.count(b"\n")) == (2, 1)


def test_on_a_terminal_the_text_ends_with_a_line_end() -> None:
    master, slave = pty.openpty()
    subprocess.run([*COMMAND, "-m", "3", "-q"], stdout=slave, timeout=60, check=True)
    written = os.read(master, 1000)  # before the other end closes, which on a Mac drops what was not read
    os.close(slave)
    os.close(master)
    assert written.endswith(b"\r\n")
