"""The table of the study of faults: its columns, described."""

_AFTER = "after the step of the fault"
_TO_THE_BIT = (
    f"parameters and optimizer state {_AFTER} are those of dense PPO's first step, to the bit; false where the run "
    "ended before."
)

FAULT_COLUMNS: dict[str, dict[str, str]] = {
    "faults": {
        "arm": "Name of the arm, with `on_error: dense`.",
        "title": "Label of the arm.",
        "update": "Its `group_params.update`.",
        "point": "Where the fault is raised, once, in the first step; `none` is the arm without a fault, the control.",
        "place": "The same in words.",
        "finished": "Whether the run did its planned steps and ended by itself.",
        "steps": "Steps with a row in steps.jsonl.",
        "fallbacks": "Sum of `group/fallbacks` over these.",
        "counted": "Whether the step of the fault was counted as a fallback, and no other.",
        "policy_equal": f"Whether the policy's {_TO_THE_BIT}",
        "policy_difference": "Largest absolute difference between these; empty where the run ended before.",
        "critic_equal": f"Whether the critic's {_TO_THE_BIT}",
        "critic_difference": "Largest absolute difference between these; empty where the run ended before.",
        "threshold_kept": "Whether the next step's threshold is the first step's.",
        "finite": "Whether the run has an update and no update left a NaN or an infinity.",
        "prompts_equal": "Whether all steps have the prompts of dense PPO's run, in its order.",
        "responses_equal": "Whether the responses of the fault's step and of the next are those of dense PPO's run.",
        "survived": "Whether all of these hold: training went on exactly as dense PPO.",
        "cause": "Why the run ended; empty where it did not.",
    }
}
