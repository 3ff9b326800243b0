"""What the columns of a table are: kinds and levels, codes and back, conditions on them."""
