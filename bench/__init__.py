"""The load benchmarks: generator, scenarios, peers and reports."""
