"""The bus under faults: a workload with known truth, faults at chosen moments, and a checker that is never lenient."""
