"""Drawn datasets, for the demo and the tests: nobody who builds real data runs this."""
