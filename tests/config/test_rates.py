"""Arms at learning rates of their own, and sweeps of them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from groupppo.config import REPOSITORY, Benchmark, load_benchmark
from groupppo.config.benchmark import RATE_KEY as KEY
from groupppo.config.benchmark import rate_name
from groupppo.errors import BadInput


@pytest.fixture
def benchmark(tmp_path: Path) -> Any:
    """The quick benchmark with other arms and rates."""
    shutil.copytree(REPOSITORY / "benchmarks", tmp_path / "benchmarks")
    file = tmp_path / "benchmarks" / "quick.yaml"

    def load(arms: list[str], rates: dict[str, object], **keys: object) -> Benchmark:
        data = yaml.safe_load((REPOSITORY / "benchmarks" / "quick.yaml").read_text())
        file.write_text(yaml.safe_dump(data | {"arms": arms, "learning_rates": rates} | keys))
        return load_benchmark(file)

    return load


def test_an_arm_is_trained_at_its_own_rate_and_the_others_at_the_matrix_s(benchmark: Any) -> None:
    plain = benchmark(["ppo", "group_ppo"], {}).arms
    arms = benchmark(["ppo", "group_ppo"], {"group_ppo": 3e-5}).arms
    assert arms["group_ppo"].verl == plain["group_ppo"].verl | {KEY: 3e-5}
    assert arms["ppo"] == plain["ppo"]
    assert KEY not in arms["ppo"].verl


def test_a_sweep_makes_an_arm_of_each_rate_which_differ_in_nothing_else(benchmark: Any) -> None:
    plain = benchmark(["ppo", "group_ppo"], {}).arms["group_ppo"]
    arms = benchmark(["ppo", "group_ppo"], {"group_ppo": [3e-5, 1e-4, 2.5e-6]}).arms
    assert list(arms) == ["ppo", "group_ppo_lr30u", "group_ppo_lr100u", "group_ppo_lr2p5u"]
    for name, rate in (("group_ppo_lr30u", 3e-5), ("group_ppo_lr100u", 1e-4), ("group_ppo_lr2p5u", 2.5e-6)):
        assert arms[name].verl == plain.verl | {KEY: rate}
        assert (arms[name].name, arms[name].swept_from) == (name, "group_ppo")
        assert f"{rate:g}" in arms[name].title
    assert plain.swept_from is None


def test_an_arm_with_another_s_density_takes_it_at_the_same_rate(benchmark: Any) -> None:
    rates = [3e-5, 1e-4]
    arms = benchmark(["ppo", "group_ppo", "random"], {"group_ppo": rates, "random": [*rates]}).arms
    for rate in rates:
        assert arms[rate_name("random", rate)].density_from == rate_name("group_ppo", rate)
    assert benchmark(["ppo", "group_ppo", "random"], {"random": rates}).arms["random_lr30u"].density_from == "group_ppo"


@pytest.mark.parametrize(
    ("rates", "named"),
    [
        ({"grpo": 1e-4}, "learning_rates = 'grpo'"),
        ({"ppo": 0}, "learning_rates.ppo"),
        ({"ppo": [1e-4]}, "learning_rates.ppo"),
        ({"ppo": [1e-4, 1e-4]}, "learning_rates.ppo"),
        ({"group_ppo": [3e-5, 1e-4]}, "learning_rates.random = missing"),
        ({"group_ppo": [3e-5, 1e-4], "random": [3e-5, 1e-3]}, "learning_rates.random = [3e-05, 0.001]"),
        ({"ppo": [3e-5, 1e-4]}, "reference = 'ppo'"),
    ],
)
def test_rates_that_cannot_be_meant_are_refused_by_name(benchmark: Any, rates: dict[str, object], named: str) -> None:
    with pytest.raises(BadInput) as error:
        benchmark(["ppo", "group_ppo", "random"], rates)
    assert named in str(error.value)
    assert "hint: " in str(error.value)
