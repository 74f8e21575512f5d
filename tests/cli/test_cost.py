"""groupppo cost: what it counts, where its numbers come from, and that it runs nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from groupppo.config import Benchmark, CellPlan, load_arm, load_benchmark, load_task
from groupppo.cost import Estimate, Span, cost_line, estimate_cost, model
from groupppo.cost.estimate import COUNTED, OTHER_RUNS, RUNS, SAME_ARM
from groupppo.cost.model import BYTE_VOCABULARY, shape_of
from groupppo.errors import BadInput
from groupppo.tasks.tokenizer import byte_tokenizer
from groupppo.update.flops import Shape, Work
from tests.synthetic import write_results


@pytest.fixture
def quick(project: Path) -> Benchmark:
    return load_benchmark(project / "benchmarks" / "quick.yaml")


def record(results: Path, **train: object) -> None:
    file = results / "benchmark.yaml"
    data = yaml.safe_load(file.read_text())
    data["train"] |= train
    file.write_text(yaml.safe_dump(data))


def share(found: Estimate, name: str):
    return next(each for each in found.arms if each.name == name)


def close(a: Span, b: Span) -> bool:
    return (a.low, a.high) == pytest.approx((b.low, b.high))


@pytest.mark.parametrize("measured", [False, True])
def test_twice_the_seeds_are_twice_the_hours_and_bytes_of_every_arm(quick, project: Path, measured: bool) -> None:
    if measured:
        write_results(project / "results" / "quick", seeds=(1, 2), steps=6)
    once = estimate_cost(replace(quick, seeds=(1, 2)), project / "results")
    twice = estimate_cost(replace(quick, seeds=(1, 2, 3, 4)), project / "results")
    for arm in quick.arms:
        a, b = share(once, arm), share(twice, arm)
        assert close(b.seconds, a.seconds * 2)
        assert close(b.size, a.size * 2)
        assert b.jobs == 2 * a.jobs
        assert not close(b.seconds, a.seconds)
    assert close(twice.shared.seconds, once.shared.seconds)
    assert share(once, "ppo").basis == ((RUNS,) if measured else (COUNTED,))


def test_jobs_are_those_of_the_plan(quick, project: Path) -> None:
    once = 10  # model, resolve, task, warmstart, evaluate_start, collect, verdicts, figures, report, all
    runs, asked = 2 * len(quick.arms) * len(quick.seeds), len(quick.studies) + bool(quick.profile)
    assert estimate_cost(quick, project / "results").total.jobs == runs + once + asked
    plain = replace(quick, studies=(), profile=None)
    assert estimate_cost(plain, project / "results").total.jobs == runs + once


def test_earlier_runs_of_the_arm_are_scaled_by_steps_and_responses(quick, project: Path) -> None:
    results = project / "results" / "earlier"
    write_results(results, seeds=(1, 2, 3), steps=6)
    train = yaml.safe_load((results / "benchmark.yaml").read_text())["train"]
    runs = [json.loads(file.read_text()) for file in sorted(results.glob("runs/sorting/tiny/ppo/*/status.json"))]
    responses = quick.train.prompts_per_step * quick.train.responses_per_prompt
    scale = responses / (train["prompts_per_step"] * train["responses_per_prompt"])
    steps = quick.train.steps
    walls = [
        run["startup_seconds"] + (run["wall_seconds"] - run["startup_seconds"]) / run["steps"] * steps * scale
        for run in runs
    ]
    found = share(estimate_cost(quick, project / "results"), "ppo")
    assert close(found.run, Span(min(walls) / SAME_ARM, max(walls) * SAME_ARM))
    bigger = replace(quick, train=replace(quick.train, prompts_per_step=2 * quick.train.prompts_per_step))
    assert share(estimate_cost(bigger, project / "results"), "ppo").run.high > found.run.high


def test_it_says_which_runs_it_used_and_takes_other_arms_where_it_must(quick, groupppo, project: Path) -> None:
    write_results(project / "results" / "earlier", seeds=(1, 2), steps=6)
    (project / "results" / "earlier" / "runs" / "sorting" / "tiny" / "grpo").rename(project / "gone")
    found = estimate_cost(quick, project / "results")
    assert share(found, "ppo").basis == (RUNS,)
    assert share(found, "grpo").basis == (OTHER_RUNS,)
    out = groupppo("cost", "quick").out
    assert "sorting/tiny/ppo: 2 runs of 6 steps in results/earlier on " in out
    assert "sorting/tiny/other arms: 4 runs of 6 steps in results/earlier on " in out


@pytest.mark.parametrize(("key", "value"), [("rollout", "vllm"), ("epochs", 3)])
def test_runs_of_another_kind_of_step_are_not_used_and_that_is_said(quick, project: Path, key: str, value) -> None:
    results = project / "results" / "earlier"
    write_results(results, seeds=(1, 2), steps=6)
    assert share(estimate_cost(quick, project / "results"), "ppo").basis == (RUNS,)
    record(results, **{key: value})
    found = estimate_cost(quick, project / "results")
    assert share(found, "ppo").basis == (COUNTED,)
    assert any(f"train.{key} differs" in note for note in found.notes)


def test_runs_on_another_device_that_failed_or_cannot_be_read_are_named(quick, project: Path) -> None:
    results = project / "results" / "earlier"
    write_results(results, seeds=(1, 2, 3), steps=6, failed={("grpo", 1): "out of memory"})
    (results / "runs/sorting/tiny/ppo/seed1/status.json").write_text("{")
    notes = estimate_cost(quick, project / "results").notes
    assert any("ppo/seed1" in note and "cannot be read" in note for note in notes)
    assert any("grpo/seed1: failed" in note for note in notes)
    assert len(notes) == 2, "runs that were used are not named"
    on_gpu = estimate_cost(quick, project / "results", "cuda")
    assert share(on_gpu, "ppo").basis == (COUNTED,)
    assert any("ppo/seed3: ran on cpu" in note for note in on_gpu.notes)


def test_a_larger_model_and_more_steps_cost_more_and_a_run_at_most_its_time_limit(quick, project: Path) -> None:
    def cost(**changed) -> Estimate:
        train = {"time_limit_s": 10**9} | changed
        return estimate_cost(replace(quick, models={"tiny": tiny}, train=replace(quick.train, **train)), results)

    tiny, results = quick.models["tiny"], project / "results"
    small, longer, tight = cost(), cost(steps=2 * quick.train.steps), cost(time_limit_s=60)
    tiny = replace(tiny, params=tiny.params | {"hidden_size": 1024, "layers": 24, "intermediate_size": 4096})
    large = cost()
    assert share(large, "ppo").seconds.high > 10 * share(small, "ppo").seconds.high
    assert share(large, "ppo").size.high > 10 * share(small, "ppo").size.high
    assert share(longer, "ppo").seconds.low > share(small, "ppo").seconds.low
    assert share(tight, "ppo").run.high == 60
    assert (tight.capped, small.capped) == (tuple(quick.arms), ())


@pytest.mark.parametrize(("arm", "keys", "share_of_dense"), [
    ("grpo", {}, (1.0, 1.0)),
    ("grpo", {"density": 0.9}, (1.0, 1.0)),  # without a rule there is nothing to choose
    ("grpo_random", {"density": 0.2, "update": "gathered"}, (0.2, 0.2)),
    ("grpo_random", {"density": 0.5, "update": "gathered"}, (0.5, 0.5)),
    ("grpo_random", {"density": 0.5, "update": "auto"}, (1.0, 1.0)),
    ("grpo_random", {"density": 0.2, "update": "auto"}, (0.2, 1.0)),
    ("grpo_prefix_cut_ht_gathered", {}, (0.5, 1.0)),
    ("group_ppo_gathered", {}, (1 / 16, 1 / 5)),
])  # fmt: skip
def test_an_update_is_counted_with_the_tokens_that_its_rule_chooses(
    quick, monkeypatch: pytest.MonkeyPatch, arm: str, keys: dict[str, object], share_of_dense: tuple[float, float]
) -> None:
    counted = []

    def count(shape: Shape, work: Work, mode: str) -> dict[str, float]:
        counted.append(1.0 if mode in ("dense", "masked") else work.endpoints / work.response)
        return {"head": 0.0}

    monkeypatch.setattr(model, "update_flops", count)
    chosen = load_arm(quick.source.parent / "arms" / f"{arm}.yaml")
    verl = chosen.verl | {f"algorithm.group_params.{key}": value for key, value in keys.items()}
    task, tiny = quick.tasks["sorting"], quick.models["tiny"]
    model.step_flops(quick, task, tiny, replace(chosen, verl=verl | {"critic.enable": False}))
    assert counted[1::2] == pytest.approx(share_of_dense, rel=0.1)


def with_checkpoints(benchmark: Benchmark, every: int = 10) -> Benchmark:
    return replace(benchmark, train=replace(benchmark.train, checkpoint_every=every))


def test_what_a_run_keeps_to_be_resumed_from_is_counted_apart_from_what_stays(quick, project: Path) -> None:
    bytes_of_weights = 4 * shape_of(quick.models["tiny"]).parameters
    found = estimate_cost(with_checkpoints(quick), project / "results")
    # Two checkpoints at a time, of weights and two moments; policy and critic, and no critic.
    assert share(found, "ppo").resumable.low == pytest.approx(2 * 2 * (3 + 1) * bytes_of_weights)
    assert share(found, "grpo").resumable.low == pytest.approx(2 * (3 + 1) * bytes_of_weights)
    assert found.total.resumable == share(found, "ppo").resumable
    for every in (0, quick.train.steps):
        without = estimate_cost(with_checkpoints(quick, every), project / "results")
        assert without.total.resumable.high == 0
        assert without.peak == without.total.size == found.total.size


def test_the_peak_has_the_largest_runs_under_way(quick, project: Path) -> None:
    plan, results = with_checkpoints(quick), project / "results"
    one, three, every = (estimate_cost(plan, results, at_once=number) for number in (1, 3, None))
    ppo, grpo, stays = (share(one, "ppo").resumable, share(one, "grpo").resumable, one.total.size)
    assert 0 < grpo.high < ppo.high
    assert close(one.peak, stays + ppo)
    assert close(three.peak, stays + ppo * 3)
    assert close(every.peak, stays + ppo * 4 + grpo * 2)
    assert (one.at_once, three.at_once, every.at_once) == (1, 3, 6)
    assert estimate_cost(plan, results, at_once=99).peak == every.peak


def test_the_peak_of_storage_is_said_where_there_is_one(groupppo, project: Path) -> None:
    file = project / "benchmarks" / "quick.yaml"
    assert "peak of storage" not in groupppo("cost", "quick").out
    data = yaml.safe_load(file.read_text())
    data["train"]["checkpoint_every"] = 10
    file.write_text(yaml.safe_dump(data))
    assert "with 6 training runs under way at once" in groupppo("cost", "quick").out
    assert "with 2 training runs under way at once" in groupppo("cost", "quick", "--at-once", "2").out
    assert groupppo("cost", "quick", "--at-once", "0").code != 0


def test_a_model_without_sizes_is_refused_and_a_plan_is_shown_without_its_cost(quick, project: Path) -> None:
    odd = replace(quick, models={"tiny": replace(quick.models["tiny"], params={"repo": "somebody/model"})})
    with pytest.raises(BadInput, match="write them, or a shape"):
        estimate_cost(odd, project / "results")
    line = cost_line(odd, project / "results")
    assert line.startswith("The cost of quick is not known: ")
    assert line.endswith("says why.")


def test_the_shape_counted_is_the_shape_built(quick, small_model_folder: Path) -> None:
    from transformers import AutoConfig

    sizes = {"hidden_size": 32, "layers": 1, "attention_heads": 1, "key_value_heads": 1, "intermediate_size": 64}
    assert shape_of(replace(quick.models["tiny"], params=sizes)) == Shape.of(
        AutoConfig.from_pretrained(small_model_folder)
    )
    assert len(byte_tokenizer(64)) == BYTE_VOCABULARY


def test_one_line_for_a_plan_says_what_the_command_says(quick, groupppo, project: Path) -> None:
    line, out = cost_line(quick, project / "results"), groupppo("cost", "quick").out
    for words in ("no earlier run; operations counted from the model's shape", "groupppo/update/flops.py", "GFLOP/s"):
        assert words in out
    total = next(row for row in out.splitlines() if row.startswith("total"))
    whole = estimate_cost(quick, project / "results").total
    for text in (f"{whole.jobs}", whole.seconds.text(3600), whole.size.bytes_text()):
        assert text in line
        assert text in total
    assert "core-hours" in line
    assert line.endswith(f"by arm: groupppo cost {quick.source}")
    assert "GPU-hours" in cost_line(replace(quick, device="cuda"), project / "results")


@pytest.mark.parametrize(("low", "high", "text"), [
    (5, 999, "5 B - 999 B"), (1e3, 1e6, "1 kB - 1 MB"), (2e9, 123e9, "2 GB - 123 GB"), (0, 4e15, "0 B - 4,000 TB"),
])  # fmt: skip
def test_both_ends_of_a_range_of_bytes_have_their_unit(low: float, high: float, text: str) -> None:
    assert Span(low, high).bytes_text() == text


def test_it_writes_nothing_and_gives_programs_seconds(groupppo, quick, project: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in project.rglob("*")}
    found = json.loads(groupppo("cost", "quick", "--json").out)
    assert [arm["name"] for arm in found["arms"]] == list(quick.arms)
    assert 0 < found["total"]["seconds"]["low"] < found["total"]["seconds"]["high"]
    assert {file: file.stat().st_mtime_ns for file in project.rglob("*")} == before


def test_cells_with_fewer_arms_and_seeds_cost_what_they_run(quick, project: Path) -> None:
    tasks = quick.tasks | {"chain": load_task(project / "benchmarks" / "tasks" / "chain.yaml")}
    whole = replace(quick, tasks=tasks, seeds=(1, 2, 3), studies=())
    narrowed = replace(whole, cells=(CellPlan("chain", "tiny", ("ppo",), (2,)),))
    before, after = (estimate_cost(each, project / "results") for each in (whole, narrowed))
    assert (before.runs, after.runs) == (18, 10)
    assert [share(after, arm).jobs for arm in quick.arms] == [2 * 4, 2 * 3, 2 * 3]
    sorting = replace(whole, cells=(CellPlan("chain", "tiny", (), (1,)),))
    alone = estimate_cost(sorting, project / "results")
    assert close(share(after, "grpo").seconds, share(alone, "grpo").seconds)
    assert not close(share(after, "grpo").seconds, share(before, "grpo").seconds)
    assert after.shared.jobs - alone.shared.jobs == 2  # a start and its evaluation
    assert after.at_once == after.runs
    assert before.total.size.high > after.total.size.high > alone.total.size.high
