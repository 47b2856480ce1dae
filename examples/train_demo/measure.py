"""Measure a demo model on seeds that its training never used, and write its card.

    python examples/train_demo/measure.py mlx_mobilellm/demo

Training text is made again from its seed, to tell what the model has seen.
"""

import argparse
import hashlib
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from tqdm import tqdm

from calls import Command, render, write_command
from corpus import Document, written_documents
from curriculum import Phase, batches, phases
from mlx_mobilellm import GenerationOptions, MobileLLM, ModelConfig, SamplingOptions, Tokenizer, load
from mlx_mobilellm.generation import Row, new_row, run
from stories import Story, write_story

WORD = re.compile(r"[A-Za-z']+")


@dataclass(frozen=True)
class Report:
    """What was measured. Shares are between 0 and 1, of as many cases as the field beside them says."""

    commands: int
    commands_right: float
    new_commands: int
    new_commands_right: float
    unseen_wordings: int
    unseen_wordings_right: float
    stories: int
    stories_ended: float
    stories_keep_hero: float
    stories_copied: int
    fewest_words_in_80_tokens: int
    perplexity: float
    perplexity_tokens: int


def answers(
    model: MobileLLM, tokenizer: Tokenizer, prompts: Iterable[str], options: GenerationOptions, name: str
) -> list[str]:
    """Continue every prompt, 16 at a time; an answer that did not end by itself ends in "…"."""
    made = [new_row(model, tokenizer, prompt, options) for prompt in prompts]
    with tqdm(total=len(made), desc=name, unit="text") as bar:
        for row, _, _ in run(model, made, slots=16):
            bar.update(row.finish_reason is not None)
    return [_answer(tokenizer, row) for row in made]


def _answer(tokenizer: Tokenizer, row: Row) -> str:
    text = tokenizer.decode(row.ids)[len(tokenizer.decode(row.ids[: row.prompt_length])) :]
    return text if row.finish_reason == "eos" else text + "…"


def seen_in_training(tokenizer: Tokenizer, trained: Sequence[Phase], tokens: int) -> set[str]:
    """Every document that training read: stories whole, commands with their calls."""
    seen: set[str] = set()

    def recorded(seed: str) -> Iterator[Document]:
        for document in written_documents(seed):
            seen.add(document.text)
            yield document

    for phase in trained:
        batch = batches(phase, recorded, tokenizer, tokens)
        for step in tqdm(range(phase.schedule.steps), desc="training text", unit="step"):
            batch(step)
    return seen


def share_right(model: MobileLLM, tokenizer: Tokenizer, commands: list[Command], name: str) -> list[bool]:
    """Whether each command's greedy continuation is its call, to the letter."""
    options = GenerationOptions(max_tokens=120)
    given = answers(model, tokenizer, [command.prompt for command in commands], options, name)
    return [command.prompt + text == render(command) for command, text in zip(commands, given, strict=True)]


def opening(story: Story) -> str:
    """A story up to its hero's first name: what a user would type."""
    return story.text[: story.text.index(story.hero) + len(story.hero)]


def keeps_hero(hero: str, text: str) -> bool:
    """Whether the hero is still named in the second half of the text."""
    return re.search(rf"\b{re.escape(hero)}\b", text[len(text) // 2 :]) is not None


def perplexity(model: MobileLLM, tokenizer: Tokenizer, documents: Iterable[str]) -> tuple[float, int]:
    """Perplexity over all tokens behind BOS, EOS included, each document on its own; and how many tokens that is."""
    loss, count = 0.0, 0
    for document in documents:
        ids = mx.array([[*tokenizer.encode(document), tokenizer.eos_token_id]])
        logits = model(ids[:, :-1])
        chosen = mx.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
        loss += (mx.logsumexp(logits, axis=-1) - chosen).sum().item()
        count += ids.shape[1] - 1
    return math.exp(loss / count), count


def measure(model: MobileLLM, tokenizer: Tokenizer, seen: set[str]) -> Report:
    """Run all measurements."""
    rng = random.Random("held out")
    commands = [write_command(rng) for _ in range(1000)]
    right = share_right(model, tokenizer, commands, "commands")
    new = [ok for ok, command in zip(right, commands, strict=True) if render(command) not in seen]
    unseen = [write_command(rng, wording="unseen") for _ in range(500)]
    unseen_right = share_right(model, tokenizer, unseen, "unseen wordings")

    sampled = [write_story(rng) for _ in range(200)]
    options = GenerationOptions(max_tokens=300, sampling=SamplingOptions(temperature=0.7, seed=0))
    prompts = [opening(story) for story in sampled]
    given = answers(model, tokenizer, prompts, options, "stories")
    whole = [prompt + text for prompt, text in zip(prompts, given, strict=True)]
    starts = [tokenizer.decode(tokenizer.encode(text)[:81]) for text in whole]
    held_out = written_documents("held out")
    value, tokens = perplexity(model, tokenizer, [next(held_out).text for _ in range(300)])
    return Report(
        commands=len(right),
        commands_right=sum(right) / len(right),
        new_commands=len(new),
        new_commands_right=sum(new) / len(new),
        unseen_wordings=len(unseen),
        unseen_wordings_right=sum(unseen_right) / len(unseen),
        stories=len(whole),
        stories_ended=sum(not text.endswith("…") for text in whole) / len(whole),
        stories_keep_hero=sum(keeps_hero(s.hero, text) for s, text in zip(sampled, given, strict=True)) / len(whole),
        stories_copied=sum(text in seen for text in whole),
        fewest_words_in_80_tokens=min(len(WORD.findall(start)) for start in starts),
        perplexity=value,
        perplexity_tokens=tokens,
    )


def table(report: Report) -> str:
    """The report as Markdown."""
    lines = [
        ("calls, equal to the letter at temperature 0", report.commands_right, report.commands),
        ("of these, commands that training never saw", report.new_commands_right, report.new_commands),
        ("calls from wordings that training never saw", report.unseen_wordings_right, report.unseen_wordings),
        ("stories at temperature 0.7 that end within 300 tokens", report.stories_ended, report.stories),
        ("stories that still name their hero in their second half", report.stories_keep_hero, report.stories),
    ]
    text = "| on held-out seeds | share | of |\n| --- | --- | --- |\n"
    text += "".join(f"| {name} | {share:.1%} | {count:,} |\n" for name, share, count in lines)
    return text + (
        f"\nStories that stand in the training text: {report.stories_copied}. Fewest words in a story's first 80"
        f" tokens: {report.fewest_words_in_80_tokens}. Perplexity on held-out text: {report.perplexity:.3f} over"
        f" {report.perplexity_tokens:,} tokens.\n"
    )


CARD = """# The demo model

A layer-shared MobileLLM that tells short stories and turns spoken commands into calls. It was made for this package
and is MIT-licensed, weights and all: nothing in it comes from Meta's weights or from anybody's text.

- {parameters:,} parameters in {kind}: {blocks} blocks, each run {repeats} times in a row, width {width},
  {pieces:,} SentencePiece pieces
- Trained on text from the generators in `examples/train_demo/`, seed {seed}: {steps:,} steps of {tokens:,} tokens
- A story: a beginning like "Once upon a time". A call: the bare command, like "set a timer for ten minutes", which
  continues with a newline and a line of JSON
- Its context is {context} tokens. It knows the words and plots of its generators and nothing else

## Measured

By `python examples/train_demo/measure.py FOLDER`, in fp32:

{table}
## Files

| file | sha256 |
| --- | --- |
{files}"""


def write_card(folder: Path, report: Report, config: ModelConfig, trained: Sequence[Phase], tokens: int) -> None:
    """Write the folder's README.md: what the model is, what was measured, and the hashes of its files."""
    names = ("config.json", "model.safetensors", "tokenizer.model")
    files = "".join(f"| {name} | `{hashlib.sha256((folder / name).read_bytes()).hexdigest()}` |\n" for name in names)
    card = CARD.format(
        parameters=sum(config.parameters().values()),
        blocks=config.num_hidden_layers,
        repeats=config.layer_sharing_repeats,
        width=config.hidden_size,
        pieces=config.vocab_size,
        kind=json.loads((folder / "config.json").read_text(encoding="utf-8"))["torch_dtype"],
        seed=trained[0].schedule.seed,
        steps=sum(phase.schedule.steps for phase in trained),
        tokens=tokens,
        context=config.max_position_embeddings,
        table=table(report),
        files=files,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def measure_folder(folder: Path, trained: Sequence[Phase], tokens: int) -> None:
    """Measure the model in a folder, write its card, and print the table."""
    model, tokenizer = load(folder)
    assert tokenizer is not None
    report = measure(model, tokenizer, seen_in_training(tokenizer, trained, tokens))
    write_card(folder, report, model.config, trained, tokens)
    print(table(report))


def main() -> None:
    """Parse the flags and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, help="steps that it was trained for (default: the demo's phases)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of one step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed that it was made from (default: %(default)s)")
    args = parser.parse_args()
    measure_folder(args.model, phases(args.seed, args.steps), args.tokens)


if __name__ == "__main__":
    main()
