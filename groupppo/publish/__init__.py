"""Results that leave this machine: bundles, their verification, and the comparison of two of them."""
