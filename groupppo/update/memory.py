"""Memory of one update for one sequence, by cause, counted from shapes; `snakemake profile` states its error."""

from groupppo.update.flops import MODES, Shape, Work

_WIDE = 4  # bytes of a float32
CAUSES = ("activations", "head", "head_gradient", "layer", "keys_values")


def update_bytes(
    shape: Shape,
    work: Work,
    mode: str,
    *,
    eager: bool = True,
    element: int = 2,
    chunk: int = 2**26,
    keep: int = 2**27,
) -> dict[str, float]:
    """Bytes at the fullest moment of an update, next to weights and gradients.

    The moments are the head's forward and backward pass (logits and all activations), the backward pass of one layer,
    and, where autograd holds a gradient of tied weights, that of the embedding at the very end.

    Args:
        eager: for `gathered_head`, whether the head adds its gradient to the weights' at once; `dense` and `masked`
            never do, all others always.
        element: bytes of a weight or activation. chunk: largest float32 logits that a head in chunks works on.
        keep: largest logits that it keeps for its backward pass; `fused` keeps none.

    Returns:
        bytes by CAUSES: activations that autograd saved; the head's logits, probabilities and their gradients; a second
        copy of the head's gradient; one layer's work; keys and values of tokens that do not flow.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: write one of {', '.join(MODES)}")
    in_autograd = mode in ("dense", "masked") or (mode == "gathered_head" and not eager)
    streamed = mode.startswith("streamed")
    flowing = max(work.live, work.endpoints) if streamed else work.tokens
    constants = element * 2 * shape.kv_heads * shape.head_dim * work.tokens * shape.layers if streamed else 0
    forward, backward, kept = _head(shape, work, mode, in_autograd, element, chunk, keep)
    saved = _saved(shape, work, mode, flowing, element) + kept
    # The backward pass of an MLP: gradients at three of its products, and of one weight matrix.
    layer = element * shape.intermediate * (3 * flowing + shape.hidden)
    again = _saved_in_layer(shape, flowing, element) if work.checkpointing else 0
    second = element * shape.head if in_autograd and shape.tied else 0
    moments = [
        _moment(saved, head=forward, keys_values=constants),
        _moment(saved, head=backward, keys_values=constants),
        _moment(saved - kept + again, head_gradient=second, layer=layer, keys_values=constants),
        _moment(0, head_gradient=3 * second, keys_values=constants),
    ]
    if mode == "streamed":  # the pass for keys and values
        moments.append(_moment(0, layer=3 * element * shape.intermediate * work.tokens, keys_values=constants))
    return max(moments, key=lambda moment: sum(moment.values()))


def saved_bytes(shape: Shape, work: Work, mode: str, *, element: int = 2, keep: int = 2**27) -> float:
    """Bytes that autograd holds between the forward and the backward pass where the head works in chunks.

    Args: as `update_bytes`; the chunk is its own.
    """
    flowing = max(work.live, work.endpoints) if mode.startswith("streamed") else work.tokens
    kept = _head(shape, work, mode, False, element, 2**26, keep)[2]
    return _saved(shape, work, mode, flowing, element) + kept


def _moment(
    activations: float, head: float = 0, head_gradient: float = 0, layer: float = 0, keys_values: float = 0
) -> dict[str, float]:
    return dict(zip(CAUSES, (activations, head, head_gradient, layer, keys_values), strict=True))


def _head(
    shape: Shape, work: Work, mode: str, in_autograd: bool, element: int, chunk: int, keep: int
) -> tuple[float, float, float]:
    """Bytes of the head's work in its forward and in its backward pass, and of logits kept in between."""
    columns = shape.vocabulary
    if in_autograd:
        with_logits, rows = (
            (work.tokens, work.response) if mode != "gathered_head" else (work.endpoints, work.endpoints)
        )
        # float32 logits and log-probabilities; then log-probabilities, the gradient at them and at the logits.
        wide = 8 if element < 4 else 4
        return columns * (element * with_logits + wide * rows), columns * 12 * rows, 0
    rows = work.response if mode == "fused" else work.endpoints
    at_once = min(rows, max(1, chunk // (4 * columns)))
    fitting = 0 if mode == "fused" else keep // (element * at_once * columns) * at_once
    # Scaled logits and probabilities in float32; the narrow logits are freed before the second, unless kept.
    return 8 * columns * at_once, 8 * columns * at_once, element * columns * min(rows, fitting)


def _saved(shape: Shape, work: Work, mode: str, flowing: int, element: int) -> float:
    """Bytes that autograd holds through the head's passes."""
    last = work.endpoints if mode in ("gathered", "streamed", "streamed_reuse") else flowing
    norm = (_WIDE + 2 * element) * shape.hidden  # its input in float32, normalised, and scaled
    normed = last * norm
    if work.checkpointing:
        return element * shape.hidden * flowing * shape.layers + normed
    whole = _saved_in_layer(shape, flowing, element) * (shape.layers - 1)
    whole += _saved_in_layer(shape, last, element)
    # Attention at rows keeps keys and values of all tokens, and, shared by layers, their places and the mask.
    unseen = element * 2 * shape.kv_heads * shape.head_dim
    attended = 0.0
    if mode == "gathered":  # the last layer's first norm also runs for all tokens
        attended = (flowing - last) * (unseen + norm) + (element * last + 8) * work.tokens
    elif mode.startswith("streamed"):  # a live token's keys and values are kept twice, alone and among all
        attended = work.tokens * unseen * shape.layers + (element * (flowing + last) + 16) * work.tokens
    return whole + attended + normed


def _saved_in_layer(shape: Shape, tokens: int, element: int) -> float:
    """Per token: inputs of norms in float32, normalised and scaled; queries, keys, values and the attention's output;
    four products of the MLP; normalisers of norms and attention."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    per_token = 2 * (_WIDE + 2 * element) * shape.hidden + element * (2 * queries + 2 * keys + 4 * shape.intermediate)
    per_token += 4 * shape.heads + 8
    if shape.query_key_norm:
        per_token += (_WIDE + element) * (queries + keys) + 4 * (shape.heads + shape.kv_heads)
    return tokens * per_token
