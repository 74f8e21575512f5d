"""The user's cluster: its file, and what jobs ask for because of it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.slurm.site import Site, load_site


def test_without_a_file_everything_is_left_to_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_site() == Site()
    assert Site().resources({"mem_mb": 1}) == {}


def test_the_shipped_example_is_valid_and_every_key_of_it_known(tmp_path: Path) -> None:
    example = REPOSITORY / "benchmarks" / "site.example.yaml"
    assert load_site(example) == Site()
    keys = [line[2:] for line in example.read_text().splitlines() if re.match(r"# [a-z_]+: ", line)]
    assert len(keys) == 10
    (tmp_path / "site.yaml").write_text("\n".join(keys))
    assert load_site(tmp_path / "site.yaml").gpu_type == "h100"
    assert load_site(tmp_path / "site.yaml").network_is_ours


@pytest.mark.parametrize(("key", "value"), [("gpu_typ", "h100"), ("light_rules", "never"), ("longest_minutes", 0)])
def test_a_wrong_key_or_value_is_named_with_its_mend(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "site.yaml").write_text(f"{key}: {value}\n")
    with pytest.raises(BadInput, match=f"{key} = .*\n.*hint: "):
        load_site(tmp_path / "site.yaml")


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        load_site(tmp_path / "none.yaml")


def test_only_jobs_on_gpus_get_the_gpu_partition_and_type() -> None:
    site = Site(partition="cpu", gpu_partition="gpu", gpu_type="h100", account="a")
    assert site.resources({"gpu": 2}) == {"slurm_partition": "gpu", "slurm_account": "a", "gpu_model": "h100"}
    assert site.resources({}) == {"slurm_partition": "cpu", "slurm_account": "a"}
    assert Site(partition="cpu").resources({"gpu": 2}) == {"slurm_partition": "cpu"}


@given(value=st.integers(1, 10**6), attempt=st.integers(1, 5), most=st.none() | st.integers(1, 10**6))
def test_a_request_never_shrinks_and_grows_to_the_clusters_limit_at_most(
    value: int, attempt: int, most: int | None
) -> None:
    site = Site(most_memory_mb=most)
    asked, next_asked = site.grown("mem_mb", value, attempt), site.grown("mem_mb", value, attempt + 1)
    assert value <= asked <= next_asked
    assert site.grown("mem_mb", value, 1) == value
    assert most is None or asked <= max(value, most)
    if most is None and value > 1:
        assert next_asked > asked
