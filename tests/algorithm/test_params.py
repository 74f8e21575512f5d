"""`GroupParams`: the origin's defaults, and errors that name key, value and hint."""

import pytest

from groupppo.algorithm import GroupParams, known_rules
from groupppo.algorithm.params import CHOICES, HOME, RANGES
from groupppo.errors import BadInput

# A value other than the default for every key that some rule does not use.
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
}


def test_defaults_are_those_of_the_origin() -> None:
    params = GroupParams.from_config({})
    assert (params.group_variance_threshold, params.group_max_size, params.group_epsilon) == (1.0, 16, 1e-6)
    assert (params.adaptive_threshold, params.threshold_lr) == (True, 0.01)
    assert (params.min_threshold, params.max_threshold) == (0.1, 10.0)
    assert (params.rule, params.advantage, params.spread) == ("variance_split", "segment_gae", "endpoint")


BAD_VALUES = [
    ("rule", "variance_spilt"),
    ("rule", None),
    ("rule", ["stride"]),
    ("adaptive_threshold", "yes"),
    ("adaptive_threshold", 1),
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
    *((key, low - 1) for key, (low, _, _) in RANGES.items()),
    *((key, low) for key, (low, _, closed) in RANGES.items() if not closed),
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
def test_the_mend_says_what_to_write_instead(config: dict[str, object], hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        GroupParams.from_config(config)


@pytest.mark.parametrize("key", RANGES)
def test_a_bound_that_belongs_to_the_range_is_accepted(key: str) -> None:
    low, high, closed = RANGES[key]
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
