"""scikit-learn's face: MADE, MADEEnsemble, MADEImputer. The only room that imports scikit-learn's base classes."""
