"""The same updates, from `groupppo.algorithm.loss` on a plain Hugging Face model, one response at a time in float64."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from groupppo.algorithm.loss import LossMask, masked_mean, policy_loss
from groupppo.config import REPOSITORY
from groupppo.models.tiny import tiny_qwen2
from tests.verl.updates import LEARNING_RATE, PROMPT_LENGTHS, RESPONSES, Batch, Role, Update

# Float32 rounds to 24 bits, 6e-8, in each of the some hundred sums behind a number; 7e-7 was the most ever seen.
ROUNDING = 1e-5
# A step is small beside the parameters, which keep 24 bits of it and of themselves together.
ROUNDING_OF_CHANGE = 3e-5

Statistic = Callable[[Tensor, Tensor], Tensor]
"""From logits (R, V) that predict the tokens (R,) of a response to a number for each."""


def value_loss(predicted: Tensor, values: Tensor, returns: Tensor, mask: LossMask, clip: float = 0.5) -> Tensor:
    """Half the larger of two squared errors, as verl's `compute_value_loss`; (B, T) each, a scalar."""
    clipped = torch.maximum(torch.minimum(predicted, values + clip), values - clip)
    return 0.5 * masked_mean(torch.maximum((predicted - returns) ** 2, (clipped - returns) ** 2), mask)


def log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


def entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


def sum_pi_squared(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.softmax(-1).square().sum(-1)


def value(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.squeeze(-1)


class Plain:
    """A policy or a critic."""

    def __init__(self, role: Role, folder: Path):
        kind = AutoModelForCausalLM if role == "policy" else AutoModelForTokenClassification
        self.role = role
        self.model = kind.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        self.start = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        self.live: Tensor | None = None
        for layer in self.model.base_model.layers:
            for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj):
                projection.register_forward_hook(self._constant_but_for_live)

    def _constant_but_for_live(self, module: object, inputs: object, output: Tensor) -> Tensor:
        return output if self.live is None else torch.where(self.live[:, None], output, output.detach())

    def statistic(self, batch: Batch, of: Statistic, update: Update | None = None) -> Tensor:
        """(B, T), zero where a row has no token.

        Keys and values of what does not flow in a streamed update are constants, which is all that sets it apart.
        """
        result = torch.zeros(batch.response_mask.shape, dtype=torch.float64)
        for row in range(len(result)):
            prompt, length = int(batch.prompt_lengths[row]), int(batch.response_lengths[row])
            ids = batch.input_ids[row, : prompt + length]
            if update is not None and update.computes == "streamed":
                counts = update.mask(batch.losses(update.reading)).counts[row, :length].bool()
                self.live = torch.zeros(len(ids), dtype=torch.bool)
                for place in (counts.nonzero().flatten() + prompt - 1).tolist():
                    self.live[max(0, place - update.window) : place + 1] = True
            logits = self.model(ids[None]).logits[0, prompt - 1 : -1]
            result = result.index_put((torch.tensor(row), torch.arange(length)), of(logits, ids[prompt:]))
        self.live = None
        return result

    def loss(self, batch: Batch, update: Update, rows: list[int]) -> Tensor:
        """Loss of the mini-batch that is made of these rows."""
        losses = batch.losses(update.reading)
        of_all = losses.policy if self.role == "policy" else losses.value
        mask = LossMask(*(_only(part, rows) for part in (of_all.counts, of_all.divides)))
        if self.role == "value":
            return value_loss(self.statistic(batch, value), batch.values.double(), losses.returns.double(), mask)
        log_probs = self.statistic(batch, log_prob, update)
        return policy_loss(log_probs, batch.old_log_probs.double(), losses.advantages.double(), mask)

    def train(self, batch: Batch, update: Update) -> tuple[list[Tensor], Tensor]:
        """Gradients of the steps, zero for a mini-batch without a valid token, and their change of the parameters."""
        self.model.load_state_dict(self.start)
        parameters = [parameter for _, parameter in sorted(self.model.named_parameters())]
        before, gradients = flat([parameter.detach().clone() for parameter in parameters]), []
        size = len(RESPONSES) // update.mini_batches
        for first in [*range(0, len(RESPONSES), size)] * update.epochs:
            rows = list(range(first, first + size))
            step = [torch.zeros_like(parameter) for parameter in parameters]
            if batch.response_mask[rows].any():  # else its loss would be nothing divided by nothing
                step = list(torch.autograd.grad(self.loss(batch, update, rows), parameters))
            gradients.append(flat(step))
            with torch.no_grad():
                for parameter, gradient in zip(parameters, step, strict=True):
                    parameter -= LEARNING_RATE[self.role] * gradient
        return gradients, flat([parameter.detach() for parameter in parameters]) - before


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _only(mask: Tensor, rows: list[int]) -> Tensor:
    kept = torch.zeros_like(mask)
    kept[rows] = mask[rows]
    return kept


def hand_made_batch(policy: Plain, critic: Plain) -> Batch:
    """The batch, with old log-probabilities and values near enough to the models' that all clips are met."""
    generator = torch.Generator().manual_seed(4)
    rows, longest = len(RESPONSES), max(map(len, RESPONSES))
    lengths = torch.tensor([len(mask) for mask in RESPONSES])
    mask = torch.tensor([[int(valid) for valid in mask.ljust(longest, "0")] for mask in RESPONSES])
    shape = (rows, longest)
    noise = [torch.randn(shape, generator=generator) for _ in range(4)]
    empty = torch.zeros(shape)
    batch = Batch(
        input_ids=torch.randint(5, 250, (rows, longest + max(PROMPT_LENGTHS)), generator=generator),
        prompt_lengths=torch.tensor(PROMPT_LENGTHS),
        response_lengths=lengths,
        response_mask=mask,
        token_level_rewards=noise[0] * mask,
        values=empty,
        old_log_probs=empty,
    )
    inside = torch.arange(longest) < lengths[:, None]
    with torch.no_grad():
        log_probs, values = policy.statistic(batch, log_prob).float(), critic.statistic(batch, value).float()
    return Batch(
        **vars(batch)
        | {
            "values": (values + 0.6 * noise[1]) * inside,
            "old_log_probs": (log_probs + 0.7 * noise[2]) * inside,
        }
    )


@dataclass(frozen=True)
class Engines:
    """What verl's engines made of the batch, and the plain models to compare with."""

    batch: Batch
    plain: dict[Role, Plain]
    tensors: dict[str, Tensor]

    def gradients(self, update: Update) -> Tensor:
        """(steps, parameters)"""
        return self.tensors[f"gradients-{update.name}"].double()

    def change(self, update: Update) -> Tensor:
        return self.tensors[f"change-{update.name}"].double()

    def expected(self, update: Update) -> tuple[Tensor, Tensor]:
        gradients, change = self.plain[update.role].train(self.batch, update)
        return torch.stack(gradients), change


def run_engines(folder: Path, branch: str) -> Engines:
    """The updates of engine_updates.py by the engines of a run on a CPU or, with a stand-in, of one on GPUs."""
    _write_models(folder)
    policy, critic = Plain("policy", folder / "policy"), Plain("value", folder / "critic")
    hand_made_batch(policy, critic).save(folder / "batch.safetensors")
    command = [sys.executable, "-W", "ignore", "-m", "tests.verl.engine_updates", str(folder), branch]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    tensors: dict[str, Tensor] = {}
    for ranks in (1, 2):
        tensors |= load_file(folder / f"results{ranks}.safetensors")
    return Engines(Batch.load(folder / "batch.safetensors"), {"policy": policy, "value": critic}, tensors)


def _write_models(folder: Path) -> None:
    """A policy whose tokens differ in probability, and a critic whose head is not zero."""
    size = {"hidden_size": 32, "layers": 2, "attention_heads": 2, "key_value_heads": 1, "intermediate_size": 64}
    for name in ("policy", "critic"):
        tiny_qwen2(folder / name, **size, max_position_embeddings=64, seed=0)
    policy = Plain("policy", folder / "policy").model.float()
    with torch.no_grad():
        policy.get_input_embeddings().weight.mul_(10.0)
    policy.save_pretrained(folder / "policy")
    critic = AutoModelForTokenClassification.from_pretrained(folder / "critic", num_labels=1)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        critic.score.weight.normal_(std=0.3)
        critic.score.bias.normal_(std=0.3)
    critic.save_pretrained(folder / "critic")


def distance(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to what is expected."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))
