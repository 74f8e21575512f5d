"""Profiles are read, checked, and refused with file, key, value and hint."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.profile.config import load_profile
from groupppo.update.variants import VARIANTS, find

SMOKE = REPOSITORY / "benchmarks" / "profile_smoke.yaml"


def changed(tmp_path: Path, change) -> Path:
    data = yaml.safe_load(SMOKE.read_text())
    change(data)
    file = tmp_path / "profile_smoke.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_the_profiles_of_the_repository_are_valid_and_cover_what_they_promise():
    profile = load_profile(REPOSITORY / "benchmarks" / "profile.yaml")
    assert len(profile.shapes) == 9
    assert profile.counted.responses == (512, 1024, 2048, 4096, 8192)
    assert profile.counted.densities == ("1/16", "1/8", "1/5", "1")
    named = {name for setting in profile.measured.values() for name in setting.variants}
    assert set(VARIANTS) <= named
    assert load_profile(SMOKE).name == "profile_smoke"


def test_parameters_of_the_shapes_are_those_the_models_are_named_after():
    shapes = load_profile(REPOSITORY / "benchmarks" / "profile.yaml").shapes
    # Published sizes in billions, biases and norms included; these are below 0.1 %.
    published = {"qwen2_5_0_5b": 0.494, "qwen2_5_1_5b": 1.544, "qwen2_5_3b": 3.086, "qwen2_5_7b": 7.616,
                 "qwen3_0_6b": 0.596, "qwen3_4b": 4.022, "qwen3_8b": 8.191, "llama_3_2_1b": 1.236,
                 "llama_3_1_8b": 8.030}  # fmt: skip
    assert published.keys() == shapes.keys()
    for name, billions in published.items():
        assert shapes[name].shape.parameters == pytest.approx(1e9 * billions, rel=2e-3)


@pytest.mark.parametrize(
    ("change", "key", "hint"),
    [
        (lambda d: d["measured"]["tiny"].update(variants=["dense", "gatherd"]), "measured.tiny.variants", "gathered"),
        (lambda d: d["measured"]["tiny"].update(variants=["gathered"]), "measured.tiny.variants", "add dense"),
        (lambda d: d["measured"]["tiny"].update(shape="tiney"), "measured.tiny.shape", "tiny"),
        (lambda d: d["measured"]["tiny"].update(density="1/1000"), "measured.tiny.density", "1/64"),
        (lambda d: d["measured"]["tiny"].update(rounds=1), "measured.tiny.rounds", "2"),
        (lambda d: d["measured"]["tiny"].update(round=3), "measured.tiny.round", "rounds"),
        (lambda d: d["shapes"]["tiny"].update(kv_heads=3), "shapes.tiny.kv_heads", "divisor"),
        (lambda d: d["shapes"]["tiny"].update(family="gpt2"), "shapes.tiny.family", "llama"),
        (lambda d: d["counted"].update(densities=["0.0625"]), "counted.densities.0", "fraction"),
        (lambda d: d["counted"].update(densities=["1/65"]), "counted.densities", "1/64"),
        (lambda d: d["targets"][0].update(setting="huge"), "targets.0.setting", "tiny"),
        (lambda d: d["targets"][0].update(variant="liger"), "targets.0.variant", "liger"),
        (lambda d: d.update(name="other"), "name", "profile_smoke"),
        (lambda d: d.pop("prompt"), "prompt", "add this key"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_mend(tmp_path, change, key, hint):
    file = changed(tmp_path, change)
    with pytest.raises(BadInput) as caught:
        load_profile(file)
    assert caught.value.file == str(file)
    assert caught.value.key == key
    assert hint in caught.value.hint


def test_a_target_against_a_variant_that_is_not_measured_is_refused(tmp_path):
    def change(data):
        data["measured"]["tiny"]["variants"].remove("dense_fused")
        data["targets"][0]["quantity"] = "memory_ratio_to_fused"

    with pytest.raises(BadInput, match="add dense_fused"):
        load_profile(changed(tmp_path, change))
    assert load_profile(changed(tmp_path, lambda data: None)).measured == load_profile(SMOKE).measured


@pytest.mark.parametrize(("window", "percent"), [(0, 0), (3, 0), (0, 25), (12, 5)])
def test_live_windows_and_shares_are_read_from_a_name(window, percent):
    name = "streamed_reuse" + (f"_window{window}" if window else "") + (f"_share{percent}" if percent else "")
    variant = find(name)
    assert (variant.window, variant.percent, variant.name, variant.mode) == (window, percent, name, "streamed_reuse")
    assert (variant.title == VARIANTS["streamed_reuse"].title) == (window == percent == 0)


@pytest.mark.parametrize("name", ["", "Dense", "gathered_window3", "streamed_reuse_window0", "streamed_reuse_"])
def test_other_names_are_no_variants(name):
    with pytest.raises(ValueError, match="no such variant"):
        find(name)


def test_what_a_variant_lacks_is_said_and_what_it_has_is_not():
    assert find("gathered").missing("cpu") == ""
    assert find("verl_triton").missing("cpu") == "needs an NVIDIA GPU"
    assert find("verl_triton").missing("cuda") == ""
    absent = VARIANTS["cce"].__class__("x", "x", "fused", package="no_such_package", gpu=True)
    assert absent.missing("cpu") == "needs the package no_such_package and an NVIDIA GPU"
    assert absent.missing("cuda") == "needs the package no_such_package"


def test_a_plan_is_checked_without_importing_torch():
    code = "import sys, groupppo.profile.config; print(sorted({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
