"""Which image tokens stay: settings, where they stand, who chooses, and the prefill that makes a prompt shorter."""

from minimonkey.compression.spec import SELECTORS, CompressionSpec

__all__ = ["SELECTORS", "CompressionSpec"]
