#!/usr/bin/env python3
"""Builds the wheel of the Python package `spillring`, with the standard library only.

    python3 ffi/python/build_wheel.py [--out DIR]

Needs cargo, a C compiler (CC, default cc) and the headers of CPython 3.9 or later (python3-dev). The wheel
carries the library and needs none of them: `pip install --no-index WHEEL`. It serves CPython from 3.9 on,
on Linux with the glibc of the machine that built it or a later one. Prints the path of the wheel (default:
in target/wheel). Also a PEP 517 backend.
"""

import argparse
import base64
import hashlib
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PYTHON = "cp39"
SUMMARY = "A logging handler whose records outlive the program, and a reader of them"


def version() -> str:
    return re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)


def tag() -> str:
    return f"{PYTHON}-abi3-linux_{platform.machine()}"


def run(command, **more) -> str:
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
        )
    except FileNotFoundError:
        sys.exit(f"build_wheel.py: {command[0]} is missing: install it, or put it on the PATH")
    if done.returncode != 0:
        sys.exit(f"build_wheel.py: {shlex.join(command)} failed:\n{done.stderr}")
    return done.stdout


def library() -> pathlib.Path:
    """libspillring as cargo makes it, of the profile that C's is built with."""
    run(["cargo", "build", "--profile", "abi", "--locked", "-q", "-p", "spillring-ffi"])
    about = json.loads(run(["cargo", "metadata", "--no-deps", "--locked", "--format-version", "1"]))
    return pathlib.Path(about["target_directory"]) / "abi" / "libspillring_ffi.a"


def extension(to: pathlib.Path) -> None:
    include = sysconfig.get_paths()["include"]
    if not (pathlib.Path(include) / "Python.h").is_file():
        sys.exit(
            f"build_wheel.py: {include}/Python.h is missing: install python3-dev, or use a Python that has it"
        )
    with tempfile.TemporaryDirectory() as work:
        # Nothing but the module's entry is to be seen: a program may have a libspillring of its own.
        symbols = pathlib.Path(work) / "map"
        symbols.write_text("{ global: PyInit__spillring; local: *; };\n")
        run(
            shlex.split(os.environ.get("CC", "cc"))
            + "-std=c11 -O2 -g0 -fPIC -fvisibility=hidden -fno-strict-aliasing -Wall -Wextra -Werror".split()
            + [
                "-Wno-unused-function",
                f"-I{ROOT / 'include'}",
                f"-isystem{include}",
                str(HERE / "src" / "_spillring.c"),
            ]
            # nodelete: the library has a fork hook, which must not outlive it.
            + [
                "-shared",
                f"-Wl,--version-script={symbols}",
                "-Wl,-z,nodelete,-z,relro,-z,now,--gc-sections,-s",
            ]
            + ["-o", str(to), str(library()), "-Wl,--as-needed", "-lgcc_s", "-lc"]
        )


def metadata() -> str:
    return "\n".join(
        [
            "Metadata-Version: 2.1",
            "Name: spillring",
            f"Version: {version()}",
            f"Summary: {SUMMARY}",
            "License: MIT OR Apache-2.0",
            "Requires-Python: >=3.9",
            "Classifier: Operating System :: POSIX :: Linux",
            "Classifier: Programming Language :: Python :: Implementation :: CPython",
            "Classifier: Topic :: System :: Logging",
            "Classifier: Typing :: Typed",
            "Description-Content-Type: text/markdown",
            "",
            (HERE / "README.md").read_text(),
        ]
    )


def build(out: pathlib.Path) -> pathlib.Path:
    name = f"spillring-{version()}"
    info = f"{name}.dist-info"
    files = {}
    for path in sorted((HERE / "src" / "spillring").iterdir()):
        if path.suffix in (".py", ".pyi", ".typed") or path.name == "py.typed":
            files[f"spillring/{path.name}"] = path.read_bytes()
    files["spillring/_version.py"] = f'version = "{version()}"\n'.encode()
    with tempfile.TemporaryDirectory() as work:
        built = pathlib.Path(work) / "_spillring.abi3.so"
        extension(built)
        files["spillring/_spillring.abi3.so"] = built.read_bytes()
    for licence in ("LICENSE-APACHE", "LICENSE-MIT"):
        files[f"{info}/{licence}"] = (ROOT / licence).read_bytes()
    files[f"{info}/METADATA"] = metadata().encode()
    files[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: build_wheel.py\nRoot-Is-Purelib: false\nTag: {tag()}\n".encode()
    )
    record = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(content)}\n")
    files[f"{info}/RECORD"] = "".join(record + [f"{info}/RECORD,,\n"]).encode()

    out.mkdir(parents=True, exist_ok=True)
    wheel = out / f"{name}-{tag()}.whl"
    with tempfile.NamedTemporaryFile(dir=out, prefix=".wheel-", delete=False) as unfinished:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as z:
            for path, content in files.items():
                # The same bytes each time: no dates.
                entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (0o755 if path.endswith(".so") else 0o644) << 16
                z.writestr(entry, content)
    os.chmod(unfinished.name, 0o644)
    os.replace(unfinished.name, wheel)
    return wheel


# PEP 517


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    return build(pathlib.Path(wheel_directory)).name


def build_sdist(sdist_directory, config_settings=None) -> str:
    raise RuntimeError("spillring is built from its repository: build the wheel there")


def main() -> None:
    p = argparse.ArgumentParser(description="Builds the wheel of the Python package spillring.")
    p.add_argument(
        "--out", type=pathlib.Path, default=ROOT / "target" / "wheel", help="where to (default: target/wheel)"
    )
    print(build(p.parse_args().out.resolve()))


if __name__ == "__main__":
    main()
