"""How the demo model is made: rows that can be made again, a loop that learns and resumes, one command for all."""

import dataclasses
import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from conftest import Golden
from mlx_mobilellm import GenerationOptions, MobileLLM, ModelConfig, Tokenizer, generate, load

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "train_demo"))

import make_demo
import measure
from corpus import LENGTHS, file_documents, rows, written_documents
from stories import write_story
from trainer import Run, Schedule, mean_loss

TINY = ModelConfig(
    vocab_size=1024,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    layer_sharing_repeats=2,
)
SHORT = Schedule(steps=8, warmup=2, learning_rate=1e-2, save_every=1)


@pytest.fixture(autouse=True)
def _uncompiled() -> Iterator[None]:
    """Compiling a training step calls a C++ compiler on a CPU, which takes longer than the steps of these tests."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def some_rows(step: int) -> tuple[mx.array, mx.array]:
    return mx.random.randint(3, 40, (2, 17), key=mx.random.key(step)), mx.ones((2, 17), mx.bool_)


def test_rows_are_documents_between_bos_and_eos(tokenizer: Tokenizer) -> None:
    for step, length in enumerate(LENGTHS):
        made, _ = rows(written_documents, tokenizer, "seed", step, tokens=1024)
        assert made.shape == (1024 // length, length + 1)
        for row in made.tolist():
            assert row[0] == tokenizer.bos_token_id
            ends = [index for index, token in enumerate(row[:-1]) if token == tokenizer.eos_token_id]
            assert all(row[index + 1] == tokenizer.bos_token_id for index in ends)


def test_the_rows_of_a_step_can_be_made_again(tokenizer: Tokenizer) -> None:
    made = [rows(written_documents, tokenizer, "seed", step, tokens=512)[0].tolist() for step in (0, 1, 0)]
    assert made[0] == made[2] != made[1]


def test_commands_may_be_given_rather_than_learned(tokenizer: Tokenizer) -> None:
    ids, learned = rows(written_documents, tokenizer, "seed", 0, tokens=4096, learn_given=False)
    assert mx.array_equal(ids, rows(written_documents, tokenizer, "seed", 0, tokens=4096)[0])
    newline = tokenizer.encode("\n", bos=False)[-1]
    for row, flags in zip(ids.tolist(), learned.tolist(), strict=True):
        starts = [at for at, token in enumerate(row) if token == tokenizer.bos_token_id]
        for start, end in itertools.pairwise([*starts, len(row)]):
            command = row[start:end].index(newline) if newline in row[start:end] else 1  # BOS is given anyway
            if newline in row[start:end] or tokenizer.eos_token_id in row[start:end]:  # not cut in a command
                assert flags[start:end] == [False] * command + [True] * (end - start - command)


def test_only_what_is_to_be_learned_counts(tmp_path: Path) -> None:
    ids, _ = some_rows(0)
    weights = Run(TINY, SHORT, tmp_path).weights
    half = mx.arange(17) < 9
    first = mean_loss(TINY, weights, ids[:, :9], mx.ones((2, 9), mx.bool_))
    assert mean_loss(TINY, weights, ids, mx.broadcast_to(half, (2, 17))).item() == pytest.approx(first.item(), rel=1e-5)


def test_a_text_file_is_documents_between_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one\nstill one\n\n\ntwo\n\nthree", encoding="utf-8")
    source = file_documents(path)("seed")
    assert {next(source).text for _ in range(50)} == {"one\nstill one", "two", "three"}


def test_a_file_without_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(SystemExit, match="holds no text"):
        file_documents(path)


def test_the_loss_falls(tmp_path: Path) -> None:
    losses = Run(TINY, dataclasses.replace(SHORT, steps=40), tmp_path).train(lambda _: some_rows(0))
    assert losses[-1] < 0.8 * losses[0]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = Run(TINY, SHORT, tmp_path / "whole")
    losses = whole.train(some_rows)

    def stop_at_4(step: int) -> tuple[mx.array, mx.array]:
        if step == 4:
            raise KeyboardInterrupt
        return some_rows(step)

    with pytest.raises(KeyboardInterrupt):
        Run(TINY, SHORT, tmp_path / "stopped").train(stop_at_4)
    resumed = Run(TINY, SHORT, tmp_path / "stopped")
    assert resumed.losses == pytest.approx(losses[:4])
    assert resumed.train(some_rows) == pytest.approx(losses)
    assert mx.allclose(resumed.weights["embed_tokens"], whole.weights["embed_tokens"], atol=1e-5)


def test_a_folder_of_another_run_is_not_continued(tmp_path: Path) -> None:
    Run(TINY, SHORT, tmp_path).train(some_rows)
    with pytest.raises(SystemExit, match="a run with other settings"):
        Run(TINY, dataclasses.replace(SHORT, seed=1), tmp_path)


def test_one_command_makes_a_checkpoint_from_a_text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_demo, "demo_config", lambda size: dataclasses.replace(TINY, vocab_size=size))
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The {animal} sat by the sea and sang." for animal in ("cat", "dog", "hen")))
    output = tmp_path / "model"
    make_demo.main(["--output", str(output), "--text", str(text), "--steps", "2", "--tokens", "512", "--pieces", "290"])
    model, tokenizer = load(output)
    assert tokenizer is not None
    assert model.config == dataclasses.replace(TINY, vocab_size=290)
    assert isinstance(generate(model, tokenizer, "The cat", max_tokens=5), str)
    assert (output / "loss.png").stat().st_size > 1000


def test_a_story_is_measured_from_its_opening_up_to_the_heros_name() -> None:
    for seed in range(50):
        story = write_story(random.Random(seed))
        start = measure.opening(story)
        assert story.text.startswith(start)
        assert start.endswith(story.hero)
        assert measure.keeps_hero(story.hero, story.text[len(start) :])


def test_a_hero_must_be_named_in_the_second_half() -> None:
    assert not measure.keeps_hero("Ann", "Ann went out. The day was long and warm and the sun was high.")
    assert not measure.keeps_hero("Ann", "She went out. She saw a dog. She saw a cat. Hannah waved.")
    assert measure.keeps_hero("Ann", "She went out. She saw a dog. She saw a cat. Then Ann came home.")


def test_perplexity_is_that_of_all_tokens_behind_bos(layer_share: Golden, tokenizer: Tokenizer) -> None:
    embedding = mx.random.normal((tokenizer.vocab_size, 96), key=mx.random.key(5)) * 0.1
    config = dataclasses.replace(layer_share.model.config, vocab_size=tokenizer.vocab_size)
    model = MobileLLM(config, {**layer_share.model.weights, "embed_tokens": embedding})
    documents = ["One day, a cat sat.", "Then it slept."]
    losses: list[float] = []
    for document in documents:
        ids = [*tokenizer.encode(document), tokenizer.eos_token_id]
        logits = np.array(model(mx.array([ids])))[0, :-1].astype(np.float64)
        losses += list(np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(ids) - 1), ids[1:]])
    value, tokens = measure.perplexity(model, tokenizer, documents)
    assert tokens == len(losses)
    assert value == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)


def test_an_answer_that_did_not_end_by_itself_is_marked(tokenizer: Tokenizer) -> None:
    model, _ = load()
    cut, whole = (
        measure.answers(model, tokenizer, ["set a timer for ten minutes"], GenerationOptions(tokens), "")[0]
        for tokens in (3, 100)
    )
    assert cut.endswith("…")
    assert whole == '\n{"call": "set_timer", "minutes": 10}'
