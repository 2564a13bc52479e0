//! Turns requests into signed results by way of KMS Core.
