"""The bi-cross-modal curriculum (section 4.2 of the paper): pure functions from tensors to tensors."""
