"""The test suite; mirrors the tree it tests."""
