"""From run records to tables, without torch: each module is imported by its own name.

`record` is a run's file, `protocol` says how it was trained, `load` finds and reads all records below a folder,
`statistics` aggregates them over seeds and `comparison` tests them against a baseline. `metrics` says what can be
shown; `tables`, `grid` and `profile` lay tables out, `markup` writes them as CSV, Markdown and LaTeX, and `figures`
draws.
"""
