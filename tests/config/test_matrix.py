"""Cells with fewer arms or seeds than the matrix: read right, refused where they contradict the rest of the file."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupppo.config import REPOSITORY, Benchmark, CellPlan, load_benchmark
from groupppo.errors import BadInput
from groupppo.tables.keys import Keys, planned_keys

ARMS, SEEDS = ["ppo", "grpo", "group_ppo", "random"], [3, 1, 2]
CHAIN = {"task": "chain", "model": "tiny"}
SORTING = {"task": "sorting", "model": "tiny"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix") / "benchmarks"
    shutil.copytree(REPOSITORY / "benchmarks", folder)
    small = yaml.safe_load((folder / "models" / "tiny.yaml").read_text()) | {"name": "small"}
    (folder / "models" / "small.yaml").write_text(yaml.safe_dump(small))
    return folder


def load(home: Path, cells: Any = None, **changes: Any) -> Benchmark:
    """benchmarks/quick.yaml with two tasks, four arms and three seeds, and the cells."""
    data = yaml.safe_load((home / "quick.yaml").read_text())
    data |= {"name": "narrowed", "tasks": ["sorting", "chain"], "arms": ARMS, "seeds": SEEDS} | changes
    data |= {} if cells is None else {"cells": cells}
    (home / "narrowed.yaml").write_text(yaml.safe_dump(data))
    return load_benchmark(home / "narrowed.yaml")


def test_a_cell_that_is_not_listed_has_everything_and_a_listed_one_what_it_names_in_the_matrix_s_order(home) -> None:
    narrowed = load(home, [CHAIN | {"arms": ["random", "ppo", "group_ppo"], "seeds": [2, 3]}])
    whole = CellPlan("sorting", "tiny", tuple(ARMS), (3, 1, 2))
    fewer = CellPlan("chain", "tiny", ("ppo", "group_ppo", "random"), (3, 2))
    assert narrowed.plans() == [whole, fewer]
    assert narrowed.plan("chain", "tiny") == fewer
    assert load(home).plans() == [whole, CellPlan("chain", "tiny", tuple(ARMS), (3, 1, 2))]


def test_a_cell_without_arms_is_not_run(home) -> None:
    entry = {"task": "chain", "model": "small", "arms": []}
    benchmark = load(home, [entry], models=["tiny", "small"])
    cells = [(plan.task, plan.model) for plan in benchmark.plans()]
    assert cells == [("sorting", "tiny"), ("sorting", "small"), ("chain", "tiny")]
    assert benchmark.plan("chain", "small").runs == []


def test_swept_arms_are_named_at_their_rates(home) -> None:
    rates = {"group_ppo": [3.0e-5, 1.0e-4], "random": [3.0e-5, 1.0e-4]}
    arms = ["ppo", "group_ppo_lr30u", "random_lr30u"]
    found = load(home, [CHAIN | {"arms": arms}], learning_rates=rates)
    assert found.plan("chain", "tiny").arms == tuple(arms)
    with pytest.raises(BadInput) as error:
        load(home, [CHAIN | {"arms": ["ppo", "group_ppo"]}], learning_rates=rates)
    assert (error.value.key, error.value.value) == ("cells[0].arms", "group_ppo")
    with pytest.raises(BadInput, match="add group_ppo_lr30u: random_lr30u takes its density"):
        load(home, [CHAIN | {"arms": ["ppo", "group_ppo_lr100u", "random_lr30u"]}], learning_rates=rates)


@pytest.mark.parametrize(
    ("cells", "key", "value", "hint"),
    [
        ([{"task": "chian", "model": "tiny", "seeds": [1]}], "cells[0].task", "chian", "did you mean chain"),
        ([{"task": "chain", "model": "small", "seeds": [1]}], "cells[0].model", "small", "has: tiny"),
        ([CHAIN | {"arms": ["ppo", "stride"]}], "cells[0].arms", "stride", "has: ppo, grpo, group_ppo, random"),
        ([CHAIN | {"seeds": [1, 4]}], "cells[0].seeds", 4, "has: 3, 1, 2"),
        ([CHAIN | {"seeds": [1]}, CHAIN | {"arms": ["ppo"]}], "cells[1]", "chain, tiny", "cells[0] is of the same"),
        ([CHAIN | {"arms": ["grpo"]}], "cells[0].arms", ["grpo"], "add ppo"),
        ([CHAIN | {"arms": ["ppo", "random"]}], "cells[0].arms", ["ppo", "random"], "add group_ppo: random takes"),
        ([SORTING | {"seeds": [1]}, CHAIN], "cells[1]", CHAIN, "name the arms or seeds"),
        ([CHAIN | {"arms": []}, SORTING | {"arms": []}], "cells", "no cell left", "run at least one"),
        ([CHAIN | {"arms": []}], "tasks", "chain", "leave it out"),
        ([CHAIN | {"arms": ["ppo"]}, SORTING | {"arms": ["ppo", "grpo"]}], "arms", "group_ppo", "leave it out"),
        ([CHAIN | {"seeds": [1]}, SORTING | {"seeds": [1, 2]}], "seeds", 3, "leave it out"),
        ([CHAIN | {"seeds": []}], "cells.0.seeds", [], "run with"),
        ([CHAIN | {"seeds": [1, 1]}], "cells.0.seeds", [1, 1], "run with"),
        ([CHAIN | {"arm": ["ppo"]}], "cells.0.arm", ["ppo"], "did you mean arms"),
        ([{"task": "chain", "arms": ["ppo"]}], "cells.0.model", None, "add this key"),
    ],
)
def test_a_fault_in_a_cell_is_named_with_its_file_key_value_and_mend(home, cells, key, value, hint) -> None:
    with pytest.raises(BadInput) as error:
        load(home, cells)
    assert (error.value.file, error.value.key) == (str(home / "narrowed.yaml"), key)
    assert error.value.value == value
    assert hint in error.value.hint


def test_a_warm_start_is_asked_for_only_where_the_cell_is_run(home) -> None:
    hub = ["tiny", "qwen2_5_0_5b"]
    sizes = yaml.safe_load((home / "models" / "qwen2_5_0_5b.yaml").read_text())
    sizes["resources"] = {"mem_mb": 1000}
    (home / "models" / "qwen2_5_0_5b.yaml").write_text(yaml.safe_dump(sizes))
    tasks = ["sorting", "gsm8k"]
    with pytest.raises(BadInput, match="random weights"):
        load(home, models=hub, tasks=tasks)
    not_run = [{"task": "gsm8k", "model": "tiny", "arms": []}]
    assert len(load(home, not_run, models=hub, tasks=tasks).plans()) == 3


def test_a_matrix_without_cells_is_recorded_as_before_and_one_with_them_says_them_in_full(home) -> None:
    assert "cells" not in load(home).resolved()
    assert load(home, []).resolved() == load(home).resolved()
    recorded = load(home, [CHAIN | {"seeds": [1]}]).resolved()
    assert recorded["cells"] == [CHAIN | {"arms": ARMS, "seeds": [1]}]
    assert {key: value for key, value in recorded.items() if key != "cells"} == load(home).resolved()


SUBSETS = st.tuples(st.sets(st.sampled_from(["grpo", "group_ppo", "random"])), st.sets(st.sampled_from(SEEDS)))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chain=SUBSETS)
def test_planned_keys_are_those_of_the_cells_each_in_the_order_of_the_whole_matrix(home, chain) -> None:
    arms = {"ppo", *chain[0]} | ({"group_ppo"} if "random" in chain[0] else set())
    seeds = chain[1] or {1}
    whole, narrowed = load(home), load(home, [CHAIN | {"arms": sorted(arms), "seeds": sorted(seeds)}])
    kept = [keys for keys in planned_keys(whole) if keys.task != "chain" or (keys.arm in arms and keys.seed in seeds)]
    assert planned_keys(narrowed) == kept
    assert planned_keys(whole)[:3] == [Keys("sorting", "tiny", "ppo", seed) for seed in SEEDS]
    assert (kept == planned_keys(whole)) == (arms == set(ARMS) and seeds == set(SEEDS))
