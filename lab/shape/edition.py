"""Which version this is."""

EDITION = "one"
