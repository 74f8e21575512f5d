"""Benchmark, model, task and arm files: read right, refused with file, key, value and hint; sweeps, and fewer cells."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupppo.config import REPOSITORY, Benchmark, BenchmarkFile, CellPlan, load_benchmark
from groupppo.config.benchmark import RATE_KEY as KEY
from groupppo.config.benchmark import rate_name
from groupppo.config.files import form_faults
from groupppo.errors import BadInput
from groupppo.tables.keys import Keys, planned_keys

SHIPPED = REPOSITORY / "benchmarks"
ARMS, SEEDS = ["ppo", "grpo", "group_ppo", "random"], [3, 1, 2]
CHAIN = {"task": "chain", "model": "tiny"}
SORTING = {"task": "sorting", "model": "tiny"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped folder, with a second small model; `spoil` mends what it spoils."""
    folder = tmp_path_factory.mktemp("config") / "benchmarks"
    shutil.copytree(SHIPPED, folder)
    small = yaml.safe_load((folder / "models" / "tiny.yaml").read_text()) | {"name": "other"}
    (folder / "models" / "other.yaml").write_text(yaml.safe_dump(small))
    return folder


def load(home: Path, cells: Any = None, **changes: Any) -> Benchmark:
    """benchmarks/quick.yaml with two tasks, four arms and three seeds, and the cells."""
    data = yaml.safe_load((SHIPPED / "quick.yaml").read_text())
    data |= {"name": "narrowed", "tasks": ["sorting", "chain"], "arms": ARMS, "seeds": SEEDS} | changes
    data |= {} if cells is None else {"cells": cells}
    (home / "narrowed.yaml").write_text(yaml.safe_dump(data))
    return load_benchmark(home / "narrowed.yaml")


def fault_of(home: Path, benchmark: str, file: str, key: str, value: object) -> BadInput:
    """The fault of a benchmark once a key of a file has another value, or is left out for None."""
    place = home / file
    before = place.read_text()
    node = data = yaml.safe_load(before)
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    if value is None:
        del node[last]
    place.write_text(yaml.safe_dump(data))
    try:
        with pytest.raises(BadInput) as error:
            load_benchmark(home / benchmark)
    finally:
        place.write_text(before)
    assert str(place) in str(error.value)
    assert "hint: " in str(error.value)
    return error.value


@pytest.mark.parametrize(
    ("file", "key", "value", "named"),
    [
        ("quick.yaml", "train.steps", -3, "train.steps = -3"),
        ("quick.yaml", "train.stepps", 3, "did you mean steps"),
        ("quick.yaml", "train.steps", None, "train.steps = missing"),
        ("quick.yaml", "tasks", ["sortin"], "did you mean sorting"),
        ("quick.yaml", "models", ["huge"], "models = 'huge'"),
        ("quick.yaml", "arms", ["ppo", "grop_ppo"], "arms = 'grop_ppo'"),
        ("quick.yaml", "reference", "dpo", "reference = 'dpo'"),
        ("quick.yaml", "seeds", [1, 1], "seeds = [1, 1]"),
        ("quick.yaml", "claims", "none.yaml", "claims = 'none.yaml'"),
        ("quick.yaml", "train.rollout", "sglang", "train.rollout = 'sglang'"),
        ("quick.yaml", "studies", ["grouping", "grouping"], "studies = ['grouping', 'grouping']"),
        ("arms/ppo.yaml", "name", "dense", "name = 'dense'"),
        ("arms/ppo.yaml", "verl", {}, "verl = {}"),
        ("tasks/sorting.yaml", "splits.test", 0, "splits.test = 0"),
        ("tasks/sorting.yaml", "warmstart.target_accuracy", 1.5, "warmstart.target_accuracy = 1.5"),
        ("models/tiny.yaml", "resources.gpus", 8, "resources.gpus = 8"),
        ("quick.yaml", "learning_rates", {"ppo": [0.0, 2e-5]}, "learning_rates.ppo.0 = 0.0"),
        ("quick.yaml", "learning_rates", {"ppo": [2e-5]}, "it should have at least 2 items, not 1"),
        ("origin_gsm8k.yaml", "device", "gpu", "device = 'gpu'"),
        ("origin_gsm8k.yaml", "device", "cpu", "device = 'cpu'"),
        ("origin_gsm8k.yaml", "device", None, "device = 'cpu'"),
        ("origin_gsm8k.yaml", "train.rollout", "transformers", "train.rollout = 'transformers'"),
        ("models/qwen2_5_0_5b.yaml", "shape", None, "resources = "),
        ("models/qwen2_5_0_5b.yaml", "resources.gpu_memory_gb", None, "resources"),
        ("models/qwen2_5_0_5b.yaml", "shape.layer", 3, "shape.layer = 3"),
        ("tasks/gsm8k_short.yaml", "reward", "sympy", "reward = 'sympy'"),
    ],
)
def test_a_fault_in_any_file_is_named_with_its_file_key_value_and_hint(
    home: Path, file: str, key: str, value: object, named: str
) -> None:
    gpu = file.startswith(("origin", "models/qwen", "tasks/gsm8k"))
    assert named in str(fault_of(home, "origin_gsm8k.yaml" if gpu else "quick.yaml", file, key, value))


def test_a_list_is_short_only_if_it_was_written_short(home: Path) -> None:
    """pydantic counts the items that are sound."""
    data = yaml.safe_load((SHIPPED / "quick.yaml").read_text()) | {"learning_rates": {"ppo": [0.0, 2e-5]}}
    [fault] = form_faults(home / "quick.yaml", BenchmarkFile, data)
    assert (fault.key, "it should be greater than 0" in fault.hint) == ("learning_rates.ppo.0", True)


def test_a_model_with_random_weights_needs_a_warm_start_where_the_cell_is_run(home: Path) -> None:
    sizes = yaml.safe_load((home / "models" / "qwen2_5_0_5b.yaml").read_text())
    published = sizes | {"name": "published", "resources": {"mem_mb": 1000}}
    (home / "models" / "published.yaml").write_text(yaml.safe_dump(published))
    both = {"models": ["tiny", "published"], "tasks": ["sorting", "gsm8k"]}
    with pytest.raises(BadInput, match="random weights") as error:
        load(home, **both)
    assert error.value.key == "warmstart"
    assert len(load(home, [{"task": "gsm8k", "model": "tiny", "arms": []}], **both).plans()) == 3


def test_a_missing_file_is_named() -> None:
    with pytest.raises(BadInput, match=r"no_such\.yaml"):
        load_benchmark("benchmarks/no_such.yaml")


def test_the_record_holds_everything_but_defaults_that_came_later_and_no_path_outside_the_repository() -> None:
    """A matrix that was registered before these keys existed must read as unchanged."""
    quick, origin = (load_benchmark(SHIPPED / f"{name}.yaml").resolved() for name in ("quick", "origin_gsm8k"))
    text = yaml.safe_dump(quick)
    assert all(part in text for part in ("variance_split", "intermediate_size", "target_accuracy", "actor_lr"))
    assert str(REPOSITORY) not in text
    assert not {"device", "cells", "compares"} & set(quick)
    assert not {"reward", "stock"} & set(quick["tasks"]["sorting"])
    assert "shape" not in quick["models"]["tiny"]
    assert (origin["device"], origin["tasks"]["gsm8k_short"]["reward"]) == ("cuda", "math")
    assert origin["models"]["qwen2_5_0_5b"]["shape"]["layers"] == 24


def test_an_arm_is_trained_at_its_own_rate_and_the_others_at_the_matrix_s(home: Path) -> None:
    plain = load(home).arms
    arms = load(home, learning_rates={"group_ppo": 3e-5}).arms
    assert arms["group_ppo"].verl == plain["group_ppo"].verl | {KEY: 3e-5}
    assert arms["ppo"] == plain["ppo"]
    assert KEY not in arms["ppo"].verl


def test_a_sweep_makes_an_arm_of_each_rate_which_differ_in_nothing_else(home: Path) -> None:
    plain = load(home).arms["grpo"]
    arms = load(home, learning_rates={"grpo": [3e-5, 1e-4, 2.5e-6]}).arms
    assert list(arms) == ["ppo", "grpo_lr30u", "grpo_lr100u", "grpo_lr2p5u", "group_ppo", "random"]
    for name, rate in (("grpo_lr30u", 3e-5), ("grpo_lr100u", 1e-4), ("grpo_lr2p5u", 2.5e-6)):
        assert arms[name].verl == plain.verl | {KEY: rate}
        assert (arms[name].name, arms[name].swept_from) == (name, "grpo")
        assert f"{rate:g}" in arms[name].title
    assert plain.swept_from is None


def test_an_arm_with_another_s_density_takes_it_at_the_same_rate(home: Path) -> None:
    rates = [3e-5, 1e-4]
    arms = load(home, learning_rates={"group_ppo": rates, "random": [*rates]}).arms
    for rate in rates:
        assert arms[rate_name("random", rate)].density_from == rate_name("group_ppo", rate)
    assert load(home, learning_rates={"random": rates}).arms["random_lr30u"].density_from == "group_ppo"


@pytest.mark.parametrize(
    ("rates", "named"),
    [
        ({"stride": 1e-4}, "learning_rates = 'stride'"),
        ({"ppo": 0}, "learning_rates.ppo"),
        ({"ppo": [1e-4, 1e-4]}, "learning_rates.ppo"),
        ({"group_ppo": [3e-5, 1e-4]}, "learning_rates.random = missing"),
        ({"group_ppo": [3e-5, 1e-4], "random": [3e-5, 1e-3]}, "learning_rates.random = [3e-05, 0.001]"),
        ({"ppo": [3e-5, 1e-4]}, "reference = 'ppo'"),
    ],
)
def test_rates_that_cannot_be_meant_are_refused_by_name(home: Path, rates: dict[str, object], named: str) -> None:
    with pytest.raises(BadInput) as error:
        load(home, learning_rates=rates)
    assert named in str(error.value)


MINI_BATCH = ("actor_rollout_ref.actor.ppo_mini_batch_size", "critic.ppo_mini_batch_size")
WAYS = {
    "one": {"title": "one update"},
    "four": {"title": "four updates", "mini_batches": 4},
    "warm": {"title": "critic first", "verl": {"trainer.critic_warmup": 5}},
}


def test_settings_make_a_cell_of_each_model_in_each_with_one_start(home: Path) -> None:
    benchmark = load(home, [CHAIN | {"model": "tiny_four", "seeds": [1]}], settings=WAYS)
    plain = load(home).models["tiny"]
    assert set(benchmark.models) == {"tiny_one", "tiny_four", "tiny_warm"}
    assert {model.weights for model in benchmark.models.values()} == {"tiny"}
    assert benchmark.models["tiny_one"].verl == plain.verl
    assert benchmark.models["tiny_four"].verl == plain.verl | dict.fromkeys(MINI_BATCH, 4)  # of 16 prompts
    assert benchmark.models["tiny_warm"].verl == plain.verl | {"trainer.critic_warmup": 5}
    assert benchmark.models["tiny_four"].title == f"{plain.title}, four updates"
    assert benchmark.weights("tiny").params == plain.params
    assert benchmark.plan("chain", "tiny_four").seeds == (1,)
    assert (plain.weights, plain.setting_of, load(home).weights("tiny")) == ("tiny", None, plain)


def test_a_clip_that_can_act_in_one_of_the_settings_is_no_note(home: Path) -> None:
    arms = ["ppo", "clip_higher"]
    assert any("clip_higher" in note for note in load(home, arms=arms).notes())
    assert load(home, arms=arms, settings=WAYS).notes() == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": {"three": {"title": "three", "mini_batches": 3}}}, "settings.three.mini_batches = 3"),
        ({"settings": {"Four": {"title": "four"}}}, "settings.Four"),
        ({"settings": {"none": {}}}, "settings.none.title = missing"),
        ({"settings": {"b": {"title": "b"}}, "models": ["tiny", "tiny_b"]}, "settings.b = 'tiny_b'"),
        ({"settings": WAYS, "cells": [CHAIN | {"seeds": [1]}]}, "cells[0].model = 'tiny'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(home: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput) as error:
        load(home, **changes)
    assert named in str(error.value)


def test_a_setting_and_all_cells_do_not_set_the_same_key(home: Path) -> None:
    train = yaml.safe_load((SHIPPED / "quick.yaml").read_text())["train"]
    with pytest.raises(BadInput, match="only one of them can hold") as error:
        load(home, settings=WAYS, train=train | {"verl": {"trainer.critic_warmup": 2}})
    assert error.value.key == "train.verl.trainer.critic_warmup"


def test_a_cell_that_is_not_listed_has_everything_and_a_listed_one_what_it_names_in_the_matrix_s_order(home) -> None:
    narrowed = load(home, [CHAIN | {"arms": ["random", "ppo", "group_ppo"], "seeds": [2, 3]}])
    whole = CellPlan("sorting", "tiny", tuple(ARMS), (3, 1, 2))
    fewer = CellPlan("chain", "tiny", ("ppo", "group_ppo", "random"), (3, 2))
    assert narrowed.plans() == [whole, fewer]
    assert narrowed.plan("chain", "tiny") == fewer
    plain = load(home)
    assert plain.plans() == [whole, CellPlan("chain", "tiny", tuple(ARMS), (3, 1, 2))]
    recorded = narrowed.resolved()
    assert recorded.pop("cells") == [CHAIN | {"arms": ["ppo", "group_ppo", "random"], "seeds": [3, 2]}]
    assert recorded == plain.resolved()


def test_a_cell_without_arms_is_not_run(home) -> None:
    benchmark = load(home, [{"task": "chain", "model": "other", "arms": []}], models=["tiny", "other"])
    cells = [(plan.task, plan.model) for plan in benchmark.plans()]
    assert cells == [("sorting", "tiny"), ("sorting", "other"), ("chain", "tiny")]
    assert benchmark.plan("chain", "other").runs == []


def test_swept_arms_are_named_at_their_rates(home) -> None:
    rates = {"group_ppo": [3.0e-5, 1.0e-4], "random": [3.0e-5, 1.0e-4]}
    arms = ["ppo", "group_ppo_lr30u", "random_lr30u"]
    assert load(home, [CHAIN | {"arms": arms}], learning_rates=rates).plan("chain", "tiny").arms == tuple(arms)
    with pytest.raises(BadInput) as error:
        load(home, [CHAIN | {"arms": ["ppo", "group_ppo"]}], learning_rates=rates)
    assert (error.value.key, error.value.value) == ("cells[0].arms", "group_ppo")
    with pytest.raises(BadInput, match="add group_ppo_lr30u: random_lr30u takes its density"):
        load(home, [CHAIN | {"arms": ["ppo", "group_ppo_lr100u", "random_lr30u"]}], learning_rates=rates)


@pytest.mark.parametrize(
    ("cells", "key", "value", "hint"),
    [
        ([{"task": "chian", "model": "tiny", "seeds": [1]}], "cells[0].task", "chian", "did you mean chain"),
        ([{"task": "chain", "model": "other", "seeds": [1]}], "cells[0].model", "other", "has: tiny"),
        ([CHAIN | {"arms": ["ppo", "stride"]}], "cells[0].arms", "stride", "has: ppo, grpo, group_ppo, random"),
        ([CHAIN | {"seeds": [1, 4]}], "cells[0].seeds", 4, "has: 3, 1, 2"),
        ([CHAIN | {"seeds": [1]}, CHAIN | {"arms": ["ppo"]}], "cells[1]", "chain, tiny", "one entry"),
        ([CHAIN | {"arms": ["grpo"]}], "cells[0].arms", ["grpo"], "add ppo"),
        ([CHAIN | {"arms": ["ppo", "random"]}], "cells[0].arms", ["ppo", "random"], "add group_ppo: random takes"),
        ([SORTING | {"seeds": [1]}, CHAIN], "cells[1]", CHAIN, "name the arms or seeds"),
        ([CHAIN | {"arms": []}, SORTING | {"arms": []}], "cells", "no cell left", "run at least one"),
        ([CHAIN | {"arms": []}], "tasks", "chain", "leave it out"),
        ([CHAIN | {"arms": ["ppo"]}, SORTING | {"arms": ["ppo", "grpo"]}], "arms", "group_ppo", "leave it out"),
        ([CHAIN | {"seeds": [1]}, SORTING | {"seeds": [1, 2]}], "seeds", 3, "leave it out"),
        ([CHAIN | {"seeds": [1, 1]}], "cells.0.seeds", [1, 1], "run with"),
        ([CHAIN | {"arm": ["ppo"]}], "cells.0.arm", ["ppo"], "did you mean arms"),
    ],
)
def test_a_fault_in_a_cell_is_named_with_its_file_key_value_and_hint(home, cells, key, value, hint) -> None:
    with pytest.raises(BadInput) as error:
        load(home, cells)
    assert (error.value.file, error.value.key) == (str(home / "narrowed.yaml"), key)
    assert error.value.value == value
    assert hint in error.value.hint


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
