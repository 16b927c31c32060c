"""What one run leaves behind: the format of `record.json`, schema 1."""

from __future__ import annotations

import functools
import json
import math
import os
import types
import typing
from collections import Counter
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Final, Literal, NoReturn

from graphkd.binding import describe, fits
from graphkd.errors import UserError, brief, check, one_line
from graphkd.files import read_small, write_atomically
from graphkd.report.protocol import Protocol

SCHEMA: Final = 1
LARGEST_BYTES = 4 << 20
ADDED = frozenset({
    "data", "content", "phases", "group_size", "protocol", "protocol.samples_per_class", "code.plugins",
    "metrics.diagnostics",
})  # fmt: skip
"""Fields that schema 1 did not have at first; a record may lack them."""
LONGEST_NAME = 300
LONGEST_SHOWN = 60
DEEPEST = 32


@dataclass(frozen=True)
class Teacher:
    """The teacher of a run: its identity and its test top-1 accuracy in percent."""

    identity: str
    accuracy: float | None


@dataclass(frozen=True)
class Code:
    """The graphkd that ran: its version, and the git hash and state where it ran from a checkout.

    `plugins` has the SHA-256 of the source file of each module from outside whose parts the run used.
    """

    version: str
    git: str | None = None
    dirty: bool | None = None
    plugins: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """Last loss of one term of the objective, before and after its weight."""

    raw: float | None
    weighted: float | None


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a run reached; accuracies and agreement in percent, None where not (yet) known.

    Attributes:
        test_top1_last: Test accuracy after the last epoch (the benchmark's number).
        test_top1_at_best_val: Test accuracy after the epoch that was best on validation data.
        val_top1_best: Best validation accuracy. Both are None without a validation split.
        test_top1_max: Highest test accuracy of all epochs: chosen on test, so never a fair result.
        test_top5_last: Top-5 test accuracy after the last epoch.
        test_nll_last: Mean negative log-likelihood on test data after the last epoch, in nats.
        agreement_last: Share of test samples on which student and teacher predict the same class.
        terms: Last losses by the name of the term.
        diagnostics: Means of the last epoch that explain the terms, such as the homophily of graphs, by name.
    """

    test_top1_last: float | None = None
    test_top1_at_best_val: float | None = None
    val_top1_best: float | None = None
    test_top1_max: float | None = None
    test_top5_last: float | None = None
    test_nll_last: float | None = None
    agreement_last: float | None = None
    terms: dict[str, Term] = field(default_factory=dict)
    diagnostics: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run, as `record.json` holds it.

    Attributes:
        schema: Version of the format.
        kind: Whether a student or a teacher was trained.
        status: How far the run came.
        study: The suite, or "adhoc" for a plain run.
        variant: The run's name within its study.
        pair: Teacher and student in one name.
        data: Name of the data set; None in records of graphkd 0.1.
        content: SHA-256 of what the data's files hold, where they are the user's own; None in records of graphkd 0.1.
        varied: What differs from the suite's base, JSON values by option.
        identity: SHA-256 of the bound config and the teacher's identity.
        seed: Seed of the run, not part of the identity.
        teacher: The teacher, or None where there was none.
        versions: Versions of the libraries by name.
        code: The graphkd that ran.
        device: Where it ran, for example "cpu".
        threads: Number of torch threads.
        duration_s: Wall-clock time in seconds.
        seconds_per_step: Mean time of one training step in seconds.
        peak_memory_mib: Peak memory in MiB.
        metrics: What the run reached.
        phases: Mean seconds of a step by what they were spent on; empty in records of graphkd 0.1.
        group_size: How many runs trained together on one stream of batches, this one included. Times are those of this
            run's own work and its share of what was shared.
        protocol: How it was trained; None for a probe, and in records of graphkd 0.1.
        error: Why a failed run failed, in one line.
    """

    schema: Literal[1] = SCHEMA
    kind: Literal["student", "teacher"]
    status: Literal["running", "done", "failed"]
    study: str
    variant: str
    pair: str
    data: str | None = None
    content: str | None = None
    varied: dict[str, Any]
    identity: str
    seed: int
    teacher: Teacher | None
    versions: dict[str, str]
    code: Code
    device: str
    threads: int
    duration_s: float | None = None
    seconds_per_step: float | None = None
    peak_memory_mib: float | None = None
    metrics: Metrics = field(default_factory=Metrics)
    phases: dict[str, float] = field(default_factory=dict)
    group_size: int = 1
    protocol: Protocol | None = None
    error: str | None = None

    def to_json(self) -> str:
        """Return the record as JSON text; numbers that are not finite become null, for JSON has none."""
        return json.dumps(finite(asdict(self)), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, content: str | bytes, source: str | os.PathLike[str] = "record") -> Record:
        """Read a record from JSON text; fields that schema 1 does not know are ignored.

        Args:
            content: The JSON text, UTF-8 where it is bytes.
            source: The file, for messages.

        Raises:
            UserError: It is no JSON object of this schema, or a field is missing or has an impossible value; the
                message names the field and the source.
        """
        try:
            record: Record = _decode_object(_document(content), cls)
            _check_names(record)
        except UserError as error:
            raise UserError(f"{shown(source)}: {error}") from None
        return record


def write(record: Record, path: str | os.PathLike[str]) -> None:
    """Write a record whole or not at all; the folder must exist.

    Raises:
        UserError: The record could not be read back, for example because a name is empty.
        OSError: The file cannot be written.
    """
    text = record.to_json()
    Record.from_json(text, path)
    write_atomically(path, text)


def read(path: str | os.PathLike[str]) -> Record:
    """Read a record from a file.

    Raises:
        UserError: The file cannot be read or holds no valid record.
    """
    try:
        content = read_small(path, LARGEST_BYTES)
    except UserError as error:
        raise UserError(f"{shown(path)}: {error}") from error
    return Record.from_json(content, path)


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as messages show it: escaped where it would break the line or cannot be printed."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def finite(value: Any) -> Any:
    """Return a value with None in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _document(content: str | bytes) -> dict[str, Any]:
    try:
        text = content.decode() if isinstance(content, bytes) else content
        document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON ({one_line(error)})") from None
    if not isinstance(document, dict):
        raise UserError(f"holds {brief(document)}, but must hold a JSON object")
    check(not _deeper_than(DEEPEST, document), f"nested more than {DEEPEST} levels deep")
    schema = document.get("schema")
    is_known = type(schema) is int and schema == SCHEMA
    check(is_known, f"'schema' is {brief(schema)}, but this graphkd reads schema {SCHEMA}")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's items; JSON readers differ in which of two of one name they take."""
    found = dict(items)
    if len(found) < len(items):
        ((twice, _),) = Counter(name for name, _ in items).most_common(1)
        raise ValueError(f"the key {brief(twice)} stands twice")
    return found


def _deeper_than(levels: int, value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper_than(levels - 1, item) for item in items)


def _check_names(record: Record) -> None:
    for name in ("study", "variant", "pair", "identity", "data"):
        text = getattr(record, name)
        is_name = text is None or (0 < len(text) <= LONGEST_NAME and text.isprintable())
        check(is_name, f"'{name}' is {brief(text)}, but must be 1 to {LONGEST_NAME} printable characters")
    is_whole = record.status != "done" or record.metrics.test_top1_last is not None
    check(is_whole, "'metrics.test_top1_last' is null, but the run is done")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode_object(value: dict[str, Any], kind: type, inside: str = "") -> Any:
    decoded = {}
    for name, annotation in _hints(kind).items():
        if name not in value and inside + name in ADDED:
            continue
        check(name in value, f"the field '{inside}{name}' is missing")
        decoded[name] = _decode(value[name], annotation, inside + name)
    return kind(**decoded)


def _decode(value: Any, annotation: Any, name: str) -> Any:
    """Return a JSON value as the annotated type; every union in a record is `X | None`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is types.UnionType:
        return None if value is None else _decode(value, arguments[0], name)
    is_object = isinstance(annotation, type) and is_dataclass(annotation)
    right = type(value) is annotation or fits(value, dict if is_object else annotation)
    if not right or (annotation is float and not math.isfinite(value)):
        # The message is made only here: a report decodes a hundred thousand values.
        wanted = "a finite number" if annotation is float else "an object" if is_object else describe(annotation)
        raise UserError(f"'{name}' is {brief(value)}, but must be {wanted}")
    if is_object:
        return _decode_object(value, annotation, f"{name}.")
    if origin is dict:
        keys = {key: key if key.isprintable() and len(key) <= LONGEST_SHOWN else brief(key) for key in value}
        return {key: _decode(value[key], arguments[1], f"{name}.{keys[key]}") for key in value}
    return float(value) if annotation is float else value
