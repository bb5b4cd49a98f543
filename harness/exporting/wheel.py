"""The kit as a wheel, written from its files as they lie here: a zip with a table of contents (PyPA, Binary
distribution format). No build tool is needed, and equal files make equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from email.parser import HeaderParser
from importlib import metadata

from harness.verdicts import Unusable

KIT, STEM = "backend-katas", "backend_katas"
EPOCH = (1980, 1, 1, 0, 0, 0)
WHEEL = "Wheel-Version: 1.0\nGenerator: kata export\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
Files = Mapping[str, bytes]


def wheel(files: Files, label: str = "") -> tuple[str, bytes]:
    """The name and the bytes of a wheel with these files in it; a `label` marks its version as another than the kit's.

    Raises Unusable when the kit is not installed, since what it requires is then known to nobody.
    """
    try:
        installed = metadata.distribution(KIT)
    except metadata.PackageNotFoundError:
        raise Unusable(f"{KIT} is not installed here, so what it requires is not known; pip install it first") from None
    version = f"{installed.version}+{label}" if label else installed.version
    folder = f"{STEM}-{version}.dist-info"
    about = {
        f"{folder}/METADATA": _metadata(installed, version),
        f"{folder}/WHEEL": WHEEL,
        f"{folder}/entry_points.txt": installed.read_text("entry_points.txt") or "",
    }
    if licence := installed.read_text("licenses/LICENSE"):
        about[f"{folder}/licenses/LICENSE"] = licence
    whole = {**dict(sorted(files.items())), **{name: text.encode() for name, text in about.items()}}
    record = f"{folder}/RECORD"
    lines = [*(f"{name},sha256={_digest(data)},{len(data)}" for name, data in whole.items()), f"{record},,"]
    return f"{STEM}-{version}-py3-none-any.whl", zipped({**whole, record: "\n".join([*lines, ""]).encode()})


def _metadata(installed: metadata.Distribution, version: str) -> str:
    """The headers alone: the long description is for the package's own page."""
    headers = HeaderParser().parsestr(installed.read_text("METADATA") or "")
    headers.replace_header("Version", version)
    lines = [f"{name}: {value}" for name, value in headers.items() if name != "Description-Content-Type"]
    return "\n".join([*lines, ""])


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def zipped(files: Files, executable: frozenset[str] = frozenset()) -> bytes:
    """A zip of these files, in their order, as of no particular time."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name, EPOCH)
            member.external_attr = (0o100755 if name in executable else 0o100644) << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, data)
    return target.getvalue()
