"""What results/reference/ publishes is whole, and is what this version decides from its tables."""

import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from groupppo.config import REPOSITORY, Benchmark, load_benchmark
from groupppo.config.benchmark import RATE_KEY as KEY
from groupppo.publish.source import bundles_in, opened
from groupppo.publish.verify import verify
from groupppo.records.where import Found
from groupppo.stats.power import seeds_for_equivalence
from groupppo.tables import Only, load_tables
from groupppo.tables.schema import planned_keys
from groupppo.verdicts.claims import EQUIVALENCE, load_claims
from groupppo.verdicts.sweep import at_an_end, chosen_rates, opened_pilot, paired_spread, pilot_place, write_sweep

REFERENCE = REPOSITORY / "results" / "reference"
STUDY, SHOWN = REFERENCE / "study.zip", REFERENCE / "study"
LIMIT_BYTES = 30_000_000
# Arms that were not swept, and the arm whose rate they have.
VARIED = {
    "group_ppo_gathered": "group_ppo",
    "group_ppo_streamed": "group_ppo",
    "entropy_gathered": "entropy",
    "entropy_streamed": "entropy",
}
PUBLISHED = bundles_in(REFERENCE)


@pytest.fixture(scope="module")
def study() -> Benchmark:
    return load_benchmark(REPOSITORY / "benchmarks" / "study.yaml")


@pytest.fixture(scope="module")
def sweep(study: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The pilot's runs, as published."""
    assert study.pilot is not None
    assert pilot_place(study.pilot, Path("nowhere")) == Found(REFERENCE / "pilot.zip", published=True)
    return write_sweep(study, Path("nowhere"), tmp_path_factory.mktemp("sweep"))


def test_every_arm_of_the_study_has_the_rate_that_did_best_in_the_pilot(study: Benchmark, sweep: pd.DataFrame) -> None:
    used = {name: arm.verl.get(KEY, study.train.actor_lr) for name, arm in study.arms.items()}
    best = chosen_rates(sweep)
    assert {name: used[name] for name in best} == best
    assert {name for name in used if name not in best} == set(VARIED)
    assert {name: used[name] for name in VARIED} == {name: used[base] for name, base in VARIED.items()}


def test_a_rate_at_the_low_end_leaves_an_arm_where_it_started(sweep: pd.DataFrame) -> None:
    """No lower rate was tried for it: it could only come closer to its start."""
    ends = at_an_end(sweep)
    assert {"group_ppo", "group_ppo_norm_tokens"} <= set(ends)
    with opened_pilot(REFERENCE / "pilot.zip") as pilot:
        evals = load_tables(pilot / "tables", {"evals": Only()}).evals
    start = evals[(evals["arm"] == "start") & (evals["metric"] == "accuracy")]["value"].item()
    best = sweep[sweep["rate"] == sweep["arm"].map(chosen_rates(sweep))].groupby("arm")["accuracy"].mean()
    assert all(abs(best[arm] - start) < 0.02 for arm in ends)


def test_the_study_has_seeds_of_its_own_and_as_many_as_the_spread_of_the_pilot_asks_for(
    study: Benchmark, sweep: pd.DataFrame
) -> None:
    assert not set(study.seeds) & set(sweep["seed"])
    claims = load_claims(study.claims)
    [margin] = {claim.margin for claim in claims.claims if claim.rule == EQUIVALENCE}
    spread, degrees = paired_spread(sweep, study.reference)
    high = spread * (degrees / stats.chi2.ppf((1 - claims.level) / 2, degrees)) ** 0.5
    needed = [seeds_for_equivalence(each, margin, claims.level, claims.power) for each in (spread, high)]
    assert needed == [3, 4]  # as the study's file says
    assert len(study.seeds) >= needed[1]


def test_pilot_and_study_are_published() -> None:
    assert [path.name for path in PUBLISHED] == ["pilot.zip", "study.zip"]


def test_every_registered_run_of_the_study_is_evidence(study: Benchmark) -> None:
    with opened(STUDY) as source:
        runs = load_tables(source.folder / "tables", {"runs": Only()}).runs
    assert len(runs) == len(planned_keys(study)) == 155
    assert runs["admissible"].all(), runs.loc[~runs["admissible"], ["task", "model", "arm", "seed"]]


def test_what_is_read_without_unpacking_is_what_the_bundle_holds() -> None:
    with zipfile.ZipFile(STUDY) as bundle:
        held = {name: bundle.read(name) for name in bundle.namelist()}
    shown = {file.relative_to(SHOWN).as_posix(): file.read_bytes() for file in SHOWN.rglob("*") if file.is_file()}
    assert {"report.md", "verdicts.json", "profile/figures/profile_speedup.png"} <= set(shown)
    assert shown == {name: held[name] for name in shown if name in held}
    pictures = re.findall(r"^!\[.*\]\((figures/\S+)\)$", shown["report.md"].decode(), re.MULTILINE)
    assert pictures
    assert set(pictures) <= set(shown)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_what_is_published_verifies(folder: Path) -> None:
    found = verify(folder)
    assert found.ok, "\n".join(map(str, found.differences))
    assert set(found.checks) == {"checksums", "files", "sources", "records", "evaluations", "derived"}
    assert not any("unchecked" in note for note in found.notes)


def test_all_of_it_together_is_small_enough_for_a_repository() -> None:
    assert sum(file.stat().st_size for file in REFERENCE.rglob("*") if file.is_file()) < LIMIT_BYTES
