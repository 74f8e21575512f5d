"""The complete files that the how-tos show do what the pages say they do."""

import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from groupppo.cli.check import check
from groupppo.config import load_model, load_task
from groupppo.errors import BadInput
from groupppo.models import build_model
from groupppo.studies.shared.study import Clock, Shown
from groupppo.tasks import base, generators
from groupppo.tasks.build import build_task
from groupppo.tasks.reward import score
from groupppo.verdicts.claims import load_claims
from tests.docs.pages import DOCS, PAGES, files, write

# Not howto/own.md's, which need a model's folder and a permission: tests/verl/test_own.py follows that page.
SHOWN_PAGES = [str(each.relative_to(DOCS)) for each in PAGES if each.name != "own.md"]
YAMLS = [(page, path) for page in SHOWN_PAGES for path in files(page)
         if path.startswith("benchmarks/") and path.endswith(".yaml")]  # fmt: skip


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"shown_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def shown(project: Path) -> Path:
    """The project with every file of every page."""
    for page in PAGES:
        for path, text in files(str(page.relative_to(DOCS))).items():
            write(project, path, text)
    return project


@pytest.fixture
def reverse(shown: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The generator of the page, found for one test."""
    folder = shown / "groupppo" / "tasks" / "generators"
    monkeypatch.setattr(generators, "__path__", [*generators.__path__, str(folder)])
    yield
    sys.modules.pop("groupppo.tasks.generators.reverse", None)


@pytest.mark.parametrize(
    ("page", "path"), [case for case in YAMLS if "reverse" not in case[1] and "low_prob" not in case[1]]
)
def test_a_shown_file_has_no_fault_and_a_fault_in_it_is_seen(page: str, path: str, shown: Path) -> None:
    file = shown / path
    assert check(file) == []
    file.write_text(f"{files(page)[path]}unheard_of: 1\n")
    assert [fault.key for fault in check(file)] == ["unheard_of"]


@pytest.mark.usefixtures("reverse")
@pytest.mark.parametrize("name", ["sorting_long", "reverse"])
def test_prompts_and_demonstrations_of_a_shown_task_fit_its_limits(name: str, shown: Path, tmp_path: Path) -> None:
    splits = {"train": 300, "dev": 20, "test": 20}
    task = replace(load_task(shown / "benchmarks" / "tasks" / f"{name}.yaml"), splits=splits)
    build_task(task, tmp_path / "built")
    card = json.loads((tmp_path / "built" / "card.json").read_text())
    longest = card["splits"]["train"]["response_tokens"]["max"]
    with pytest.raises(BadInput, match="max_response_tokens"):
        build_task(replace(task, max_response_tokens=longest - 1), tmp_path / "short")


def test_the_task_of_a_new_kind_draws_examples_that_earn_the_reward_with_its_generator_alone(
    shown: Path, request: pytest.FixtureRequest
) -> None:
    file = shown / "benchmarks" / "tasks" / "reverse.yaml"
    assert [(fault.key, fault.value) for fault in check(file)] == [("generator", "reverse")]
    request.getfixturevalue("reverse")
    assert check(file) == []
    draw, state = base.bind(load_task(file)), random.Random(1)
    for _ in range(50):
        example = draw(state)
        assert score(example.demonstration, example.answer) == 1.0
        assert example.prompt == f"reverse {example.answer[::-1]}"
        assert score(f"{example.demonstration}0", example.answer) == 0.0


def test_the_model_has_the_parameters_that_its_page_says_and_the_claim_can_be_judged(
    shown: Path, tmp_path: Path
) -> None:
    model = load_model(shown / "benchmarks" / "models" / "medium.yaml")
    count = build_model(model, tmp_path / "medium")
    assert f"{count:,} parameters" in (DOCS / "howto" / "model.md").read_text(encoding="utf-8")
    assert model.params["hidden_size"] / model.params["attention_heads"] >= 32
    [claim] = load_claims(shown / "benchmarks" / "stride_claims.yaml").claims
    assert (claim.region.low, claim.region.high, claim.compared("ppo")) == (-0.05, 0.05, "ppo")


def test_the_study_shows_that_short_responses_close_groups_by_their_end(shown: Path, tmp_path: Path) -> None:
    study = load(shown / "groupppo" / "studies" / "lengths.py").STUDY
    found = study.measure(study.given({"task": "t", "out": tmp_path}), Clock())[0]["lengths"]
    assert list(found.columns) == list(study.columns["lengths"])
    study.write_table(tmp_path, "lengths", found)
    tables = study.read_tables(tmp_path)
    assert len(study.show(Shown({}, tables, [], "PPO", 1))[1].rows) == len(found)
    assert (found["density"] > 1 / 16).all()
    assert found["density"].is_monotonic_decreasing
    assert found["closed_by_end"].is_monotonic_decreasing
    assert found["density"].iloc[-1] == pytest.approx(1 / 16, rel=0.05)
    assert found["density"].iloc[0] > 1.4 / 16  # and is no constant
