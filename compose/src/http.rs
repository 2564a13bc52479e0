//! The HTTP client of everything in this crate.

use std::sync::Once;

static PROVIDER: Once = Once::new();

/// Names the cryptography of this process's HTTP clients, unless somebody already did: the library brings none of its own and panics
/// without.
pub fn install_crypto() {
    PROVIDER.call_once(|| {
        // The error says that one is installed, which is all that is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A client.
pub(crate) fn http_client() -> reqwest::Client {
    install_crypto();
    reqwest::Client::new()
}
