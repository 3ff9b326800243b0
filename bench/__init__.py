"""Benchmarks: what masks are worth on this machine, against MADE in dense NumPy done well."""
