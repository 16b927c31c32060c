"""The processes that were started together with this one, according to the launcher's environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch.distributed as dist

from graphkd.errors import brief, check

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

_INTERACTIVE_JOBS = ("bash", "interactive")
_SPECIAL_STEPS = 0xFFFFFFFA
"""Slurm step ids from here on stand for a job script, an salloc shell and the like."""


def world_size() -> int:
    """Return the number of processes that torchrun, srun or `graphkd.run.processes.start` started together.

    Raises:
        UserError: An environment variable is not a whole number.
    """
    if dist.is_torchelastic_launched():
        return _number("WORLD_SIZE", 1)
    return _number("SLURM_STEP_NUM_TASKS", 1) if _in_step() else 1


def in_group() -> bool:
    """Return whether this process is one of several that were started together."""
    return world_size() > 1


def rank() -> int:
    """Return the rank of this process."""
    if not in_group():
        return 0
    return _number("RANK" if dist.is_torchelastic_launched() else "SLURM_PROCID", 0)


def is_main_process() -> bool:
    """Return whether this process writes files and shows progress."""
    return rank() == 0


def cluster() -> ClusterEnvironment:
    """Return Fabric's environment; Fabric's own takes every task of a Slurm allocation for a process."""
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment  # slow to import
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    class Step(SLURMEnvironment):
        """A step of srun; its number of tasks is checked elsewhere, however it was requested."""

        @property
        def main_address(self) -> str:
            nodes = os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")
            return os.environ.setdefault("MASTER_ADDR", self.resolve_root_node_address(nodes))

        def world_size(self) -> int:
            return world_size()

        def validate_settings(self, num_devices: int, num_nodes: int) -> None:
            pass

        @staticmethod
        def _validate_srun_variables() -> None:
            pass

    if dist.is_torchelastic_launched():
        return TorchElasticEnvironment()
    return Step() if in_group() else LightningEnvironment()


def _in_step() -> bool:
    """Return whether srun started this process; an allocation alone (salloc, a job script) starts none."""
    # As in Lightning: in an interactive job, Slurm's tasks are not our processes.
    interactive = os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE_JOBS
    return not interactive and _number("SLURM_STEP_ID", _SPECIAL_STEPS) < _SPECIAL_STEPS


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    check(text.isdecimal(), f"the environment's {variable} is {brief(text)}, but must be a whole number")
    return int(text)
