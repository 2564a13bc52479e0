//! KMS Core's gRPC services and messages.
