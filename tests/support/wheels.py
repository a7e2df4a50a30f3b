"""Compares environments with wheels that were fetched for it alone, and tries to import their modules.

    python3 wheels.py WHEELS ENVIRONMENT...

Every file of a wheel must be in each environment that has the distribution, byte by byte, and no others except records of
installers and bytecode. Each difference is printed as a line; the last line counts the compared files.
"""

import hashlib
import pathlib
import subprocess
import sys
import zipfile

NOTES = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json"}
OWN = {"_virtualenv.py", "_virtualenv.pth"}
compared = 0


def normal(name):
    return name.lower().replace("_", "-").replace(".", "-")


def digest(data):
    return hashlib.sha256(data).hexdigest()


def look(environment, trusted):
    global compared
    site = next(environment.glob("lib/python*/site-packages"))
    known, modules = set(OWN), []
    for entry in sorted(site.glob("*.dist-info")):
        name, version = entry.name.removesuffix(".dist-info").split("-")[:2]
        wheel = trusted.get((normal(name), version))
        if wheel is None:
            yield f"{entry.name} is nothing that was asked for"
            continue
        known.update(f"{entry.name}/{note}" for note in NOTES)
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith("/") or member.endswith(".dist-info/RECORD"):
                    continue
                known.add(member)
                if member.endswith(".py") and not member.endswith("/__main__.py"):
                    modules.append(member.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
                installed = site / member
                if not installed.is_file():
                    yield f"{member} is missing"
                elif digest(installed.read_bytes()) != digest(archive.read(member)):
                    yield f"{member} is not what the wheel has"
                compared += 1
    for file in sorted(site.rglob("*")):
        path = file.relative_to(site).as_posix()
        source = file.parent.parent / (file.name.split(".")[0] + ".py")
        compiled = file.suffix == ".pyc" and file.parent.name == "__pycache__" and source.is_file()
        if not file.is_dir() and path not in known and not compiled:
            yield f"{path} is in no wheel"
    line = "import importlib\nfor name in %r: importlib.import_module(name)" % modules
    tried = subprocess.run([environment / "bin/python", "-I", "-B", "-c", line], capture_output=True, text=True)
    if tried.returncode != 0:
        yield f"an import fails: {tried.stderr.strip().splitlines()[-1:]}"


def main():
    trusted = {}
    for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
        name, version = wheel.name.split("-")[:2]
        trusted[normal(name), version] = wheel
    for argument in sys.argv[2:]:
        environment = pathlib.Path(argument)
        try:
            for line in look(environment, trusted):
                print(f"{environment.name}: {line}")
        except (OSError, StopIteration, zipfile.BadZipFile) as error:
            print(f"{environment.name}: {error!r}")
    print(compared)


main()
