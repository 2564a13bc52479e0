//! KMS Core's gRPC services and messages, and the few encodings around them that the chain depends on.
//!
//! ```text
//!  requests ──▶ kms::v1::*Request ──▶ core_service_endpoint_client ──▶ KMS Core
//!  chain    ◀── encoding::*       ◀── kms::v1::*Response          ◀──┘
//! ```
//!
//! One set of messages serves every KMS Core version from 0.12.4 to 0.15 (`docs/protocol.md`, "KMS Core messages"): servers
//! ignore what they do not know, and what they do not send reads as the default. The files in `kms/` say at each field
//! since when it exists. Packages and services bear KMS Core's names, because the paths on the wire are made of them.
//!
//! Start with [`kms::v1`] for the messages, [`core_service_endpoint_client`] for the calls, [`encoding`] for what becomes of
//! a response on chain, and [`id`] for how ids are written.

pub mod encoding;
pub mod extra_data;
pub mod handle;
pub mod id;

/// Messages of KMS Core.
pub mod kms {
    /// Package `kms.v1`.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("kms.v1");
    }
}

/// KMS Core's main service.
pub mod kms_service {
    /// Package `kms_service.v1`.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("kms_service.v1");
    }
}

/// KMS Core's introspection service.
pub mod metastore_status {
    /// Package `metastore_status.v1`.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("metastore_status.v1");
    }
}

pub use kms_service::v1::{core_service_endpoint_client, core_service_endpoint_server};
pub use metastore_status::v1::{meta_store_status_service_client, meta_store_status_service_server};

/// The service name to ask `grpc.health.v1.Health` for, and the prefix of every path of the main service.
pub const CORE_SERVICE_NAME: &str = "kms_service.v1.CoreServiceEndpoint";

/// The greatest message, in bytes, that KMS Core takes and sends. Clients must raise tonic's decoding limit to it.
pub const MAX_MESSAGE_BYTES: usize = 100 * 1024 * 1024;

/// The compiled descriptors of every `.proto` file of this crate, as a serialized `FileDescriptorSet`.
pub static FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
