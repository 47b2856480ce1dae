"""Show a model's shape, memory and licence.

Without a model: a table to choose one by.
"""

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from mlx_mobilellm.info import ModelInfo, Terms, all_models, model_info
from mlx_mobilellm.terminal import Parser, run_command

EXAMPLES = """examples:
  python -m mlx_mobilellm.info
  python -m mlx_mobilellm.info 125M-layer-share
  python -m mlx_mobilellm.info path/to/folder --json

Reads config.json and the headers of weights; needs no network but for Hub ids of others.
Exit codes: 0 done, 2 something to mend.
"""

TABLE_HEAD = """\
                                             weights in MB at  cache  zero-shot
model             parameters  blocks    dim    16 bit   4 bit     MB   accuracy
"""

TABLE_NOTES = """
blocks: stored x how often each runs in a row. MB: 10^6 bytes, computed from
the shapes, not measured. 4 bit: quantised by MLX in groups of 64. cache: 16-bit
keys and values of a text as long as the context. accuracy: per cent, average of
eight tasks, from Meta's README (github.com/facebookresearch/MobileLLM).

Which one? Bigger scores higher: take the biggest whose weights and cache fit.
A layer-share model scores higher than its twin of the same size without it,
but runs twice as many blocks for each token and needs twice the cache.
"""

MORE = "One model in full: python -m mlx_mobilellm.info 125M-layer-share"


def parser() -> Parser:
    parser = Parser("info", "Show what a model is and what it takes, without loading it.", EXAMPLES)
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="folder, Hub id, published name, or demo (default: list them)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object, or a list of them without MODEL")
    return parser


def show_info(arguments: Sequence[str] | None) -> None:
    """Parse the flags, gather the facts, and print."""
    args = parser().parse_args(arguments)
    if args.model is None:
        models = all_models()
        print(json.dumps([asdict(model) for model in models], indent=2) if args.json else _table(models))
    else:
        model = model_info(args.model)
        print(json.dumps(asdict(model), indent=2) if args.json else _report(model))


def _table(models: Sequence[ModelInfo]) -> str:
    rows = ""
    names_by_terms: dict[Terms, list[str]] = {}
    for model in models:
        score = "-" if model.zero_shot_average is None else f"{model.zero_shot_average:.1f}"
        rows += (
            f"{model.name:<18}{_millions(model.parameters['total']):>9}M"
            f"{model.config.num_hidden_layers:>4} x {model.config.layer_sharing_repeats}{model.config.hidden_size:>7,}"
            f"{_millions(model.weight_bytes['at_16_bits']):>10}{_millions(model.weight_bytes['at_4_bits']):>8}"
            f"{_millions(model.cache_bytes['full_context']):>7}{score:>11}\n"
        )
        names_by_terms.setdefault(model.terms, []).append(model.name)
    sections = [_section(f"Terms of {_range(names)}", _terms(terms)) for terms, names in names_by_terms.items()]
    return "\n".join([TABLE_HEAD + rows + TABLE_NOTES, *sections, MORE])


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f}"


def _range(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _report(model: ModelInfo) -> str:
    kind = "base" if model.config.layer_sharing_repeats == 1 else "layer-shared"
    sections = [
        _section("Shape", _shape(model)),
        _section("Parameters", _parameters(model)),
        _section("Memory (computed from the shapes; 1 MB = 10^6 bytes)", _memory(model)),
        _section("Files", _files(model)),
        _section("Terms", _terms(model.terms)),
    ]
    return f"{model.name}: a {kind} model\n\n" + "\n".join(sections).removesuffix("\n")


def _section(title: str, rows: Mapping[str, str]) -> str:
    """A title and labelled rows, wrapped to 80 columns."""
    wrap = textwrap.TextWrapper(80, subsequent_indent=" " * 20, break_long_words=False, break_on_hyphens=False)
    return title + "\n" + "".join(wrap.fill(f"  {label:<18}{text}") + "\n" for label, text in rows.items())


def _shape(model: ModelInfo) -> dict[str, str]:
    config, repeats = model.config, model.config.layer_sharing_repeats
    runs = "once" if repeats == 1 else f"{repeats} times in a row: {model.executions} executions"
    rows = {
        "blocks": f"{config.num_hidden_layers}, each run {runs}",
        "hidden size": f"{config.hidden_size:,}",
        "FFN width": f"{config.intermediate_size:,}",
        "heads": f"{config.num_attention_heads} for queries, {config.num_key_value_heads} for keys and values",
        "head width": f"{config.head_dim}",
        "vocabulary": f"{config.vocab_size:,} tokens",
        "context": f"{config.max_position_embeddings:,} tokens",
    }
    if model.zero_shot_average is not None:
        rows["accuracy"] = f"{model.zero_shot_average} % zero-shot, average of eight tasks (Meta's README)"
    return rows


def _parameters(model: ModelInfo) -> dict[str, str]:
    total = model.parameters["total"]
    rows = {
        part.replace("_", "-"): f"{count:>15,}  {100 * count / total:5.1f} %"
        for part, count in model.parameters.items()
    }
    if model.config.share_embedding:
        rows["output"] += "  (the embedding serves)"
    else:
        rows["output"] += "  (unless it equals the embedding)"
    if model.saved_by_sharing["parameters"]:
        rows["saved by sharing"] = (
            f"{model.saved_by_sharing['parameters']:>15,}  (against {model.executions} stored blocks)"
        )
    return rows


def _memory(model: ModelInfo) -> dict[str, str]:
    rows = {
        "16-bit weights": _size(model.weight_bytes["at_16_bits"]),
        "8-bit weights": f"{_size(model.weight_bytes['at_8_bits'])}  quantised by MLX in groups of 64;",
        "4-bit weights": f"{_size(model.weight_bytes['at_4_bits'])}  rows that 64 does not divide stay 16-bit",
        "cache per token": f"{_size(model.cache_bytes['per_token'])}  16-bit keys and values of every execution",
        "cache when full": f"{_size(model.cache_bytes['full_context'])}  one text as long as the context",
    }
    if model.saved_by_sharing["parameters"]:
        rows["saved by sharing"] = f"{_size(model.saved_by_sharing['bytes_at_16_bits'])}  of 16-bit weights"
    return rows


def _size(size: int) -> str:
    """Bytes in the unit that leaves at most three digits before the point, aligned for a column."""
    value = float(size)
    for unit in ("B ", "kB", "MB", "GB"):
        if value < 999.95:  # what rounds to 1000.0 belongs to the next
            return f"{value:>8.1f} {unit}"
        value /= 1000
    return f"{value:>8.1f} TB"


def _files(model: ModelInfo) -> dict[str, str]:
    stored = model.stored
    if model.folder is None:
        return {"on the Hub": f"facebook/MobileLLM-{model.name}"}
    if stored is None:
        return {"folder": model.folder, "weights": "none in this folder"}
    return {
        "folder": model.folder,
        "weights": ", ".join(stored.files),
        "stored as": f"{', '.join(stored.dtypes)}, {stored.parameters:,} parameters",
        "size on disk": _size(stored.size_bytes).strip(),
    }


def _terms(terms: Terms) -> dict[str, str]:
    answers = {True: "allowed", False: "not allowed", None: "unknown"}
    rows = {"licence": terms.licence, "commercial use": answers[terms.commercial_use]}
    if terms.gated is not None:
        rows["gated"] = f"yes: {terms.gated}; then `hf auth login`" if terms.gated else "no"
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(lambda: show_info(arguments))


if __name__ == "__main__":
    sys.exit(main())
