"""What an endpoint-sparse update costs at real model shapes: counted from shapes, and measured where a model fits.

A setting is a value here, and its file is read in `config`: measuring needs torch and transformers, a file pydantic.
"""

from dataclasses import dataclass
from fractions import Fraction

from groupppo.update.flops import Shape, Work
from groupppo.update.memory import update_bytes
from groupppo.update.variants import REFERENCE

BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class ModelShape:
    """A decoder by its sizes. `family`: "qwen2", "qwen3" or "llama"."""

    name: str
    title: str
    family: str
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model, one micro-batch of one sequence, and the variants of its update that run in turns.

    The first nine attributes are those of a setting's file (`groupppo.config.forms.SettingEntry`).
    """

    shape: str
    response: int
    density: str
    checkpointing: bool
    dtype: str = "bfloat16"
    device: str = "cpu"
    threads: int = 1
    rounds: int
    variants: tuple[str, ...]
    name: str
    model: ModelShape
    prompt: int
    seed: int

    @property
    def memory_mb(self) -> int:
        """What its process needs, roughly: weights and gradients, the largest update, and what it imports."""
        shape, element = self.model.shape, BYTES[self.dtype]
        work = work_of(self.prompt, self.response, self.density, self.checkpointing)
        # Another project's head may hold twice what the naive one does.
        update = 2 * sum(update_bytes(shape, work, REFERENCE, element=element).values())
        return 2000 + int((2 * shape.parameters * element + update) / 1e6)


def work_of(prompt: int, response: int, density: str, checkpointing: bool) -> Work:
    """One sequence, of whose response every (1/density)-th token and the last one are endpoints."""
    endpoints = -(-response // Fraction(density).denominator)
    return Work(prompt + response, response, endpoints, checkpointing)
