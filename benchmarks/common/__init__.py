"""What the benchmark programs share: workloads, the frameworks' sides, processes and tables."""
