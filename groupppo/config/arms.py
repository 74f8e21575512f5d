"""What the arms of a benchmark may differ in: the algorithm, and what the benchmark says that it compares.

The list is of what is allowed. A key of verl that nobody thought of is none of the algorithm's, and refused.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from groupppo.config.things import Arm, Model, Train
from groupppo.errors import BadInput

_RATE = r"optim\.(lr|lr_warmup_steps|lr_warmup_steps_ratio|lr_scheduler_type|min_lr_ratio|num_cycles)"
_LOSS = rf"loss_agg_mode|loss_scale_factor|grad_clip|{_RATE}"
# Not algorithm.filter_groups, by which a step has other prompts, nor group_params.density_source, another run's file.
ALGORITHM = re.compile(
    r"algorithm\.(adv_estimator|gamma|lam|norm_adv_by_std_in_grpo|use_kl_in_reward|kl_penalty|use_pf_ppo)"
    r"|algorithm\.(kl_ctrl|pf_ppo|rollout_correction|group_params)\.(?!density_source$)[a-z]\w*"
    rf"|critic\.(enable|cliprange_value|{_LOSS})"
    r"|actor_rollout_ref\.actor\.(clip_ratio(_low|_high|_c)?|tau_pos|tau_neg|policy_loss\.[a-z]\w*|entropy_coeff"
    rf"|use_kl_loss|kl_loss_coef|kl_loss_type|calculate_entropy|calculate_sum_pi_squared|{_LOSS})"
    # How a loss is computed, which arms of their own compare: by the head that keeps no logits.
    r"|actor_rollout_ref\.model\.use_fused_kernels"
)
# What limits how far an update may go from the policy, or value, of the rollout: nothing while both are the same.
_CLIP = re.compile(r"(actor_rollout_ref\.actor)\.(?:clip_ratio\w*|policy_loss\.loss_mode)|(critic)\.cliprange_value")
_CLIPPING_LOSSES = ("gspo", "cispo")


def match_faults(arms: Mapping[str, Arm], compares: Sequence[str], source: Path) -> Iterator[BadInput]:
    """Keys in which arms differ though they are neither the algorithm's nor compared; and what is compared in vain.

    Args:
        arms: of the matrix, by name.
        compares: keys of verl that the benchmark compares.
        source: the benchmark's file, for messages.
    """
    set_keys = {name: dict(_leaves(arm.verl)) for name, arm in arms.items()}
    for name, keys in set_keys.items():
        for key, value in keys.items():
            if not ALGORITHM.fullmatch(key) and key not in compares:
                hint = (
                    f"an arm changes the algorithm alone: say it for all arms, under train.verl of {source}, "
                    f"or add {key} to compares there, if that is what the benchmark compares."
                )
                yield BadInput(arms[name].source, key, value, hint)
    for place, key in enumerate(compares):
        if ALGORITHM.fullmatch(key):
            yield BadInput(source, f"compares.{place}", key, "leave it out: arms may differ in it anyway.")
        elif len({repr(keys.get(key, _leaves)) for keys in set_keys.values()}) < 2:
            hint = "leave it out, or have one arm set it: the arms do not differ in it."
            yield BadInput(source, f"compares.{place}", key, hint)


def _leaves(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of all values that are no mapping, whether or not verl has the mapping."""
    for key, value in keys.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def clip_notes(name: str, arms: Mapping[str, Arm], train: Train, models: Sequence[Model]) -> list[str]:
    """What may be meant and cannot act: an arm, or the whole benchmark, that clips where no update can be clipped."""
    notes = []
    for who, own in [(name, train.verl), *((arm.name, arm.verl) for arm in arms.values())]:
        keys = train.verl | own
        if keys.get("algorithm.rollout_correction.bypass_mode"):
            continue  # the ratio is to the rollout's own log-probabilities
        cells = [model.verl | keys for model in models]
        clips = [k for k, value in own.items() if all(_clips_nothing(k, value, cell, train) for cell in cells)]
        if clips:
            notes.append(
                f"{who} sets {', '.join(sorted(clips))}, which cannot act: with one mini-batch and one epoch a step "
                "has one update, and its policy is the one that sampled. Write mini_batches or epochs above 1."
            )
    return notes


def _clips_nothing(key: str, value: Any, keys: Mapping[str, Any], train: Train) -> bool:
    clip = _CLIP.fullmatch(key)
    if not clip or (key.endswith("loss_mode") and value not in _CLIPPING_LOSSES):
        return False
    home = clip[1] or clip[2]
    batch = keys.get(f"{home}.ppo_mini_batch_size")
    mini_batches = train.prompts_per_step / batch if batch else train.mini_batches
    return bool(mini_batches * keys.get(f"{home}.ppo_epochs", train.epochs) <= 1)
