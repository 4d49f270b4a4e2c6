"""How good a policy is: metrics, the benchmark, its report."""
