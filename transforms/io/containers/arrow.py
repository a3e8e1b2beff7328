"""Read Arrow files of record batches, which `datasets` saves: the stream format, and the file format (Feather 2).

A file holds messages: the schema, dictionaries, and record batches. The header of a message has the place of each
buffer in its body, so that only the buffers of the wanted columns are read.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import pyarrow as pa

from ..retry import FetchError

FILE_MAGIC, FEATHER_1 = b"ARROW1", b"FEA1"
CONTINUATION = 0xFFFFFFFF
SCHEMA, DICTIONARY, RECORD_BATCH = 1, 2, 3
# The footer of the file format has a struct for each message: its first byte, and the sizes of header and body.
BLOCK = struct.Struct("<qi4xq")
# A header of 1,000 columns has 50 KB. A larger one is no header.
MAX_HEADER_BYTES = 64 << 20
# The numbers of fields in the tables of Arrow's format, which are FlatBuffers.
HEADER_TYPE, HEADER, BODY_LENGTH = 1, 2, 3
NUM_ROWS, BUFFERS, COMPRESSION, NUM_VARIADIC = 0, 2, 3, 4
DICTIONARIES, RECORD_BATCHES = 2, 3
LONG, PAIR = struct.Struct("<q"), struct.Struct("<qq")
END = struct.pack("<II", CONTINUATION, 0)


class Message(NamedTuple):
    """A message of a file: its first byte, the sizes of its header and its body in bytes, and its rows.

    ``buffers``: first byte in the body, and size, of each buffer; empty if these are compressed. ``variadic``: the
    number of data buffers of each column of views.
    """

    start: int
    header: int
    body: int
    rows: int = 0
    buffers: tuple[tuple[int, int], ...] = ()
    variadic: tuple[int, ...] = ()


class ArrowFile:
    """An open Arrow file. Its record batches take the place of the row groups of Parquet.

    Args:
        path: its name in error messages.
        file: open for reading at any position. Only the headers of messages are read now.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is no Arrow file, or is cut off.
    """

    def __init__(self, path: str, file: Any) -> None:
        self._file = file
        self._dictionaries: list[Message] = []
        self.batches: list[Message] = []
        try:
            with _damage_as_arrow_error():
                self.schema_arrow = self._open()
        except pa.ArrowException as error:
            raise ValueError(f"{path} is not an Arrow file: {error}; write it again, or give another file") from error

    def _open(self) -> pa.Schema:
        self._length = self._file.seek(0, io.SEEK_END)
        head = self._read_at(0, len(FILE_MAGIC))
        if head.startswith(FEATHER_1):
            raise pa.ArrowInvalid("it has the first version of Feather")
        self._has_footer = head == FILE_MAGIC
        return self._read_footer() if self._has_footer else self._scan()

    def attached(self, file: Any) -> ArrowFile:
        """Return the same for ``file``, which is open and has the same content; for None, the same without a file."""
        other = copy(self)
        other._file = file
        return other

    @property
    def group_rows(self) -> list[int]:
        """The number of rows of each record batch."""
        return [batch.rows for batch in self.batches]

    @property
    def serialized_size(self) -> int:
        """The memory that the places of all batches take, in bytes, about."""
        return sum(200 + 150 * len(batch.buffers) for batch in self.batches)

    def iter_batches(
        self, batch_size: int, row_groups: Sequence[int] | None = None, columns: Sequence[str] | None = None, **_: Any
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows of these record batches (None: of all), as ``ParquetFile.iter_batches`` does.

        A column ``NAME.FIELD`` is a struct ``NAME`` with only this field, if no column has that very name.

        Raises:
            OSError: if the file can't be read.
            ArrowInvalid: if a batch is broken or cut off.
        """
        for number in range(len(self.batches)) if row_groups is None else row_groups:
            with _damage_as_arrow_error():
                batch = self._read_batch(number, self.schema_arrow.names if columns is None else columns)
            for start in range(0, len(batch), batch_size):
                yield batch.slice(start, batch_size)

    def _read_batch(self, number: int, columns: Sequence[str]) -> pa.RecordBatch:
        names, arrays = self.schema_arrow.names, {}
        leaves = {name: "" if name in names else name.rpartition(".")[2] for name in columns}
        wanted = {name[: -len(leaf) - 1] if leaf else name: leaf for name, leaf in leaves.items()}
        batch = self._load(self.batches[number], wanted)
        for name, leaf in wanted.items():
            array = batch.column(name)
            if leaf:
                array = pa.StructArray.from_arrays([array.field(leaf)], [leaf], mask=array.is_null())
            # Arrow checks nothing when it reads: a wrong offset would end the process.
            array.validate(full=True)
            arrays[name] = array
        return pa.RecordBatch.from_pydict(arrays)

    def _load(self, message: Message, wanted: Mapping[str, str]) -> pa.RecordBatch:
        """Return a record batch of which at least the columns ``wanted`` can be used; see ``_read``."""
        if self._has_footer and self._dictionaries:
            fields = [self.schema_arrow.get_field_index(name) for name in wanted]
            options = pa.ipc.IpcReadOptions(included_fields=fields)
            return pa.ipc.open_file(self._file, options=options).get_batch(self.batches.index(message))
        earlier = [self._read(each) for each in self._dictionaries if each.start < message.start]
        content = b"".join([self._schema_message, *earlier, self._read(message, wanted)])
        (batch,) = pa.ipc.open_stream(content)
        return batch

    def _read_footer(self) -> pa.Schema:
        """Return the schema, and note the place of each message that the footer names."""
        schema = pa.ipc.open_file(self._file).schema
        self._schema_message = schema.serialize().to_pybytes()
        end = self._length - len(FILE_MAGIC) - 4
        (size,) = struct.unpack("<i", self._read_at(end, 4))
        footer = self._read_at(end - size, size)
        (table,) = struct.unpack_from("<I", footer)
        for field, messages in ((DICTIONARIES, self._dictionaries), (RECORD_BATCHES, self.batches)):
            for start, _, _ in _vector(footer, table, field, BLOCK):
                messages.append(self._message(start)[0])
        return schema

    def _scan(self) -> pa.Schema:
        """Return the schema of a stream, and note the place of each other message."""
        at, self._schema_message = 0, b""
        # A writer that was not closed leaves out the end mark. Old writers leave out the first half of the mark.
        while at < self._length and self._read_at(at, min(8, self._length - at)) not in (END, END[4:]):
            message, kind = self._message(at)
            at += message.header + message.body
            if kind == SCHEMA:
                self._schema_message = bytes(self._read(message))
            elif kind == DICTIONARY:
                self._dictionaries.append(message)
            elif kind == RECORD_BATCH:
                self.batches.append(message)
        return pa.ipc.read_schema(pa.py_buffer(self._schema_message))

    def _message(self, at: int) -> tuple[Message, int]:
        """Return the message that begins at a byte, and its type. Its body is not read."""
        (size,), prefix = struct.unpack("<I", self._read_at(at, 4)), 4
        if size == CONTINUATION:
            (size,), prefix = struct.unpack("<I", self._read_at(at + 4, 4)), 8
        if size > MAX_HEADER_BYTES:
            raise pa.ArrowInvalid("its content has another format")
        header = self._read_at(at + prefix, size)
        (table,) = struct.unpack_from("<I", header)
        kind, body = _number(header, table, HEADER_TYPE, "<B"), _number(header, table, BODY_LENGTH, "<q")
        message = Message(at, prefix + size, body)
        if body < 0 or at + prefix + size + body > self._length:
            raise pa.ArrowInvalid("it is cut off")
        if kind == RECORD_BATCH:
            batch = _follow(header, table, HEADER)
            message = message._replace(rows=_number(header, batch, NUM_ROWS, "<q"))
            if not _slot(header, batch, COMPRESSION):
                buffers = tuple((start, size) for start, size in _vector(header, batch, BUFFERS, PAIR))
                counts = tuple(count for (count,) in _vector(header, batch, NUM_VARIADIC, LONG))
                message = message._replace(buffers=buffers, variadic=counts)
        return message, kind

    def _read(self, message: Message, wanted: Mapping[str, str] | None = None) -> bytes | bytearray:
        """Return a message. Of columns that are not ``wanted``, the buffers are zeros, if their places are known.

        ``wanted`` maps the name of a column to the only field of its struct to read, or to "".
        """
        if wanted is None or (spans := _spans(self.schema_arrow, wanted, message)) is None:
            return self._read_at(message.start, message.header + message.body)
        content = bytearray(message.header + message.body)
        content[: message.header] = self._read_at(message.start, message.header)
        for start, size in spans:
            at = message.header + start
            if not message.header <= at <= at + size <= len(content):
                raise pa.ArrowInvalid("a buffer is not inside of its message")
            content[at : at + size] = self._read_at(message.start + at, size)
        return content

    def _read_at(self, at: int, size: int) -> bytes:
        self._file.seek(max(0, at))
        content: bytes = self._file.read(size)
        if at < 0 or len(content) < size:
            raise pa.ArrowInvalid("it is cut off")
        return content


@contextlib.contextmanager
def _damage_as_arrow_error() -> Iterator[None]:
    """Raise an error of this block that means damaged content as ArrowInvalid. Others are OSErrors with an errno."""
    try:
        yield
    except (pa.ArrowException, struct.error, OverflowError, OSError) as error:
        if isinstance(error, (FetchError, pa.ArrowInvalid)) or getattr(error, "errno", None):
            raise
        raise pa.ArrowInvalid(str(error)) from error


def _slot(content: bytes, table: int, field: int) -> int:
    """Return where the field of a table of FlatBuffers is; 0 if the table lacks it."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    place = 4 + 2 * field
    if place >= struct.unpack_from("<H", content, vtable)[0]:
        return 0
    (offset,) = struct.unpack_from("<H", content, vtable + place)
    return table + offset if offset else 0


def _number(content: bytes, table: int, field: int, form: str) -> int:
    slot = _slot(content, table, field)
    return int(struct.unpack_from(form, content, slot)[0]) if slot else 0


def _follow(content: bytes, table: int, field: int) -> int:
    """Return where the table or vector is that a field refers to; 0 if the field is missing."""
    slot = _slot(content, table, field)
    return slot + int(struct.unpack_from("<I", content, slot)[0]) if slot else 0


def _vector(content: bytes, table: int, field: int, form: struct.Struct) -> list[tuple[int, ...]]:
    """Return the items of a vector of structs; none if the table lacks it."""
    if not (vector := _follow(content, table, field)):
        return []
    (count,) = struct.unpack_from("<I", content, vector)
    return list(form.iter_unpack(content[vector + 4 : vector + 4 + count * form.size]))


def _spans(schema: pa.Schema, wanted: Mapping[str, str], message: Message) -> list[tuple[int, int]] | None:
    """Return the buffers of these columns; None if it is not known which these are."""
    buffers, counts, spans = iter(message.buffers), iter(message.variadic), []
    try:
        for field in schema:
            leaf = wanted.get(field.name)
            if leaf and pa.types.is_struct(field.type):
                spans.append(next(buffers))
                for child in field.type:
                    taken = _take(child.type, buffers, counts)
                    spans += taken if child.name == leaf else []
            else:
                taken = _take(field.type, buffers, counts)
                spans += taken if leaf is not None else []
    except (StopIteration, NotImplementedError):
        return None
    return spans if next(buffers, None) is None else None


def _take(kind: pa.DataType, buffers: Iterator[tuple[int, int]], counts: Iterator[int]) -> list[tuple[int, int]]:
    """Return the next buffers, which are those of a column of this type, with those of its fields.

    Raises:
        StopIteration: if there are too few.
        NotImplementedError: if the type is a union, or another one that tables rarely have.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return _take(kind.storage_type, buffers, counts)
    types, children = pa.types, []
    if types.is_null(kind):
        own = 0
    elif types.is_string_view(kind) or types.is_binary_view(kind):
        own = 2 + next(counts)
    elif types.is_dictionary(kind) or not types.is_nested(kind):
        offsets = (types.is_binary, types.is_string, types.is_large_binary, types.is_large_string)
        own = 3 if any(test(kind) for test in offsets) else 2
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        own, children = 2, [kind.field(0)]
    elif types.is_struct(kind) or types.is_fixed_size_list(kind):
        own, children = 1, [kind.field(number) for number in range(kind.num_fields)]
    else:
        raise NotImplementedError
    taken = [next(buffers) for _ in range(own)]
    for child in children:
        taken += _take(child.type, buffers, counts)
    return taken
