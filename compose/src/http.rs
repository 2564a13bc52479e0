//! The HTTP client of everything in this crate.

/// A client. The library brings no cryptography of its own and panics where none is installed.
pub(crate) fn http_client() -> reqwest::Client {
    kms_runtime::telemetry::install_tls_provider();
    reqwest::Client::new()
}
