"""The version of this program, once."""

__version__ = "0.1.0"
DISTRIBUTION = "flow-agent-daemon"
"""What `pip install` is told; the import name and the command differ from it."""
