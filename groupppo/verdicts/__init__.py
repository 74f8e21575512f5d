"""From tidy tables to verdicts: measured quantities, intervals over training seeds, and decision rules."""
