"""Tasks: prompts with an exact 0/1 reward. Importing this package registers every generator."""

from groupppo.tasks import chain, gym, sorting

__all__ = ["chain", "gym", "sorting"]
