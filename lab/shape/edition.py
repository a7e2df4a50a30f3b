"""The version of the application."""

EDITION = "one"
