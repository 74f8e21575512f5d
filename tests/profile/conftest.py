"""The smoke profile, measured once for all tests of this folder."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY
from groupppo.profile.config import Profile, load_profile

SMOKE = REPOSITORY / "benchmarks" / "profile_smoke.yaml"


@dataclass(frozen=True)
class Measured:
    """The smoke profile and the folder of its result files."""

    profile: Profile
    folder: Path


@pytest.fixture(scope="session")
def smoke() -> Profile:
    return load_profile(SMOKE)


@pytest.fixture(scope="session")
def measured(smoke: Profile, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    from groupppo.profile.measure import MEASURES, write_measured

    folder = tmp_path_factory.mktemp("profile") / "measured"
    for name, setting in smoke.measured.items():
        for what in MEASURES:
            write_measured(folder / f"{name}.{what}.json", what, setting, command="a test")
    return Measured(smoke, folder)
