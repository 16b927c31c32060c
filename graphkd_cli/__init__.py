"""The `graphkd` command: the only place that knows Hydra and rich."""
