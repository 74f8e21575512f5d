"""What loads code or reaches files is refused in every file of a benchmark, until who starts a run allows its key."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from groupppo.config import REPOSITORY, load_arm, load_benchmark, load_model, load_task
from groupppo.config.allowed import VARIABLE, require_choice, require_inside
from groupppo.errors import BadInput
from groupppo.models import model_faults
from groupppo.publish.source import config_files
from groupppo.records.hashing import sha256_file
from groupppo.tasks.hub_data import published_faults
from groupppo.verl.compose import _verls_own, leaves

HOME = REPOSITORY / "benchmarks"
SOURCE = Path("benchmarks/arms/mine.yaml")
ROLLOUT, MODEL, ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.model", "actor_rollout_ref.actor"
# Every key of verl 0.9 that names a module, a class, a program, pickled weights, or a file that is read or written.
NAMES_CODE = [
    *("custom_reward_function.path", "reward.custom_reward_function.path", "reward.reward_manager.module.path"),
    *("data.custom_cls.path", "trainer.v1.sampler.custom_sampler.path"),
    *("reward_model.reward_loop_module_path", "trainer.checkpoint_callback_class", "reward.reward_manager.source"),
    *(f"{ROLLOUT}.agent.agent_loop_manager_class", f"{ROLLOUT}.agent.custom_async_server.path"),
    *(f"{ROLLOUT}.agent.agent_loop_config_path", f"{ROLLOUT}.checkpoint_engine.custom_backend_module"),
    *(f"{ROLLOUT}.router_config_path", f"{ROLLOUT}.multi_turn.tool_config_path"),
    f"{ROLLOUT}.multi_turn.function_tool_path",
    *(f"{MODEL}.external_lib", "critic.model.external_lib", f"{ACTOR}.optim.optimizer_impl"),
    *("critic.optim.optimizer_impl", f"{MODEL}.custom_chat_template", "global_profiler.finish_hook_cmd"),
    *(f"{ACTOR}.profiler.finish_hook_cmd", "ray_kwargs.ray_init.runtime_env.py_executable", f"{MODEL}.path"),
    *("critic.model.path", f"{MODEL}.tokenizer_path", f"{MODEL}.hf_config_path", f"{MODEL}.lora_adapter_path"),
    *("trainer.resume_from_path", "trainer.default_local_dir", "trainer.default_hdfs_dir", "data.train_files"),
    *("trainer.rollout_data_dir", "trainer.validation_data_dir", "ray_kwargs.timeline_json_file"),
    *("algorithm.group_params.density_source", f"{ROLLOUT}.prometheus.file", "reward.sandbox_fusion.url"),
    *(f"{ACTOR}.qat.quantization_config_path", f"{ROLLOUT}.quantization_config_file", "skip.rollout.dump_dir"),
]


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def refused(key: str, value: Any) -> str | None:
    """The key that is named, with its remedy; None where the value is taken."""
    try:
        require_choice(key, value, SOURCE)
    except BadInput as error:
        return error.key if error.file == str(SOURCE) and f"--config allow={error.key} " in error.hint else str(error)
    return None


@pytest.mark.parametrize("value", ["os", "/tmp/evil.py", "pkg://os", "file://../../x.py", "https://x/y", ["a", "b"]])
def test_no_key_that_names_code_or_a_file_takes_text(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in NAMES_CODE:
        assert refused(key, value) == key
        assert refused(key, None) is None  # what it is by default
        monkeypatch.setenv(VARIABLE, f"other.key, {key}")
        assert refused(key, value) is None
        for other in (f"x{key}", f"{key}s"):  # one name allows no other; unknown keys of selection, GroupParams refuses
            assert refused(other, value) == other or other.startswith("algorithm.group_params.")
        monkeypatch.delenv(VARIABLE)


def test_verl_still_has_these_keys() -> None:
    """A new version may call one otherwise; then somebody must look what else it loads."""
    own = OmegaConf.to_container(_verls_own(), resolve=False)
    for key in NAMES_CODE:
        node = own
        for part in key.split("."):
            assert part in node, key
            node = node[part]


# A key with a value, and the end of the place that is named.
HIDDEN: list[tuple[str, Any, str]] = [
    (MODEL, {"external_lib": "os"}, ".external_lib"),
    (f"{MODEL}.override_config", {"auto_map": {"AutoModel": "x.Y"}}, ".auto_map.AutoModel"),
    (f"{MODEL}.override_config.attn_implementation", "somebody/kernel", ""),
    (f"{MODEL}.trust_remote_code", True, ""),
    (f"{ROLLOUT}.engine_kwargs", {"vllm": {"trust-remote-code": True}}, ".vllm.trust-remote-code"),
    (f"{ROLLOUT}.engine_kwargs.vllm", {"worker_cls": "x.Y"}, ".worker_cls"),
    # As verl writes vLLM's command line: --NAME VALUE, and --NAME alone for a switch.
    (f"{ROLLOUT}.engine_kwargs", {"vllm": {"trust-remote-code": 0}}, ".vllm.trust-remote-code"),
    (f"{ROLLOUT}.engine_kwargs", {"vllm": {"trust_remote_code": {}}}, ".vllm.trust_remote_code"),
    (f"{ROLLOUT}.engine_kwargs.vllm", {"worker-cls=x.Y": True}, ".worker-cls=x.Y"),
    (f"{ROLLOUT}.engine_kwargs.vllm", {"logits-processors=x:Y": {}}, ".logits-processors=x:Y"),
    (f"{ROLLOUT}.engine_kwargs.vllm.logits-processors=x:Y", 1, ""),
    (f"{ROLLOUT}.engine_kwargs.vllm", {"a.optim.optimizer": "x"}, ".a.optim.optimizer"),
    (f"{ROLLOUT}.engine_kwargs.vllm", {"kv-ev": {"enable_kv_cache_events": True}}, ".kv-ev.enable_kv_cache_events"),
    (f"{ROLLOUT}.prometheus.enable", True, ""),
    (f"{MODEL}.use_shm", True, ""),
    ("skip.rollout_tq", {"enable": True}, ".enable"),
    ("transfer_queue.metrics.enabled", True, ""),
    ("ray_kwargs.ray_init.include_dashboard", None, ""),  # where it can, then
    ("ray_kwargs.ray_init.include_dashboard", True, ""),
    ("actor_rollout_ref[model].external_lib", "os", ""),
    (f"{ACTOR}.optim.optimizer", "../x", ""),
    (f"{ACTOR}.policy_loss.loss_mode", "a.b", ""),
]


@pytest.mark.parametrize(("key", "value", "end"), HIDDEN)
def test_nor_does_it_in_a_mapping_as_a_switch_or_in_the_place_of_a_choice(key: str, value: Any, end: str) -> None:
    assert refused(key, value) == f"{key}{end}"


def test_choices_numbers_and_switches_are_taken_as_every_shipped_file_has_them() -> None:
    for file in sorted((HOME / "arms").glob("*.yaml")):
        for key, value in leaves(load_arm(file).verl):
            assert refused(key, value) is None
    for value in (1, 0.5, False, True, None, [1, 2], {"a": [0.1]}, {}, {"vllm": {"skip-mm-profiling": True}}):
        assert refused(f"{ROLLOUT}.engine_kwargs", value) is None
    assert refused("ray_kwargs.ray_init.include_dashboard", False) is None
    assert refused("trainer.logger", ["console", "tensorboard"]) is None


def test_a_path_leads_neither_through_links_nor_dots_out_of_its_home(tmp_path: Path, monkeypatch: Any) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    (other / "secret").write_text("x")
    (home / "kept").write_text("x")
    (home / "link").symlink_to(other / "secret")
    (home / "folder").symlink_to(other)
    for path in (home / "link", home / "folder" / "secret", home / ".." / "other" / "secret", other / "secret"):
        with pytest.raises(BadInput) as error:
            require_inside(path, SOURCE, "profile", home)
        assert (error.value.key, error.value.value) == ("profile", str(path))
        monkeypatch.setenv(VARIABLE, "profile")
        assert require_inside(path, SOURCE, "profile", home) == path
        monkeypatch.delenv(VARIABLE)
    assert require_inside(home / "kept", SOURCE, "profile", home) == home / "kept"


@pytest.mark.parametrize("repo", ["../../media/me", "/etc", "..", "a/../../b", "./x", "~", "a\0b"])
def test_a_data_set_or_model_is_no_folder_of_the_user(repo: str) -> None:
    task, model = load_task(HOME / "tasks" / "gsm8k.yaml"), load_model(HOME / "models" / "qwen3_0_6b.yaml")
    for key in ("repo", "revision"):
        changed = replace(model, params=model.params | {key: repo})
        assert [fault.key for fault in model_faults(changed)] == [f"params.{key}"]
    changed = replace(task, params=task.params | {"repo": repo})
    assert [fault.key for fault in published_faults(changed)] == ["params.repo"]
    assert not [*published_faults(task), *model_faults(model)]


def test_results_of_a_stranger_bundle_no_file_of_the_user(tmp_path: Path) -> None:
    """`results` are the stranger's, with a record that says whatever they like."""
    results, claims = tmp_path / "results", sha256_file(HOME / "claims" / "group_ppo.yaml")
    results.mkdir()
    record = load_benchmark(HOME / "study.yaml").resolved()
    own = {"claims": "claims/group_ppo.yaml", "profile": "profile.yaml", "pilot": "pilot.yaml"}

    def bundled(**changes: str | list[str]) -> dict[str, bytes]:
        (results / "benchmark.yaml").write_text(yaml.safe_dump(record | changes, sort_keys=False))
        return config_files(results, claims)

    assert set(own.values()) < set(bundled())  # the repository's own
    for key, file in own.items():
        name = Path(file).name
        secret, link = tmp_path / f"secret_{name}", results / name
        shutil.copy(HOME / file, secret)
        link.symlink_to(secret)
        for path in (str(secret), f"{'../' * 20}{secret}", str(link), "/etc/hostname", "/proc/self/environ"):
            for named in [path, [path]] if key == "claims" else [path]:
                with pytest.raises(BadInput) as error:
                    bundled(**{key: named})
                assert (error.value.file, error.value.key) == (str(results / "benchmark.yaml"), key)
        link.unlink()
        shutil.copy(HOME / file, link)
        assert name in bundled(**{key: str(link)})  # a file of the results
    for key in ("profile", "pilot"):  # of the repository, and nothing to publish
        with pytest.raises(BadInput, match=r"CITATION\.cff"):
            bundled(**{key: "CITATION.cff"})


def test_a_study_is_bundled_from_the_repository_whatever_lies_beside_the_benchmark(tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "studies").mkdir(parents=True)
    (results / "studies" / "grouping.py").write_text("import os")
    record = load_benchmark(HOME / "quick.yaml").resolved() | {"source": str(results / "quick.yaml")}
    (results / "benchmark.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    found = config_files(results, sha256_file(HOME / "claims" / "group_ppo.yaml"))
    assert found["studies/grouping.py"] == (REPOSITORY / "groupppo" / "studies" / "grouping.py").read_bytes()
