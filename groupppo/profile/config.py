"""What a profile counts and measures: a YAML file, read, checked and put together."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from groupppo.config.files import read_form
from groupppo.config.forms import CountedEntry, ProfileFile, TargetEntry
from groupppo.errors import BadInput, suggest
from groupppo.profile import ModelShape, Setting
from groupppo.records.where import Found
from groupppo.records.where import find as find_home
from groupppo.update.flops import Shape
from groupppo.update.variants import FUSED, MASKED, REFERENCE, find

DEFAULT = "benchmarks/profile.yaml"
_COMPARED = {"memory_ratio_to_fused": (FUSED,), "seconds_speedup_to_masked": (MASKED,)}


@dataclass(frozen=True)
class Profile:
    name: str
    title: str
    prompt: int
    shapes: dict[str, ModelShape]
    counted: CountedEntry
    measured: dict[str, Setting]
    targets: tuple[TargetEntry, ...]
    source: Path


def load_profile(path: str | Path) -> Profile:
    """Read and check a profile.

    Raises:
        BadInput: the file is missing or not YAML, a key is unknown, missing or out of range, or keys do not go
            together.
    """
    path = Path(path)
    for fault in profile_faults(path):
        raise fault
    file = read_form(path, ProfileFile)
    shapes = {}
    for name, entry in file.shapes.items():
        sizes = {key: value for key, value in vars(entry).items() if key not in ("title", "family")}
        shape = Shape(**sizes, query_key_norm=entry.family == "qwen3")
        shapes[name] = ModelShape(name, entry.title, entry.family, shape)
    measured = {
        name: Setting(**vars(entry), name=name, model=shapes[entry.shape], prompt=file.prompt, seed=file.seed)
        for name, entry in file.measured.items()
    }
    return Profile(file.name, file.title, file.prompt, shapes, file.counted, measured, file.targets, path)


def profile_faults(path: Path) -> Iterator[BadInput]:
    """What does not go together in a profile whose keys are sound."""
    file = read_form(path, ProfileFile)
    for name, shape in file.shapes.items():
        if shape.heads % shape.kv_heads:
            hint = f"write a divisor of heads = {shape.heads}: a key head serves a whole number of query heads."
            yield BadInput(path, f"shapes.{name}.kv_heads", shape.kv_heads, hint)
    dense = [("counted.densities", each, most) for most in file.counted.responses for each in file.counted.densities]
    dense += [(f"measured.{name}.density", each.density, each.response) for name, each in file.measured.items()]
    for key, density, response in dense:
        if Fraction(density).denominator > response:
            yield BadInput(path, key, density, f"write at least 1/{response}: the response has {response} tokens.")
    for name, setting in file.measured.items():
        if setting.shape not in file.shapes:
            hint = f"{suggest(setting.shape, file.shapes)}Name one of the shapes: {', '.join(file.shapes)}."
            yield BadInput(path, f"measured.{name}.shape", setting.shape, hint)
        if REFERENCE not in setting.variants:
            hint = f"add {REFERENCE}: all ratios are to it."
            yield BadInput(path, f"measured.{name}.variants", list(setting.variants), hint)
        for variant in setting.variants:
            try:
                find(variant)
            except ValueError as error:
                yield BadInput(path, f"measured.{name}.variants", variant, f"{error}.")
    for number, target in enumerate(file.targets):
        if target.setting not in file.measured:
            hint = f"name one of: {', '.join(file.measured)}."
            yield BadInput(path, f"targets.{number}.setting", target.setting, hint)
            continue
        for name in (target.variant, *_COMPARED.get(target.quantity, ())):
            if name not in file.measured[target.setting].variants:
                hint = f"add {name} to the setting's variants."
                yield BadInput(path, f"targets.{number}.variant", target.variant, hint)


def result_files(profile: Profile, folder: Path) -> list[Path]:
    """The result files of every setting: its seconds and its memory."""
    return [folder / f"{setting}.{what}.json" for setting in profile.measured for what in ("seconds", "memory")]


def measured_folder(profile: Profile, results: Path) -> Found:
    """Where a profile's result files are: this machine's own in `results`/<name>/ if complete, else the published ones.

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
