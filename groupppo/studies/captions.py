"""Words under and behind the study's figures: how to read each, what was counted, and what its data show."""

from collections.abc import Mapping

import pandas as pd

from groupppo.draw.wording import number, percentage, plural
from groupppo.studies.figures_rules import CLAIMED_BAND, causes_data, thresholds_data
from groupppo.studies.figures_scores import PROXY_LABELS
from groupppo.studies.tables import DENSE, DENSE_OTHER

Tables = Mapping[str, pd.DataFrame]

CONTROLS = ["random", "stride"]
_CLAIMED = "The band and the dashed line are what GROUP-PPO claims."


def thresholds(tables: Tables) -> str:
    taus = thresholds_data(tables)["threshold"]
    return (
        f"Share of tokens that rule variance_split makes endpoints, at {taus.nunique()} thresholds from "
        f"{taus.min():g} to {taus.max():g}, with each score in place of the score vectors; {_tokens(tables)}. "
        f"{_CLAIMED} A flat line is a rule that its threshold does not move. {_thresholds_shown(tables)}"
    )


def thresholds_alt(tables: Tables) -> str:
    return f"Line chart of endpoint density against the threshold, one line for each score. {_thresholds_shown(tables)}"


def causes(tables: Tables) -> str:
    return (
        "Why groups closed, as shares of groups, for every rule with its default parameters: its criterion held, the "
        "size cap was reached, or the response ended. Rules that choose a given share of tokens (entropy, random) "
        f"have the density of variance_split with the unit score; {_tokens(tables)}. {_causes_shown(tables)}"
    )


def causes_alt(tables: Tables) -> str:
    told = (
        f"{row.label} {percentage(row.density)}, criterion {percentage(row.criterion)}, cap {percentage(row.cap)}"
        for row in causes_data(tables).itertuples()
    )
    return f"Stacked bars of what closed the groups of each rule. Densities and causes: {'; '.join(told)}."


def published(tables: Tables) -> str:
    return (
        "Density of the public code's criterion against the mean gap between rollout and trainer log-probabilities, "
        "which it takes for a score vector. The line multiplies the gaps of float32 rollouts by powers of ten; the "
        "marks are real gaps, of rollouts sampled in float32 and in bfloat16 with a float32 trainer. "
        f"{_CLAIMED} {_published_shown(tables)}"
    )


def published_alt(tables: Tables) -> str:
    return f"Line chart of density against the log-probability gap. {_published_shown(tables)}"


def agreement(tables: Tables) -> str:
    rows, cosines = tables["agreement"], tables["cosines"].set_index("statistic")["value"]
    responses, tokens = int(rows["responses"].iloc[0]), int(rows["tokens"].iloc[0])
    return (
        "Left: F1 between the endpoints that variance_split (tau 1) takes with a proxy and those it takes with the "
        "score vectors themselves, the gradients in all parameters, on "
        f"{plural(responses, 'response')} to different prompts ({tokens:,} tokens). Random and stride have the exact "
        "rule's density and know nothing else: only what lies to the right of them is knowledge. Epsilon is what both "
        "rules add to r_ppo. Right: rank correlation of each proxy of the squared norm with the exact one. Whiskers "
        "are 90 % jackknife intervals over responses. Cosines between the exact vectors of two tokens of a response "
        f"are {number(cosines['mean'])} on average and {number(cosines['mean_abs'])} in absolute value; the tenth of "
        f"tokens with the largest norms has {percentage(cosines['top_tenth'])} of the sum of squared norms. "
        f"{_agreement_shown(tables)}"
    )


def agreement_alt(tables: Tables) -> str:
    rows = tables["agreement"]
    first = rows[rows["cap"].isna() & (rows["epsilon"] == rows["epsilon"].iloc[0])]
    told = "; ".join(f"{_proxy(row.proxy)} {number(row.f1)}" for row in first.itertuples())
    ranked = "; ".join(f"{_proxy(row.proxy)} {number(row.spearman)}" for row in tables["scores"].itertuples())
    setting = f"F1 without a cap and with epsilon {rows['epsilon'].iloc[0]:g}"
    return f"Two point charts. {setting}: {told}. Rank correlation: {ranked}."


def directions(tables: Tables) -> str:
    batches = int(tables["direction_summary"].set_index("arm").loc[DENSE, "batches"])
    return (
        "The gradient of each arm's policy loss on a batch, as it would train at the threshold it starts with, beside "
        f"dense PPO's. Left: cosine on the same batch (dots, and their mean over {batches} batches with its 90 % t "
        "interval), and cosine of the two expected gradients, estimated between different batches only, so that noise "
        "which both share does not count (diamonds); an interval below 1 is bias. The grey band is dense PPO against "
        "itself on another batch: a cosine means nothing without it. Middle: ratio of norms. Right: variance over "
        "batches in units of the squared expected gradient, dense PPO's dashed; the smaller, the surer is the "
        "direction of one batch. Whiskers of diamonds and of variances are 90 % jackknife intervals over batches, and "
        "may leave the panel. "
        f"{_directions_shown(tables)}"
    )


def directions_alt(tables: Tables) -> str:
    summary = tables["direction_summary"]
    told = (
        f"{row.title} {number(row.cosine)}, expected {number(row.expected_cosine)}, norm {number(row.norm_ratio)}, "
        f"variance {number(row.relative_variance)}"
        for row in summary.itertuples()
        if row.arm not in (DENSE, DENSE_OTHER)
    )
    floor = f"Dense PPO on another batch: cosine {number(_floor(summary))}."
    return f"Three point charts. {floor} Cosines with dense PPO: {'; '.join(told)}."


def _tokens(tables: Tables) -> str:
    counts = tables["density"].drop_duplicates("rollout")
    return " and ".join(f"{row.tokens:,} tokens sampled in {row.rollout}" for row in counts.itertuples())


def _thresholds_shown(tables: Tables) -> str:
    told = []
    for label, rows in thresholds_data(tables).groupby("label", sort=False):
        density = rows.sort_values("threshold")["density"]
        first, last = percentage(density.iloc[0]), percentage(density.iloc[-1])
        flat = density.max() - density.min() < 0.001
        name = str(label).removeprefix("variance split, ")
        told.append(f"{name} stays at {first}" if flat else f"{name} goes from {first} to {last}")
    return f"From the lowest to the highest threshold, {'; '.join(told)}."


def _causes_shown(tables: Tables) -> str:
    rows = causes_data(tables)
    inside, chosen = int(rows["density"].between(*CLAIMED_BAND).sum()), int((rows["criterion"] > 0.5).sum())
    low, high = (percentage(edge) for edge in CLAIMED_BAND)
    return (
        f"Of {len(rows)} bars {inside} have a density within the claimed {low} to {high}; in {chosen} the criterion "
        "closes more than half of the groups, and the cap or the ends of responses decide the others."
    )


def _published_shown(tables: Tables) -> str:
    rows = tables["published"]
    scaled = rows[rows["rollout"] == "float32"]["density"]
    real = "; ".join(
        f"at the real gap of {row.rollout} rollouts, {number(row.mean_gap)} nats, it is {percentage(row.density)}"
        for row in rows[rows["factor"] == 1].itertuples()
    )
    span = f"from {percentage(scaled.min())} to {percentage(scaled.max())}"
    return f"With the scale of the gaps alone the density runs {span}; {real}."


def _agreement_shown(tables: Tables) -> str:
    rows = tables["agreement"]
    told = []
    for epsilon in dict.fromkeys(rows["epsilon"]):
        own = rows[rows["cap"].isna() & (rows["epsilon"] == epsilon)].set_index("proxy")["f1"]
        proxies = own.drop([*CONTROLS, "true_norm"]).sort_values(ascending=False)
        listed = "; ".join(f"{_proxy(str(name))} {number(value)}" for name, value in proxies.items())
        told.append(f"with epsilon {epsilon:g} F1 is: {listed}; the better control {number(own[CONTROLS].max())}")
    return f"Without a cap, {'. Without a cap, '.join(told)}."


def _directions_shown(tables: Tables) -> str:
    summary = tables["direction_summary"]
    arms = summary[~summary["arm"].isin((DENSE, DENSE_OTHER))].sort_values("cosine")
    apart = arms[arms["same_as"] != DENSE]
    span = " to ".join(f"{number(row.cosine)} ({row.title})" for row in (apart.iloc[0], apart.iloc[-1]))
    titles = dict(zip(summary["arm"], summary["title"], strict=True))
    twins = [f"{row.title} has the gradients of {titles[row.same_as]}." for row in arms.itertuples() if row.same_as]
    floor = f"with {number(_floor(summary))} for dense PPO on another batch"
    return " ".join([f"Cosines on the same batch run from {span}, {floor}.", *_at_chance_density(arms), *twins])


def _at_chance_density(arms: pd.DataFrame) -> list[str]:
    """The arms as dense as the control `random`, beside it, where there is one."""
    control = arms[arms["arm"] == "random"]
    if control.empty:
        return []
    density = float(control["density"].iloc[0])
    alike = arms[(arms["density"] - density).abs() < 0.002]
    told = ", ".join(f"{row.title} {number(row.cosine)}" for row in alike.itertuples() if not row.same_as)
    return [f"At the density of the random control, {percentage(density)}: {told}."]


def _floor(summary: pd.DataFrame) -> float:
    return float(summary.set_index("arm").loc[DENSE_OTHER, "cosine"])


def _proxy(name: str) -> str:
    return PROXY_LABELS.get(name, name)
