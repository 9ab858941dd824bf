"""What both services need: the model, the KV entry and its stores, and the RPC plumbing."""
