"""Words under and behind the figures of a profile, computed from the frames that are drawn."""

import pandas as pd

from groupppo.draw.wording import in_bytes, percentage, plural, ratio
from groupppo.profile.tables import ProfileTables
from groupppo.records.where import where_of
from groupppo.update.variants import MEASURED


def setting_title(row: pd.Series) -> str:
    """Such as "Qwen2.5-0.5B, response 1,024, density 1/16, checkpointing"."""
    stored = "checkpointing" if row["checkpointing"] else "no checkpointing"
    return f"{row['model']}, response {row['response']:,}, density {row['density']}, {stored}"


def measured_told(rows: pd.DataFrame) -> str:
    """Where the rows of the table `variants` were measured, first of all whether that was not for these results."""
    where = where_of(rows)
    told = where.told()
    return f"{told[0].upper()}{told[1:]}." if where.here else f"Not measured in this results folder: {told}."


def speedup(data: pd.DataFrame, tables: ProfileTables) -> str:
    variants = tables.variants
    devices = sorted({f"{n} thread{'s' * (n > 1)} of a {d.upper()}" for d, n in _pairs(variants, "device", "threads")})
    rounds = sorted(set(data["rounds"].astype(int)))
    counts = plural(rounds[0], "round") if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]} rounds"
    exact = data[data["bound"].notna()]
    best = (exact["flops_speedup"] / exact["bound"]).max()
    return (
        f"{measured_told(data)} "
        "Forward and backward pass of the policy loss over one sequence, by variant: how much fewer operations and "
        f"seconds it takes than the dense one. Measured on {' and '.join(devices)}, random weights, {counts} in turns; "
        "whiskers are 90 % intervals of the ratio within a round. The vertical mark is the bound on operations of an "
        f"exact update; the best exact variant reaches {percentage(best)} of it. Seconds may pass the bound where the "
        "dense update waits for memory and not for arithmetic: compare them with the dense update with a fused head. "
        f"Streamed variants are approximate and have no such bound. {_streamed(data)}{_not_run(variants)}"
    ).strip()


def speedup_alt(data: pd.DataFrame) -> str:
    told = [
        f"{setting_title(rows.iloc[0])}: "
        + "; ".join(
            f"{row.title} {ratio(row.flops_speedup)} in operations, {ratio(row.seconds_speedup)} in seconds"
            for row in rows.itertuples()
        )
        for _, rows in data.groupby("setting", sort=False)
    ]
    return f"Bar chart of speed-ups over dense. {'. '.join(told)}."


def bound(data: pd.DataFrame, _tables: ProfileTables) -> str:
    low, high = (data.loc[data["update_bound"].agg(which)] for which in ("idxmin", "idxmax"))
    shares = f"{percentage(data['eta'].min())} to {percentage(data['eta'].max())}"
    return (
        f"Counted from shapes at density {data['density'].iloc[0]}: the most an update with the dense gradient can "
        "gain over the dense one from computing the head and the last layer at endpoints only. It goes from "
        f"{ratio(low['update_bound'])} ({_place(low)}) to {ratio(high['update_bound'])} ({_place(high)}): it is the "
        f"head's share of the work, {shares}, that can be saved, and the share falls with the size of the model and, "
        "through attention, with the length of the response."
    )


def bound_alt(data: pd.DataFrame) -> str:
    told = [
        f"{model} {ratio(rows['update_bound'].min())} to {ratio(rows['update_bound'].max())}"
        for model, rows in data.groupby("title", sort=False)
    ]
    return f"Line chart of the largest exact speed-up over response length. {'; '.join(told)}."


def memory(data: pd.DataFrame, tables: ProfileTables) -> str:
    whole = data.drop_duplicates(["setting", "variant"])
    error = whole["model_error"].abs().max()
    outside = whole[whole["model_error"].isna()]["title"].unique()
    rest = f" {', '.join(outside)}: measured only." if len(outside) else ""
    held = tables.variants[tables.variants["held_bytes"] > 0]
    kept = (
        f" Kept keys and values of an earlier pass take up to {in_bytes(held['held_bytes'].max())}."
        if len(held)
        else ""
    )
    return (
        f"{measured_told(data)} "
        "Memory an update needs above weights and gradients, at its fullest moment. Bars are the memory model, by "
        "cause; the mark is the measured peak, with its ratio to dense. The model is off by at most "
        f"{percentage(error)}.{rest}{kept} {_gathered(whole)}"
    )


def memory_alt(data: pd.DataFrame) -> str:
    whole = data.drop_duplicates(["setting", "variant"])
    told = [
        f"{setting_title(rows.iloc[0])}: "
        + "; ".join(f"{row.title} {in_bytes(row.rise_bytes)}" for row in rows.itertuples())
        for _, rows in whole.groupby("setting", sort=False)
    ]
    return f"Stacked bar chart of update memory. Measured peaks: {'. '.join(told)}."


def sixteen(data: pd.DataFrame, tables: ProfileTables) -> str:
    need = data["need"].iloc[0]
    modes = data[data["kind"] == "mode"].set_index("mode")
    gathered, streamed = modes.loc["gathered"], modes.loc["streamed_reuse"]
    steps = tables.steps[~tables.steps["known"]]
    exact = steps[steps["mode"] == "gathered"]
    best = exact["step_speedup"].max()
    reach = exact["needed_generation"].notna().any()
    could = "could" if reach else "cannot, at any share of generation,"
    return (
        f"Speed-up of a whole training step when all but generation gets faster. A step in which generation takes more "
        f"than {percentage(1 / need)} cannot be {need:g} times as fast, whatever the update does. Bands: what "
        "updates reach on that axis over all models, lengths and checkpointing counted, with old and reference "
        "log-probabilities as dense passes, for endpoints are known only after them: exact "
        f"{ratio(gathered['x'])} to {ratio(gathered['y'])}, streamed (approximate) {ratio(streamed['x'])} to "
        f"{ratio(streamed['y'])}. An exact update {could} make a step {need:g} times as fast; with generation at "
        f"{percentage(exact['generation'].min())} of a dense step it gives {ratio(best)} at best."
    )


def sixteen_alt(data: pd.DataFrame) -> str:
    curves = data[data["kind"] == "curve"]
    ends = curves.sort_values("x").groupby("generation").tail(1).sort_values("generation")
    told = [f"generation {percentage(row.generation)} ends at {ratio(row.y)}" for row in ends.itertuples()]
    return f"Line chart of step speed-up over the speed-up of all but generation. {'; '.join(told)}."


def _streamed(data: pd.DataFrame) -> str:
    """What a streamed update gains with the pass that makes its keys and values, and without, where both ran."""
    told = []
    for _, rows in data.groupby("setting", sort=False):
        of = rows.set_index("variant")
        if {"streamed_recompute", "streamed_reuse"} <= set(of.index):
            whole, bare = (
                f"{ratio(of.loc[name, 'flops_speedup'])} in operations and {ratio(of.loc[name, 'seconds_speedup'])} in "
                "seconds"
                for name in ("streamed_recompute", "streamed_reuse")
            )
            told.append(f"at {setting_title(rows.iloc[0])} {whole}, and {bare} where an earlier pass has made them")
    return f"With the pass that makes its keys and values a streamed update gains {'; '.join(told)}. " if told else ""


def _gathered(whole: pd.DataFrame) -> str:
    """The ratio to dense in every setting: one of them says little about another."""
    rows = whole[whole["variant"] == "gathered"]
    told = "; ".join(f"{ratio(row['memory_ratio'])} at {setting_title(row)}" for _, row in rows.iterrows())
    return f"The exact update takes of a dense one's {told}." if told else ""


def _place(row: pd.Series) -> str:
    return f"{row['title']}, response {row['response']:,}, {'' if row['checkpointing'] else 'no '}checkpointing"


def _pairs(table: pd.DataFrame, first: str, second: str) -> set[tuple[str, int]]:
    return {(str(a), int(b)) for a, b in zip(table[first], table[second], strict=True)}


def _not_run(variants: pd.DataFrame) -> str:
    rows = variants[variants["status"] != MEASURED].drop_duplicates(["variant", "reason"])
    told = [f"{row.title}: {row.status}, {row.reason}" for row in rows.itertuples()]
    return f"Without a bar: {'; '.join(told)}." if told else ""
