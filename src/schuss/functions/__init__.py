"""Functions on tensors, composed of the ops. The public names are re-exported by `schuss` itself."""
