//! An S3-compatible bucket, where coprocessors put ciphertexts and connectors fetch them by URL.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::PORT_TRIES;
use super::fetch::{NPM, ensure};
use super::prerequisites::Tool;
use crate::error::StackError;
use crate::http::http_client;
use crate::ports::{free_port, says_port_taken};
use crate::supervise::{Launch, Supervised};
use crate::workspace::Workspace;

const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(5);
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A running server with one or more buckets. Objects outlive a restart. Dropping it ends it.
#[derive(Debug)]
pub struct Bucket {
    process: Supervised,
    objects: Objects,
}

/// The objects of a bucket that anybody may read and write, wherever it is.
#[derive(Clone, Debug)]
pub struct Objects {
    client: reqwest::Client,
    url: String,
}

/// An object could not be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The server did not answer.
    #[error("the bucket did not answer")]
    Unreachable(#[from] reqwest::Error),
    /// The server refused.
    #[error("the bucket refused: {0}")]
    Refused(reqwest::StatusCode),
}

impl Bucket {
    /// Starts a server with a bucket of that name and waits until it answers.
    ///
    /// # Errors
    /// What fetching it can fail with; [`StackError::Died`] and [`StackError::NotReady`] with the end of its log.
    pub async fn start(workspace: &Workspace, name: &str) -> Result<Self, StackError> {
        let packages = ensure(workspace, NPM).await?;
        let script = script(&packages);
        for attempt in 1.. {
            match Self::start_once(workspace, name, &script).await {
                Err(StackError::Died { tail, .. }) if attempt < PORT_TRIES && says_port_taken(&tail) => {}
                result => return result,
            }
        }
        unreachable!("the last attempt returns its result")
    }

    async fn start_once(workspace: &Workspace, name: &str, script: &PathBuf) -> Result<Self, StackError> {
        let task = workspace.progress().begin("bucket (s3rver 3.7.1)", "starting");
        let port = free_port()?;
        let process_name = workspace.claim("bucket");
        let launch = Launch::new(&process_name, Tool::Node.program())
            .arg(script)
            .arg("--directory")
            .arg(workspace.data_dir(&process_name)?)
            .args(["--address", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .args(["--silent", "--no-vhost-buckets", "--configure-bucket", name]);
        let process = Supervised::new(workspace, launch);
        process.start()?;
        let bucket = Self { process, objects: Objects::new(format!("http://127.0.0.1:{port}/{name}")) };
        bucket.wait_ready().await?;
        task.done(&format!("up at {}", bucket.url()));
        Ok(bucket)
    }

    /// The bucket's URL, without a slash at the end: an object is at `{url}/{key}`.
    pub fn url(&self) -> String {
        self.objects.url.clone()
    }

    /// Its objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Its process, to be killed, paused and started again by tests; follow with [`Bucket::wait_ready`].
    pub fn process(&self) -> &Supervised {
        &self.process
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// [`StackError::Died`] and [`StackError::NotReady`] with the end of its log.
    pub async fn wait_ready(&self) -> Result<(), StackError> {
        self.process.ready(READY_LIMIT, async || self.objects.answers().await).await
    }

    /// Writes an object. `metadata` becomes `x-amz-meta-{name}` headers.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn put(&self, key: &str, metadata: &[(&str, &str)], body: Vec<u8>) -> Result<(), BucketError> {
        self.objects.put(key, metadata, body).await
    }

    /// Removes an object.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        self.objects.delete(key).await
    }

    /// Stops it in order.
    pub async fn stop(&self) {
        self.process.stop(STOP_GRACE).await;
    }
}

impl Objects {
    /// A client of the bucket with this URL, which has no slash at its end.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { client: http_client(), url: url.into() }
    }

    /// Looks whether the bucket answers.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub async fn answers(&self) -> Result<(), String> {
        let response = self.client.get(&self.url).timeout(LOOK_LIMIT).send().await;
        let status = response.map_err(|error| crate::error::chain_of(&error))?.status();
        if status.is_success() { Ok(()) } else { Err(format!("it answers {status}")) }
    }

    /// Makes the bucket, where the server lets anybody do so.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn make(&self) -> Result<(), BucketError> {
        accepted(self.client.put(&self.url)).await
    }

    /// Writes an object. `metadata` becomes `x-amz-meta-{name}` headers.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn put(&self, key: &str, metadata: &[(&str, &str)], body: Vec<u8>) -> Result<(), BucketError> {
        let mut request = self.client.put(format!("{}/{key}", self.url)).body(body);
        for (name, value) in metadata {
            request = request.header(format!("x-amz-meta-{name}"), *value);
        }
        accepted(request).await
    }

    /// Removes an object.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        accepted(self.client.delete(format!("{}/{key}", self.url))).await
    }
}

/// The server's program in a folder of fetched packages.
pub(super) fn script(packages: &Path) -> PathBuf {
    packages.join("node_modules/s3rver/bin/s3rver.js")
}

async fn accepted(request: reqwest::RequestBuilder) -> Result<(), BucketError> {
    let status = request.timeout(Duration::from_secs(30)).send().await?.status();
    if status.is_success() { Ok(()) } else { Err(BucketError::Refused(status)) }
}
