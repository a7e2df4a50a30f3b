"""The preparation steps that refresh.toml declares. Standard library only: they run while the service is down."""
