"""Statistics of the verdicts: numbers in, numbers out; no files."""
