"""What the demo model learns, in which order, and for how long."""

from dataclasses import dataclass, replace

from corpus import Documents, rows
from mlx_mobilellm.tokenizer import Tokenizer
from trainer import Batches, Schedule


@dataclass(frozen=True)
class Phase:
    """A part of the training: whether commands are learned or only their calls, and its schedule."""

    name: str
    learn_given: bool
    schedule: Schedule


PHASES = (
    Phase("train", True, Schedule(steps=2400)),
    # A model that has learned commands too goes on with them where they might: "weather in London" with " on Sunday".
    # So at the end it learns what follows a command, and no longer the commands.
    Phase("polish", False, Schedule(steps=200, learning_rate=5e-4, final_learning_rate=5e-5, warmup=20)),
)


def phases(seed: int, steps: int | None = None) -> list[Phase]:
    """The demo's phases from a seed, or the first of them alone with another number of steps."""
    chosen = PHASES if steps is None else [replace(PHASES[0], schedule=replace(PHASES[0].schedule, steps=steps))]
    return [replace(phase, schedule=replace(phase.schedule, seed=seed)) for phase in chosen]


def batches(phase: Phase, documents: Documents, tokenizer: Tokenizer, tokens: int) -> Batches:
    """The rows of each step of a phase."""
    seed = f"{phase.name}/{phase.schedule.seed}"
    return lambda step: rows(documents, tokenizer, seed, step, tokens, learn_given=phase.learn_given)
