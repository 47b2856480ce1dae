"""Make the demo model from a seed: tokenizer, training, checkpoint, loss curve, measurements and card.

Stop it at any time; the same command goes on from the last saved step.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from corpus import file_documents, train_tokenizer, written_documents
from curriculum import batches, phases
from measure import measure_folder
from mlx_mobilellm.checkpoint import save_weights
from mlx_mobilellm.config import ModelConfig
from mlx_mobilellm.tokenizer import Tokenizer
from trainer import Run

EXAMPLES = """examples:
  python examples/train_demo/make_demo.py --output demo
  python examples/train_demo/make_demo.py --output mine --text my_stories.txt --steps 500
"""


def demo_config(vocab_size: int) -> ModelConfig:
    """Four blocks, each run twice: 1.77 million parameters at 1,024 pieces."""
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=64,
        layer_sharing_repeats=2,
        max_position_embeddings=512,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the flags and build."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint and the saved run")
    parser.add_argument("--text", type=Path, help="learn this text file instead; an empty line ends a document")
    parser.add_argument("--steps", type=int, help="train for so many steps in one phase (default: the demo's phases)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of one step (default: %(default)s)")
    parser.add_argument("--pieces", type=int, default=1024, help="vocabulary size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    args.output.mkdir(parents=True, exist_ok=True)
    documents = file_documents(args.text) if args.text else written_documents
    path = args.output / "tokenizer.model"
    if not path.exists():
        train_tokenizer(documents, path, args.pieces)
    tokenizer = Tokenizer(path)
    config = demo_config(tokenizer.vocab_size)
    weights, losses = None, []
    for phase in phases(args.seed, args.steps):
        folder = args.output / phase.name
        folder.mkdir(exist_ok=True)
        run = Run(config, phase.schedule, folder, weights)
        losses += run.train(batches(phase, documents, tokenizer, args.tokens))
        weights = run.weights
    save_weights(args.output, config, weights, mx.float16)
    _plot(losses, args.output / "loss.png")
    if not args.text:
        measure_folder(args.output, phases(args.seed, args.steps), args.tokens)


def _plot(losses: list[float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(losses, linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="Training loss", yscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
