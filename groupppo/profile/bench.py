"""A model with its micro-batch, and the passes of variants over it, each failure kept as a result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from groupppo.profile.batch import Batch, build_model, random_batch
from groupppo.profile.config import Setting
from groupppo.profile.passes import Prepared, fused_log_probs, live_tokens, loss, prepare
from groupppo.update.flops import Work
from groupppo.update.memory import update_bytes
from groupppo.update.variants import FAILED, MEASURED, NO_MEMORY, NOT_RUN, REFERENCE, Variant, find


@dataclass
class Outcome:
    """Whether a variant could be measured, and why not. `status`: one of the four of the catalogue."""

    variant: str
    status: str = MEASURED
    reason: str = ""


class Bench:
    """What all variants of a setting share."""

    def __init__(self, setting: Setting):
        self.setting, self.shape = setting, setting.shape.shape
        torch.set_num_threads(setting.threads)
        self.model = build_model(
            setting.shape.family,
            self.shape,
            dtype=getattr(torch, setting.dtype),
            checkpointing=setting.checkpointing,
            seed=setting.seed,
            device=setting.device,
        )
        self.batch = make_batch(setting, setting.device)
        with torch.no_grad():
            self.batch = self.batch.with_old(fused_log_probs(self.model, self.batch), setting.seed)
        self._prepared: dict[str, Prepared] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights; gradients take as many."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    @property
    def gradient_norm(self) -> float:
        return float(torch.stack([parameter.grad.float().norm() for parameter in self.model.parameters()]).norm())

    def prepare(self, variant: Variant, outcome: Outcome) -> None:
        """Make what the variant needs before its passes, or note why it cannot run."""
        if missing := variant.missing(self.setting.device):
            outcome.status, outcome.reason = NOT_RUN, missing
            return
        work = work_of(self.setting, self.batch, variant)
        needed = sum(update_bytes(self.shape, work, variant.mode, eager=variant.eager).values())
        if self.setting.device == "cpu" and needed > psutil.virtual_memory().available:
            # Linux would end the whole process, and with it the other variants' results.
            outcome.status = NO_MEMORY
            outcome.reason = f"not started: the memory model asks for {needed:.3g} bytes, more than are free"
            return
        with guarded(outcome):
            self._prepared[variant.name] = prepare(variant, self.model, self.batch)

    def held_bytes(self, variant: Variant) -> int:
        """What `prepare` left in memory."""
        kept = self._prepared[variant.name]
        return 0 if kept is None else kept.nbytes

    def passes(self, outcome: Outcome) -> Callable[[], None]:
        """One forward and backward pass, ready to run; gradients are zero before it."""
        variant = find(outcome.variant)
        for parameter in self.model.parameters():
            parameter.grad.zero_()

        def run() -> None:
            loss(variant, self.model, self.batch, self._prepared[variant.name]).backward()

        return run


def make_batch(setting: Setting, device: str) -> Batch:
    """The setting's micro-batch, its old log-probabilities still zero."""
    shape = setting.shape.shape
    return random_batch(shape.vocabulary, setting.prompt, setting.response, setting.density, setting.seed, device)


def work_of(setting: Setting, batch: Batch, variant: Variant) -> Work:
    """The sizes that the formulas of `update.flops` take for one variant."""
    return Work(
        tokens=len(batch.layout.input_ids),
        response=len(batch.rows),
        endpoints=len(batch.endpoints),
        checkpointing=setting.checkpointing,
        live=live_tokens(variant, batch),
        kept=int(batch.rows[-1]) + 1 if variant.cut else 0,
    )


@contextmanager
def guarded(outcome: Outcome) -> Iterator[None]:
    """A failure ends its variant and not the setting, unless it is the reference: no ratio exists without it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if outcome.variant == REFERENCE:
            raise
        ran_out = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        outcome.status, outcome.reason = NO_MEMORY if ran_out else FAILED, " ".join(str(error).split())[:300]
