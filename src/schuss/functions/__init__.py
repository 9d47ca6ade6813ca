"""Functions on tensors, composed of the ops. `schuss` itself re-exports the public ones."""
