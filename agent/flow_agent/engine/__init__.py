"""A Docker engine: connecting to it, and what its answers mean. The package that owns the SDK of Docker."""
