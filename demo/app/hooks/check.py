"""Checks that this source can run. Writes nothing, because it runs in staging too, where no data may be touched."""

import importlib
import json
import sys
from typing import Iterator

from notebook import assets, database, paths

# The fields of a model in a manifest, and their types.
MODEL_FIELDS = {
    "id": str,
    "display_name": str,
    "provider": str,
    "family": str,
    "parameters": str,
    "format": str,
    "quantization": str,
    "local_path": str,
    "filename": str,
    "source": dict,
    "checksum": dict,
    "required": bool,
    "notes": str,
}


def main() -> int:
    problems = [*source_problems(), *manifest_problems(), *import_problems()]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print("source, migrations, manifest and imports are in order")
    return 1 if problems else 0


def source_problems() -> Iterator[str]:
    """Every module compiles, every migration has a valid name and is complete, the stylesheet is not empty."""
    for path in sorted(paths.SOURCE.rglob("*.py")):
        name = path.relative_to(paths.SOURCE)
        try:
            compile(path.read_bytes(), str(name), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            yield f"{name} does not compile: {error}"
    try:
        for _, path in database.migrations():
            database.statements(path.read_text(encoding="utf-8"))
    except ValueError as error:
        yield f"migrations: {error}"
    if not assets.compile_stylesheet().strip():
        yield "assets/ holds no stylesheet"


def manifest_problems() -> Iterator[str]:
    """The manifest of the models has the shape that version 0.1 prescribes."""
    try:
        manifest = json.loads(paths.MANIFEST.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield f"models/manifest.json cannot be read: {error}"
        return
    if manifest.get("schema_version") != "0.1":
        yield f"models/manifest.json has schema_version {manifest.get('schema_version')!r}, not '0.1'"
    for number, model in enumerate(manifest.get("models", []), start=1):
        for field, kind in MODEL_FIELDS.items():
            if not isinstance(model.get(field), kind):
                yield f"models/manifest.json: model {number}: {field} is missing or no {kind.__name__}"


def import_problems() -> Iterator[str]:
    """The service's module can be imported in this environment."""
    sys.dont_write_bytecode = True
    try:
        importlib.import_module("api_layer")
    except Exception as error:  # whatever an import raises is the finding
        yield f"api_layer cannot be imported: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
