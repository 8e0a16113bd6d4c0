"""Stage `cxr`: tensors of the radiographs."""
