"""Statistics of a grouping, under the origin's names where it has them.

`compression_ratio`, `efficiency_gain` and `algorithm_effectiveness` are identities of one measurement, tokens over
endpoints: none of them says that anything was saved.
"""

import torch
from torch import Tensor

from groupppo.grouping.groups import Cause, Groups


def group_metrics(groups: Groups, mask: Tensor, threshold: float) -> dict[str, float]:
    """Metrics of one batch; `closed_by/*` are shares of groups, sizes are in tokens.

    Args:
        groups: the batch's groups. mask: (B, T) bool, its valid tokens; at least one. threshold: tau used.
    """
    tokens, endpoints = int(mask.sum()), int(groups.endpoints.sum())
    density = endpoints / tokens
    compression = 1.0 - density
    sizes = group_sizes(groups).double()
    closed = groups.cause[groups.endpoints]
    responses = int(mask.any(dim=1).sum())
    return {
        **dense_metrics(tokens),
        "group/total_endpoints": endpoints,
        "group/density": density,
        "group/compression_ratio": compression,
        "group/efficiency_gain": tokens / endpoints,
        "group/algorithm_effectiveness": max(0.0, compression - 0.1) / 0.9,
        "group/threshold": threshold,
        "group/closed_by/criterion": float((closed == Cause.CRITERION).double().mean()),
        "group/closed_by/cap": float((closed == Cause.CAP).double().mean()),
        "group/closed_by/end": float((closed == Cause.END).double().mean()),
        "group/size/mean": float(sizes.mean()),
        "group/size/p10": float(sizes.quantile(0.1)),
        "group/size/p50": float(sizes.quantile(0.5)),
        "group/size/p90": float(sizes.quantile(0.9)),
        "group/endpoints_per_response/mean": endpoints / responses,
        "group/fallbacks": 0,
    }


def dense_metrics(tokens: int) -> dict[str, float]:
    """The same counts for an arm that trains on every token."""
    return {"group/total_tokens": tokens, "group/total_endpoints": tokens, "group/density": 1.0}


def group_sizes(groups: Groups) -> Tensor:
    """Tokens of every group of the batch, (number of groups,) int64."""
    index = groups.index
    most = int(index.max()) + 1
    counts = torch.zeros(index.shape[0], most, dtype=torch.long, device=index.device)
    counts.scatter_add_(1, index.clamp(min=0), (index >= 0).long())
    return counts[counts > 0]
