"""Conversations in, batches out, for any model: rows and their mixtures, schema, collation, packing."""
