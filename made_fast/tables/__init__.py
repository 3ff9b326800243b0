"""What rows are: columns and their names, checks at the door, packing to bits, readers of files."""
