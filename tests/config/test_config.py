"""Benchmark, model, task and arm files: read right, refused with file, key, value and hint."""

import shutil
from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY, BenchmarkFile, load_benchmark
from groupppo.config.files import form_faults
from groupppo.errors import BadInput

SHIPPED = REPOSITORY / "benchmarks"


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """A copy of the shipped folder that a test may spoil."""
    shutil.copytree(SHIPPED, tmp_path / "benchmarks")
    return tmp_path / "benchmarks"


def spoil(file: Path, key: str, value: object) -> None:
    data = yaml.safe_load(file.read_text())
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[last]
    else:
        node[last] = value
    file.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize(
    ("file", "key", "value", "named"),
    [
        ("quick.yaml", "train.steps", -3, "train.steps = -3"),
        ("quick.yaml", "train.stepps", 3, "train.stepps = 3"),
        ("quick.yaml", "train.steps", None, "train.steps = missing"),
        ("quick.yaml", "tasks", ["sortin"], "tasks = 'sortin'"),
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
    ],
)
def test_a_fault_in_any_file_is_named_with_its_file_key_value_and_mend(
    benchmarks: Path, file: str, key: str, value: object, named: str
) -> None:
    spoil(benchmarks / file, key, value)
    with pytest.raises(BadInput) as error:
        load_benchmark(benchmarks / "quick.yaml")
    assert str(benchmarks / file) in str(error.value)
    assert named in str(error.value)
    assert "hint: " in str(error.value)


@pytest.mark.parametrize(
    ("rates", "at", "hint"),
    [
        ([0.0, 2e-5], "learning_rates.ppo.0", "it should be greater than 0"),
        ([2e-5], "learning_rates.ppo", "it should have at least 2 items, not 1"),
    ],
)
def test_a_list_is_short_only_if_it_was_written_short(benchmarks: Path, rates: list[float], at: str, hint: str) -> None:
    spoil(benchmarks / "quick.yaml", "learning_rates", {"ppo": rates})
    file = benchmarks / "quick.yaml"
    [fault] = form_faults(file, BenchmarkFile, yaml.safe_load(file.read_text()))
    assert fault.key == at
    assert hint in fault.hint


def test_a_near_miss_is_answered_with_the_name_that_was_meant(benchmarks: Path) -> None:
    spoil(benchmarks / "quick.yaml", "tasks", ["sortin"])
    with pytest.raises(BadInput, match="did you mean sorting"):
        load_benchmark(benchmarks / "quick.yaml")
    spoil(benchmarks / "quick.yaml", "tasks", ["sorting"])
    spoil(benchmarks / "quick.yaml", "train.stepz", 4)
    with pytest.raises(BadInput, match="did you mean steps"):
        load_benchmark(benchmarks / "quick.yaml")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(BadInput, match=r"no_such\.yaml"):
        load_benchmark("benchmarks/no_such.yaml")


def test_the_resolved_matrix_holds_everything_and_no_path_outside_the_repository() -> None:
    text = yaml.safe_dump(load_benchmark(SHIPPED / "quick.yaml").resolved())
    for part in ("variance_split", "intermediate_size", "target_accuracy", "actor_lr"):
        assert part in text
    assert str(REPOSITORY) not in text


def test_a_benchmark_is_for_the_cpu_unless_it_says_so_and_what_it_says_by_default_is_not_recorded() -> None:
    quick, origin = (load_benchmark(SHIPPED / f"{name}.yaml") for name in ("quick", "origin_gsm8k"))
    assert (quick.device, origin.device) == ("cpu", "cuda")
    # A matrix that was registered before these keys existed must read as unchanged.
    assert "device" not in quick.resolved()
    assert not {"reward", "stock"} & set(quick.resolved()["tasks"]["sorting"])
    assert "shape" not in quick.resolved()["models"]["tiny"]
    assert origin.resolved()["device"] == "cuda"
    assert origin.resolved()["tasks"]["gsm8k_short"]["reward"] == "math"
    assert origin.resolved()["models"]["qwen2_5_0_5b"]["shape"]["layers"] == 24


@pytest.mark.parametrize(
    ("file", "key", "value", "named"),
    [
        ("origin_gsm8k.yaml", "device", "gpu", "device = 'gpu'"),
        ("origin_gsm8k.yaml", "device", "cpu", "device = 'cpu'"),
        ("origin_gsm8k.yaml", "device", None, "device = 'cpu'"),
        ("origin_gsm8k.yaml", "train.rollout", "transformers", "train.rollout = 'transformers'"),
        ("origin_gsm8k.yaml", "models", ["tiny"], "resources = {'mem_mb': 4000}"),
        ("models/qwen2_5_0_5b.yaml", "shape", None, "resources = "),
        ("models/qwen2_5_0_5b.yaml", "resources.gpu_memory_gb", None, "resources"),
        ("models/qwen2_5_0_5b.yaml", "shape.layer", 3, "shape.layer = 3"),
        ("tasks/gsm8k_short.yaml", "reward", "sympy", "reward = 'sympy'"),
    ],
)
def test_a_device_that_the_rollout_or_a_model_does_not_have_is_refused(
    benchmarks: Path, file: str, key: str, value: object, named: str
) -> None:
    spoil(benchmarks / file, key, value)
    with pytest.raises(BadInput) as error:
        load_benchmark(benchmarks / "origin_gsm8k.yaml")
    assert named in str(error.value)
    assert "hint: " in str(error.value)


def test_a_model_with_random_weights_needs_a_task_with_a_warm_start(benchmarks: Path) -> None:
    spoil(benchmarks / "quick.yaml", "tasks", ["gsm8k"])
    with pytest.raises(BadInput, match="random weights") as error:
        load_benchmark(benchmarks / "quick.yaml")
    assert error.value.key == "warmstart"
