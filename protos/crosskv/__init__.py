"""The gRPC interface of CrossKV."""
