"""From a file to tables of 0/1: data sets (``datasets.py``), formats, text, and the rules about columns."""
