"""The variants of a policy update that are compared, by name and without any tensor, so that plans are checked fast.

One variant is one micro-batch, forward and backward, of the clipped policy loss (`passes.py` runs it). Dense ones train
on all R tokens of the response, the others on its K endpoints; all exact variants of a kind have the same gradient.
`streamed_reuse_window3` and the like are made from their name: `streamed_{recompute|reuse}`, then `_window<tokens>` and
`_share<percent>` of tokens that flow next to the endpoints.
"""

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec

MEASURED, NOT_RUN, NO_MEMORY, FAILED = "measured", "not run", "out of memory", "failed"
REFERENCE, FUSED, MASKED = "dense", "dense_fused", "masked"


@dataclass(frozen=True)
class Variant:
    """One way to compute an update.

    Attributes:
        name, title: in files, and in tables and figures. mode: its mode in `update.flops`.
        on: the tokens whose log-probabilities it computes and trains on: "response", "endpoints", or "masked" where it
            computes those of the response and a mask leaves the endpoints'.
        exact: whether its gradient is that of the masked update (of the dense one where it trains on the response).
        bound: the bound in `update.flops` that its operations cannot beat, "head", "update" or "" for none.
        eager: whether the head adds its gradient to its weights at once, and autograd holds no second copy.
        cut: whether tokens after the last endpoint's row are left out.
        reuse: whether keys and values are kept from an earlier pass.
        window, percent: what flows next to the endpoints in streamed variants, as in `update.passes.LiveRows`.
        package, gpu: what it needs beyond torch. Without `package` the variant is our own, and the memory model holds.
    """

    name: str
    title: str
    mode: str
    on: str = "endpoints"
    exact: bool = True
    bound: str = ""
    eager: bool = True
    cut: bool = False
    reuse: bool = False
    window: int = 0
    percent: int = 0
    package: str = ""
    gpu: bool = False

    @property
    def streamed(self) -> bool:
        return self.mode.startswith("streamed")

    def missing(self, device: str) -> str:
        """Why it cannot run on a device of this machine, or nothing."""
        lacks = [f"the package {self.package}"] if self.package and find_spec(self.package) is None else []
        lacks += ["an NVIDIA GPU"] if self.gpu and device != "cuda" else []
        return f"needs {' and '.join(lacks)}" if lacks else ""


_ALL = (
    Variant("dense", "dense", "dense", on="response", eager=False),
    Variant("masked", "masked (the origin)", "masked", on="masked", eager=False),
    Variant("dense_fused", "dense, fused head (ours)", "fused", on="response"),
    Variant("verl_fused", "dense, verl's fused head (torch)", "fused", on="response", package="verl"),
    Variant("verl_triton", "dense, verl's fused head (Triton)", "fused", on="response", package="verl", gpu=True),
    Variant("liger", "dense, Liger's head through verl", "fused", on="response", package="liger_kernel", gpu=True),
    Variant("cce", "dense, cut cross-entropy", "fused", on="response", package="cut_cross_entropy", gpu=True),
    Variant("gathered_head", "head at endpoints", "gathered_head", bound="head", eager=False),
    Variant("gathered_head_eager", "+ eager head gradient", "gathered_head", bound="head"),
    Variant("gathered_head_cut", "+ cut behind the last", "gathered_head", bound="update", cut=True),
    Variant("gathered", "gathered (+ last layer)", "gathered", bound="update", cut=True),
    Variant("streamed_recompute", "streamed, K/V pass counted", "streamed", exact=False),
    Variant("streamed_reuse", "streamed, K/V pass not counted", "streamed_reuse", exact=False, reuse=True),
)
VARIANTS = {variant.name: variant for variant in _ALL}


def find(name: str) -> Variant:
    """The variant of this name.

    Raises:
        ValueError: there is none.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    match = re.fullmatch(r"(streamed_(?:recompute|reuse))(?:_window([1-9]\d*))?(?:_share([1-9]\d?))?", name)
    if match is None:
        raise ValueError(f"no such variant; write one of {', '.join(VARIANTS)}, or such as streamed_reuse_window3")
    stock, window, percent = VARIANTS[match[1]], int(match[2] or 0), int(match[3] or 0)
    live = [f"{window} tokens before"] if window else []
    live += [f"{percent} % of the rest"] if percent else []
    return replace(stock, name=name, title=f"{stock.title}, live: {' and '.join(live)}", window=window, percent=percent)
