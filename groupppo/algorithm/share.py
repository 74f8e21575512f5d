"""Endpoints as the tokens of highest priority, at a given density."""

import torch
from torch import Tensor

from groupppo.algorithm.groups import Cause, last_valid
from groupppo.errors import BadInput


def close_share(priority: Tensor, mask: Tensor, density: float | None) -> Tensor:
    """Close at round(density * N) of the batch's N valid tokens, (B, T) int8 `Cause`.

    Each response's last valid token is one of them; the others are those of highest priority over the whole batch, at
    equal priority the first ones. With fewer than one endpoint per response asked for, the last tokens are all.

    Args:
        priority: (B, T) float. mask: (B, T) bool. density: endpoints over valid tokens, in (0, 1].

    Raises:
        BadInput: no density was given.
    """
    if density is None:
        raise BadInput(
            "group_tokens", "density", None, "give the density of this step, a number above 0 and at most 1."
        )
    last = last_valid(mask)
    wanted = int(density * int(mask.sum()) + 0.5) - int(last.sum())
    cause = torch.where(last, Cause.END, Cause.NONE).to(torch.int8)
    places = (mask & ~last).flatten().nonzero().flatten()
    if wanted > 0:
        order = torch.sort(priority.flatten()[places], descending=True, stable=True).indices
        cause.view(-1)[places[order[:wanted]]] = Cause.CRITERION
    return cause
