"""The command line `groupppo`: see, check and cost what Snakemake runs, and handle results that are there.

It runs nothing itself. Modules import what takes long inside their functions: `groupppo --help` must answer at once.
"""
