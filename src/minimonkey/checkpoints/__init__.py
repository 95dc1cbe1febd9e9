"""Model folders, published ones too: found, checked, read, converted."""
