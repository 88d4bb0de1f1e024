"""What is measured while learning: errors before each step, drift, regret, and what Prometheus sees of all that.

The engine hands every batch to `monitor` after the learners have predicted it; `/metrics` is rendered by `metrics`. A change
usually adds a metric: its value in `monitor` or in `metrics.Readings`, its family in `metrics`, a line in docs/metrics.md.

`monitor` (rolling errors and counts, part of the state), `drift` (ADWIN; river is known here only), `regret` (against the
simulated truth), `repeated_input` (the same events fed again), `stability` (refused steps, norms, widths), `metrics` (the page
for Prometheus; prometheus_client is known here only).
"""
