"""Native kernels: C for each CPU level behind one Cython file, ``_native.pyx``. Without a C compiler that one is missing."""
