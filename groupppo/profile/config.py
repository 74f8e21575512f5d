"""What a profile counts and measures: a YAML file, read, checked and turned into dataclasses.

profile = load_profile("benchmarks/profile.yaml")
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from groupppo.errors import BadInput
from groupppo.schemas import read_checked
from groupppo.update.flops import Shape, Work
from groupppo.update.memory import update_bytes
from groupppo.update.variants import FUSED, MASKED, REFERENCE, find
from groupppo.where import Found
from groupppo.where import find as find_home

DEFAULT = "benchmarks/profile.yaml"
BYTES = {"bfloat16": 2, "float32": 4}


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
    data = read_checked(path, "profile")
    if data["name"] != path.stem:
        raise BadInput(path, "name", data["name"], f"write the file's own name: {path.stem}.")
    shapes = {name: _shape(path, name, dict(sizes)) for name, sizes in data["shapes"].items()}
    grid = Grid(
        responses=tuple(data["counted"]["responses"]),
        densities=tuple(map(Fraction, data["counted"]["densities"])),
        generation=tuple(data["counted"]["generation"]),
        need=data["counted"]["need"],
    )
    for response in grid.responses:
        for density in grid.densities:
            _check_density(path, "counted.densities", density, response)
    measured = {name: _setting(path, name, setting, shapes, data) for name, setting in data["measured"].items()}
    targets = tuple(_target(path, number, target, measured) for number, target in enumerate(data["targets"]))
    return Profile(data["name"], data["title"], data["prompt"], shapes, grid, measured, targets, path)


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


def _shape(path: Path, name: str, sizes: dict[str, Any]) -> ModelShape:
    title, family = sizes.pop("title"), sizes.pop("family")
    if sizes["heads"] % sizes["kv_heads"]:
        hint = f"write a divisor of heads = {sizes['heads']}: a key head serves a whole number of query heads."
        raise BadInput(path, f"shapes.{name}.kv_heads", sizes["kv_heads"], hint)
    return ModelShape(name, title, family, Shape(**sizes, query_key_norm=family == "qwen3"))


_DEFAULTS: dict[str, Any] = {"dtype": "bfloat16", "device": "cpu", "threads": 1}


def _setting(
    path: Path, name: str, data: dict[str, Any], shapes: dict[str, ModelShape], profile: dict[str, Any]
) -> Setting:
    where = f"measured.{name}"
    # Defaults of a schema are filled in below named keys only, and settings have names of their own.
    data = _DEFAULTS | data
    if data["shape"] not in shapes:
        raise BadInput(path, f"{where}.shape", data["shape"], f"name one of the shapes: {', '.join(shapes)}.")
    density = Fraction(data.pop("density"))
    _check_density(path, f"{where}.density", density, data["response"])
    variants = tuple(data.pop("variants"))
    if REFERENCE not in variants:
        raise BadInput(path, f"{where}.variants", list(variants), f"add {REFERENCE}: all ratios are to it.")
    for variant in variants:
        try:
            find(variant)
        except ValueError as error:
            raise BadInput(path, f"{where}.variants", variant, f"{error}.") from error
    shape = shapes[data.pop("shape")]
    prompt, seed = profile["prompt"], profile["seed"]
    return Setting(name=name, shape=shape, prompt=prompt, density=density, variants=variants, seed=seed, **data)


def _target(path: Path, number: int, data: dict[str, Any], measured: dict[str, Setting]) -> Target:
    where = f"targets.{number}"
    if data["setting"] not in measured:
        raise BadInput(path, f"{where}.setting", data["setting"], f"name one of: {', '.join(measured)}.")
    variants = measured[data["setting"]].variants
    for name in (data["variant"], *_COMPARED.get(data["quantity"], ())):
        if name not in variants:
            raise BadInput(path, f"{where}.variant", data["variant"], f"add {name} to the setting's variants.")
    return Target(data["setting"], data["variant"], data["quantity"], data.get("at_least"), data.get("at_most"))


_COMPARED = {"memory_ratio_to_fused": (FUSED,), "seconds_speedup_to_masked": (MASKED,)}


def _check_density(path: Path, key: str, density: Fraction, response: int) -> None:
    if density.denominator > response:
        hint = f"write at least 1/{response}: the response has {response} tokens."
        raise BadInput(path, key, str(density), hint)
