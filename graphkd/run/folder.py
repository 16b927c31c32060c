"""The folder of a run: ownership, locks, and how one run replaces another."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from graphkd.engine.callback import Callback, EpochResult, ForwardingCallback, History
from graphkd.engine.environment import is_main_process
from graphkd.errors import UserError, check, one_line
from graphkd.files import folder_if_used, make_folder, real_folder, remove_unfinished, write_atomically
from graphkd.identity import short
from graphkd.report.load import CONFIG_FILE, METRICS_FILE, RECORD_FILE
from graphkd.report.record import Record, finite
from graphkd.report.record import read as read_record
from graphkd.report.record import write as write_record
from graphkd.run.processes import broadcast_object
from graphkd.yaml_files import read_yaml

CONFIG, METRICS, RECORD = CONFIG_FILE, METRICS_FILE, RECORD_FILE
_LAUNCH = ".launch-"
_SHORT_S, _LOCK_S = 1.0, 30.0
"""Seconds to wait for a lock at first, and then in each round."""
WEIGHTS = {kind: f"{kind}.safetensors" for kind in ("student", "teacher", "probe")}


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """Write a resolved config as YAML, atomically."""
    write_atomically(path, yaml.safe_dump(_plain(config), sort_keys=False))


def read_config(path: Path) -> dict[str, Any]:
    """Read a resolved config from a file.

    Raises:
        UserError: It is not a mapping, or as in `read_yaml`.
    """
    config = read_yaml(path)
    check(isinstance(config, dict), f"{path} is not the config of a run: it holds no mapping")
    return dict(config)


def weights_file(path: Path) -> Path:
    """Return the weights file that a path names: the path itself, or the weights of a finished run's folder.

    Raises:
        UserError: The path is neither a file nor the folder of a finished run.
    """
    if path.is_file():
        return path
    record = done_record(path)
    file = path / WEIGHTS[record.kind]
    check(file.is_file(), f"{path} has no {file.name}")
    return file


def done_record(folder: Path) -> Record:
    """Return the record of a finished run.

    Raises:
        UserError: The folder holds no finished run.
    """
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder} holds no run (it has no {RECORD}){_newest(folder)}")
    record = read_record(folder / RECORD)
    state = "is running, or was interrupted" if record.status == "running" else f"is {record.status}"
    check(record.status == "done", f"the run in {folder} is not finished: it {state}")
    return record


def _newest(folder: Path) -> str:
    """Return a hint at the newest run below a folder; empty where there is none."""
    found: list[tuple[float, Path]] = []
    for place in visible_folders(folder):
        with suppress(OSError):  # it has no record, or not any more
            found.append(((place / RECORD).stat().st_mtime, place))
    return f"; the newest below it is {max(found)[1]}" if found else ""


def visible_folders(root: Path) -> Iterator[Path]:
    """Yield a folder and those below it, except hidden ones, which belong to running processes and may vanish."""
    for place, below, _ in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        yield Path(place)


def finished(folder: Path, identity: str, seed: int) -> Record | None:
    """Return the record of this run if the folder holds it and it is finished.

    Raises:
        UserError: The folder holds another run.
    """
    check(folder.is_dir() or not folder.exists(), f"{folder} is a file, but the run needs a folder there")
    if not (folder / RECORD).exists():
        return None
    try:
        record = read_record(folder / RECORD)
    except UserError as error:
        raise UserError(f"{error}; move {folder} away, or choose another run_dir, to run it anew") from None
    same = record.identity == identity and record.seed == seed
    check(
        same,
        f"{folder} holds another run ({record.variant}, identity {short(record.identity)}, seed {record.seed});"
        " choose another run_dir",
    )
    return record if record.status == "done" else None


def is_done(folder: Path, identity: str, seed: int) -> bool:
    """Return whether the folder holds this run, finished; False for a folder with another run."""
    try:
        return finished(folder, identity, seed) is not None
    except UserError:
        return False


def check_own(folder: Path) -> None:
    """Refuse to write into a folder that holds anything but a run.

    Raises:
        UserError: It does.
    """
    if folder.is_dir() and not (folder / RECORD).exists():
        # The record is the first file of a run; a partly written one, of a live or dead run, is ours.
        foreign = any(not path.name.startswith(f".{RECORD}.") for path in folder.iterdir())
        own = not foreign or (folder / RECORD).exists()
        check(own, f"{folder} is not empty and holds no run; choose another run_dir, or move it away")


class BusyError(RuntimeError):
    """Another process is working in a run's folder."""


@contextmanager
def locked(folder: Path, callback: Callback, wait: bool = True) -> Iterator[None]:
    """Let only one process at a time work in a folder; the lock of a dead process is free.

    Args:
        folder: The run's folder.
        callback: Gets one note if another process has the lock.
        wait: Whether to wait for that process.

    Raises:
        BusyError: Another process has the lock, and `wait` is false.
    """
    lock = FileLock(_lock(folder))
    try:
        # In rounds: the other processes of a group do not wait for the main process as long as a run may take.
        if not broadcast_object(lambda: _taken(lock, folder, _SHORT_S)):
            if not wait:
                raise BusyError(f"another process is working in {folder}")
            callback.note(f"another process is working in {folder}; waiting for it to end")
            while not broadcast_object(lambda: _taken(lock, folder, _LOCK_S)):
                pass
        yield
    finally:
        lock.release()


def _taken(lock: FileLock, folder: Path, seconds: float) -> bool:
    """Wait for a folder's lock, repair the folder once we have it, and return whether we do."""
    make_folder(folder.parent)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    mend(folder)
    remove_unfinished(folder)
    return True


def busy(folder: Path) -> bool:
    """Return whether another process is working in a folder now."""
    path = _lock(real_folder(folder))
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def staging_folder(folder: Path, keep: bool) -> Path:
    """Return the folder to write a run in: its own, or one beside it that replaces it when the run is done.

    Files of an unfinished run stay, so that it can resume.
    """
    work = folder.with_name(f".{folder.name}.rerun") if keep else folder
    if is_main_process():
        work.mkdir(parents=True, exist_ok=True)
        remove_unfinished(work)
    return work


@contextmanager
def launch_folder(results: Path) -> Iterator[Path]:
    """Yield a temporary folder for launchers below the results, and remove those of dead owners.

    Raises:
        UserError: The results folder is not writable.
    """
    folder = (results / f"{_LAUNCH}{os.urandom(4).hex()}").resolve()
    lock = folder.with_suffix(".lock")
    with folder_if_used(results), FileLock(lock):  # locked before it exists, so that it never looks abandoned
        _remove_abandoned(results)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _remove_abandoned(results: Path) -> None:
    """Remove launch folders whose owners are dead, and whose locks are therefore free."""
    for folder in {path.with_suffix("") for path in results.glob(f"{_LAUNCH}*")}:
        lock = folder.with_suffix(".lock")
        with suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def mend(folder: Path) -> None:
    """Restore a finished run whose replacement was interrupted half-way."""
    if not folder.exists() and _old(folder).exists():
        _old(folder).rename(folder)


def write_failure(record: Record, error: Exception, folder: Path) -> None:
    """Write the record of a failed run if possible; the failure itself matters more."""
    with suppress(OSError):
        write_record(dataclasses.replace(record, status="failed", error=one_line(error)), folder / RECORD)


class MetricsLogger(ForwardingCallback):
    """Log the results of every epoch to a JSON-lines file, and pass all events on to another callback."""

    def __init__(self, path: Path, callback: Callback) -> None:
        """Create a logger.

        Args:
            path: The file; each line is an epoch.
            callback: Receives every event too.
        """
        self._path = path
        super().__init__(callback)
        self._lines: list[str] = []
        self._epochs = 0

    def start(self, name: str, epochs: int, steps: int, done: int = 0) -> None:
        """See `Callback`."""
        self._epochs = epochs
        super().start(name, epochs, steps, done)

    def resume(self, history: History) -> None:
        """See `Callback`; keep the lines of the epochs in the checkpoint."""
        self._lines = [_line(epoch) for epoch in (*history.stages, *history.epochs)]
        super().resume(history)

    def epoch(self, epoch: EpochResult) -> None:
        """See `Callback`."""
        self._lines.append(_line(epoch))
        # Flushing to disk would take longer than a short epoch, so only the last epoch does.
        write_atomically(self._path, "".join(self._lines), durable=epoch.epoch == self._epochs)
        super().epoch(epoch)


def _line(epoch: EpochResult) -> str:
    return json.dumps(finite(dataclasses.asdict(epoch)), allow_nan=False) + "\n"


def replace_folder(folder: Path, work: Path) -> None:
    """Replace the folder by `work`; `mend` repairs a crash between the two renames."""
    if work != folder:
        old = _old(folder)
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        work.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
