"""From run records to tables, without torch: each module is imported by its own name.

`record` is a run's file, `load` finds and reads all of them below a folder, `statistics` aggregates them over
seeds and `comparison` tests them against a baseline, `tables` and `grid` lay them out, `markup` prints the layouts
as CSV, Markdown and LaTeX, and `files` writes a file whole or not at all.
"""
