"""Resumable work on rows: parts of an output, and pools of workers that make them.

An input is cut into parts; each part is a file that is complete or absent, made in this process or
by workers on Ray; the output is joined when all parts are there.  A part may be computed twice,
when a worker or the driver is killed, and still counts once.
"""
