"""Unpacking what a stranger packed: nothing is written but plain files below one fresh folder, and not many.

Rules that live here, and nowhere else:
- a member is a folder or a plain file; links, devices and setuid bits are refused, never skipped or followed;
- a name is relative, stays below the folder, is UTF-8, and differs from every other by more than its case;
- bytes are counted as they come out, whatever the archive says of itself, and so are its members;
- what can't be read to its end is refused: nobody is graded on half of what was handed in.
`tarfile`'s own filters are not relied on: some builds of Python 3.11 lack them.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import IO, Protocol, Self

MOST_FILES, MOST_BYTES = 2000, 64 << 20  # of what is unpacked
MOST_PACKED = 64 << 20
MOST_DIRECTORY = 1 << 20  # bytes of a zip's own table of contents
MOST_DEPTH, LONGEST_NAME = 32, 255
TOO_MANY = f"it holds more than {MOST_FILES} files and folders"
CHUNK = 1 << 16
UNDERSTOOD = "zip, tar, tar.gz and tar.bz2 are understood"
SPECIAL = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
DEVICES = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
ZIP_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}
END_OF_ZIP, LONGEST_END = b"PK\x05\x06", 65557


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Refused(Exception):
    """What was handed in can't be taken; the message is one sentence, and blames nobody else."""


class Room:
    """The fresh folder that members are written to, and what has been taken so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bytes = 0
        self._members = 0
        self._names: dict[str, str] = {}

    def count(self, number: int) -> None:
        """`number` more bytes have come out. Raises Refused beyond the bound."""
        self._bytes += number
        if self._bytes > MOST_BYTES:
            raise Refused(f"it unpacks to more than {MOST_BYTES >> 20} MB")

    def member(self, name: str) -> Path:
        """Where a member of that name goes. Raises Refused for a name that is none."""
        self._members += 1
        if self._members > MOST_FILES:
            raise Refused(TOO_MANY)
        parts = _parts(name)
        for length in range(1, len(parts) + 1):
            self._claim("/".join(parts[:length]))
        return self.folder.joinpath(*parts)

    def _claim(self, name: str) -> None:
        key = unicodedata.normalize("NFC", name).casefold()
        known = self._names.setdefault(key, name)
        if known != name:
            raise Refused(f"{shown(known)} and {shown(name)} differ only in their case")

    def make_folder(self, name: str) -> None:
        try:
            self.member(name).mkdir(0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise Refused(f"{shown(name)} is both a file and a folder") from None

    def write(self, name: str, source: Readable, executable: bool = False) -> None:
        """Write a plain file."""
        path = self.member(name)
        try:
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o700 if executable else 0o600)
        except (FileExistsError, NotADirectoryError):
            raise Refused(f"{shown(name)} stands in it twice") from None
        with open(number, "wb") as file:
            while data := source.read(CHUNK):
                self.count(len(data))
                file.write(data)


def shown(name: str) -> str:
    """A foreign name, safe to print."""
    printable = name.encode("utf-8", "backslashreplace").decode()
    return "`" + "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in printable)[:100] + "`"


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or name[1:3] in (":/", ":"):
        raise Refused(f"{shown(name)} is an absolute path")
    if ".." in parts:
        raise Refused(f"{shown(name)} leads out of it")
    if any(0xD800 <= ord(each) < 0xE000 for each in name):
        raise Refused(f"the name {shown(name)} is not UTF-8")
    if any(unicodedata.category(each) == "Cc" for each in name):
        raise Refused(f"the name {shown(name)} has control characters")
    if not parts or len(parts) > MOST_DEPTH or any(len(part.encode()) > LONGEST_NAME for part in parts):
        raise Refused(f"{shown(name)} is no usable name of a file")
    return parts


def check_kind(name: str, mode: int) -> None:
    """Raises Refused unless `mode` is that of a folder or a plain file without setuid bits."""
    kind = stat.S_IFMT(mode)
    if problem := (SPECIAL | DEVICES).get(kind):
        raise Refused(f"{shown(name)} is {problem}; hand in plain files")
    if kind != stat.S_IFDIR and mode & (stat.S_ISUID | stat.S_ISGID):
        raise Refused(f"{shown(name)} has a setuid or setgid bit")


def unpack(path: Path, folder: Path) -> None:
    """Unpack the archive at `path` into `folder`, which is empty. Raises Refused, and OSError of this machine."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_PACKED:
            raise Refused(f"it is larger than {MOST_PACKED >> 20} MB")
        start = file.read(512)
        file.seek(0)
        try:
            _unpack(file, start, Room(folder))
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, struct.error) as error:
            raise Refused(f"it is corrupt ({shown(str(error) or type(error).__name__)[1:-1]})") from None
        except (ValueError, NotImplementedError, IndexError) as error:  # what zipfile and tarfile say of nonsense
            raise Refused(f"it is corrupt ({type(error).__name__})") from None


def _unpack(file: IO[bytes], start: bytes, room: Room) -> None:
    if not start:
        raise Refused("it is empty")
    if start.startswith(b"PK"):
        _unzip(file, room)
    elif start.startswith(b"\x1f\x8b"):
        _untar(gzip.GzipFile(fileobj=file), room)
    elif start.startswith(b"BZh"):
        _untar(bz2.BZ2File(file), room)
    elif start[257:262] == b"ustar":
        _untar(file, room)
    else:
        raise Refused(f"it is no archive that can be read; {UNDERSTOOD}")


# -- zip --------------------------------------------------------------------------------------------------------------


def _unzip(file: IO[bytes], room: Room) -> None:
    _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if not members:
            raise Refused("it is empty")
        for member in members:
            _unzip_member(archive, member, room)


def _check_directory(file: IO[bytes]) -> None:
    """The table of contents is read whole before anything else, so it must not be huge."""
    file.seek(0, os.SEEK_END)
    file.seek(max(file.tell() - LONGEST_END, 0))
    end = file.read()
    at = end.rfind(END_OF_ZIP)
    if at < 0 or at + 20 > len(end):
        raise Refused("it is corrupt (a zip without an end)")
    (size,) = struct.unpack_from("<I", end, at + 12)
    if size > MOST_DIRECTORY:
        raise Refused(TOO_MANY)
    file.seek(0)


def _unzip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, room: Room) -> None:
    name, mode = _zip_name(member), member.external_attr >> 16
    check_kind(name, mode)
    if member.flag_bits & 0x1:
        raise Refused(f"{shown(name)} is encrypted")
    if name.endswith("/"):
        room.make_folder(name)
        return
    if member.compress_type not in ZIP_METHODS:
        raise Refused(f"{shown(name)} is compressed by a method that is not understood")
    try:
        with archive.open(member) as source:
            room.write(name, source, executable=bool(mode & 0o111))
    except OSError as error:
        if error.errno is None:  # of the decompressor, not of this machine
            raise Refused(f"it is corrupt ({shown(str(error))[1:-1]})") from None
        raise


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name; without the flag that says UTF-8, `zipfile` has taken its bytes for code page 437."""
    name = member.orig_filename
    if not member.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            raise Refused(f"the name {shown(name)} is not UTF-8") from None
    return name.replace("\\", "/")


# -- tar --------------------------------------------------------------------------------------------------------------


class Strict(tarfile.TarInfo):
    """A header that can't be read is the end of the archive to `tarfile`, and a corrupt archive here."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not bytes(buf).strip(b"\0"):
                raise  # the end, as it should be
            raise Refused(f"it is corrupt ({error})") from None


class Counted(io.RawIOBase):
    """What a decompressor gives, counted: headers of a tar can be as large as its files."""

    def __init__(self, source: Readable) -> None:
        self._source, self._room = source, 2 * MOST_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._source.read(size)
        except OSError as error:
            if error.errno is None:
                raise Refused(f"it is corrupt ({shown(str(error))[1:-1]})") from None
            raise
        self._room -= len(data)
        if self._room < 0:
            raise Refused(f"it unpacks to more than {MOST_BYTES >> 20} MB")
        return data


def _untar(source: Readable, room: Room) -> None:
    members = 0
    with tarfile.open(fileobj=Counted(source), mode="r|", encoding="utf-8", tarinfo=Strict, bufsize=CHUNK) as archive:
        for member in archive:
            members += 1
            if members > 2 * MOST_FILES:
                raise Refused(TOO_MANY)
            _untar_member(archive, member, room)
    if not members:
        raise Refused("it is empty")


def _untar_member(archive: tarfile.TarFile, member: tarfile.TarInfo, room: Room) -> None:
    name = member.name
    if member.isdir():
        if name.strip("./"):
            room.make_folder(name)
        return
    if member.islnk():
        raise Refused(f"{shown(name)} is a hard link; hand in plain files")
    if member.issym():
        raise Refused(f"{shown(name)} is a symbolic link; hand in plain files")
    if not member.isreg() or member.issparse():
        raise Refused(f"{shown(name)} is a device or another special file; hand in plain files")
    check_kind(name, stat.S_IFREG | (member.mode & 0o7777))
    source = archive.extractfile(member)
    assert source is not None
    room.write(name, source, executable=bool(member.mode & 0o111))
