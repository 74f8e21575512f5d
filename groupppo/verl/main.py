"""One training run in this process: python -m groupppo.verl.main RUN_FOLDER

RUN_FOLDER/config.yaml is verl's resolved config. verl's stock `run_ppo` starts Ray and asks for a task runner; ours
runs in this process instead of one more Ray actor, which saves a full set of imports, and imports the trainer.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from groupppo.verl import network, require_platform

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class InProcessRunner:
    """`run_ppo(config, task_runner_class=InProcessRunner)` runs verl's own V1 task runner right here.

    The few words of Ray's actor interface that `run_ppo` speaks: `runner = InProcessRunner.remote()`, and then
    `ray.get(runner.run.remote(config))`.
    """

    @classmethod
    def remote(cls, *args: Any) -> Any:
        import ray
        from verl.trainer.main_ppo import TaskRunnerV1

        import groupppo.verl.trainer  # noqa: F401  registers the trainer "group_ppo"
        from groupppo.verl.endings import ends_with_a_lost_worker

        if not args:
            return cls()
        with ends_with_a_lost_worker():
            return ray.put(TaskRunnerV1.__ray_metadata__.modified_class().run(*args))

    @property
    def run(self) -> "type[InProcessRunner]":
        return type(self)


def main(run_folder: Path) -> None:
    from omegaconf import OmegaConf

    from groupppo.records.folders import RunFolder

    run = RunFolder(run_folder)
    config = OmegaConf.load(run.config)
    # Workers on another machine cannot be forked from this process.
    forks = config.trainer.device == "cpu" and config.trainer.nnodes == 1
    if forks:
        from groupppo.verl import forkserver

        forkserver.load_ray()
    import ray
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from groupppo.measure.provenance import provenance
    from groupppo.records.storage import write_whole
    from groupppo.verl.endings import exits_unless_started

    require_platform()
    network.protect()
    # Not in the file, which says how a run trains.
    config.ray_kwargs.ray_init.runtime_env.worker_process_setup_hook = "groupppo.verl.network.protect"
    origin = provenance(
        device=config.trainer.device,
        config=run.config,
        task_folder=Path(config.data.train_files).parent,
        start=Path(config.actor_rollout_ref.model.path),
    ) | {"network": os.environ[network.VARIABLE]}
    write_whole(run.provenance, json.dumps(origin, indent=2) + "\n")
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    if forks:
        forkserver.start(Path(os.environ["RAY_TMPDIR"]) / "fork.socket")
    with exits_unless_started(ray.is_initialized):
        run_ppo(config, task_runner_class=InProcessRunner)


def die_with_parent() -> None:
    """End at once when the launcher does, even by SIGKILL: nobody would be left to end this run."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    if os.environ[network.VARIABLE] == network.ALONE:
        network.leave()
    die_with_parent()
    main(Path(sys.argv[1]))
