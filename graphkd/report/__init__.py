"""From run records to tables, without torch: each module is imported by its own name.

`record` is a run's file, `protocol` says how it was trained, `load` finds and reads all records below a folder,
`rows` aggregates them over seeds, `statistics` has mean and spread, `comparison` tests rows against a baseline, and
`caveats` says what speaks against comparing them. `metrics` says what can be shown; `tables`, `grid`
(with `grid_spec` and `ari`) and `profile` lay tables out, `markup` writes them as CSV, Markdown and LaTeX, `figures`
and `graph_figures` draw, and `html` writes the page of everything.
"""
