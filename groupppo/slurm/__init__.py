"""Slurm: the queue, the user's site, and taking over from a Snakemake that was killed."""
