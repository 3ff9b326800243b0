"""MADE: an exact, fast density model of binary data on CPUs."""
