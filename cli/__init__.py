"""The `crosskv` command."""
