"""Compiles the stylesheet under a name that changes with its content."""

import sys

from notebook import assets


def main() -> int:
    print(f"wrote {assets.publish()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
