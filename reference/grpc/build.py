"""Makes Python of the .proto files beside it, in the folder .stubs; it is the `build` of kata.toml.

It does nothing if they have not changed since. Never edit what it makes, and never commit it.
"""

import hashlib
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUBS = HERE / ".stubs"
MADE_OF = STUBS / "made-of"


def main() -> int:
    protos = sorted(HERE.glob("*.proto"))
    sources = b"".join(path.read_bytes() for path in protos)
    made_of = f"{version('grpcio-tools')} {hashlib.sha256(sources).hexdigest()}\n"
    if MADE_OF.is_file() and MADE_OF.read_text() == made_of:
        return 0
    return generate(protos, made_of)


def generate(protos: list[Path], made_of: str) -> int:
    """Make everything anew, in a folder of its own, so that whoever builds at the same time never sees half of it."""
    from grpc_tools import protoc

    STUBS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STUBS) as folder:
        words = ["protoc", f"--proto_path={HERE}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        if status := protoc.main([*words, *(path.name for path in protos)]):
            return status
        for path in Path(folder).iterdir():
            os.replace(path, STUBS / path.name)
    MADE_OF.write_text(made_of)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
