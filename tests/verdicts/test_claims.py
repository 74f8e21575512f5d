"""Claims are data: what the file says is what is tested, and what it cannot mean is refused."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.config.forms import Region
from groupppo.errors import BadInput
from groupppo.verdicts.claims import Claim, Claims, load_claims
from groupppo.verdicts.quantities import COSTS, QUANTITIES, SHARES
from tests.synthetic import STAGE_SECONDS

SHIPPED = REPOSITORY / "benchmarks" / "claims" / "group_ppo.yaml"


@pytest.fixture(scope="module")
def shipped() -> Claims:
    return load_claims(SHIPPED)


def by_id(claims: Claims, name: str) -> Claim:
    return next(claim for claim in claims.claims if claim.id == name)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("compression", 0.9275, math.inf), ("endpoint-share", 0.05, 0.20), ("memory-update", -math.inf, 0.30)],
)
def test_a_region_is_the_claimed_one_widened_by_the_margin(shipped, name, low, high):
    region = by_id(shipped, name).region
    assert (region.low, region.high) == (pytest.approx(low), pytest.approx(high))


def test_a_region_reads_as_words():
    shown = [str(Region(12.8, math.inf)), str(Region(-math.inf, 0.3)), str(Region(-0.05, 0.05))]
    assert shown == ["at least 12.8", "at most 0.3", "-0.05 to 0.05"]


def test_every_stage_of_a_claim_is_a_stage_of_a_run(shipped):
    for claim in (claim for claim in shipped.claims if claim.quantity in QUANTITIES):
        assert claim.sample("sorting", "tiny", "ppo").stage in {None, "step", *STAGE_SECONDS}


def test_no_two_registries_name_the_same_quantity():
    assert len(QUANTITIES | COSTS | SHARES) == len(QUANTITIES) + len(COSTS) + len(SHARES)


def claim_at(index: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    """Set keys of one claim; a value of None removes the key."""

    def change(data: dict[str, Any]) -> None:
        data["claims"][index] |= values
        for key in [key for key, value in values.items() if value is None]:
            del data["claims"][index][key]

    return change


COMPRESSION, TOKENS, ADV, COST, MEMORY, PARITY, FALLBACK = 0, 2, 3, 5, 13, 20, 24

BAD_CLAIMS = {
    "unknown quantity": (claim_at(ADV, quantity="flops"), "claims.3.quantity"),
    "unknown key": (claim_at(ADV, margins=0.1), "claims.3.margins"),
    "no evidence": (claim_at(ADV, evidence=[]), "claims.3.evidence"),
    "an id twice": (claim_at(ADV, id="compression"), "claims.3.id"),
    "an arm without a file": (claim_at(ADV, arm="group_pp0"), "claims.3.arm"),
    "a compared arm without a file": (claim_at(ADV, against="dense"), "claims.3.against"),
    "no compared arm": (claim_at(ADV, against=None), "claims.3.against"),
    "a compared arm that nothing uses": (claim_at(COMPRESSION, against="ppo"), "claims.0.against"),
    "no stage": (claim_at(ADV, stage=None), "claims.3.stage"),
    "warm-up of an evaluation": (claim_at(PARITY, warmup_steps=5), "claims.20.warmup_steps"),
    "no margin": (claim_at(ADV, margin=None), "claims.3.margin"),
    "an identity with a margin": (claim_at(TOKENS, margin=1.0), "claims.2.margin"),
    "an identity put to the test": (claim_at(TOKENS, rule="interval", margin=1.0), "claims.2.rule"),
    "a measurement called an identity": (claim_at(ADV, rule="identity", margin=None), "claims.3.rule"),
    "equivalence with one end": (claim_at(PARITY, claimed={"low": 0.0}), "claims.20.claimed"),
    "equivalence without room": (claim_at(PARITY, margin=0.0), "claims.20.claimed"),
    "an empty region": (claim_at(ADV, claimed={"low": 30.0, "high": 16.0}), "claims.3.claimed"),
    "a ratio of nothing": (claim_at(ADV, margin=16.0), "claims.3.claimed"),
    "a cost without a variant": (claim_at(COST, variant=None), "claims.5.variant"),
    "a variant that does not exist": (claim_at(COST, variant="gatherd"), "claims.5.variant"),
    "a variant that nothing uses": (claim_at(ADV, variant="gathered"), "claims.3.variant"),
    "a cost that needs learning": (claim_at(COST, needs_learning=True), "claims.5.needs_learning"),
    "equivalence of a cost": (claim_at(COST, rule="equivalence"), "claims.5.rule"),
    "a share with a variant": (claim_at(FALLBACK, variant="gathered"), "claims.24.variant"),
    "a share that needs learning": (claim_at(FALLBACK, needs_learning=True), "claims.24.needs_learning"),
    "a share without a margin": (claim_at(FALLBACK, margin=None), "claims.24.margin"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where claims find their arms."""
    made: Path = tmp_path_factory.mktemp("claims")
    (made / "arms").symlink_to(REPOSITORY / "benchmarks" / "arms")
    return made


def test_what_is_shipped_can_be_meant_wherever_it_lies_and_has_the_hash_of_its_file(folder: Path, shipped: Claims):
    file = folder / "claims.yaml"
    shutil.copy(SHIPPED, file)
    assert load_claims(file).sha256 == shipped.sha256
    file.write_text(file.read_text() + "# moved margin\n")
    assert load_claims(file).sha256 != shipped.sha256
    assert load_claims(file).claims == shipped.claims


def test_several_files_are_one_set_in_their_order(shipped: Claims):
    nat = SHIPPED.with_name("nat.yaml")
    both, alone = load_claims([SHIPPED, nat]), load_claims(nat)
    assert both.claims == shipped.claims + alone.claims
    assert (both.level, both.sources) == (shipped.level, (SHIPPED, nat))
    assert len({both.sha256, shipped.sha256, alone.sha256, load_claims([nat, SHIPPED]).sha256}) == 4
    assert load_claims([nat]).sha256 == alone.sha256


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({}, None),
        ({"level": 0.95}, "level"),
        ({"power": 0.9}, "power"),
        ({"learning_metric": "pass_at_k"}, "learning_metric"),
    ],
)
def test_files_that_are_named_together_share_level_power_and_metric(
    folder: Path, change: dict[str, Any], key: str | None
):
    nat = SHIPPED.with_name("nat.yaml")
    data, file = yaml.load(nat.read_text(), yaml.CSafeLoader) | change, folder / "other.yaml"
    data["claims"] = data["claims"][:1] if key else [data["claims"][0] | {"id": "another"}]
    file.write_text(yaml.safe_dump(data))
    if key is None:
        assert [claim.id for claim in load_claims([nat, file]).claims][-1] == "another"
        return
    with pytest.raises(BadInput) as caught:
        load_claims([nat, file])
    assert (caught.value.file, caught.value.key) == (str(file), key)
    assert str(nat) in caught.value.hint


def test_an_id_in_two_files_that_are_named_together_is_refused(folder: Path):
    file = folder / "copy.yaml"
    shutil.copy(SHIPPED.with_name("nat.yaml"), file)
    assert load_claims(file).claims
    with pytest.raises(BadInput, match=r"claims\.0\.id = 'nat-random-tokens'"):
        load_claims([SHIPPED.with_name("nat.yaml"), file])


@pytest.mark.parametrize("case", BAD_CLAIMS)
def test_a_claim_that_cannot_be_meant_is_refused(folder: Path, case: str):
    change, key = BAD_CLAIMS[case]
    data, file = yaml.load(SHIPPED.read_text(), yaml.CSafeLoader), folder / "claims.yaml"
    change(data)
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(BadInput) as caught:
        load_claims(file)
    assert (caught.value.file, caught.value.key) == (str(file), key)
    assert caught.value.hint
