"""Stage `images`: tensors of the radiographs."""
