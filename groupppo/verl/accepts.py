"""What verl takes: the type of each key, the names in its registries, and what its own checks say of a whole config.

verl reads most of its config without looking, so that text for a number or an unknown name shows minutes later, in a
worker. Keys that would part training from evaluation are refused, too.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from groupppo.config import GROUPED
from groupppo.config.files import number_hint
from groupppo.errors import BadInput, suggest

PlaceOf = Callable[[str], tuple[Path, str]]
_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
# verl takes null for these, which its dataclass does not say: clip_ratio counts then (core_algos.py:1321).
_NULLABLE = ("actor.clip_ratio_low", "actor.clip_ratio_high")
# How a key ends: lowest value, whether it is allowed itself, highest value.
_RANGES: dict[str, tuple[float, bool, float]] = {
    "optim.lr": (0, False, 1),
    "algorithm.gamma": (0, False, 1),
    "algorithm.lam": (0, True, 1),
    "rollout.temperature": (0, False, 100),
    "rollout.n": (1, True, 10_000),
    "rollout.gpu_memory_utilization": (0, False, 1),
    "rollout.tensor_model_parallel_size": (1, True, 64),
    "ppo_epochs": (1, True, 1000),
    "ppo_mini_batch_size": (1, True, 1e6),
    "weight_decay": (0, True, 1000),
    "clip_ratio": (0, False, 1000),
    "clip_ratio_low": (0, False, 1000),
    "clip_ratio_high": (0, False, 1000),
    "clip_ratio_c": (1, False, 1000),
    "cliprange_value": (0, False, 1e6),
    "grad_clip": (0, False, 1e6),
    "kl_loss_coef": (0, True, 1000),
    "entropy_coeff": (-1000, True, 1000),
}


def require_type(own: DictConfig, key: str, value: Any, source: Path) -> None:
    """Check a value, said by a file, against the type that verl's dataclass, or its default, gives the dotted key.

    Raises:
        BadInput: another type, out of range, or text that OmegaConf would replace by something else.
    """
    if "_target_" in key:
        raise BadInput(source, key, value, "leave it out: it names code, which verl chooses.")
    if "${" in str(value):
        raise BadInput(source, key, value, "write the value itself: ${...} would be replaced when the run starts.")
    wanted = _wanted(own, key)
    if value is None and key.endswith(_NULLABLE):
        return
    if refusal := _refusal(value, wanted):
        hint = number_hint(value) if not _refusal(1.0, wanted) else ""
        raise BadInput(source, key, value, hint or f"write another type of value: {refusal.lower()}.")
    for ending, (low, closed, high) in _RANGES.items():
        if not f".{key}".endswith(f".{ending}") or not isinstance(value, int | float):
            continue
        if value > high or value < low or (value == low and not closed):
            hint = f"keep it {'at least' if closed else 'above'} {low:g} and at most {high:g}."
            raise BadInput(source, key, value, hint)


def _wanted(own: DictConfig, key: str) -> Any:
    """A type, a union of types, or Any where neither an annotation nor a default tells."""
    home, _, name = key.rpartition(".")
    try:
        node, default = OmegaConf.select(own, home), OmegaConf.select(own, key)
    except OmegaConfBaseException:  # a default that points to a value which a cell sets
        return Any
    if isinstance(default, DictConfig):
        return dict
    if isinstance(node, DictConfig) and "_target_" in node:
        hint = _hints(get_class(str(node._target_))).get(name)
        if hint is not None:
            return hint if default is not None else hint | None
    return Any if default is None else {ListConfig: list}.get(type(default), type(default))


_hints, _adapter = cache(get_type_hints), cache(TypeAdapter)


def _refusal(value: Any, wanted: Any) -> str:
    """Why pydantic takes a value for another type; empty where it is of this one. YAML's lists serve as tuples."""
    try:
        _adapter(wanted).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return ""


def require_accepted(config: DictConfig, place_of: PlaceOf, written: Collection[str]) -> None:
    """Check a composed config as verl would once the run has begun, by its registries, functions and own checks.

    Args:
        place_of: the file that says what a key is, and what the key is called there.
        written: keys that files set, to name the one that verl complains of.
    """
    from verl.trainer.ppo import core_algos

    for key, known in (
        ("algorithm.adv_estimator", [GROUPED, *core_algos.ADV_ESTIMATOR_REGISTRY]),
        (f"{_ACTOR}.policy_loss.loss_mode", [*core_algos.POLICY_LOSS_REGISTRY]),
    ):
        value = OmegaConf.select(config, key)
        if value not in known:
            hint = f"{suggest(value, known)}verl has: {', '.join(known)}."
            raise BadInput(*place_of(key), value, hint)
    _require_computable(config, place_of)
    ratio, low, high = (f"{_ACTOR}.{name}" for name in ("clip_ratio", "clip_ratio_low", "clip_ratio_high"))
    if ratio in written and None not in (OmegaConf.select(config, low), OmegaConf.select(config, high)):
        hint = f"without effect beside {low} and {high}: write those, or null for both."
        raise BadInput(*place_of(ratio), OmegaConf.select(config, ratio), hint)
    if config.algorithm.adv_estimator != GROUPED:
        _require_needs(config, place_of, core_algos.ADV_ESTIMATOR_REGISTRY[config.algorithm.adv_estimator])
    _ask_verl(config, place_of, written)


def _require_computable(config: DictConfig, place_of: PlaceOf) -> None:
    """Names that verl keeps in no registry: its functions are asked with one token."""
    import torch
    from verl.trainer.ppo.core_algos import agg_loss, kl_penalty

    one = torch.ones(1, 1)
    aggregations = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
    penalties = ["kl", "abs", "mse", "low_var_kl", "k1", "k2", "k3"]
    for key, ask, examples in (
        (f"{_ACTOR}.loss_agg_mode", agg_loss, aggregations),
        ("critic.loss_agg_mode", agg_loss, aggregations),
        (f"{_ACTOR}.kl_loss_type", kl_penalty, penalties),
        ("algorithm.kl_penalty", kl_penalty, penalties),
    ):
        value = OmegaConf.select(config, key)
        try:
            ask(one, one, value)
        except (ValueError, NotImplementedError) as error:
            hint = f"{suggest(value, examples)}verl cannot compute it; it can, among others: {', '.join(examples)}."
            raise BadInput(*place_of(key), value, hint) from error


def _require_needs(config: DictConfig, place_of: PlaceOf, estimator: Callable[..., Any]) -> None:
    name, reads = config.algorithm.adv_estimator, signature(estimator).parameters
    key, actor = f"{_ROLLOUT}.n", config.actor_rollout_ref.actor
    if "index" in reads and config.actor_rollout_ref.rollout.n < 2:
        hint = f"write at least 2: {name} compares the responses to one prompt with each other."
        raise BadInput(*place_of(key), config.actor_rollout_ref.rollout.n, hint)
    critic = config.critic.enable
    if "values" in reads and critic is False:
        raise BadInput(*place_of("critic.enable"), critic, f"write true: {name} reads values.")
    if "values" not in reads and critic:
        hint = f"write false: {name} reads no values, and a critic would be trained for nothing."
        raise BadInput(*place_of("critic.enable"), critic, hint)
    for read, there, why in (
        ("reward_baselines", False, "verl's trainer makes no greedy responses, which it compares with"),
        (
            "sum_pi_squared",
            actor.calculate_sum_pi_squared,
            "it reads sum_pi_squared: write actor_rollout_ref.actor.calculate_sum_pi_squared: true",
        ),
        (
            "non_tensor_batch",
            config.algorithm.get("gdpo_reward_keys"),
            "it reads several rewards, of which a task here has one",
        ),
    ):
        if read in reads and not there:
            raise BadInput(*place_of("algorithm.adv_estimator"), name, f"write another: {why}.")


def _ask_verl(config: DictConfig, place_of: PlaceOf, written: Collection[str]) -> None:
    import contextlib
    import io

    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    # The critic's dataclass would read the start checkpoint, which a plan does not have.
    model, config.critic.model = config.critic.model, None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it says that all is well
            validate_config(config, need_reference_policy(config), need_critic(config))
    except Exception as error:  # whatever a dataclass of verl raises, Hydra's own around it
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = (str(cause) or type(cause).__name__).splitlines()[0]
        named = [key for key in written if re.search(rf"\b{re.escape(key.rpartition('.')[2])}\b", said)]
        if named:
            key = max(named, key=lambda key: len(key.rpartition(".")[2]))
            raise BadInput(*place_of(key), OmegaConf.select(config, key), f"verl refuses it: {said}") from error
        hint = f"verl refuses the config with these: {said}"
        place, _ = place_of(next(iter(written), "verl"))
        raise BadInput(place, "verl", sorted(written), hint) from error
    finally:
        config.critic.model = model


_MODEL = "actor_rollout_ref.model"
_REWARD = "write the task file's reward (exact, math, reasoning_gym, or python with a reward_file)"
_LENGTH = "write max_prompt_tokens and max_response_tokens of the task's file"
_PROMPT = "write the model file's params.chat_template_set"
_PLAIN = "leave it out: responses are drawn from the policy's own distribution"
# What training and evaluation have in common: one reward, one prompt, one decoding. Evaluation reads it from the task's
# file and the matrix, so verl's own keys for it may get no other value, by whatever name, mapping or interpolation.
# Each place of verl's config with what to write instead; a place that others are interpolated from comes first.
_PLACES = {
    **dict.fromkeys(("custom_reward_function", "reward_model", "sandbox_fusion"), _REWARD),
    **{
        f"reward.{part}": _REWARD
        for part in ("custom_reward_function", "reward_manager", "reward_model", "sandbox_fusion")
    },
    **dict.fromkeys(("data.reward_fn_key", "data.custom_cls", "data.train_files"), "write a task's file"),
    **dict.fromkeys(("data.max_prompt_length", "data.max_response_length"), _LENGTH),
    **{f"{_ROLLOUT}.{part}": _LENGTH for part in ("prompt_length", "response_length")},
    "data.prompt_key": _PROMPT,
    **{f"{_MODEL}.{part}": _PROMPT for part in ("path", "hf_config_path", "tokenizer_path", "custom_chat_template")},
    f"{_ROLLOUT}.temperature": "write train.temperature in the matrix",
    **{f"{_ROLLOUT}.{part}": _PLAIN for part in ("top_p", "top_k", "do_sample", "ignore_eos")},
    **{f"{_ROLLOUT}.{part}": _PLAIN for part in ("multi_turn", "agent.default_agent_loop")},
    f"{_ROLLOUT}.agent.agent_loop_config_path": _PLAIN,
    f"{_ROLLOUT}.val_kwargs": "write the matrix's evaluation; verl itself evaluates nothing",
}


def agreed(config: DictConfig) -> dict[str, Any]:
    """The values at the places that training and evaluation share, interpolations resolved."""
    values = {place: OmegaConf.select(config, place) for place in _PLACES}
    return {
        place: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for place, value in values.items()
    }


def touches(keys: Iterable[str]) -> bool:
    """Whether one of the keys is, holds or is part of such a place."""
    return any(place.startswith(key) or key.startswith(place) for key in keys for place in _PLACES)


def require_agreed(config: DictConfig, values: Mapping[str, Any], written: Mapping[str, tuple[Path, Any]]) -> None:
    """Check that what files say of verl's keys, each with the file and the value, left `agreed` as it was.

    Raises:
        BadInput: it did not; training would then earn another reward or decode otherwise than evaluation.
    """
    for place, value in agreed(config).items():
        if value != values[place]:
            # The last one said won. A key that is written otherwise, or that others are drawn from, is no part of it.
            last_first = list(written)[::-1]
            key = next((key for key in last_first if place.startswith(key) or key.startswith(place)), None)
            source, said = written[key or last_first[0]]
            hint = f"{_PLACES[place]}; this would change training and not evaluation."
            raise BadInput(source, key or place, said if key else value, hint)
