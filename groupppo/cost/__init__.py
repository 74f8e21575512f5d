"""What a benchmark will cost before any of it runs: jobs, hours and storage, each as a range.

    estimate = estimate_cost(load_benchmark("benchmarks/quick.yaml"), Path("results"))

Earlier runs of the same cells are scaled where there are some (`records`); else work is counted from shapes and divided
by stated ranges of speed (`model`).
"""

from groupppo.cost.estimate import Estimate, Share, cost_line, estimate_cost
from groupppo.cost.model import Span

__all__ = ["Estimate", "Share", "Span", "cost_line", "estimate_cost"]
