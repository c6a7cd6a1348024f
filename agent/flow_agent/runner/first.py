"""The first lines of programs that run in somebody else's image, before anything of ours can be imported."""

ORDER = """import os, sys
theirs = [place for place in sys.path if place]
library = os.path.dirname(getattr(os, "__file__", None) or "")
sys.path[:] = sorted(theirs, key=lambda place: place not in (library, library + "/lib-dynload"))
"""
"""Puts the standard library first: in the folder in which an image starts programs, or in its PYTHONPATH, may lie a
``json.py`` of its flow. ``theirs`` is the path without that folder, in the order that the flow shall have.

By hand, since ``-P`` would tell nothing to a Python that is too old for it, and ``-I`` would keep the variables of the
image from the flow. ``sys`` is built in, and every interpreter has ``os`` from its own start.
"""
