"""gRPC plumbing: packed arrays, deadlines, micro-batches, and a server that drains."""
