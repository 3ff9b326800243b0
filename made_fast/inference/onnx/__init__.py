"""Densities as ONNX graphs: how other runtimes score them without this package."""
