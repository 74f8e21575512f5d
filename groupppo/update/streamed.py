"""The approximate update: only live rows flow through the network; keys and values of all other tokens are constants.

Values are exact as long as the constants come from the same weights; gradients miss what would flow through other
tokens' keys and values, which is a bias. More live rows (`LiveRows`) buy some of it back.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from groupppo.update.layers import KeysValues, layer_of_stream
from groupppo.update.layout import Layout, Rows
from groupppo.update.network import base_of, embed


@dataclass(frozen=True)
class LiveRows:
    """Which tokens flow next to the endpoints' own rows.

    Attributes:
        window: so many tokens before each row, inside its sequence.
        share: of the remaining tokens, drawn at random.
    """

    window: int = 0
    share: float = 0.0

    def places(self, layout: Layout, rows: Tensor, seed: int = 0) -> Tensor:
        """(L,) increasing places in the stream, the rows among them."""
        live = torch.zeros(len(layout.input_ids), dtype=torch.bool, device=rows.device)
        for back in range(self.window + 1):
            live[(rows - back)[layout.position[rows] >= back]] = True
        if self.share > 0.0:
            generator = torch.Generator().manual_seed(seed)
            live |= (torch.rand(len(live), generator=generator) < self.share).to(live.device)
        return live.nonzero().flatten()


def streamed_hidden(model: Any, layout: Layout, rows: Tensor, live: Tensor, cached: list[KeysValues]) -> Tensor:
    """Final hidden states at K rows, (K, H); call through `run_inside`.

    Args:
        layout: the batch. rows: (K,) increasing places in its stream.
        live: (L,) increasing places, the rows among them.
        cached: keys and values of every layer for the whole stream.
    """
    base, position = base_of(model), layout.position[live]
    hidden = embed(model, layout.input_ids[live])
    turn = base.rotary_emb(hidden[None], position[None])
    rotation = (turn[0][0], turn[1][0])
    index = Rows.of(layout, live).additive(hidden.dtype)
    last = (torch.searchsorted(live, rows), Rows.of(layout, rows))
    for number, (layer, constants) in enumerate(zip(base.layers, cached, strict=True)):
        queries = last if number == len(base.layers) - 1 else None
        hidden = layer(
            hidden,
            instead=partial(_layer, rotation=rotation, places=live, live=index, cached=constants, queries=queries),
        )
    return base.norm(hidden)


def _layer(layer: Any, hidden: Tensor, **parts: Any) -> Tensor:
    return layer_of_stream(layer, hidden, **parts)
