"""From rows and hyper-parameters to parameters: where a fit begins, its steps, its epochs, its checkpoints."""
