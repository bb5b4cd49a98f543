"""Archives as careless and hostile people make them: each is a function that writes one, and what must be said of it.

The hostile ones are attack 42 of the list of attacks: zip bombs, members that leave the folder, links, devices, setuid
bits, cases, names, numbers, and bytes that are no archive at all.
"""

from __future__ import annotations

import bz2
import gzip
import io
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

PROGRAM = b"print('hello')\n"
Maker = Callable[[Path], None]


# -- makers -----------------------------------------------------------------------------------------------------------


def zipped(*members: tuple[str, bytes], mode: int = 0o100644) -> Maker:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a name that is there already
                    archive.writestr(info, data)

    return make


def zipped_with(name: str, mode: int, data: bytes = b"/etc/passwd") -> Maker:
    """A good program, and one more member of that mode."""

    def make(path: Path) -> None:
        zipped(("solution.py", PROGRAM))(path)
        with zipfile.ZipFile(path, "a") as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)

    return make


def tarred(*members: tuple[str, bytes], packed: str = "", **more: object) -> Maker:
    """A tar; `more` are the fields of one more member, named `extra`."""

    def make(path: Path) -> None:
        with tarfile.open(path, f"w:{packed}", format=tarfile.PAX_FORMAT) as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1_700_000_000
                archive.addfile(info, io.BytesIO(data))
            if more:
                info = tarfile.TarInfo("extra")
                for field, value in more.items():
                    setattr(info, field, value)
                archive.addfile(info, io.BytesIO(b"\0" * info.size))

    return make


def tarred_with(**more: object) -> Maker:
    return tarred(("solution.py", PROGRAM), **more)


def raw(data: bytes) -> Maker:
    return lambda path: path.write_bytes(data) and None


def bomb(path: Path) -> None:
    """A zip of 64 KB that unpacks to 66 MB."""
    zipped(("solution.py", bytes(66 << 20)))(path)


def lying_bomb(path: Path) -> None:
    """The same, and its table of contents says that it is ten bytes."""
    bomb(path)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(data)


def tar_bomb(path: Path) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("solution.py")
        info.size = 66 << 20
        archive.addfile(info, Zeros())


class Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def header_bomb(path: Path) -> None:
    """The *name* of a member is 140 MB long: a header that readers take into memory whole."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 140 << 20
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(140):
            file.write(b"a" * (1 << 20))


def sparse_bomb(path: Path) -> None:
    """A sparse member: a hundred bytes that read as eight gigabytes of zeros."""
    info = tarfile.TarInfo("solution.py")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"%011o\0" % (8 << 30)
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    path.write_bytes(bytes(header) + bytes(1024))


def many(number: int) -> Maker:
    return zipped(*((f"f{each}.py", b"") for each in range(number)))


def hundred_thousand(path: Path) -> None:
    """A table of contents with 100,000 lines, all for the same member."""
    zipped(("solution.py", b""))(path)
    data = path.read_bytes()
    start, end = data.find(b"PK\x01\x02"), data.find(b"PK\x05\x06")
    line, rest = data[start:end], bytearray(data[end:])
    rest[8:12] = struct.pack("<HH", 0xFFFF, 0xFFFF)
    rest[12:16] = struct.pack("<I", 100_000 * len(line))
    path.write_bytes(data[:start] + 100_000 * line + rest)


def many_folders(path: Path) -> None:
    """A tar of nothing but its own top, a hundred thousand times."""
    info = tarfile.TarInfo("./")
    info.type = tarfile.DIRTYPE
    path.write_bytes(gzip.compress(100_000 * info.tobuf() + bytes(1024), 1))


def encrypted(path: Path) -> None:
    zipped(("solution.py", PROGRAM))(path)
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(mark) + offset] |= 1
    path.write_bytes(data)


def cut(make: Maker, at: float) -> Maker:
    def cutting(path: Path) -> None:
        make(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * at)])

    return cutting


def bad_header(path: Path) -> None:
    """The second header is spoiled: a reader may take that for the end, and grade half of it."""
    tarred(("solution.py", PROGRAM), ("more.py", PROGRAM))(path)
    data = bytearray(path.read_bytes())
    data[data.find(b"more.py") + 100] ^= 0xFF
    path.write_bytes(data)


def bad_bytes(path: Path) -> None:
    zipped(("solution.py", PROGRAM * 50))(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)


def latin_name(path: Path) -> None:
    zipped(("l\u2502sung.py", PROGRAM), ("solution.py", PROGRAM))(path)
    data = path.read_bytes()
    flagged = data.replace("l\u2502sung.py".encode(), b"l\xb3\xff\xfesung.py"[: len("l\u2502sung.py".encode())])
    parts = bytearray(flagged)
    for mark, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        parts[parts.find(mark) + offset] &= ~0x08
    path.write_bytes(parts)


def latin_tar_name(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        info = tarfile.TarInfo("l\xf6sung.py")
        archive.addfile(info)


# -- the lists --------------------------------------------------------------------------------------------------------

GOOD: dict[str, Maker] = {
    "flat.zip": zipped(("solution.py", PROGRAM), ("lib/a.py", b"a")),
    "wrapped.zip": zipped(("alice-pubsub-main/solution.py", PROGRAM), ("alice-pubsub-main/lib/a.py", b"a")),
    "from a Mac.zip": zipped(("x/solution.py", PROGRAM), ("x/lib/a.py", b"a"), ("__MACOSX/x/._solution.py", b"")),
    "from Windows.zip": zipped(("x\\solution.py", PROGRAM), ("x\\lib\\a.py", b"a")),
    "with caches.zip": zipped(
        ("solution.py", PROGRAM),
        ("lib/a.py", b"a"),
        (".git/config", b"g"),
        ("__pycache__/solution.cpython-311.pyc", b"c"),
    ),
    "flat.tar": tarred(("solution.py", PROGRAM), ("lib/a.py", b"a")),
    "dotted.tar": tarred(("./solution.py", PROGRAM), ("./lib/a.py", b"a")),
    "flat.tar.gz": tarred(("solution.py", PROGRAM), ("lib/a.py", b"a"), packed="gz"),
    "flat.tgz": tarred(("a/b/solution.py", PROGRAM), ("a/b/lib/a.py", b"a"), packed="gz"),
    "flat.tar.bz2": tarred(("solution.py", PROGRAM), ("lib/a.py", b"a"), packed="bz2"),
    "misnamed.zip": tarred(("solution.py", PROGRAM), ("lib/a.py", b"a"), packed="gz"),
    "whole clone.zip": zipped(
        ("kit/katas/door/solution.py", PROGRAM), ("kit/katas/door/lib/a.py", b"a"), ("kit/harness/plugin.py", b"!")
    ),
}

BAD: dict[str, tuple[str, Maker, str]] = {
    "zip bomb": ("zip", bomb, "unpacks to more than 64 MB"),
    "lying zip bomb": ("zip", lying_bomb, "unpacks to more than 64 MB|corrupt"),
    "tar bomb": ("tgz", tar_bomb, "unpacks to more than 64 MB"),
    "header bomb": ("tgz", header_bomb, "unpacks to more than 64 MB"),
    "sparse bomb": ("tar", sparse_bomb, "special file|corrupt"),
    "out of the folder": ("zip", zipped(("../../x.py", b"!"), ("solution.py", PROGRAM)), "leads out of it"),
    "out and in again": ("zip", zipped(("a/../../x.py", b"!")), "leads out of it"),
    "out with backslashes": ("zip", zipped(("..\\..\\x.py", b"!")), "leads out of it"),
    "out of a tar": ("tar", tarred(("../x.py", b"!")), "leads out of it"),
    "absolute": ("zip", zipped(("/etc/cron.d/x", b"!")), "is an absolute path"),
    "absolute in a tar": ("tar", tarred(("/etc/cron.d/x", b"!")), "is an absolute path"),
    "a drive": ("zip", zipped(("C:\\x.py", b"!")), "is an absolute path"),
    "symlink": ("zip", zipped_with("link.py", stat.S_IFLNK | 0o777), "`link.py` is a symbolic link"),
    "symlink in a tar": ("tar", tarred_with(type=tarfile.SYMTYPE, linkname="/etc"), "`extra` is a symbolic link"),
    "hard link": ("tar", tarred_with(type=tarfile.LNKTYPE, linkname="/etc/passwd"), "`extra` is a hard link"),
    "device": ("tar", tarred_with(type=tarfile.CHRTYPE, devmajor=1, devminor=3), "`extra` is a device"),
    "device in a zip": ("zip", zipped_with("null", stat.S_IFCHR | 0o666, b""), "`null` is a device"),
    "pipe": ("tar", tarred_with(type=tarfile.FIFOTYPE), "`extra` is a device or another special file"),
    "setuid": ("tar", tarred_with(mode=0o4755), "`extra` has a setuid or setgid bit"),
    "setuid in a zip": ("zip", zipped(("solution.py", PROGRAM), mode=0o104755), "has a setuid or setgid bit"),
    "cases": ("zip", zipped(("solution.py", PROGRAM), ("Solution.py", b"!")), "differ only in their case"),
    "cases of folders": ("zip", zipped(("a/x.py", b"1"), ("A/y.py", b"2")), "differ only in their case"),
    "two spellings": ("zip", zipped(("\xe9.py", b"1"), ("e\u0301.py", b"2")), "differ only in their case"),
    "the same twice": ("zip", zipped(("solution.py", PROGRAM), ("solution.py", b"!")), "stands in it twice"),
    "file and folder": ("zip", zipped(("solution.py", PROGRAM), ("solution.py/x", b"!")), "stands in it twice"),
    "too many files": ("zip", many(2001), "more than 2000 files"),
    "a hundred thousand": ("zip", hundred_thousand, "more than 2000 files"),
    "a hundred thousand tops": ("tgz", many_folders, "more than 2000 files"),
    "huge": ("zip", raw(b"PK\x03\x04" + bytes(65 << 20)), "larger than 64 MB"),
    "empty file": ("zip", raw(b""), "is empty"),
    "empty zip": ("zip", zipped(), "is empty"),
    "empty tar": ("tar", tarred(), "is empty|no archive"),
    "only folders": ("zip", zipped(("a/", b""), ("a/b/", b"")), "holds no files"),
    "no archive": ("zip", raw(b"<html>404</html>"), "no archive that can be read"),
    "half a zip": ("zip", cut(zipped(("solution.py", PROGRAM * 100)), 0.5), "corrupt"),
    "half a tar": ("tar", cut(tarred(("solution.py", PROGRAM * 1000)), 0.2), "corrupt"),
    "half a tgz": ("tgz", cut(tarred(("solution.py", bytes(range(256)) * 99), packed="gz"), 0.6), "corrupt"),
    "half a bz2": ("tbz2", cut(tarred(("solution.py", PROGRAM), packed="bz2"), 0.6), "corrupt"),
    "bad bytes": ("zip", bad_bytes, "corrupt"),
    "bad header": ("tar", bad_header, "corrupt"),
    "gzip of nonsense": ("tgz", raw(gzip.compress(b"nonsense" * 999)), "corrupt"),
    "bzip2 of nonsense": ("tbz2", raw(bz2.compress(b"nonsense" * 999)), "corrupt"),
    "encrypted": ("zip", encrypted, "is encrypted"),
    "foreign name": ("zip", latin_name, "is not UTF-8"),
    "foreign name in a tar": ("tar", latin_tar_name, "is not UTF-8"),
    "control characters": ("zip", zipped(("a\x1b[2J\n.py", b"!"), ("solution.py", PROGRAM)), "control characters"),
    "long name": ("zip", zipped((f"{'a' * 300}.py", b"!")), "no usable name"),
    "deep": ("zip", zipped((f"{'a/' * 60}x.py", b"!")), "no usable name"),
    "LFS pointer": (
        "zip",
        zipped(("solution.py", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")),
        "pointer of Git LFS",
    ),
    "no program": ("zip", zipped(("main.py", PROGRAM)), "has no solution.py"),
    "a folder for kata.toml": ("zip", zipped(("solution.py", PROGRAM), ("kata.toml/x", b"")), "kata.toml is a folder"),
}
