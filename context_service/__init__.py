"""The context service: action histories in, KV entries published."""
