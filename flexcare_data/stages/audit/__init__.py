"""Stage `audit`: SQL checks of every sample, and the certificate that they write."""
