"""What training and evaluation have in common: one reward, one prompt, one decoding.

Evaluation reads it from the task's file and the matrix, without verl. So verl's own keys for it may not be given
another value, by whatever name, mapping or interpolation that value comes.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from groupppo.errors import BadInput

_ROLLOUT, _MODEL = "actor_rollout_ref.rollout", "actor_rollout_ref.model"
_REWARD = "write the task file's reward (exact, math or reasoning_gym)"
_LENGTH = "write max_prompt_tokens and max_response_tokens of the task's file"
_PROMPT = "write the model file's params.chat_template_set"
_PLAIN = "leave it out: responses are drawn from the policy's own distribution"
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
    """The values at those places, interpolations resolved."""
    return {place: _plain(OmegaConf.select(config, place)) for place in _PLACES}


def touches(keys: Iterable[str]) -> bool:
    """Whether one of the keys is, holds or is part of such a place."""
    return any(place.startswith(key) or key.startswith(place) for key in keys for place in _PLACES)


def require_agreed(config: DictConfig, values: Mapping[str, Any], written: Mapping[str, tuple[Path, Any]]) -> None:
    """Check that what files say of verl's keys left the values of `agreed` as they were.

    Args:
        values: before the files' keys. written: each key that a file says, with the file and the value.

    Raises:
        BadInput: they did not; training would then earn another reward or decode otherwise than evaluation.
    """
    for place, value in agreed(config).items():
        if value != values[place]:
            # The last one said won. A key that is written otherwise, or that others are drawn from, is no part of it.
            last_first = list(written)[::-1]
            key = next((key for key in last_first if place.startswith(key) or key.startswith(place)), None)
            source, said = written[key or last_first[0]]
            hint = f"{_PLACES[place]}; this would change training and not evaluation."
            raise BadInput(source, key or place, said if key else value, hint)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
