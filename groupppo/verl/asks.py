"""What the trainer asks the engines to compute: keys of `extra_info`, sent with one worker call and taken away."""

from typing import Any

from groupppo.algorithm import GroupParams
from groupppo.verl.group_stage import Grouped

# "gathered" or "streamed"; without it a pass is verl's own.
MODE = "endpoint_update"
# Of `streamed`: further tokens that flow, by window and random share, and the seed of the share.
WINDOW, SHARE, SEED = "live_window", "live_share", "live_seed"
# Keep the pass's keys and values, up to so many bytes; use what was kept.
KEEP_BYTES, USE_KEPT = "keep_kv_bytes", "use_kept_kv"

GATHERED = {MODE: "gathered"}


class Asks:
    """The asks of a run; an arm without groups asks for nothing, so that its passes are verl's own.

    Args:
        params: of the run; None for an arm without groups.
    """

    def __init__(self, params: GroupParams | None):
        self.params = params

    @property
    def keeps(self) -> bool:
        """Whether the old-log-prob pass keeps keys and values for the update."""
        return self.params is not None and self.params.update == "streamed" and self.params.kv == "reuse"

    def gathers_at(self, density: float) -> bool:
        """Whether the updates of a step of this density leave out what no endpoint depends on."""
        mode = None if self.params is None else self.params.update
        return mode in ("gathered", "streamed") or (mode == "auto" and density < 0.5)

    def gathers(self, grouped: Grouped | None) -> bool:
        """The same for a step's groups; a step without groups trains on every token."""
        if grouped is None:
            return False
        return self.gathers_at(int(grouped.groups.endpoints.sum()) / int(grouped.tokens.mask.sum()))

    def log_probs(self, early: bool) -> dict[str, Any]:
        """Of the old-log-prob pass; `early` when the endpoints are known before it and nothing else is needed."""
        keys: dict[str, Any] = dict(GATHERED) if early else {}
        if self.params is not None and "sum_pi_squared" in self.params.needs:
            keys["calculate_sum_pi_squared"] = True
        if self.keeps and self.params is not None:
            keys[KEEP_BYTES] = self.params.kv_bytes
        return keys

    def values(self, early: bool) -> dict[str, Any]:
        """Of the reference's and the critic's passes before the update."""
        return dict(GATHERED) if early else {}

    def critic_update(self, grouped: Grouped | None) -> dict[str, Any]:
        return dict(GATHERED) if self.gathers(grouped) else {}

    def policy_update(self, grouped: Grouped | None, step: int) -> dict[str, Any]:
        if not self.gathers(grouped) or self.params is None:
            return {}
        if self.params.update != "streamed":
            return dict(GATHERED)
        live = {WINDOW: self.params.live_window, SHARE: self.params.live_share, SEED: step}
        return {MODE: "streamed", **live, USE_KEPT: self.params.kv == "reuse"}
