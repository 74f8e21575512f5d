"""What the log of negative results says of the study is what the study decided."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.profile.config import load_profile
from groupppo.profile.tables import tables_of
from groupppo.publish.source import opened
from groupppo.tables import Only, load_tables
from groupppo.verdicts.claims import load_claims


def words(*place: str) -> str:
    return " ".join(REPOSITORY.joinpath(*place).read_text(encoding="utf-8").split())


PAGE, READINGS = words("docs", "negative-results.md"), words("docs", "method", "readings.md")
CELLS = [("sorting", "tiny"), ("sorting", "tiny_b"), ("sorting", "small"), ("chain", "tiny")]
JUDGED = json.loads((REPOSITORY / "results" / "reference" / "study" / "verdicts.json").read_text())["verdicts"]


def of(claim: str) -> list[dict[str, Any]]:
    """Verdicts on a claim, in the page's order of cells."""
    found = {(each["task"], each["model"]): each for each in JUDGED if each["id"] == claim}
    return [found[cell] for cell in CELLS if cell in found]


@pytest.mark.parametrize(
    ("claim", "verdict", "told"),
    [
        ("compression", "refuted", "Study: {0:.1f}, {1:.1f}, {2:.1f} and {3:.1f} %."),
        ("parity-ppo", "refuted", "Study: {0:.3f}, {1:.3f}, {2:.3f} and {3:.3f} in held-out accuracy"),
        ("rule-matters", "refuted", "Study: {0:.3f}, {1:.3f}, {2:.3f} and {3:.3f} against as many random endpoints"),
        ("rule-matters-entropy", "refuted", "; {0:.3f} against those of highest entropy"),
        ("speedup-adv", "refuted", "in the study, {0:.2f}x, {1:.2f}x, {2:.2f}x and {3:.2f}x, against dense PPO's GAE"),
        ("parity-ppo-tokens", "refuted", "Divided by all tokens {0:.3f};"),
        ("parity-ppo-lam95", "refuted", "against PPO with it, {0:.3f},"),
        ("parity-ppo-token-gae", "refuted", "with token GAE {0:.3f}."),
    ],
)
def test_estimates_are_those_of_the_study(claim: str, verdict: str, told: str) -> None:
    verdicts = of(claim)
    assert {each["verdict"] for each in verdicts} == {verdict}
    scale = 100 if claim == "compression" else 1
    assert told.format(*(scale * each["estimate"] for each in verdicts)) in PAGE


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        (
            "parity-ppo-broadcast",
            "Study: {0[estimate]:.3f} [{0[low]:.3f}, {0[high]:.3f}] on sorting, {0[verdict]}, with 73 % of PPO's gain; "
            "{1[estimate]:.3f} [{1[low]:.3f}, {1[high]:.3f}] on chain, {1[verdict]}, with 14 %.",
        ),
        (
            "rule-matters-stride",
            "Study: {0[estimate]:+.3f} and {1[estimate]:+.3f} on sorting, {0[verdict]}, with three times as many "
            "endpoints; {2[estimate]:.3f} on chain, {2[verdict]}.",
        ),
        ("parity-ppo-published", "learns as PPO does: {0[estimate]:.3f} [{0[low]:.3f}, {0[high]:.3f}]."),
        ("update-streamed-entropy", "within the margin, {0[estimate]:.3f} [{0[low]:.3f}, {0[high]:.3f}];"),
    ],
)
def test_intervals_and_verdicts_are_those_of_the_study(claim: str, told: str) -> None:
    assert told.format(*of(claim)) in PAGE


def test_the_noise_of_held_out_items_widens_intervals_and_changes_no_verdict() -> None:
    noisy = [each for each in JUDGED if each["item_noise"] and each["estimate"] is not None]
    claims = {claim.id: claim for claim in load_claims(REPOSITORY / "benchmarks" / "claims.yaml").claims}
    widest = max(each["item_noise"]["together"] / each["item_noise"]["half_width"] for each in noisy)
    assert f"up to {widest:.1f} times as wide, and no verdict is another" in PAGE
    for each in noisy:
        low, high = (each["estimate"] + sign * each["item_noise"]["together"] for sign in (-1, 1))
        region = claims[each["id"]].region
        inside, outside = region.low <= low and high <= region.high, high < region.low or region.high < low
        assert (inside, outside) == (each["verdict"] == "supported", each["verdict"] == "refuted"), each["id"]


@pytest.fixture(scope="module")
def study() -> Iterator[Path]:
    """The published study, unpacked."""
    with opened(REPOSITORY / "results" / "reference" / "study.zip") as source:
        yield source.folder


def in_words(numbers: list[float], digits: int = 1) -> str:
    *first, last = (f"{number:.{digits}f}" for number in numbers)
    return f"{', '.join(first)} and {last}"


def test_what_closes_groups_is_counted_in_the_tables(study: Path) -> None:
    groups = load_tables(study / "tables", {"groups": Only()}).groups
    closed = groups[groups["arm"] == "group_ppo"].copy()
    causes = ["criterion", "cap", "end"]
    closed[causes] = closed[causes].mul(closed["endpoints"], axis=0)
    summed = ["tokens", "endpoints", *causes]
    sums = closed.groupby(["task", "model"], observed=True)[summed].sum().loc[CELLS]
    shares = 100 * sums[causes].div(sums["endpoints"], axis=0)
    assert f"The criterion closes {in_words([*shares['criterion']])} % of the groups" in PAGE
    assert f"the end of the response {in_words([*shares['end']])} %, the largest size the rest" in PAGE
    [claim] = [
        each
        for each in yaml.safe_load((REPOSITORY / "benchmarks" / "claims.yaml").read_text())["claims"]
        if each["id"] == "compression"
    ]
    low, high = (f"{shares[cause].min():.0f} to {shares[cause].max():.0f} %" for cause in ("criterion", "end"))
    assert f"the criterion closes {low} of the groups, the end of the response {high}." in claim["what_would_change"]
    by_step = closed.groupby(["step", "task", "model"], observed=True)[summed].sum()
    dropped = 100 * (1 - by_step["endpoints"] / by_step["tokens"]).unstack("step").loc[CELLS]
    assert f"{in_words([*dropped[1]])} % in the first step, {in_words([*dropped[24]])} % in the last" in PAGE


def test_what_verl_says_of_the_critics(study: Path) -> None:
    only = Only(where={"metric": ["critic/vf_explained_var"]})
    steps = load_tables(study / "tables", {"steps": only}).steps
    means = steps.groupby(["arm", "task", "model"], observed=True)["value"].mean()
    grouped, dense = (in_words([*means[arm].loc[CELLS]], 2).replace("0.", ".") for arm in ("group_ppo", "ppo"))
    assert f"Study, verl's: {grouped}, dense PPO's {dense}." in PAGE


def test_the_margin_as_a_share_of_what_dense_ppo_gains(study: Path) -> None:
    evals = load_tables(study / "tables", {"evals": Only()}).evals
    accuracy = evals[evals["metric"] == "accuracy"].pivot_table(index=["task", "model"], columns="arm", values="value")
    shares = (0.05 / (accuracy["ppo"] - accuracy["start"])).loc[CELLS]
    assert f"Its margin of 0.05 is {in_words([*shares], 2)} of what dense PPO gains." in PAGE


def test_costs_are_those_of_the_published_profile() -> None:
    measured = REPOSITORY / "results" / "reference" / "profile" / "measured"
    tables = tables_of(load_profile(REPOSITORY / "benchmarks" / "profile.yaml"), measured)
    rows = tables.variants.set_index(["setting", "variant"])
    long, short, small = (rows.loc[(setting, "gathered")] for setting in ("r1024", "r512", "r512_ckpt"))
    assert f"(1/{1 / long['logits_ratio']:.0f} of them here," in words("benchmarks", "claims.yaml")
    dense, chunks = "memory_ratio", "memory_ratio_to_fused"
    assert f"{short[dense]:.2f}x and {long[dense]:.2f}x at responses of 512 and 1024, and {small[dense]:.3f}x" in PAGE
    assert f"in chunks {short[chunks]:.2f}x, {long[chunks]:.2f}x and {small[chunks]:.2f}x: refuted" in PAGE
    for name, told, digits in (
        ("gathered", "{flops:.2f}x in operations, which is its bound; {time}, in which the dense head", 2),
        ("streamed_recompute", "keys and values {flops:.2f}x in operations, {time}. The claim", 2),
        ("streamed_reuse", "{flops:.1f}x, supported, and {time}. Response 1024.", 2),
    ):
        row = rows.loc[("r1024", name)]
        time, low, high = (f"{row[f'seconds_speedup{end}']:.{digits}f}" for end in ("", "_low", "_high"))
        time = f"{time}x [{low}, {high}]" + (" in time" if "{time}" in told else "")
        assert told.format(flops=row["flops_speedup"], time=time) in PAGE, name


def test_densities_agreement_and_cosines_are_those_of_the_grouping_study(study: Path) -> None:
    place = study / "studies" / "grouping"
    folders = sorted(place.iterdir())
    density = pd.concat(pd.read_csv(folder / "density.csv").assign(cell=folder.name) for folder in folders)
    published = density.query("rule == 'published'").set_index(["rollout", "cell"])["density"]
    of_bfloat16 = 100 * published["bfloat16"]
    assert len(of_bfloat16) == 4
    assert f"densities of {of_bfloat16.min():.0f} to {of_bfloat16.max():.0f} %" in READINGS
    assert f"it does group, at {of_bfloat16['sorting.tiny']:.1f} %" in PAGE
    ratio = density.query(
        "cell == 'sorting.tiny' and score == 'log_ratio' and threshold == 1 and rule == 'variance_split'"
    )
    float32, bfloat16 = (100 * ratio.set_index("rollout")["density"][name] for name in ("float32", "bfloat16"))
    assert f"(density {float32:.1f} %; {bfloat16:.1f} % with bfloat16)" in READINGS
    cosines = pd.read_csv(place / "sorting.tiny" / "cosines.csv").set_index("statistic")["value"]
    assert (
        f"Mean cosine {cosines['mean']:.2f}, {cosines['mean_abs']:.2f} in absolute value".replace("0.", ".") in READINGS
    )
    agreement = pd.read_csv(place / "sorting.tiny" / "agreement.csv").groupby("proxy")["f1"].agg(["min", "max"])
    unit, norm = (agreement.loc[name] for name in ("unit", "logit_norm"))
    told = f"`unit` {unit['min']:.2f}-{unit['max']:.2f}; `logit_norm` {norm['min']:.2f}, and {norm['max']:.2f}"
    assert told.replace("0.", ".") in READINGS
    summary = pd.read_csv(place / "sorting.tiny" / "direction_summary.csv").set_index("arm")["cosine"]
    told = (
        f"Cosine {summary['group_ppo']:.2f}; random endpoints at its density {summary['random']:.2f}, noise floor "
        f"{summary['dense_other']:.2f}. `entropy` {summary['entropy']:.3f}, `low_prob` {summary['low_prob']:.2f}."
    )
    assert told.replace("0.", ".") in PAGE
