"""What the arms of a benchmark may differ in: the algorithm, and what the benchmark says that it compares.

The list is of what is allowed. A key of verl that nobody thought of is none of the algorithm's, and refused.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from groupppo.errors import BadInput

if TYPE_CHECKING:
    from groupppo.config import Benchmark

KEY = "compares"
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


def check_matched(benchmark: "Benchmark") -> None:
    """Arms differ in their algorithm and in the keys under `compares`, and in nothing else.

    Raises:
        BadInput: an arm sets another key, or `compares` names one that arms may set anyway or do not differ in.
    """
    said = {name: dict(_leaves(arm.verl)) for name, arm in benchmark.arms.items()}
    for name, keys in said.items():
        arm = benchmark.arms[name]
        for key, value in keys.items():
            if not ALGORITHM.fullmatch(key) and key not in benchmark.compares:
                hint = (
                    f"an arm changes the algorithm alone: say it for all arms, under train.verl of {benchmark.source}, "
                    f"or add {key} to {KEY} there, if that is what the benchmark compares."
                )
                raise BadInput(arm.source, key, value, hint)
    for place, key in enumerate(benchmark.compares):
        if ALGORITHM.fullmatch(key):
            raise BadInput(benchmark.source, f"{KEY}.{place}", key, "leave it out: arms may differ in it anyway.")
        if len({repr(keys.get(key, _leaves)) for keys in said.values()}) < 2:
            hint = "leave it out, or have one arm set it: the arms do not differ in it."
            raise BadInput(benchmark.source, f"{KEY}.{place}", key, hint)


def _leaves(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of all values that are no mapping, whether or not verl has the mapping."""
    for key, value in keys.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
