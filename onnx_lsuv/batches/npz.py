"""Reader for NumPy's archives.

.npz: a zip archive of .npy members, stored or deflated (PKWARE APPNOTE 4.3; RFC 1951). An archive of 2 MB can unpack to
terabytes, so headers are read first, by unpacking their few bytes, and values are unpacked when they are asked for, row
after row: no more of them is in memory than was asked for, and rows behind the last one needed are never unpacked.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Container
from dataclasses import dataclass, field, replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lsuv.batches.npy import BROKEN, HEADER_LIMIT, check_length, read_header
from onnx_lsuv.batches.stored import MOST, Layout, Stored, in_file, looks_like, open_file, reason, size_of
from onnx_lsuv.errors import DataError, quote

UNREADABLE = (*BROKEN, zipfile.BadZipFile, zlib.error)
DIRECTORY = 1 << 22  # bytes of an archive's directory
CHUNK = 1 << 16  # compressed bytes; what a call leaves of them is copied


def read_npz(path: Path, names: Container[str], *_: object) -> list[Stored]:
    """Return the arrays of a .npz file; `names` are keys that may hold path separators; raises DataError."""
    where = f"the data file {quote(path)}"
    with open_file(path) as file:
        try:
            _check_directory(file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
            _check_members(where, members, names)
            return [_member(path, where, file, member) for member in members]
        except UNREADABLE as error:
            what = looks_like(path, "is truncated or no zip archive")
            if what.startswith("is a zip"):
                what = f"is truncated or broken ({reason(error)})"
            raise DataError(f"{where} {what}; write it again with numpy.savez") from error


def _check_directory(file: BufferedReader) -> None:
    """Raise ValueError for a directory that would take long to read."""
    # Its end record, with the directory's size at byte 12, stands before a comment of at most 64 KB; a size that does
    # not fit stands in another one before it, at byte 40 (4.3.14 to 4.3.16).
    file.seek(max(0, size_of(file) - (1 << 16) - 98))
    end = file.read()
    at, at64 = end.rfind(b"PK\x05\x06"), end.rfind(b"PK\x06\x06")
    size = int.from_bytes(end[at + 12 : at + 16], "little") if at >= 0 else 0
    if size == 0xFFFFFFFF and at64 >= 0:
        size = int.from_bytes(end[at64 + 40 : at64 + 48], "little")
    if size > DIRECTORY:
        raise ValueError(f"its directory has {size} bytes, where {DIRECTORY} are the most")


def _check_members(where: str, members: list[zipfile.ZipInfo], names: Container[str]) -> None:
    if not members:
        raise DataError(f"{where} is an archive without arrays; write it again with numpy.savez")
    if len(members) > MOST:
        raise DataError(f"{where} has {len(members)} members, more than {MOST}; give one array for each input")
    seen: set[str] = set()
    for member in members:
        name = member.filename
        key = name.removesuffix(".npy")
        parts = key.replace("\\", "/").split("/")
        if key not in names and (len(parts) > 1 or key in {".", ".."} or ":" in parts[0]):
            raise DataError(f"{where} has a member {quote(name)} that is a path; name arrays as the model's inputs are")
        if not name.endswith(".npy"):
            raise DataError(f"{where} has a member {quote(name)} that is no .npy array; write it with numpy.savez")
        if name in seen:
            raise DataError(f"{where} has two members {quote(name)}; each input needs one array")
        if member.flag_bits & 1:
            raise DataError(f"{where} is encrypted; write it again with numpy.savez")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{where} is compressed by another method than NumPy's; write it with numpy.savez")
        seen.add(name)


def _member(path: Path, where: str, file: BufferedReader, member: zipfile.ZipInfo) -> Stored:
    key = member.filename.removesuffix(".npy")
    place = f"array {quote(key)} of {where.removeprefix('the data file ')}"
    # The local header repeats name and extra field with lengths of its own (4.3.7).
    file.seek(member.header_offset)
    head = file.read(30)
    if head[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header")
    begin = member.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
    if begin + member.compress_size > size_of(file):
        raise zipfile.BadZipFile("a member ends behind the file")
    packed = member.compress_type == zipfile.ZIP_DEFLATED
    if packed:
        stream = Inflation(begin, member.compress_size, member.file_size, member.CRC)
        top = bytearray(min(member.file_size, HEADER_LIMIT + 12))
        stream.read(0, memoryview(top), file)
        stream.rest()
    else:
        if member.compress_size != member.file_size:
            raise zipfile.BadZipFile("a stored member of two sizes")
        file.seek(begin)
        top = bytearray(file.read(min(member.file_size, HEADER_LIMIT + 12)))
    layout = read_header(io.BytesIO(top), place)
    check_length(place, layout, member.file_size)
    if not packed:
        check = partial(_check_sum, path, place, begin, member)
        return in_file(key, place, path, replace(layout, offset=layout.offset + begin), check)

    def read(part: Layout) -> NDArray[np.uint8]:
        try:
            values = np.empty(part.size, np.uint8)
            with open_file(path) as again:
                stream.read(part.offset, values.data, again)
        except UNREADABLE as error:
            raise DataError(f"{place} cannot be unpacked: {reason(error)}; write it again") from error
        return values

    apart = layout.order == "C"
    return Stored(key, place, layout.dtype, layout.shape, layout.loader(read), True, apart)


def _check_sum(path: Path, where: str, begin: int, member: zipfile.ZipInfo) -> None:
    found, left = 0, member.file_size
    with open_file(path) as file:
        file.seek(begin)
        while left and (data := file.read(min(left, CHUNK))):
            found, left = zlib.crc32(data, found), left - len(data)
    if found != member.CRC:
        raise DataError(f"{where} is damaged: its checksum is wrong; get the file again, or write it again")


@dataclass(slots=True)
class Inflation:
    """A deflated member as bytes that are unpacked one after the other; to go back is to start anew.

    begin, packed: where its compressed bytes begin in the file, and how many there are.
    size, crc:     of what they unpack to.
    """

    begin: int
    packed: int
    size: int
    crc: int
    _engine: Any = None
    _taken: int = 0  # compressed bytes read so far,
    _left: bytes = b""  # those among them not used yet,
    _given: int = 0  # the bytes that the others gave,
    _sum: int = 0  # and their checksum
    _stamp: tuple[int, ...] = ()  # of the file that they are from
    _lock: Lock = field(default_factory=Lock)

    def read(self, offset: int, into: memoryview, file: BufferedReader) -> None:
        """Fill a buffer with the bytes from an offset on; raises ValueError or zlib.error where they cannot be had."""
        status = os.fstat(file.fileno())
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            if self._stamp not in ((), stamp):
                raise ValueError("the file changed while it was read")
            self._stamp = stamp
            if self._engine is None or offset < self._given:
                self._engine = zlib.decompressobj(-zlib.MAX_WBITS)
                self._taken, self._left, self._given, self._sum = 0, b"", 0, 0
            file.seek(self.begin + self._taken)
            while self._given < offset:
                self._next(offset - self._given, file)
            done = 0
            while done < len(into):
                data = self._next(len(into) - done, file)
                into[done : done + len(data)] = data
                done += len(data)
            if self._given == self.size:
                self.rest()
                if self._sum != self.crc:
                    raise ValueError("its checksum is wrong")

    def rest(self) -> None:
        """Give back what the engine takes, some 40 KB; there may be a hundred thousand files."""
        self._engine = None

    def _next(self, most: int, file: BufferedReader) -> bytes:
        """Return the next bytes, at most so many."""
        data = self._left
        if not data:
            data = file.read(min(CHUNK, self.packed - self._taken))
            self._taken += len(data)
        found: bytes = self._engine.decompress(data, min(most, 1 << 20))
        self._left = self._engine.unconsumed_tail
        if not found and (self._engine.eof or not data):
            raise ValueError("it ends early")
        self._given += len(found)
        self._sum = zlib.crc32(found, self._sum)
        return found
