"""What is measured while learning: prequential errors, drift, regret, and the page that Prometheus scrapes.

The engine hands every batch to `monitor` after the learners have predicted it; `metrics` renders `/metrics`. A change
usually adds a metric: its value in `monitor` or in `metrics.Readings`, its family in `metrics`, a line in docs/metrics.md.

`monitor` (rolling errors and counts, part of the state), `drift` (ADWIN; only this module imports river), `regret` (against
the simulated truth), `scale` (the range of ratings, and what learners get of wild ones; its kernels are `scale_kernel`, which follows, `scale_range` and `scale_change`),
`clock` (what time it is according to the events), `sessions` (where sessions begin, and the gap learned for it),
`repeated_input` (the same events fed again), `odd_events` (unlikely times, unknown kinds), `stability` (refused steps, norms, widths), `metrics`
(the page for Prometheus; only this module imports prometheus_client).
"""
