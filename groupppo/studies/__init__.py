"""What the grouping rules do on real rollouts: the mathematics of `benchmarks/studies/grouping.py`."""
