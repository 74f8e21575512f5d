"""What a grouping rule returns: endpoints, group of each token, and why each group closed."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Cause(IntEnum):
    """Why a group closed at its endpoint."""

    NONE = 0
    CRITERION = 1
    CAP = 2
    END = 3


@dataclass(frozen=True)
class Groups:
    """Groups of a batch of B responses padded to T tokens.

    Attributes:
        endpoints: (B, T) bool, the last token of each group; inside the response mask.
        index: (B, T) int64, number of a token's group within its response from 0; -1 outside the mask.
        cause: (B, T) int8 `Cause` at endpoints, `Cause.NONE` elsewhere.
    """

    endpoints: Tensor
    index: Tensor
    cause: Tensor

    @classmethod
    def from_cause(cls, cause: Tensor, mask: Tensor) -> "Groups":
        """Build from the cause of closing at every token; (B, T) int8 and (B, T) bool."""
        endpoints = (cause != Cause.NONE) & mask
        # A token belongs to the group after the last endpoint strictly before it.
        before = endpoints.long().cumsum(dim=1) - endpoints.long()
        return cls(endpoints, torch.where(mask, before, -1), torch.where(endpoints, cause, Cause.NONE))


def last_valid(mask: Tensor) -> Tensor:
    """(B, T) bool, true at the last valid token of every response that has one."""
    remaining = mask.long().flip(1).cumsum(dim=1).flip(1)
    return mask & (remaining == 1)
