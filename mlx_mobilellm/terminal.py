"""What all commands share: flags and errors in one line, exit codes, progress on stderr."""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from mlx_mobilellm.errors import MobileLLMError


class Parser(argparse.ArgumentParser):
    """An argument parser whose help ends with examples and whose errors are one line."""

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"python -m mlx_mobilellm.{command}",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise MobileLLMError(f"{message} (--help shows the flags)")


def run_command(body: Callable[[], None]) -> int:
    """Run a command's body; return its exit code.

    0: done. 2: the user can mend it, and a line on stderr says how. 130: interrupted with Ctrl-C. 141: the reader
    of a pipe went away, which is said to nobody.
    """
    _prepare_streams()
    try:
        try:
            body()
        finally:  # --help leaves with SystemExit
            sys.stdout.flush()
    except MobileLLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except OSError as error:  # stdout took no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails at its last flush
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _prepare_streams() -> None:
    """Stand in for a closed stream, which Python gives as None, and let stdout take any character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def progress(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that draws a progress bar on stderr for what takes longer than a second."""
    started = time.monotonic()
    bar: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if bar is None and done < total and time.monotonic() - started > 1:
            from tqdm import tqdm  # only for those who wait

            bar = tqdm(total=total, desc=description, unit=unit, leave=False, file=sys.stderr)
        if bar is not None:
            bar.update(done - bar.n)
            if done == total:
                bar.close()

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()
