"""What the rest stands on: threads, signals, files that are written durably, messages. No array of data is looked at here."""
