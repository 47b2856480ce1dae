"""Continue a prompt and write the text as it comes."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.generation import GenerationOptions, Piece, Statistics, stream_generate
from mlx_mobilellm.loading import find_model, load
from mlx_mobilellm.sampling import SamplingOptions
from mlx_mobilellm.terminal import Parser, progress, run_command

EXAMPLES = """examples:
  python -m mlx_mobilellm.generate
  python -m mlx_mobilellm.generate --prompt "One day, a little fox" --temp 0.7
  python -m mlx_mobilellm.generate --model facebook/MobileLLM-125M-layer-share --prompt "The sea is"
  python -m mlx_mobilellm.generate --model path/to/folder --prompt - --stop "." < prompt.txt

The text goes to stdout, everything else to stderr. Exit codes: 0 done, 2 something to mend, 130 Ctrl-C.
"""

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def parser() -> Parser:
    parser = Parser("generate", "Continue a prompt with a MobileLLM model.", EXAMPLES)
    parser.add_argument("--model", help="folder or Hub id (default: the demo model in the package)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument(
        "--prompt", "-p", default="Once upon a time", help='text to continue, "-" for stdin (default: %(default)s)'
    )
    parser.add_argument(
        "--max-tokens", "-m", type=int, default=256, help="stop after so many tokens (default: %(default)s)"
    )
    parser.add_argument(
        "--temp", type=float, default=0.0, help="temperature; 0 takes the likeliest token (default: %(default)s)"
    )
    parser.add_argument("--top-k", type=int, default=0, help="keep the k likeliest tokens (default: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest tokens up to this probability")
    parser.add_argument("--min-p", type=float, default=0.0, help="drop tokens below this fraction of the likeliest")
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, help="above 1: repeat less (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="the same seed gives the same text (default: drawn, and shown)")
    parser.add_argument("--stop", nargs="+", default=[], metavar="TEXT", help="end before any of these texts")
    parser.add_argument("--dtype", choices=DTYPES, help="default: as stored on a GPU, float32 on a CPU")
    parser.add_argument("--quiet", "-q", action="store_true", help="no summary on stderr")
    return parser


def generate_text(arguments: Sequence[str] | None) -> None:
    """Parse the flags, load, and print."""
    args = parser().parse_args(arguments)
    options = _options(args)
    prompt = _read_stdin() if args.prompt == "-" else args.prompt
    folder = find_model(args.model, args.revision)  # a download shows the Hub's own bar
    with progress("Loading", "block") as loaded:
        model, tokenizer = load(folder, dtype=DTYPES.get(args.dtype), progress=None if args.quiet else loaded)
    if tokenizer is None:
        raise MobileLLMError(
            f"{args.model} has no tokenizer.model: put the published one there, or use mlx_mobilellm.generate on ids"
        )
    with progress("Reading the prompt", "token") as read:
        options = replace(options, prompt_progress=None if args.quiet else read)
        for piece in stream_generate(model, tokenizer, prompt, options):
            print(piece.text, end="", flush=True)
            if piece.statistics is not None:
                if sys.stdout.isatty():
                    print()
                if not args.quiet:
                    print(_summary(piece, piece.statistics, options), file=sys.stderr)


def _options(args: argparse.Namespace) -> GenerationOptions:
    return GenerationOptions(
        max_tokens=args.max_tokens,
        stop=tuple(args.stop),
        sampling=SamplingOptions(
            temperature=args.temp,
            top_k=args.top_k,
            top_p=args.top_p,
            min_p=args.min_p,
            repetition_penalty=args.repetition_penalty,
            seed=args.seed,
        ),
    )


def _read_stdin() -> str:
    """The prompt from stdin, without a byte-order mark, and without the line end that editors and ``echo`` add."""
    try:
        data = sys.stdin.buffer.read()
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise MobileLLMError(
            f"stdin: expected UTF-8, found byte 0x{error.object[error.start]:02X} at {error.start}"
        ) from None
    except OSError as error:
        raise MobileLLMError(f"stdin: cannot be read: {error.strerror}") from None


def _summary(last: Piece, statistics: Statistics, options: GenerationOptions) -> str:
    reasons = {
        "eos": "the text ended",
        "stop": "a stop text came",
        "length": f"reached --max-tokens {options.max_tokens}",
        "context": "the model's context is full",
    }
    tokens = statistics.generation_tokens
    made = f"{tokens} tokens at {statistics.generation_tps:,.0f} tokens/s" if tokens > 1 else "1 token"
    seed = f", seed {statistics.seed}" if options.sampling.temperature > 0 else ""
    return (
        f"[{made}, behind a prompt of {statistics.prompt_tokens} at {statistics.prompt_tps:,.0f} tokens/s; first token"
        f" after {statistics.time_to_first_token:.3f} s; {statistics.peak_memory / 1e6:,.0f} MB peak{seed};"
        f" {reasons[str(last.finish_reason)]}]"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(lambda: generate_text(arguments))


if __name__ == "__main__":
    sys.exit(main())
