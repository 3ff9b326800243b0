"""Threads, signals, durable files, messages: what every room may use. This room knows no arrays of data."""
