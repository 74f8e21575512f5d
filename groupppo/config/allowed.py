"""What a benchmark's files may name: choices of verl's and of ours, and nothing that loads code or reaches other files.

Files of benchmarks/ come from strangers too, as the config of a bundle does that somebody runs again. verl has dozens
of keys that import a module, load a class from a path, start a program or read and write a file, and every version has
others. So text in verl's config is refused but for the keys of CHOICES, whose values are names in verl's registries.
A path that a file names leads into the repository. What is refused can be allowed by the name of its key, which only
who starts a run can do: `snakemake --config allow=KEY,...`, or GROUPPPO_ALLOW=KEY,... before any command.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groupppo.errors import BadInput

VARIABLE = "GROUPPPO_ALLOW"
CHOICES = (
    *("algorithm.adv_estimator", "algorithm.kl_penalty", "kl_ctrl.type", "filter_groups.metric"),
    *(f"rollout_correction.{name}" for name in ("rollout_is", "rollout_rs", "loss_type")),
    *("policy_loss.loss_mode", "loss_agg_mode", "kl_loss_type", "pf_ppo.reweight_method"),
    *("optim.optimizer", "optim.lr_scheduler_type", "optim.warmup_style"),
    *("strategy", "dtype", "model_dtype", "param_dtype", "reduce_dtype", "buffer_dtype", "output_dtype"),
    *("override_config.attn_implementation", "fused_kernel_options.impl_backend", "rollout.quantization"),
    *("model.target_modules", "model.exclude_modules", "checkpoint.save_contents", "trainer.logger"),
)
"""How keys end whose text is a choice among names that verl, or this package, has."""
_ENDINGS = tuple(f".{end}" for end in CHOICES)
# Text there is a choice, each checked by `GroupParams`, but for the path of another run's steps.
_SELECTION, _OTHER_RUN = ".algorithm.group_params.", ".density_source"
_WORD = re.compile(r"[A-Za-z0-9_-]{1,100}")
_DOTTED = re.compile(rf"{_WORD.pattern}(\.{_WORD.pattern})*")
# Switches that load code, open a port, or read and write files in /tmp, /dev/shm and the user's home (verl's `skip`
# unpickles what lies there), by parts of a key; vLLM takes them with hyphens, too. They may be off, and nothing else:
# whatever a switch of vLLM is given, 0 or a mapping, turns it on, and Ray takes null for a dashboard where it can.
_SWITCHES = re.compile("trust|dashboard|prometheus|use_shm|kv_cache_events|^skip$|^metrics$")


def allowed() -> frozenset[str]:
    """Keys that who started this process allows to load code or to name files elsewhere."""
    return frozenset(key.strip() for key in os.environ.get(VARIABLE, "").split(",") if key.strip())


def is_allowed(key: str) -> bool:
    """Whether a dotted key, or a mapping that it is part of, is among `allowed`."""
    return any(key == name or key.startswith(f"{name}.") for name in allowed())


def require_choice(key: str, value: Any, source: Path) -> None:
    """Check that a value of verl's config is a number, a switch or a choice: nothing that can name code or a file.

    Args:
        key: dotted, of verl's config. value: of a mapping every value is looked at. source: the file that says so.

    Raises:
        BadInput: it is text of a key that is not in CHOICES, a name that is no word, or a switch that lets code in, and
            nobody allows it.
    """
    for place, item in _leaves(key, value):
        parts = place.replace("-", "_").split(".")
        off = item is False or (item is None and "include_dashboard" not in parts)
        switch = not off and any(map(_SWITCHES.search, parts))
        choice = f".{place}".endswith(_ENDINGS) or (
            f".{place}".startswith(_SELECTION) and not place.endswith(_OTHER_RUN)
        )
        text = isinstance(item, str) and not (choice and _WORD.fullmatch(item))
        if (switch or text) and not is_allowed(place):
            hint = f"leave it out: it can load code or reach files. If it is yours, allow it: --config allow={place}"
            raise BadInput(source, place, item, f"{hint} or {VARIABLE}={place}.")


def require_inside(path: Path, source: Path, key: str, *homes: Path) -> Path:
    """The path, once it is seen that links and .. do not lead it out of all `homes`.

    Raises:
        BadInput: they do, or it was absolute and elsewhere, and nobody allows `key`.
    """
    place = path.resolve()
    if not any(place.is_relative_to(home.resolve()) for home in homes) and not is_allowed(key):
        hint = f"keep it inside of the repository. If you mean this one, allow it: --config allow={key}"
        raise BadInput(source, key, str(path), f"{hint} or {VARIABLE}={key}.")
    return path


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Places and what they hold; a name that is no word is text: as --NAME vLLM would take NAME=VALUE for both."""
    if not _DOTTED.fullmatch(key):
        yield key, key
    elif isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}", item) if _WORD.fullmatch(name) else [(f"{key}.{name}", name)]
    elif isinstance(value, list | tuple) and value:
        for item in value:
            yield from _leaves(key, item)
    else:
        yield key, value
