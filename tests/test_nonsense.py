"""Nonsense in the files of benchmarks/: no traceback, no hang, a short message; what is accepted can be defended.

Every leaf and every mapping of a file of each kind gets values that are no sense, of which a fixed choice is tried.
What is no YAML at all is asked of every kind.
"""

import copy
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from groupppo.cli.check import check
from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.slurm.site import load_site
from tests.records.test_plain_yaml import REFUSED

LIMIT = 20  # seconds of CPU for one file: far above what any takes, and below what a hang takes
PER_FILE = 70
FILES = [
    *("quick.yaml", "study.yaml", "claims/group_ppo.yaml", "profile.yaml", "site.yaml"),
    *(f"models/{name}.yaml" for name in ("tiny", "qwen2_5_0_5b")),
    *(f"tasks/{name}.yaml" for name in ("sorting", "gym_chain_sum", "gsm8k")),
    *(f"arms/{name}.yaml" for name in ("group_ppo", "ppo", "random")),
]
VALUES: dict[str, Any] = {
    "minus one": -1,
    "zero": 0,
    "one and a half": 1.5,
    "a billion": 10**9,
    "10^30": 10**30,
    "1e308": 1e308,
    "infinity": float("inf"),
    "not a number": float("nan"),
    "nothing": "",
    "a blank": "   ",
    "two lines": "a\nb",
    "a parent": "../../../../etc/passwd",
    "a root": "/etc/passwd",
    "a shell": "$(touch PWNED)",
    "markup": "<script>alert(1)</script>",
    "a template": "{{ 7*7 }}",
    "the environment": "${oc.env:HOME}",
    "null": None,
    "true": True,
    "a list": [],
    "a mapping": {},
    "the same twice": [1, 1],
    "a nest": [[["x"]]],
    "text of a number": "1",
    "right to left": "\u202egnp",
    "NUL": "a\0b",
    "50,000 letters": "a" * 50_000,
}
# Sentences and labels that a reader sees, escaped wherever they are shown: any line of text, and lines in prose.
LABELS = {"title"}
PROSE = {"description", "claim", "source", "reading", "comparison", "what_would_change"}
# Names of what the file alone cannot know.
NAMES = {"density_from", "metric", "learning_metric", "stage", "figure", "stock", "revision"} | {
    *("partition", "account", "constraint", "gpu_type", "container")
}
# Numbers that have a meaning where they were accepted.
BOUNDS = {"low", "high", "at_least", "at_most"}
NUMBERS: dict[str, set[str]] = {
    "zero": {"seed", "seeds", "checkpoint_every", "stall_limit_s", "lam", "warmup_steps", "generation", "margin"}
    | BOUNDS,
    "a billion": {"seed", "seeds", "margin"} | BOUNDS,
    "minus one": BOUNDS,
    "one and a half": {"margin", "need", "temperature", "gpu_memory_gb"} | BOUNDS,
    "1e308": {"at_least", "at_most"},
    "true": {"save_critic", "tied", "critic.enable", "checkpointing", "needs_learning", "query_key_norm"},
    "a mapping": {"learning_rates", "verl", "config"},
    "a list": {"studies", "cells", "stock", "targets"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("nonsense") / "benchmarks"
    shutil.copytree(REPOSITORY / "benchmarks", home, ignore=shutil.ignore_patterns("*.jsonl"))
    site = {"light_rules": "local", "partition": "cpu", "account": "me", "constraint": "ib", "gpu_type": "h100",
            "container": "docker://x/y:z", "longest_minutes": 100, "most_memory_mb": 1000}  # fmt: skip
    (home / "site.yaml").write_text(yaml.safe_dump(site))
    return home


@pytest.fixture(scope="module")
def sound(home: Path) -> dict[Path, list[BadInput]]:
    """Faults of the files as they are, of which there are none."""
    known: dict[Path, list[BadInput]] = {}
    for name in FILES:
        if name not in ("quick.yaml", "study.yaml"):
            assert check(home / name, known) == []
    for file in sorted(home.glob("*/*.yaml")):
        known.setdefault(file.resolve(), [])
    return known


def asked(file: Path, content: bytes, sound: dict[Path, list[BadInput]]) -> list[BadInput]:
    """The faults of a file with another content, which must come in time and be said in a few lines."""
    before = file.read_bytes()
    file.write_bytes(content)

    def late(*_: object) -> None:
        raise TimeoutError(f"over {LIMIT} s of CPU")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        known = {path: faults for path, faults in sound.items() if path != file.resolve()}
        faults = check(file, known)
        if file.name == "site.yaml" and not faults:
            load_site(file)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        file.write_bytes(before)
    assert all(type(fault) is BadInput for fault in faults)
    assert all(len(str(fault)) < 3000 for fault in faults), "a message that nobody reads"
    return faults


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    children = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in children:
        yield from leaves(item, (*place, key))


def at(data: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        data = data[key]
    return data


def changed(data: Any) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """(place, what was done there, the file's data then)."""
    for place in leaves(data):
        old = at(data, place)
        done: list[tuple[tuple[Any, ...], str, Any]] = [(place, label, value) for label, value in VALUES.items()]
        if isinstance(old, str):
            done.append((place, "a line break", f"{old}\n"))
        if isinstance(old, dict):
            done += [((*place, key), "an unknown key", 1) for key in ("zzz", 7)]
        for where, label, value in done:
            if not where:
                yield where, label, value
                continue
            other = copy.deepcopy(data)
            at(other, where[:-1])[where[-1]] = value
            yield where, label, other


def defensible(place: tuple[Any, ...], label: str, old: Any) -> bool:
    key = next((part for part in reversed(place) if isinstance(part, str)), "")
    value = VALUES.get(label)
    if label == "text of a number":
        return key in PROSE | LABELS | NAMES
    if isinstance(value, str) and value.strip() and len(value) < 1000:
        return key in PROSE or (key in LABELS and "\n" not in value)
    if label == "a line break":
        return key in PROSE
    if label == "null":
        return key == "critic.enable"  # verl decides by the estimator
    return key in NUMBERS.get(label, ()) or (value == old and type(value) is type(old))


@pytest.mark.parametrize("name", FILES)
def test_no_nonsense_is_a_traceback_and_none_is_taken_for_sense(
    home: Path, sound: dict[Path, list[BadInput]], name: str
) -> None:
    file = home / name
    data = yaml.safe_load(file.read_text())
    cases = list(changed(data))
    for place, label, other in random.Random(name).sample(cases, min(PER_FILE, len(cases))):
        content = yaml.safe_dump(other, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
        faults = asked(file, content, sound)
        old = None if label == "an unknown key" else at(data, place)
        assert faults or defensible(place, label, old), (place, label)


@pytest.mark.parametrize(
    "name", ["quick.yaml", "models/tiny.yaml", "arms/group_ppo.yaml", "claims/group_ppo.yaml", "site.yaml"]
)
def test_what_is_no_plain_yaml_is_refused_in_a_file_of_any_kind(
    home: Path, sound: dict[Path, list[BadInput]], name: str
) -> None:
    for label, (text, _, _) in REFUSED.items():
        content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        assert asked(home / name, content, sound), label


def test_the_files_as_they_are_pass(home: Path, sound: dict[Path, list[BadInput]]) -> None:
    """The negative control: what is refused above is refused for what was changed."""
    for name in FILES:
        assert asked(home / name, (home / name).read_bytes(), sound) == []
