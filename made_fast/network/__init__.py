"""One network under one connectivity: masks and staircase, packed or shared parameters, its arithmetic on packed rows."""
