"""Wall time from process start to the first token: ours on the demo model against mlx_lm.generate.

mlx-lm cannot run a layer-shared model, so it runs an unshared llama of the same shape: the demo's widths and
vocabulary, a block for each execution. Both write one token and exit; the runs alternate.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlx.core as mx
from tokenizers import Tokenizer, decoders, models
from tqdm import tqdm

from mlx_mobilellm import MobileLLM, load
from mlx_mobilellm.checkpoint import save_weights


def write_llama(model: MobileLLM, folder: Path) -> None:
    """The same function as a plain llama, each shared block stored once for every execution."""
    blocks = [block for block in model.weights["blocks"] for _ in range(model.config.layer_sharing_repeats)]
    config = dataclasses.replace(model.config, num_hidden_layers=len(blocks), layer_sharing_repeats=1)
    save_weights(folder, config, {**model.weights, "blocks": blocks}, mx.float16)
    values = json.loads((folder / "config.json").read_text())
    values |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(values))
    write_fast_tokenizer(config.vocab_size, folder)


def write_fast_tokenizer(size: int, folder: Path) -> None:
    """A tokenizer.json with as many pieces; which ones does not matter to the clock."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f"piece{index}" for index in range(size - len(pieces))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))


def wall_time(arguments: list[str]) -> float:
    """Seconds that a Python process takes, from its start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print medians and spreads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="runs of each (default: %(default)s)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        write_llama(load()[0], Path(folder))
        flags = ["--prompt", "Once upon a time", "--max-tokens", "1"]
        commands = {
            "mlx_mobilellm.generate": ["-m", "mlx_mobilellm.generate", *flags],
            "mlx_lm.generate": ["-m", "mlx_lm", "generate", "--model", folder, *flags],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for run in tqdm(range(runs + 1), unit="pair"):
            for name, command in commands.items():
                seconds = wall_time(command)
                if run:  # the first pair fills the disk's cache
                    times[name].append(seconds)
    ours, theirs = times.values()
    for name, values in times.items():
        print(f"{name:<24} median {statistics.median(values):.3f} s, {min(values):.3f} to {max(values):.3f}")
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"{'ratio, pair by pair':<24} median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
