"""Every setting, once: options, variables, the settings file, the README's table and the schema are views of it.

What is given later in this list wins: default, ``flow-agent.toml``, ``FLOW_AGENT_*`` variable, option. Only the
command line and the Python client read settings; everything below them is told what it needs.
"""

from flow_agent.settings.model import Settings
from flow_agent.settings.sources import load
from flow_agent.settings.views import Leaf, leaves, schema, settings_table

__all__ = ["Leaf", "Settings", "leaves", "load", "schema", "settings_table"]
