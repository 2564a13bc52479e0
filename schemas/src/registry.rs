//! A client of a Confluent-compatible schema registry: as much as a start needs, and no more.
//!
//! Nothing here is called while records are read or written.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

use crate::codes;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Answers hold one schema at most.
const MAX_ANSWER_BYTES: usize = 1 << 20;
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// What a registry did not do.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The URL is none, or no client can be made for it.
    #[error("schema registry URL `{url}`: {why}")]
    Client {
        /// The URL, without credentials.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// No answer, or a server's failure: an outage, and no verdict on the schema.
    #[error("schema registry {url} is not to be reached for subject {subject}: {why}")]
    Unreachable {
        /// The URL, without credentials.
        url: String,
        /// The subject that was asked about.
        subject: String,
        /// The transport's error, or status and message of the server.
        why: String,
    },
    /// The registry's own no.
    #[error("schema registry {url} refuses subject {subject}: {status}: {message}")]
    Refused {
        /// The URL, without credentials.
        url: String,
        /// The subject that was asked about.
        subject: String,
        /// HTTP status.
        status: u16,
        /// The registry's message.
        message: String,
    },
    /// An answer that a registry does not give.
    #[error("schema registry {url} gives no sensible answer for subject {subject}: {why}")]
    Malformed {
        /// The URL, without credentials.
        url: String,
        /// The subject that was asked about.
        subject: String,
        /// What is wrong with the answer.
        why: String,
    },
}

impl RegistryError {
    /// The stable code (see [`codes::CODES`]).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Client { .. } => codes::REGISTRY_CLIENT.code,
            Self::Unreachable { .. } => codes::REGISTRY_UNREACHABLE.code,
            Self::Refused { .. } | Self::Malformed { .. } => codes::REGISTRY_REFUSED.code,
        }
    }
}

/// A registry. Credentials may stand in the URL (`https://user:password@host/path`); they are shown nowhere.
#[derive(Debug)]
pub struct Registry {
    base: Url,
    shown: String,
    client: OnceLock<Client>,
}

#[derive(Deserialize)]
struct Id {
    id: u32,
}

#[derive(Deserialize)]
struct Failure {
    error_code: i64,
    message: String,
}

impl Registry {
    /// A registry whose API is under `url`. Does no I/O.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Client`] when `url` is no `http` or `https` URL.
    pub fn new(url: &str) -> Result<Self, RegistryError> {
        // What does not parse is not shown: it may hold credentials.
        let unusable = |shown: &str, why: &str| RegistryError::Client { url: shown.to_owned(), why: why.to_owned() };
        let mut base = Url::parse(url).map_err(|error| unusable("…", &error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(unusable("…", "the scheme is neither http nor https"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut public = base.clone();
        // These fail for URLs that cannot hold credentials: then there are none.
        let _ = public.set_username("");
        let _ = public.set_password(None);
        let shown = public.as_str().trim_end_matches('/').to_owned();
        Ok(Self { base, shown, client: OnceLock::new() })
    }

    /// The id under which `schema` is registered for `subject`, if it is.
    ///
    /// # Errors
    ///
    /// Everything but [`RegistryError::Client`] for a URL.
    pub async fn lookup(&self, subject: &str, schema: &str) -> Result<Option<u32>, RegistryError> {
        let (status, body) = self.post(subject, &format!("subjects/{subject}"), schema).await?;
        // 40401: no such subject; 40403: not this schema. A 404 without them comes from something that is no registry.
        if status == StatusCode::NOT_FOUND
            && serde_json::from_slice::<Failure>(&body).is_ok_and(|f| matches!(f.error_code, 40401 | 40403))
        {
            return Ok(None);
        }
        self.id(subject, status, &body).map(Some)
    }

    /// Registers `schema` for `subject`, unless it is, and returns its id.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Refused`] when the subject's compatibility rule or the credentials forbid it.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let (status, body) = self.post(subject, &format!("subjects/{subject}/versions"), schema).await?;
        // Services that start side by side register side by side, and some registries answer all but the first with a
        // conflict.
        if status == StatusCode::CONFLICT
            && let Some(id) = self.lookup(subject, schema).await?
        {
            return Ok(id);
        }
        self.id(subject, status, &body)
    }

    fn id(&self, subject: &str, status: StatusCode, body: &[u8]) -> Result<u32, RegistryError> {
        if status.is_success() {
            return serde_json::from_slice::<Id>(body).map(|answer| answer.id).map_err(|error| {
                RegistryError::Malformed {
                    url: self.shown.clone(),
                    subject: subject.to_owned(),
                    why: error.to_string(),
                }
            });
        }
        let message = serde_json::from_slice::<Failure>(body).map_or_else(
            |_| String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned(),
            |failure| format!("{} (error code {})", failure.message, failure.error_code),
        );
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.unreachable(subject, format!("{status}: {message}")));
        }
        Err(RegistryError::Refused {
            url: self.shown.clone(),
            subject: subject.to_owned(),
            status: status.as_u16(),
            message,
        })
    }

    async fn post(&self, subject: &str, path: &str, schema: &str) -> Result<(StatusCode, Vec<u8>), RegistryError> {
        let url = self
            .base
            .join(path)
            .map_err(|error| RegistryError::Client { url: self.shown.clone(), why: error.to_string() })?;
        let body = serde_json::json!({ "schema": schema }).to_string();
        let lost = |error: reqwest::Error| self.unreachable(subject, chain(&error.without_url()));
        let request = self.client()?.post(url).header("content-type", CONTENT_TYPE).header("accept", CONTENT_TYPE);
        let mut response = request.body(body).send().await.map_err(lost)?;
        let mut answer = Vec::new();
        while let Some(part) = response.chunk().await.map_err(lost)? {
            if answer.len() + part.len() > MAX_ANSWER_BYTES {
                return Err(RegistryError::Malformed {
                    url: self.shown.clone(),
                    subject: subject.to_owned(),
                    why: format!("more than {MAX_ANSWER_BYTES} bytes"),
                });
            }
            answer.extend_from_slice(&part);
        }
        Ok((response.status(), answer))
    }

    fn client(&self) -> Result<&Client, RegistryError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // reqwest, built without a TLS provider of its own, panics without one, even for plain http.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // An error says that somebody else was faster: then there is one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| RegistryError::Client { url: self.shown.clone(), why: chain(&error) })?;
        Ok(self.client.get_or_init(|| client))
    }

    fn unreachable(&self, subject: &str, why: String) -> RegistryError {
        RegistryError::Unreachable { url: self.shown.clone(), subject: subject.to_owned(), why }
    }
}

/// An error with its causes, which reqwest's own text leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
