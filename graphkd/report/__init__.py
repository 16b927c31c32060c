"""From run records to tables, without torch: each module is imported by its own name.

`record` is a run's file, `load` finds and reads all of them below a folder, `statistics` aggregates them over
seeds, `tables` lays the aggregates out, and `files` writes a file whole or not at all.
"""
