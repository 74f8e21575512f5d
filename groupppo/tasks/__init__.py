"""Tasks: prompts with an exact 0/1 reward."""
