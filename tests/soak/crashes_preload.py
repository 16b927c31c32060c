"""What every command imports, once."""

import lightning_fabric  # noqa: F401
import torch

import graphkd.run
import graphkd_cli.ablation
import graphkd_cli.compose
import graphkd_cli.main
import graphkd_cli.progress
import graphkd_cli.report
import graphkd_cli.run
import graphkd_cli.show  # noqa: F401

torch.set_num_threads(1)
