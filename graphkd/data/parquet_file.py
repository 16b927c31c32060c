"""One Parquet file of images and labels: its columns, class names, images and labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphkd.data.labels import FileLabels
from graphkd.data.picture import Source
from graphkd.errors import UserError, check, choices, did_you_mean, one_line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS = 2048  # rows in memory at a time


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file whose footer is read."""

    path: Path
    parquet: pq.ParquetFile
    schema: pa.Schema

    @classmethod
    def of(cls, path: Path) -> ParquetFile:
        """Read a file's footer.

        Raises:
            UserError: It is no readable Parquet file.
        """
        import pyarrow.parquet as pq

        with _reading(f"{path} is no readable Parquet file"):
            parquet = pq.ParquetFile(path)
            return cls(path, parquet, parquet.schema_arrow)

    def check_columns(self, image_column: str, label_column: str) -> None:
        """Check that both columns are there, once, and of a type that can be read.

        Raises:
            UserError: One is not.
        """
        kind = self._type(image_column, "image_column")
        parts = [_kind(part) for part in _parts(kind).values()] if _kind(kind) == "struct" else [_kind(kind)]
        check(
            {*parts} - {"null"} != set() and {*parts} <= {"null", "bytes", "text", "integers"},
            f"column '{image_column}' of {self.path} is {kind}, but must hold encoded images or their paths "
            "(data.image_column)",
        )
        kind = self._type(label_column, "label_column")
        check(
            _kind(kind) in ("integer", "boolean", "text"),
            f"column '{label_column}' of {self.path} is {kind}, but must hold integers, texts or booleans "
            "(data.label_column)",
        )

    def labels(self, column: str) -> FileLabels:
        """Return one column's values.

        Raises:
            UserError: A row has none, a number is too large, or the file is broken.
        """
        kind = _kind(self.schema.field(column).type)
        with self._reading(column):
            values = self.parquet.read(columns=[column]).column(column).to_pylist()
        if None in values:
            raise UserError(f"row {values.index(None)} of {self.path}: column '{column}' is empty")
        if kind == "text":
            return FileLabels(self.path, np.array(values, dtype=object))
        check(max(values, default=0) < 2**63, f"column '{column}' of {self.path} goes beyond 64-bit integers")
        names = ("False", "True") if kind == "boolean" else self.names(column)
        return FileLabels(self.path, np.array(values, dtype=np.int64), names)

    def images(self, column: str, root: str | None) -> Iterator[list[Source]]:
        """Yield one column's images, some rows at a time; paths begin at `root`, or else where this file is.

        Raises:
            UserError: The file is broken.
        """
        folder = self.path.parent if root is None else Path(os.path.expanduser(root))
        named = self._names_images(column)
        with self._reading(column):
            for batch in self._batches(column):
                images = _images(batch, named)
                yield [os.path.join(folder, image) if isinstance(image, str) else image for image in images]

    def names(self, column: str) -> tuple[str, ...] | None:
        """Return the class names in the metadata of the Hugging Face hub's files; None without any of use."""
        try:
            metadata = json.loads((self.schema.metadata or {})[b"huggingface"])
            names = metadata["info"]["features"][column]["names"]
        except (KeyError, ValueError, TypeError, RecursionError):
            return None
        if not names or not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
            return None
        return tuple(str(name).encode(errors="replace").decode() for name in names)

    def named_images(self, column: str, root: str | None) -> list[Path]:
        """Return the files that rows name instead of holding images; not those that are missing."""
        if not self._names_images(column):
            return []
        named = (image for images in self.images(column, root) for image in images if isinstance(image, str))
        return [Path(image) for image in named if os.path.isfile(image)]

    def _batches(self, column: str, rows: int = _ROWS) -> Iterator[pa.Array]:
        for group in range(self.parquet.num_row_groups):  # dictionaries in structs cannot be read across two
            for batch in self.parquet.iter_batches(rows, row_groups=[group], columns=[column]):
                yield batch.column(column)

    def _reading(self, column: str) -> AbstractContextManager[None]:
        return _reading(f"column '{column}' of {self.path} cannot be read")

    def _type(self, column: str, option: str) -> pa.DataType:
        names = self.schema.names
        count, hint = names.count(column), did_you_mean(column, names)
        check(count > 0, f"{self.path} has no column '{column}'{hint} (data.{option}; its columns: {choices(names)})")
        check(count == 1, f"{self.path} has {count} columns '{column}' (data.{option}), but must have one")
        return self.schema.field(column).type

    def _names_images(self, column: str) -> bool:
        """Return whether rows name their images' files instead of holding images; for structs, the first row tells."""
        kind = _kind(self.schema.field(column).type) if self.schema.names.count(column) == 1 else None
        if kind != "struct":
            return kind == "text"
        with self._reading(column):
            first = next(self._batches(column, rows=1), None)
        return first is not None and _images(first, named=False) in ([], [None])


@contextmanager
def _reading(told: str) -> Iterator[None]:
    """Tell what failed, and why, where pyarrow cannot read a file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{told} ({one_line(error)})") from error


def _kind(of: pa.DataType) -> str:
    """Return what a column of a type holds: "text", "bytes", "integers" (a list of them), ... or "other"."""
    from pyarrow import types

    if types.is_dictionary(of):
        return _kind(of.value_type)
    if types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of):
        return "integers" if types.is_integer(of.value_type) else "list"
    kinds = {
        "text": ("string", "large_string", "string_view"),
        "bytes": ("binary", "large_binary", "binary_view", "fixed_size_binary"),
        **{kind: (kind,) for kind in ("integer", "boolean", "struct", "null")},
    }
    fitting = (kind for kind, names in kinds.items() if any(getattr(types, f"is_{name}")(of) for name in names))
    return next(fitting, "other")


def _parts(struct: pa.DataType, named: bool = True) -> dict[str, pa.DataType]:
    """Return the fields of an image on the Hugging Face hub that are there, the path only where images are named."""
    return {
        name: struct.field(name).type for name in ("bytes", "path")[: 1 + named] if struct.get_field_index(name) >= 0
    }


def _images(column: pa.Array, named: bool) -> list[Source]:
    """Return encoded images, or paths where there are none and images are `named`."""
    kind = _kind(column.type)
    if kind == "struct":
        parts = [_images(column.field(name), named) for name in _parts(column.type, named)]
        return [next((image for image in row if image is not None), None) for row in zip(*parts, strict=True)]
    if kind == "integers":
        return [
            np.asarray(row.values.fill_null(0)).astype(np.uint8).tobytes() if row.is_valid else None for row in column
        ]
    images: list[Source] = column.to_pylist()
    return images
