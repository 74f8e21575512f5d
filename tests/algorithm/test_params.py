"""`GroupParams`: defaults and errors that name key, value and hint; tau and density from step to step."""

import json
from math import exp, log
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import DensitySchedule, GroupParams, known_rules, next_threshold
from groupppo.algorithm.params import HOME, KEYS
from groupppo.errors import BadInput

# A value other than the default for every key that some rule does not use.
CHOICES = [name for name, key in KEYS.items() if key.choices]
LIMITS = {name: key.limits for name, key in KEYS.items() if key.limits}
OTHERS = {
    "score": "log_ratio",
    "group_variance_threshold": 0.5,
    "group_max_size": 4,
    "group_epsilon": 1e-3,
    "adaptive_threshold": False,
    "threshold_lr": 0.5,
    "min_threshold": 0.5,
    "max_threshold": 2.0,
    "target_density": 0.25,
    "density": 0.25,
    "density_source": "steps.jsonl",
    "probability_cutoff": 0.5,
    "close": "at",
    "rule_advantage": "residual",
    "entropy_over": "response",
    "side": "bottom",
    "prefix_min": 4,
    "gap_low": 0.9,
    "gap_high": 1.1,
}


def test_defaults_are_those_of_the_origin() -> None:
    params = GroupParams.from_config({})
    assert (params.group_variance_threshold, params.group_max_size, params.group_epsilon) == (1.0, 16, 1e-6)
    assert (params.adaptive_threshold, params.threshold_lr) == (True, 0.01)
    assert (params.min_threshold, params.max_threshold) == (0.1, 10.0)
    assert (params.rule, params.advantage, params.spread) == ("variance_split", "segment_gae", "endpoint")


BAD_VALUES = [
    ("rule", "variance_spilt"),
    ("rule", ["stride"]),
    ("adaptive_threshold", "yes"),
    ("adaptive_threshold", 1),
    ("shared_prompts", "yes"),
    ("group_max_size", 2.5),
    ("group_max_size", True),
    ("group_variance_threshold", "1.0"),
    ("group_variance_threshold", 11.0),  # above max_threshold
    ("group_variance_threshold", 0.05),  # below min_threshold
    ("min_threshold", 20.0),  # above max_threshold
    ("max_threshold", float("inf")),
    ("group_epsilon", float("nan")),
    ("target_density", 1.5),
    ("density", "a half"),
    ("group_variance_treshold", 1.0),
    ("", 1.0),
    *((key, "no such value") for key in CHOICES),
    *((key, low - 1) for key, (low, _, _) in LIMITS.items()),
    *((key, low) for key, (low, _, closed) in LIMITS.items() if not closed),
]


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_a_bad_key_or_value_is_an_error_that_names_key_value_and_mend(key: str, value: object) -> None:
    with pytest.raises(BadInput) as error:
        GroupParams.from_config({key: value})
    assert (error.value.file, error.value.key, error.value.value) == (HOME, key, value) or value != value
    shown = "missing" if value is None else repr(value)
    assert str(error.value).startswith(f"{HOME}: {key} = {shown}\n  hint: ")
    assert len(error.value.hint) > 10


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"group_variance_treshold": 1.0}, "did you mean group_variance_threshold"),
        ({"rule": "stridee"}, "did you mean stride"),
        ({"advantage": "segmentgae"}, "did you mean segment_gae"),
        ({"group_max_size": 0}, "keep it at least 1"),
        ({"group_max_size": 2.5}, "write a whole number"),
        ({"target_density": 0.0}, "keep it above 0.0 and at most 1.0"),
        ({"min_threshold": 20.0}, "keep it at most 10.0"),
        ({"group_variance_threshold": 11.0}, r"keep it in \[0.1, 10.0\]"),
        ({"adaptive_threshold": "yes"}, "write true or false"),
    ],
)
def test_the_hint_says_what_to_write_instead(config: dict[str, object], hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        GroupParams.from_config(config)


@pytest.mark.parametrize("key", LIMITS)
def test_a_bound_that_belongs_to_the_range_is_accepted(key: str) -> None:
    low, high, closed = LIMITS[key]
    owner = next((rule for rule in known_rules().values() if key in rule.uses), known_rules()["variance_split"])
    context: dict[str, object] = {"rule": owner.name}
    context |= {"min_threshold": 1e-9, "max_threshold": 1e9} if "min_threshold" in owner.uses else {}
    context |= {"update": "streamed"} if key not in owner.uses else {}
    for value in [low] * closed + [high] * (high < float("inf")):
        assert getattr(GroupParams.from_config(context | {key: type(low)(value)}), key) == value


def test_other_values_cover_every_key_that_only_some_rules_use() -> None:
    assert set(OTHERS) == set().union(*(rule.uses for rule in known_rules().values()))


@pytest.mark.parametrize("key", OTHERS)
@pytest.mark.parametrize("rule", list(known_rules()))
def test_a_key_is_taken_by_the_rules_that_use_it_and_refused_by_the_others(rule: str, key: str) -> None:
    uses = known_rules()[rule].uses
    config: dict[str, object] = {"rule": rule, key: OTHERS[key]}
    if "density" in uses and key not in ("density", "density_source"):
        config["density"] = 0.5
    if key in uses:
        assert getattr(GroupParams.from_config(config), key) == OTHERS[key]
        return
    with pytest.raises(BadInput, match=f"rule {rule} does not use it; leave it out") as error:
        GroupParams.from_config(config)
    assert (error.value.key, error.value.value) == (key, OTHERS[key])


@pytest.mark.parametrize("key", ["threshold_lr", "target_density"])
def test_a_key_of_the_adaptive_threshold_is_refused_where_it_is_switched_off(key: str) -> None:
    assert GroupParams.from_config({key: OTHERS[key]})
    with pytest.raises(BadInput, match="without effect") as error:
        GroupParams.from_config({key: OTHERS[key], "adaptive_threshold": False})
    assert (error.value.key, error.value.value) == (key, OTHERS[key])


@pytest.mark.parametrize("rule", ["random", "entropy"])
def test_a_density_is_either_a_number_or_another_run(rule: str) -> None:
    assert GroupParams(rule=rule, density=0.5).density == 0.5
    assert GroupParams(rule=rule, density_source="steps.jsonl").density_source == "steps.jsonl"
    for both in ({}, {"density": 0.5, "density_source": "steps.jsonl"}):
        with pytest.raises(BadInput, match="needs either density, a number, or density_source") as error:
            GroupParams.from_config({"rule": rule} | both)
        assert error.value.key == "density"
    with pytest.raises(BadInput, match=r"write the path of a steps\.jsonl"):
        GroupParams.from_config({"rule": rule, "density_source": 3})


SHARES = st.floats(0.001, 1.0)
RATES = st.one_of(st.just(0.0), st.floats(1e-4, 1.0), st.sampled_from([1e3, 1e300]))


@settings(max_examples=100)
@given(start=st.floats(0.1, 10.0), density=SHARES, target=SHARES, rate=RATES)
def test_it_follows_the_stated_law(start: float, density: float, target: float, rate: float) -> None:
    params = GroupParams(group_variance_threshold=start, target_density=target, threshold_lr=rate)
    tau = next_threshold(start, density, params)
    on_log_scale = log(start) + rate * (density - target) / target
    assert tau == pytest.approx(exp(min(max(on_log_scale, log(0.1)), log(10.0))))
    assert 0.1 <= tau <= 10.0
    assert (
        next_threshold(start, density, GroupParams(group_variance_threshold=start, adaptive_threshold=False)) == start
    )


@settings(max_examples=50)
@given(start=st.floats(0.1, 10.0), target=SHARES)
def test_the_target_density_leaves_tau_alone_to_the_bit(start: float, target: float) -> None:
    params = GroupParams(group_variance_threshold=start, target_density=target)
    assert next_threshold(start, target, params) == start
    assert next_threshold(start, target / 2 if target > 0.5 else 2 * target, params) != start or start in (0.1, 10.0)


def test_a_bound_is_reached_exactly() -> None:
    params = GroupParams(threshold_lr=1000.0, min_threshold=0.3, max_threshold=7.0)
    assert next_threshold(1.0, 1.0, params) == 7.0
    assert next_threshold(1.0, 0.001, params) == 0.3


GOOD = '{"step": 1, "group/density": 0.25, "reward": 3}'


def write(folder: Path, *lines: str) -> Path:
    path = folder / "steps.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_schedule_gives_each_step_its_density(tmp_path: Path) -> None:
    rows = [{"step": step, "group/density": density} for step, density in ((1, 0.25), (2, 1.0), (3, 0.0))]
    schedule = DensitySchedule.load(str(write(tmp_path, *map(json.dumps, rows))))
    assert [schedule.at(step) for step in (1, 2, 3)] == [0.25, 1.0, 0.0]


def test_a_file_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(BadInput, match="run the arm that this density is taken from first") as error:
            DensitySchedule.load(path)
        assert (error.value.file, error.value.key) == (str(path), "density_source")


@pytest.mark.parametrize(
    "row",
    [
        '{"step": 2, "group/density": 0.5',
        "",
        "null",
        '{"step": 2}',
        '{"step": 2, "group/density": "a half"}',
        '{"step": Infinity, "group/density": 0.5}',
        '{"step": 2, "group/density": -0.01}',
        '{"step": 2, "group/density": 1.01}',
        '{"step": 2, "group/density": NaN}',
    ],
)
def test_a_bad_row_is_an_error_that_names_file_line_and_value(tmp_path: Path, row: str) -> None:
    path = write(tmp_path, GOOD, row)
    with pytest.raises(BadInput, match="hint: ") as error:
        DensitySchedule.load(path)
    assert (error.value.file, error.value.key, error.value.value) == (str(path), "line 2", row)
    assert DensitySchedule.load(write(tmp_path, GOOD)).at(1) == 0.25


def test_a_file_that_is_not_text_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b"\x80\x81\n")
    with pytest.raises(BadInput) as error:
        DensitySchedule.load(path)
    assert (error.value.file, error.value.key) == (str(path), "line 1")


@pytest.mark.parametrize("rows", [(GOOD,), ()])
def test_a_step_that_the_run_does_not_have_is_an_error_that_names_it(tmp_path: Path, rows: tuple[str, ...]) -> None:
    path = write(tmp_path, *rows)
    with pytest.raises(BadInput, match="at least as many steps") as error:
        DensitySchedule.load(path).at(2)
    assert (error.value.file, error.value.key) == (str(path), "step 2 group/density")
