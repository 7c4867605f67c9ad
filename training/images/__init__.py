"""Images as networks in training see them."""
