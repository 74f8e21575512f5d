"""What a profile counts and measures: a YAML file, read, checked and turned into dataclasses.

profile = load_profile("benchmarks/profile.yaml")
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from groupppo.config.files import read_form
from groupppo.config.forms import ProfileFile, ShapeEntry
from groupppo.errors import BadInput, suggest
from groupppo.records.where import Found
from groupppo.records.where import find as find_home
from groupppo.update.flops import Shape, Work
from groupppo.update.memory import update_bytes
from groupppo.update.variants import FUSED, MASKED, REFERENCE, find

DEFAULT = "benchmarks/profile.yaml"
BYTES = {"bfloat16": 2, "float32": 4}
_COMPARED = {"memory_ratio_to_fused": (FUSED,), "seconds_speedup_to_masked": (MASKED,)}


@dataclass(frozen=True)
class ModelShape:
    """A decoder by its sizes. `family`: "qwen2", "qwen3" or "llama"."""

    name: str
    title: str
    family: str
    shape: Shape


@dataclass(frozen=True)
class Grid:
    """What is counted: every shape with every response length in tokens, density and generation share.

    Attributes:
        need: the speed-up of a whole step whose requirements are worked out.
    """

    responses: tuple[int, ...]
    densities: tuple[Fraction, ...]
    generation: tuple[float, ...]
    need: float


@dataclass(frozen=True)
class Setting:
    """One model, one micro-batch of one sequence, and the variants of its update that run in turns."""

    name: str
    shape: ModelShape
    prompt: int
    response: int
    density: Fraction
    checkpointing: bool
    dtype: str
    device: str
    threads: int
    rounds: int
    variants: tuple[str, ...]
    seed: int

    @property
    def memory_mb(self) -> int:
        """What its process needs, roughly: weights and gradients, the largest update, and what it imports."""
        shape, endpoints = self.shape.shape, -(-self.response // self.density.denominator)
        work = Work(self.prompt + self.response, self.response, endpoints, self.checkpointing)
        # Another project's head may hold twice what the naive one does.
        update = 2 * sum(update_bytes(shape, work, REFERENCE, element=BYTES[self.dtype]).values())
        return 2000 + int((2 * shape.parameters * BYTES[self.dtype] + update) / 1e6)


@dataclass(frozen=True)
class Target:
    """A bound on one number of one variant, written before it was measured; `low` and `high` are both optional."""

    setting: str
    variant: str
    quantity: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Profile:
    name: str
    title: str
    prompt: int
    shapes: dict[str, ModelShape]
    counted: Grid
    measured: dict[str, Setting]
    targets: tuple[Target, ...]
    source: Path


def load_profile(path: str | Path) -> Profile:
    """Read and check a profile.

    Raises:
        BadInput: the file is missing or not YAML; a key is unknown, missing or out of range; a shape, variant or
            setting is named that does not exist; heads are no multiple of key heads; a density is too low for a
            response.
    """
    path = Path(path)
    file = read_form(path, ProfileFile)
    for key, value, hint in _complaints(file):
        raise BadInput(path, key, value, hint)
    counted = file.counted
    shapes = {name: _shape(name, entry) for name, entry in file.shapes.items()}
    measured = {
        name: Setting(
            **(vars(entry) | {"shape": shapes[entry.shape], "density": Fraction(entry.density)}),
            name=name,
            prompt=file.prompt,
            seed=file.seed,
        )
        for name, entry in file.measured.items()
    }
    grid = Grid(counted.responses, tuple(map(Fraction, counted.densities)), counted.generation, counted.need)
    targets = tuple(Target(*vars(entry).values()) for entry in file.targets)
    return Profile(file.name, file.title, file.prompt, shapes, grid, measured, targets, path)


def profile_faults(path: Path) -> Iterator[BadInput]:
    """What does not go together in a profile whose keys are sound."""
    for key, value, hint in _complaints(read_form(path, ProfileFile)):
        yield BadInput(path, key, value, hint)


def result_files(profile: Profile, folder: Path) -> list[Path]:
    """The result files of every setting: its seconds and its memory."""
    return [folder / f"{setting}.{what}.json" for setting in profile.measured for what in ("seconds", "memory")]


def measured_folder(profile: Profile, results: Path) -> Found:
    """Where a profile's result files are: this machine's own in `results`/<name>/ if complete, else the published ones.

    The published ones are found from any working folder.

    Raises:
        BadInput: neither has all of them.
    """

    def place(home: Path) -> Path | None:
        folder = home / profile.name / "measured"
        return folder if all(file.is_file() for file in result_files(profile, folder)) else None

    found = find_home(results, place)
    if found is None:
        hint = f"measure it first: snakemake profile --config profile={profile.source}"
        raise BadInput(profile.source, "measured", list(profile.measured), hint)
    return found


def _shape(name: str, entry: ShapeEntry) -> ModelShape:
    sizes = {key: value for key, value in vars(entry).items() if key not in ("title", "family")}
    return ModelShape(name, entry.title, entry.family, Shape(**sizes, query_key_norm=entry.family == "qwen3"))


def _complaints(file: ProfileFile) -> Iterator[tuple[str, object, str]]:
    """(key, value, hint) of what does not go together."""
    for name, shape in file.shapes.items():
        if shape.heads % shape.kv_heads:
            hint = f"write a divisor of heads = {shape.heads}: a key head serves a whole number of query heads."
            yield f"shapes.{name}.kv_heads", shape.kv_heads, hint
    dense = [("counted.densities", each, most) for most in file.counted.responses for each in file.counted.densities]
    dense += [(f"measured.{name}.density", each.density, each.response) for name, each in file.measured.items()]
    for key, density, response in dense:
        if Fraction(density).denominator > response:
            yield key, density, f"write at least 1/{response}: the response has {response} tokens."
    for name, setting in file.measured.items():
        if setting.shape not in file.shapes:
            hint = f"{suggest(setting.shape, file.shapes)}Name one of the shapes: {', '.join(file.shapes)}."
            yield f"measured.{name}.shape", setting.shape, hint
        if REFERENCE not in setting.variants:
            hint = f"add {REFERENCE}: all ratios are to it."
            yield f"measured.{name}.variants", list(setting.variants), hint
        for variant in setting.variants:
            try:
                find(variant)
            except ValueError as error:
                yield f"measured.{name}.variants", variant, f"{error}."
    for number, target in enumerate(file.targets):
        if target.setting not in file.measured:
            yield f"targets.{number}.setting", target.setting, f"name one of: {', '.join(file.measured)}."
            continue
        for name in (target.variant, *_COMPARED.get(target.quantity, ())):
            if name not in file.measured[target.setting].variants:
                yield f"targets.{number}.variant", target.variant, f"add {name} to the setting's variants."
