"""What commands share: exit codes, errors in one line, progress for those who wait."""

import pytest

from mlx_mobilellm import MobileLLMError, terminal
from mlx_mobilellm.terminal import Parser, progress, run_command


def raiser(error: BaseException) -> object:
    def body() -> None:
        raise error

    return body


def test_a_body_that_ends_well_is_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")


def test_a_mistake_that_can_be_mended_is_a_line_on_stderr_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raiser(MobileLLMError("no such folder"))) == 2  # type: ignore[arg-type]
    assert capsys.readouterr() == ("", "error: no such folder\n")


def test_ctrl_c_is_130_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raiser(KeyboardInterrupt())) == 130  # type: ignore[arg-type]
    assert capsys.readouterr() == ("", "\n")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(raiser(ZeroDivisionError()))  # type: ignore[arg-type]


def test_a_wrong_flag_is_a_mistake_that_can_be_mended() -> None:
    with pytest.raises(MobileLLMError, match="unrecognized arguments: --wrong"):
        Parser("generate", "Generate.", "examples:").parse_args(["--wrong"])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `progress` sees, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_what_is_quick_shows_no_progress(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Loading", "block") as update:
        for done in range(1, 31):
            clock[0] += 0.03
            update(done, 30)
    assert capsys.readouterr() == ("", "")


def test_what_takes_over_a_second_shows_a_bar_on_stderr(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Loading", "block") as update:
        for done in range(1, 31):
            clock[0] += 0.5
            update(done, 30)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Loading" in shown.err
    assert "/30" in shown.err


def test_an_error_in_the_middle_of_a_bar_has_a_line_of_its_own(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        with progress("Loading", "block") as update:
            clock[0] += 2
            update(1, 30)
            raise MobileLLMError("a tensor is wrong")

    assert run_command(body) == 2
    assert capsys.readouterr().err.splitlines()[-1].split("\r")[-1] == "error: a tensor is wrong"
