"""What a benchmark will cost before any of it runs: jobs, hours and storage, each as a range.

    estimate = estimate_cost(load_benchmark("benchmarks/quick.yaml"), Path("results"))

Hours are those of earlier runs of the same cells, scaled, where there are some; else work is counted from shapes and
divided by stated ranges of speed (`model`). Bytes are counted.
"""

from groupppo.cost.estimate import Estimate, Share, cost_line, estimate_cost
from groupppo.cost.model import Span

__all__ = ["Estimate", "Share", "Span", "cost_line", "estimate_cost"]
