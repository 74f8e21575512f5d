"""The tables of the study of the streamed update: their columns, described."""

_CASE = {
    "checkpoint": "The policy, by the name that the command gave it.",
    "arm": "Name of the arm whose endpoints are streamed.",
    "title": "Label of the arm.",
}
_ENDS = "end of its 90 % t interval over batches."
_BATCHES = {"batches": "Batches."}


def _estimated(name: str, text: str) -> dict[str, str]:
    return {name: text, f"{name}_low": f"Lower {_ENDS}", f"{name}_high": f"Upper {_ENDS}"}


_COSINE = _estimated("cosine", "Between the streamed and the exact gradient of the same batch, mean over batches.")
_RATIO = _estimated("norm_ratio", "Norm of the streamed gradient / of the exact one, mean over batches.")
_WAY = {
    "kind": "What flows: `endpoints` alone, a `window` of tokens before each as well, a random `share` of all tokens "
    "as well, or `gathered`, the exact update.",
    "size": "Tokens of the window, or the share; 0 for the others.",
}

STREAM_COLUMNS: dict[str, dict[str, str]] = {
    "stream_groups": {
        **_CASE,
        "group": "Parameter group, or `all`; the streamed update is of endpoints alone.",
        **_COSINE,
        **_RATIO,
        **_BATCHES,
    },
    "stream_costs": {
        **_CASE,
        **_WAY,
        "density": "Endpoints / response tokens.",
        "live": "Tokens that flow / all tokens, prompts included.",
        "speedup": "Operations of a dense update / of this one, keys and values at hand.",
        "speedup_recompute": "The same where the update makes keys and values itself.",
        **_COSINE,
        **_RATIO,
        "expected_cosine": "The same for expected gradients: inner products between different batches only.",
        "expected_cosine_low": "Lower end of its 90 % jackknife interval over batches; empty for the exact update.",
        "expected_cosine_high": "Upper end.",
        "pareto": "Whether no other way has a larger speed-up or cosine without a smaller one of the other.",
        **_BATCHES,
    },
    "stream_progress": {
        **_CASE,
        **_WAY,
        "update_share": "Part of a dense training step's time that its policy update takes.",
        **_estimated(
            "progress", "Cosine x speed-up of the step: first-order progress / a dense update's in that time."
        ),
        "best": "Whether no other way has more.",
        **_BATCHES,
    },
    "stream_staleness": {
        **_CASE,
        "steps": "Optimizer steps since keys and values were made.",
        "kv": "`reuse`: made before the steps; `recompute`: at the present weights.",
        **_COSINE,
        **_RATIO,
        **_estimated("log_prob_error", "Mean |streamed - exact log-probability| over endpoints, in nats."),
        "log_prob_error_max": "The largest in any batch.",
        **_estimated("moved", "Mean |exact log-probability - the one before the steps| over endpoints, in nats."),
        **_BATCHES,
    },
}
