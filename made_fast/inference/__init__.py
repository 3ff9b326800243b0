"""Fitted densities, all that a server needs: models, mixtures, questions about missing inputs, model files."""
