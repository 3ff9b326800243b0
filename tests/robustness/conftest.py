"""Profiles of Hypothesis for the tests of this folder: ``pytest tests/robustness/test_doors.py --hypothesis-profile=long``."""

from hypothesis import settings

settings.register_profile("long", max_examples=10_000, deadline=None, database=None, print_blob=True)
