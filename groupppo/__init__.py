"""GROUP-PPO bench: the measured answer to what endpoint-grouped policy optimisation does and costs."""

__version__ = "0.1.0"
