"""From a cell of the matrix to verl's config: what all arms share, what the machine needs, what the arm changes."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from groupppo.algorithm.params import HOME, KEYS, GroupParams
from groupppo.config import GROUPED, Arm, Benchmark, Model, Task, Train
from groupppo.config.allowed import require_choice
from groupppo.errors import BadInput, suggest
from groupppo.tasks.reward import MODULES as REWARDS
from groupppo.verl.accepts import PlaceOf, agreed, require_accepted, require_agreed, require_type, touches
from groupppo.verl.fits import require_fit

_HERE = Path(__file__)
CONFIG = _HERE.parent / "config"
_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
TOKENS_ON_GPU = 8192
_RAY_CPUS = "ray_kwargs.ray_init.num_cpus"
_UNITS = "transfer_queue.backend.SimpleStorage.num_data_storage_units"
# What a benchmark calls the keys of verl that it sets and that verl may refuse.
_IN_MATRIX = {"actor_rollout_ref.rollout.n": "train.responses_per_prompt"}
# Keys that follow from the benchmark, the task and the run's seed and folder; how they end.
_MATCHED = (
    *("data.train_batch_size", "data.seed", "data.train_files", "data.val_files", "data_loader_seed"),
    *("rollout.seed", "fsdp_config.seed", "fsdp.seed", "trainer.total_training_steps", "trainer.total_epochs"),
    *("trainer.save_freq", "trainer.nnodes", "trainer.n_gpus_per_node", "trainer.device"),
)
# Mappings that verl hands on to somebody else; their keys are not verl's to know.
_OPEN = (
    *("override_config.", "override_optimizer_config.", "engine_kwargs."),
    *("ray_kwargs.ray_init.", "rollout.custom.", "custom_reward_function.reward_kwargs."),
)


@dataclass(frozen=True)
class Cell:
    """One training run: a task, a model, an arm and a seed, with the folders it reads and writes.

    Attributes:
        device: "cpu" or "cuda". ranks: training processes on each of `nodes` machines, on CUDA one for each GPU.
        density_source: steps.jsonl of the run that the arm takes its density from. matrix: the file, for messages.
        network_is_ours: what the site's file says.
    """

    task: Task
    model: Model
    arm: Arm
    seed: int
    train: Train
    task_folder: Path
    start: Path
    out: Path
    device: str = "cpu"
    ranks: int = 1
    nodes: int = 1
    density_source: Path | None = None
    matrix: Path = Path("benchmark")
    network_is_ours: bool = False

    @property
    def name(self) -> str:
        return f"{self.task.name}/{self.model.name}/{self.arm.name}/seed{self.seed}"


def cells_to_check(benchmark: Benchmark, folder: Path) -> Iterator[Cell]:
    """The first seed of each task, model and arm of a matrix; their paths are `folder`, and none is looked at."""
    for plan in benchmark.plans():
        for name in plan.arms:
            arm, model = benchmark.arms[name], benchmark.models[plan.model]
            yield Cell(
                task=benchmark.tasks[plan.task],
                model=model,
                arm=arm,
                seed=plan.seeds[0],
                train=benchmark.train,
                task_folder=folder,
                start=folder,
                out=folder,
                device=benchmark.device,
                ranks=model.ranks,
                nodes=model.nodes,
                density_source=None if arm.density_from is None else folder,
                matrix=benchmark.source,
            )


def saves_between(train: Train) -> bool:
    """Whether a run keeps checkpoints to resume from before its last step."""
    return 0 < train.checkpoint_every < train.steps


@dataclass(frozen=True)
class Canvas:
    """What cells that are composed only to be checked share: combinations of keys that verl's own checks accepted."""

    accepted: set[str] = field(default_factory=set)


def _write(keys: dict[str, tuple[Path, Any]]) -> DictConfig:
    """verl's config with these keys and values, each said by a file."""
    config = copy.deepcopy(_verls_own())
    for key, (source, value) in keys.items():
        _set(config, key, value, source)
    return config


def compose(cell: Cell, canvas: Canvas | None = None) -> DictConfig:
    """verl's full config for this cell, or BadInput; later sources win: shared, device, model, matrix, arm.

    A canvas is shared by cells that are composed only to be checked.
    """
    _check_device(cell)
    _check_lengths(cell)
    own = _fixed("shared") | _fixed(cell.device) | _of_cell(cell) | _of_device(cell)
    if cell.device == "cuda" and cell.train.attention == "sdpa":
        own |= _fixed("sdpa") | _of_padding(cell)
    if cell.density_source is not None:
        own["algorithm.group_params.density_source"] = str(cell.density_source)
    sources = ((cell.model.source, cell.model.verl), (cell.matrix, cell.train.verl), (cell.arm.source, cell.arm.verl))
    for source, keys in sources:
        _check_selection(keys, source, of_arm=source == cell.arm.source)
    said = [(source, key, value) for source, keys in sources for key, value in leaves(keys)]
    own_keys = {key: (_HERE, value) for key, value in own.items()}
    keys, written = dict(own_keys), dict[str, tuple[Path, Any]]()
    for source, key, value in said:  # in the place of what an earlier one said, and after it
        if key in own and key.endswith(_MATCHED) and value != own[key]:
            hint = f"leave it out: the benchmark makes it {own[key]!r} for all arms alike."
            raise BadInput(source, key, value, hint)
        for found in (keys, written):
            found.pop(key, None)
            found[key] = source, value

    def place_of(key: str) -> tuple[Path, str]:
        if key in written:
            return written[key][0], key
        return (cell.matrix, _IN_MATRIX[key]) if key in _IN_MATRIX else (cell.arm.source, key)

    canvas = canvas or Canvas()
    # What verl looks at: neither the task's lengths nor the model's size are among it.
    asked = repr((sorted((key, value) for _, key, value in said), cell.device, cell.ranks, cell.nodes, cell.train))
    new = asked not in canvas.accepted
    values = agreed(_write(own_keys)) if new or touches(written) else None
    config = _write(keys)
    _reset_idle(config, {key for source, key, _ in said if source != cell.arm.source})
    for source, key, value in said:
        require_type(_verls_own(), key, value, source)
    if values is not None:
        require_agreed(config, values, written)
    for source, key, value in said:  # before verl's own checks, which import what a config names
        if key not in own or own[key] != value:
            require_choice(key, value, source)
    try:
        stock = config.algorithm.adv_estimator != GROUPED
        params = GroupParams.from_config(dict(config.algorithm.group_params), stock)
    except BadInput as error:
        raise BadInput(*place_of(f"{error.file}.{error.key}"), error.value, error.hint) from error
    if stock and config.algorithm.group_params.rule is None:
        _refuse_idle_keys(cell.arm)
    else:
        _refuse_corrections(config, params, place_of)
        _check_evidence(config, params, place_of)
        _check_losses(config, params, place_of)
        _check_savings(config, params, place_of)
        _refuse_ulysses(config, "tokens are chosen", place_of)
    if cell.train.attention == "sdpa":
        _refuse_ulysses(config, "rows are padded (train.attention: sdpa)", place_of)
    _check_places(config, written)
    if new:
        require_accepted(config, place_of, written)
        canvas.accepted.add(asked)
    if cell.device == "cuda":
        require_fit(config, cell.model, place_of)
    return config


def leaves(keys: dict[str, Any], own: DictConfig | None = None) -> Iterator[tuple[str, Any]]:
    """Dotted keys of single values: a mapping is taken apart where verl has one, and is a value where it does not."""
    own = own or _verls_own()
    for key, value in keys.items():
        try:
            known = isinstance(OmegaConf.select(own, key), DictConfig)
        except OmegaConfBaseException:
            known = False
        if isinstance(value, dict) and value and known and not _open(f"{key}."):
            yield from leaves({f"{key}.{name}": item for name, item in value.items()}, own)
        else:
            yield key, value


@cache
def _verls_own() -> DictConfig:
    """verl's config before any cell; Hydra takes half a second for it, and a plan composes hundreds."""
    with initialize_config_dir(config_dir=str(CONFIG), version_base=None):
        return hydra_compose("group_ppo")


def _check_device(cell: Cell) -> None:
    if cell.device not in ("cpu", "cuda"):
        raise BadInput(cell.matrix, "device", cell.device, "write cpu or cuda.")
    processes = cell.ranks * cell.nodes
    responses = cell.train.prompts_per_step // cell.train.mini_batches * cell.train.responses_per_prompt
    if responses % processes:
        hint = (
            f"write numbers whose responses in a mini-batch ({responses}) are a multiple of the {processes} processes."
        )
        raise BadInput(cell.matrix, "train.prompts_per_step", cell.train.prompts_per_step, hint)
    if cell.device == "cpu":
        if cell.train.attention == "sdpa":
            raise BadInput(cell.matrix, "train.attention", "sdpa", "leave it out: runs on a CPU have no other.")
        return
    if cell.train.rollout != "vllm":
        raise BadInput(cell.matrix, "train.rollout", cell.train.rollout, "write vllm: the others run on a CPU only.")
    if cell.model.shape is None or "gpu_memory_gb" not in cell.model.resources:
        hint = "add the model's shape, gpu and gpu_memory_gb, or write device: cpu."
        raise BadInput(cell.model.source, "resources", cell.model.resources, hint)


def _check_lengths(cell: Cell) -> None:
    """A step's prompts must be there, and the longest response must fit the model."""
    task, prompts = cell.task, cell.train.prompts_per_step
    if prompts > task.splits["train"]:
        hint = f"write at most {task.splits['train']}, the training prompts of {task.name}."
        raise BadInput(cell.matrix, "train.prompts_per_step", prompts, hint)
    # Those of a published model are known when it has been downloaded (launch.py).
    positions = cell.model.params.get("max_position_embeddings")
    if isinstance(positions, int):
        task.require_fit(positions, cell.model.name)


def _check_selection(keys: dict[str, Any], source: Path, *, of_arm: bool) -> None:
    """What an arm trains on is said where plans, tables and pages read it: in its own file, by dotted keys."""
    if HOME in keys:
        hint = f"write its keys one by one, as {HOME}.rule is written."
        raise BadInput(source, HOME, keys[HOME], hint)
    rule = f"{HOME}.rule"
    if rule in keys and not of_arm:
        raise BadInput(source, rule, keys[rule], "write it in the file of each arm that is to choose tokens by it.")


def _reset_idle(config: DictConfig, shared: set[str]) -> None:
    """What a matrix or a model says of groups for all arms goes back to its default in those that it cannot change."""
    params = config.algorithm.group_params
    for name, key in KEYS.items():
        if f"{HOME}.{name}" in shared and any(params.get(other) != wanted for other, wanted in key.only_with):
            params[name] = getattr(GroupParams, name)


def _refuse_idle_keys(arm: Arm) -> None:
    """What an arm's file says of groups must not be ignored; a matrix may say it once for all its arms."""
    for key, value in leaves(arm.verl):
        if key.startswith("algorithm.group_params."):
            hint = "without effect; leave it out, or write algorithm.group_params.rule, which chooses tokens."
            raise BadInput(arm.source, key, value, hint)


def _check_evidence(config: DictConfig, params: GroupParams, place_of: PlaceOf) -> None:
    """What the rule reads must be computed."""
    if params.ends and not config.critic.enable:
        raise BadInput(*place_of("critic.enable"), config.critic.enable, "write true: group_ppo needs values.")
    if "values" in params.needs and not config.critic.enable:
        hint = f"rule {params.rule} reads values, and without a critic there are none; write another one."
        raise BadInput(*place_of("algorithm.group_params.rule"), params.rule, hint)
    rollout = config.actor_rollout_ref.rollout
    asked = f"rule {params.rule} with score {params.score}"
    if "rollout_log_probs" in params.needs and not rollout.calculate_log_probs:
        raise BadInput(
            *place_of("actor_rollout_ref.rollout.calculate_log_probs"), False, f"write true: {asked} needs it."
        )
    if "sum_pi_squared" in params.needs and config.actor_rollout_ref.model.use_fused_kernels:
        hint = f"write false: {asked} needs the logits, which fused kernels do not keep."
        raise BadInput(*place_of("actor_rollout_ref.model.use_fused_kernels"), True, hint)
    if "sum_pi_squared" in params.needs and params.update == "streamed" and params.kv == "reuse":
        hint = f"write recompute: {asked} needs a pass that cannot keep keys and values."
        raise BadInput(*place_of("algorithm.group_params.kv"), "reuse", hint)


# Losses of verl's whose ratio is one of whole responses: a mean over the tokens that count.
_OF_RESPONSES = ("gspo", "geo_mean")
# Losses whose term of a token is its advantage times something, and nothing where that is 0.
_OF_ADVANTAGES = ("vanilla", "dppo_tv", "dppo_kl", "gpg", "cispo")
# Losses that are sums over tokens, each times its weight.
_OF_TOKENS = (*_OF_ADVANTAGES, "clip_cov", "kl_cov", "dro")


def _check_losses(config: DictConfig, params: GroupParams, place_of: PlaceOf) -> None:
    """A loss must be one that a choice of tokens, and their weights, have a meaning for."""
    actor, home = config.actor_rollout_ref.actor, "actor_rollout_ref.actor"
    mode = actor.policy_loss.loss_mode
    if mode in _OF_RESPONSES:
        hint = "write another: its ratio is a mean over all tokens of a response, and a rule would make it one of some."
        raise BadInput(*place_of(f"{home}.policy_loss.loss_mode"), mode, hint)
    if params.loss_normalizer == "tokens":
        critics = [("critic", config.critic.loss_agg_mode)] if config.critic.enable else []
        for place, agg in ((home, actor.loss_agg_mode), *critics):
            if agg != "token-mean":
                hint = "write token-mean with loss_normalizer: tokens."
                raise BadInput(*place_of(f"{place}.loss_agg_mode"), agg, hint)
    beside = ["entropy_coeff", "use_kl_loss"]
    left_out = (_OF_ADVANTAGES, [*beside, "calculate_entropy"], "it needs the tokens that are left out")
    for asked, given, modes, others, why in (
        (params.weights != "none", f"weights: {params.weights}", _OF_TOKENS, beside, "verl does not weight it"),
        (params.skip_zero_advantage, "skip_zero_advantage: true", *left_out),
    ):
        if asked and mode not in modes:
            hint = f"with {given} write one of {', '.join(modes)}."
            raise BadInput(*place_of(f"{home}.policy_loss.loss_mode"), mode, hint)
        for key, value in ((key, actor[key]) for key in others if asked and actor[key]):
            hint = f"with {given} write {'false' if value is True else 0}: {why}."
            raise BadInput(*place_of(f"{home}.{key}"), value, hint)


def responses_together(config: DictConfig) -> int:
    """Responses to a prompt that `shared_prompts` keeps in one micro-batch: ranks get sequences by their lengths, which
    parts a prompt's."""
    alone = config.trainer.n_gpus_per_node * config.trainer.nnodes == 1
    return int(config.actor_rollout_ref.rollout.n) if alone else 1


def _check_savings(config: DictConfig, params: GroupParams, place_of: PlaceOf) -> None:
    """What a saving takes for granted."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    if params.old_log_probs == "update":
        at = place_of("algorithm.group_params.old_log_probs")
        updates = config.data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs
        if updates > 1:
            hint = f"write pass: a batch gets {updates} optimizer steps, and only before the first the ratio is 1."
            raise BadInput(*at, "update", hint)
        read = params.needs & {"log_probs", "rollout_log_probs", "entropies", "sum_pi_squared"}
        users = [f"rule {params.rule} reads them" if read else ""]
        users += ["algorithm.use_kl_in_reward does" if config.algorithm.use_kl_in_reward else ""]
        users += ["kv: reuse is of the pass" if params.update == "streamed" and params.kv == "reuse" else ""]
        corrects = config.algorithm.rollout_correction.rollout_is is not None
        users += ["algorithm.rollout_correction.rollout_is reads them" if corrects else ""]
        if any(users):
            raise BadInput(*at, "update", f"write pass: {next(filter(None, users))}.")
        if not rollout.calculate_log_probs:
            hint = "write true: with old_log_probs: update verl's stages carry the rollouts' in their place."
            raise BadInput(*place_of(f"{_ROLLOUT}.calculate_log_probs"), False, hint)
    if params.shared_prompts:
        if not actor.use_dynamic_bsz:
            hint = "write false: micro-batches are made by number here, as with train.attention: sdpa."
            raise BadInput(*place_of("algorithm.group_params.shared_prompts"), True, hint)
        if "sum_pi_squared" in params.needs:
            hint = f"write false: rule {params.rule} with score {params.score} needs a pass that cannot share prompts."
            raise BadInput(*place_of("algorithm.group_params.shared_prompts"), True, hint)
        longest = responses_together(config) * (config.data.max_prompt_length + config.data.max_response_length)
        limits = [f"{_ACTOR}.ppo_max_token_len_per_gpu", f"{_ROLLOUT}.log_prob_max_token_len_per_gpu"]
        if config.critic.enable:
            limits += ["critic.ppo_max_token_len_per_gpu", "critic.ppo_infer_max_token_len_per_gpu"]
        for key in limits:
            if (limit := OmegaConf.select(config, key)) < longest:
                hint = f"write at least {longest}: with shared_prompts all responses of a prompt are one micro-batch."
                raise BadInput(*place_of(key), limit, hint)


def _refuse_corrections(config: DictConfig, params: GroupParams, place_of: PlaceOf) -> None:
    """Of verl's corrections for the rollout's own log-probabilities those that a selection leaves no room for."""
    correction, home = config.algorithm.rollout_correction, "algorithm.rollout_correction"
    if correction.bypass_mode:
        hint = "leave it false where tokens are chosen, which needs the trainer's own log-probabilities."
        raise BadInput(*place_of(f"{home}.bypass_mode"), True, hint)
    if correction.rollout_rs is not None:
        hint = "leave it null where tokens are chosen: it chooses, too; rule gap is such a choice."
        raise BadInput(*place_of(f"{home}.rollout_rs"), correction.rollout_rs, hint)
    if correction.rollout_is is not None and (params.ends or params.weights != "none"):
        hint = "leave it null with group_ppo, and with weights, whose place in the loss it takes."
        raise BadInput(*place_of(f"{home}.rollout_is"), correction.rollout_is, hint)


def _refuse_ulysses(config: DictConfig, where: str, place_of: PlaceOf) -> None:
    """A sequence must not be split over GPUs."""
    for part in (_ACTOR, f"{_ACTOR}.fsdp_config", "actor_rollout_ref.ref.fsdp_config", "critic", "critic.fsdp"):
        key = f"{part}.ulysses_sequence_parallel_size"
        if (size := OmegaConf.select(config, key)) > 1:
            raise BadInput(*place_of(key), size, f"write 1: sequences are whole on their GPU where {where}.")


def _open(key: str) -> bool:
    return any(part in key for part in _OPEN)


def _set(config: DictConfig, key: str, value: Any, source: Path) -> None:
    try:
        OmegaConf.update(config, key, value, merge=True, force_add=_open(f"{key}."))
    except OmegaConfBaseException as error:
        hint = suggest(key, _dotted(OmegaConf.to_container(config))) or "see verl.trainer.config for its keys."
        raise BadInput(source, key, value, f"verl's config has no such key; {hint}".strip()) from error


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a mapping, at whatever depth."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _dotted(value, f"{prefix}{key}.")


@cache
def _fixed(name: str) -> dict[str, Any]:
    """The keys of verl that a file of this package sets."""
    keys: dict[str, Any] = yaml.safe_load((CONFIG / f"{name}.yaml").read_text(encoding="utf-8"))
    return keys


def _of_cell(cell: Cell) -> dict[str, Any]:
    """verl's keys that follow from the task, the model, the training and the seed."""
    train, task = cell.train, cell.task
    if train.prompts_per_step % train.mini_batches:
        hint = f"write a divisor of prompts_per_step ({train.prompts_per_step})."
        raise BadInput(cell.matrix, "train.mini_batches", train.mini_batches, hint)
    between = saves_between(train)
    state = ["model", "optimizer", "extra"] if between else []
    keys: dict[str, Any] = {
        "data.train_files": str(cell.task_folder / "train.parquet"),
        "data.val_files": str(cell.task_folder / "dev.parquet"),
        "data.train_batch_size": train.prompts_per_step,
        "data.max_prompt_length": task.max_prompt_tokens,
        "data.max_response_length": task.max_response_tokens,
        "reward.custom_reward_function.path": f"pkg://{REWARDS[task.reward]}",
        "critic.model.tokenizer_path": str(cell.start),
        f"{_ACTOR}.checkpoint.save_contents": [*state, "hf_model"],
        "critic.checkpoint.save_contents": [*state, *(["hf_model"] if train.save_critic else [])],
        f"{_ROLLOUT}.name": train.rollout,
        f"{_ROLLOUT}.n": train.responses_per_prompt,
        f"{_ROLLOUT}.temperature": train.temperature,
        f"{_ROLLOUT}.max_model_len": task.max_prompt_tokens + task.max_response_tokens,
        f"{_ROLLOUT}.agent.agent_loop_config_path": str(CONFIG / "agent_loop.yaml"),
        "algorithm.gamma": train.gamma,
        "algorithm.lam": train.lam,
        "trainer.total_training_steps": train.steps,
        "trainer.save_freq": train.checkpoint_every if between else train.steps,
        # From the checkpoint that the launcher chose and named in verl's own file; without one, from the start.
        "trainer.resume_mode": "auto" if between else "disable",
        "trainer.experiment_name": cell.name,
        "trainer.default_local_dir": str(cell.out),
        "trainer.nnodes": cell.nodes,
        "trainer.n_gpus_per_node": cell.ranks,
        "trainer.device": cell.device,
    }
    for part, rate in ((_ACTOR, train.actor_lr), ("critic", train.critic_lr)):
        keys[f"{part}.optim.lr"] = rate
        keys[f"{part}.ppo_mini_batch_size"] = train.prompts_per_step // train.mini_batches
        keys[f"{part}.ppo_epochs"] = train.epochs
    seeds = ("data", f"{_ACTOR}.data_loader_", f"{_ACTOR}.fsdp_config", "critic.data_loader_", "critic.fsdp", _ROLLOUT)
    if task.reward == "python":
        keys["reward.custom_reward_function.reward_kwargs"] = {
            "card": str(cell.task_folder / "card.json"),
            "sha256": task.reward_params["reward_sha256"],
        }
    keys |= {f"{part}seed" if part.endswith("_") else f"{part}.seed": cell.seed for part in seeds}
    return keys | dict.fromkeys(("actor_rollout_ref.model.path", "critic.model.path"), str(cell.start))


def _of_device(cell: Cell) -> dict[str, Any]:
    """verl's keys that follow from the machine."""
    length = cell.task.max_prompt_tokens + cell.task.max_response_tokens
    keys: dict[str, Any] = {
        f"{_ROLLOUT}.max_num_batched_tokens": max(8192, length),
        "ray_kwargs.ray_init.num_gpus": cell.ranks,
        _RAY_CPUS: ray_cpus(cell),
    }
    if cell.device == "cuda":
        # One number for all passes over the batch: tokens in a micro-batch, at least one whole response.
        parts = (f"{_ACTOR}.ppo_max", "critic.ppo_max", "critic.ppo_infer_max")
        keys |= {f"{part}_token_len_per_gpu": max(TOKENS_ON_GPU, length) for part in parts}
    if cell.nodes > 1:  # the launcher starts Ray then, with what each node has; a client may not name it again
        keys |= {f"ray_kwargs.ray_init.{key}": None for key in ("num_cpus", "num_gpus", "object_store_memory")}
    return keys


def _of_padding(cell: Cell) -> dict[str, Any]:
    """verl's keys of a pass over padded rows: so many responses that, all at their longest, have no more tokens than a
    packed one; verl's own division by tokens does not count padding."""
    train, task = cell.train, cell.task
    mini_batch = train.prompts_per_step // train.mini_batches * train.responses_per_prompt
    mini_batch //= cell.ranks * cell.nodes
    most = max(1, TOKENS_ON_GPU // (task.max_prompt_tokens + task.max_response_tokens))
    responses = max(size for size in range(1, min(most, mini_batch) + 1) if mini_batch % size == 0)
    parts = (
        f"{_ACTOR}.ppo",
        f"{_ROLLOUT}.log_prob",
        "actor_rollout_ref.ref.log_prob",
        "critic.ppo",
        "critic.ppo_infer",
    )
    return {f"{part}_micro_batch_size_per_gpu": responses for part in parts}


def ray_cpus(cell: Cell) -> int:
    """What Ray counts as CPUs of a node: places for verl's processes, however many cores it has."""
    units = _fixed(cell.device).get(_UNITS) or OmegaConf.select(_verls_own(), _UNITS)
    return _held(units, cell.ranks) + cell.ranks + 2


def _held(units: int, ranks: int) -> int:
    """Places that are never free again: each of the transfer queue's storage units and its controller holds one, and
    verl reserves three for a rank (`ResourcePoolManager.max_colocate_count`); its other processes hold none."""
    return units + 1 + 3 * ranks


def _check_places(config: DictConfig, written: dict[str, tuple[Path, Any]]) -> None:
    """Refuse fewer places than verl's processes hold: the run would wait for one for ever, and log nothing."""
    held = _held(OmegaConf.select(config, _UNITS), config.trainer.n_gpus_per_node)
    offered = config.ray_kwargs.ray_init.num_cpus
    for key in (_RAY_CPUS, _UNITS):
        if key in written and offered is not None and offered < held:
            hint = f"leave it out: verl's processes hold {held} of Ray's {offered} CPUs, and would wait for ever."
            raise BadInput(written[key][0], key, written[key][1], hint)
