"""Runs the command line as `python -m facepack`."""

from facepack.cli import main

main()
