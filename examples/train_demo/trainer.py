"""Train a MobileLLM, layer-shared or not, on rows of token ids: the loop behind the demo model.

The model's own ``extend`` is the forward pass, without a cache, so what is trained is what runs later.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from tqdm import tqdm

from mlx_mobilellm.config import ModelConfig
from mlx_mobilellm.model import Weights, extend, unembed


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    steps: int = 2400
    learning_rate: float = 3e-3
    final_learning_rate: float = 1e-4
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    save_every: int = 200
    seed: int = 0


Batches = Callable[[int], tuple[mx.array, mx.array]]
"""The rows of step n, (batch, length + 1) int32, and which of their ids are to be learned, in the same shape.

A pure function of n, so that a resumed run sees the same."""


def initial_weights(config: ModelConfig, seed: int) -> Weights:
    """Random weights: normal with deviation 0.02, smaller by the square root of the depth where a residual is fed."""
    mx.random.seed(seed)
    hidden, inner = config.hidden_size, config.intermediate_size
    residual = 0.02 / math.sqrt(2 * config.executions)

    def normal(rows: int, columns: int, scale: float = 0.02) -> mx.array:
        return mx.random.normal((rows, columns)) * scale

    weights: Weights = {
        "embed_tokens": normal(config.vocab_size, hidden),
        "blocks": [
            {
                "input_layernorm": mx.ones(hidden),
                "qkv_proj": normal(config.attention_width + 2 * config.kv_width, hidden),
                "o_proj": normal(hidden, config.attention_width, residual),
                "post_attention_layernorm": mx.ones(hidden),
                "gate_up_proj": normal(2 * inner, hidden),
                "down_proj": normal(hidden, inner, residual),
            }
            for _ in range(config.num_hidden_layers)
        ],
        "norm": mx.ones(hidden),
    }
    if not config.share_embedding:
        weights["lm_head"] = normal(config.vocab_size, hidden)
    mx.eval(weights)
    return weights


def mean_loss(config: ModelConfig, weights: Weights, rows: mx.array, learned: mx.array) -> mx.array:
    """Mean cross-entropy, in nats per learned token, of each row's tokens after its first; in bfloat16 on a GPU."""
    if mx.default_device().type == mx.DeviceType.gpu:
        weights = cast(Weights, tree_map(lambda array: array.astype(mx.bfloat16), weights))
    logits = unembed(weights, extend(config, weights, None, rows[:, :-1]))
    losses = nn.losses.cross_entropy(logits.astype(mx.float32), rows[:, 1:])
    return (losses * learned[:, 1:]).sum() / learned[:, 1:].sum()


class Run:
    """A training run in a folder: its weights, its optimiser, its losses; saved as it goes and resumed from there."""

    def __init__(self, config: ModelConfig, schedule: Schedule, folder: Path, weights: Weights | None = None) -> None:
        """Start from ``weights``, or from random ones; or go on where a run in the folder was stopped."""
        self.config = config
        self.schedule = schedule
        self.path = folder / "run.safetensors"
        self.weights = initial_weights(config, schedule.seed) if weights is None else weights
        self.optimizer = _optimizer(schedule)
        self.optimizer.init(self.weights)
        self.losses: list[float] = []
        if self.path.exists():
            self._resume()

    def train(self, batches: Batches) -> list[float]:
        """Train up to the schedule's last step; return the loss of every step."""
        state = [self.weights, self.optimizer.state]

        def step(rows: mx.array, learned: mx.array) -> mx.array:
            def loss_of(weights: Weights) -> mx.array:
                return mean_loss(self.config, weights, rows, learned)

            loss, gradients = mx.value_and_grad(loss_of)(self.weights)
            gradients, _ = optim.clip_grad_norm(gradients, self.schedule.clip)
            self.weights.update(self.optimizer.apply_gradients(gradients, self.weights))
            return loss

        compiled = mx.compile(step, inputs=state, outputs=state)
        bar = tqdm(total=self.schedule.steps, initial=len(self.losses), unit="step", smoothing=0.05)
        while len(self.losses) < self.schedule.steps:
            rows, learned = batches(len(self.losses))
            loss = compiled(rows, learned)
            mx.eval(loss, state)
            self.losses.append(loss.item())
            bar.update()
            rate = (bar.format_dict["rate"] or 0) * rows[:, 1:].size
            bar.set_postfix_str(f"loss {self.losses[-1]:.3f}, {rate:,.0f} tokens/s")
            if len(self.losses) % self.schedule.save_every == 0:
                self._save()
        bar.close()
        self._save()
        return self.losses

    def _save(self) -> None:
        arrays = dict(tree_flatten({"weights": self.weights, "optimizer": self.optimizer.state}))
        arrays["losses"] = mx.array(self.losses)
        partial = self.path.with_suffix(".partial.safetensors")
        mx.save_safetensors(str(partial), arrays, metadata={"setting": self._setting()})
        partial.replace(self.path)

    def _resume(self) -> None:
        arrays, metadata = mx.load(str(self.path), return_metadata=True)
        if metadata["setting"] != self._setting():
            raise SystemExit(f"{self.path} is of a run with other settings; train into another folder, or delete it")
        self.losses = arrays.pop("losses").tolist()
        saved = tree_unflatten(list(arrays.items()))
        self.weights.update(saved["weights"])
        self.optimizer.state = saved["optimizer"]
        mx.eval(self.weights, self.optimizer.state)

    def _setting(self) -> str:
        return repr((asdict(self.config), asdict(self.schedule)))


def _optimizer(schedule: Schedule) -> optim.MultiOptimizer:
    """AdamW with warm-up and cosine decay; only matrices decay, the norms' scales do not."""
    rate = optim.join_schedules(
        [
            optim.linear_schedule(0.0, schedule.learning_rate, schedule.warmup),
            optim.cosine_decay(
                schedule.learning_rate, max(1, schedule.steps - schedule.warmup), schedule.final_learning_rate
            ),
        ],
        [schedule.warmup],
    )
    matrices = optim.AdamW(rate, betas=[0.9, 0.95], weight_decay=schedule.weight_decay)
    scales = optim.AdamW(rate, betas=[0.9, 0.95], weight_decay=0.0)
    return optim.MultiOptimizer([matrices, scales], [lambda _, gradient: gradient.ndim == 2])
