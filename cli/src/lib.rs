//! The operator's and auditor's tool.
