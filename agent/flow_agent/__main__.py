"""``python -m flow_agent``."""

import sys

from flow_agent.cli import main

sys.exit(main())
