//! Our image and Kafka's as containers, where there is an engine.
//!
//! | variable | meaning |
//! |---|---|
//! | `DOCKER_HOST` | the engine, `unix://…` or `tcp://…`; absent: `/var/run/docker.sock` |
//! | `KMS_TEST_IMAGE` | our image; absent: the one that `compose/.env` names, if it was built |
//! | `KMS_TEST_KAFKA_IMAGE` | Kafka's, taking the variables of `apache/kafka`; absent: the one that `compose/.env` names |
//!
//! Without an engine or an image the test says so and passes: the same cases run without either in `compose` and `setup`. An image that a
//! variable names must be there.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kms_stack::Stack;
use kms_stack::job;
use kms_stack::parts::{Anvil, AnvilOptions, Bucket, broker_settings};
use kms_stack::ports::{free_port, free_ports};
use kms_tests::{eventually, new_workspace, prefix};
use testcontainers::core::wait::ExitWaitStrategy;
use testcontainers::core::{AccessMode, Mount, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt as _};

use crate::compose::settings;
use crate::pipeline::{assert_whole, load};

const LIMIT: Duration = Duration::from_secs(180);
/// As compose.yaml gives them.
const STOP_SECONDS: i32 = 45;

/// An engine that answers, asked over its socket. What the client library is used for needs the images to be there.
struct Engine {
    host: String,
}

impl Engine {
    /// The engine, or why there is none.
    fn find() -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err("containers share the network of this machine, which they do on Linux only".to_owned());
        }
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        let engine = Self { host };
        match engine.ask("GET", "/_ping") {
            Ok((200, _)) => Ok(engine),
            Ok((status, _)) => Err(format!("the container engine at {} answers {status}", engine.host)),
            Err(error) => Err(format!("no container engine at {}: {error}", engine.host)),
        }
    }

    fn ask(&self, method: &str, path: &str) -> io::Result<(u16, String)> {
        let request = format!("{method} {path} HTTP/1.0\r\nHost: engine\r\n\r\n");
        let limit = Some(Duration::from_secs(10));
        let answer = match self.host.strip_prefix("unix://") {
            Some(socket) => {
                let stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(limit)?;
                exchange(stream, &request)?
            }
            None => {
                let stream = TcpStream::connect(self.host.trim_start_matches("tcp://"))?;
                stream.set_read_timeout(limit)?;
                exchange(stream, &request)?
            }
        };
        let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        Ok((status, body.unwrap_or_default()))
    }

    /// What it knows about an image that it has.
    fn image(&self, name: &str) -> Option<serde_json::Value> {
        let (status, body) = self.ask("GET", &format!("/images/{name}/json")).ok()?;
        (status == 200).then(|| serde_json::from_str(&body).ok()).flatten()
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A volume that goes with the test.
struct Volume<'a> {
    engine: &'a Engine,
    name: String,
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        // One that a container still has stays behind.
        let _ = self.engine.ask("DELETE", &format!("/volumes/{}", self.name));
    }
}

/// The image that a variable names, or the one of `compose/.env`; and whether it was the variable.
fn image(variable: &str, setting: &str) -> (String, bool) {
    match std::env::var(variable) {
        Ok(name) if !name.is_empty() => (name, true),
        _ => (settings()[setting].clone(), false),
    }
}

fn generic(image: &str) -> GenericImage {
    let (name, tag) = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((image, "latest"));
    GenericImage::new(name, tag)
}

/// Kafka's image, pulled if need be, or why it cannot be had.
async fn kafka_image(engine: &Engine) -> Result<String, String> {
    const VARIABLE: &str = "KMS_TEST_KAFKA_IMAGE";
    let (name, named) = image(VARIABLE, "KAFKA_IMAGE");
    if engine.image(&name).is_some() {
        return Ok(name);
    }
    let why = match tokio::time::timeout(LIMIT, generic(&name).pull_image()).await {
        Ok(Ok(_)) => return Ok(name),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("not within {} s", LIMIT.as_secs()),
    };
    assert!(!named, "{VARIABLE}: {name} cannot be pulled: {why}");
    Err(format!("{name} cannot be pulled ({why}); {VARIABLE} names another image"))
}

/// Our image, or why there is none. It is in no registry.
fn our_image(engine: &Engine) -> Result<String, String> {
    const VARIABLE: &str = "KMS_TEST_IMAGE";
    let (name, named) = image(VARIABLE, "KMS_IMAGE");
    if engine.image(&name).is_some() {
        return Ok(name);
    }
    assert!(!named, "{VARIABLE}: the engine has no image {name}");
    Err(format!(
        "there is no image {name}; docker build -f compose/Dockerfile -t {name} . builds it, and {VARIABLE} names another"
    ))
}

/// Tells that a test is skipped, past the capture of the harness, which shows nothing of a test that passes.
fn skip(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}

/// One of our containers: the user of the image, no capability, nothing to be written but its volumes.
fn ours(
    image: &str,
    command: &[&str],
    ready: WaitFor,
    mounts: &[(&str, &str, AccessMode)],
) -> ContainerRequest<GenericImage> {
    let mut request = generic(image)
        .with_wait_for(ready)
        .with_cmd(command.iter().map(|word| (*word).to_owned()))
        .with_network("host")
        .with_readonly_rootfs(true)
        .with_cap_drop("ALL")
        .with_security_opt("no-new-privileges:true")
        .with_startup_timeout(LIMIT);
    for (volume, place, mode) in mounts {
        request = request.with_mount(Mount::volume_mount(*volume, *place).with_access_mode(*mode));
    }
    request
}

fn ended() -> WaitFor {
    WaitFor::exit(ExitWaitStrategy::new())
}

/// What a container said, to both streams.
async fn said(container: &ContainerAsync<GenericImage>) -> String {
    let out = container.stdout_to_vec().await.unwrap_or_default();
    let err = container.stderr_to_vec().await.unwrap_or_default();
    format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err))
}

async fn kafka(image: &str) -> (ContainerAsync<GenericImage>, String) {
    let [broker, controller] = std::array::from_fn(|_| free_port().unwrap());
    let bootstrap = format!("127.0.0.1:{broker}");
    let mut request = generic(image).with_network("host").with_startup_timeout(LIMIT);
    let own = [
        ("KAFKA_NODE_ID", "1".to_owned()),
        ("CLUSTER_ID", "a21zLXN0YWNrLXRlc3Rpbg".to_owned()),
        ("KAFKA_PROCESS_ROLES", "broker,controller".to_owned()),
        ("KAFKA_LISTENERS", format!("PLAINTEXT://{bootstrap},CONTROLLER://127.0.0.1:{controller}")),
        ("KAFKA_ADVERTISED_LISTENERS", format!("PLAINTEXT://{bootstrap}")),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER".to_owned()),
        ("KAFKA_INTER_BROKER_LISTENER_NAME", "PLAINTEXT".to_owned()),
        ("KAFKA_CONTROLLER_QUORUM_VOTERS", format!("1@127.0.0.1:{controller}")),
        ("KAFKA_HEAP_OPTS", "-Xmx512m".to_owned()),
    ];
    for (name, value) in own {
        request = request.with_env_var(name, value);
    }
    for (key, value) in broker_settings(1) {
        request = request.with_env_var(format!("KAFKA_{}", key.replace('.', "_").to_uppercase()), value);
    }
    let container = request.start().await.unwrap();
    eventually("the broker in its container accepts connections", LIMIT, async || TcpStream::connect(&bootstrap).ok())
        .await;
    (container, bootstrap)
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_services_of_our_image_over_a_containerised_kafka_serve_a_mixed_load_and_end_in_order() {
    let needed = async {
        let engine = Engine::find()?;
        let image = our_image(&engine)?;
        let kafka = kafka_image(&engine).await?;
        Ok::<_, String>((engine, image, kafka))
    };
    let (engine, image, kafka_image) = match needed.await {
        Ok(needed) => needed,
        Err(why) => return skip("services of our image", &why),
    };
    let about = engine.image(&image).unwrap();
    assert_eq!(about["Config"]["User"], "10001:10001");
    assert_eq!(about["Config"]["StopSignal"], "SIGTERM");
    for label in ["version", "revision"] {
        let label = format!("org.opencontainers.image.{label}");
        assert!(about["Config"]["Labels"][&label].is_string(), "{label}");
    }

    let workspace = new_workspace();
    let options =
        AnvilOptions { chain_id: 31_337, block_time: Some(Duration::from_millis(100)), ..AnvilOptions::default() };
    let anvil = Anvil::start(&workspace, options).await.unwrap();
    let bucket = Bucket::start(&workspace, "ct128").await.unwrap();
    let (_kafka, bootstrap) = kafka(&kafka_image).await;
    let name = format!("kms-test-{}-{}", std::process::id(), prefix("containers"));
    let config = Volume { engine: &engine, name: format!("{name}-config") };
    let state = Volume { engine: &engine, name: format!("{name}-state") };
    // The control endpoint is at the next port.
    let [core, control] = free_ports().unwrap();

    let (anvil_url, bucket_url) = (anvil.url(), bucket.url());
    let core_url = format!("http://127.0.0.1:{core}");
    let (core_listen, core_control) = (format!("127.0.0.1:{core}"), format!("http://127.0.0.1:{control}"));
    let setup = [
        &["kms-stack", "setup", "--directory", "/config", "--kafka", &bootstrap, "--gateway", &anvil_url][..],
        &["--bucket", &bucket_url, "--core", &core_url, "--core-listen", &core_listen],
        &["--core-control", &core_control, "--telemetry", "127.0.0.1:9464", "--service", "http://127.0.0.1:9"],
    ]
    .concat();
    let written = [(config.name.as_str(), "/config", AccessMode::ReadWrite)];
    let setup = ours(&image, &setup, ended(), &written).start().await.unwrap();
    assert_eq!(setup.exit_code().await.unwrap(), Some(0), "{}", said(&setup).await);

    let read = (config.name.as_str(), "/config", AccessMode::ReadOnly);
    let simulator = ["kms-stack", "simulator", "--config", "/config/node-1/core.toml"];
    let mounts = [read, (state.name.as_str(), "/state", AccessMode::ReadWrite)];
    let mut running =
        vec![("simulator", ours(&image, &simulator, WaitFor::healthcheck(), &mounts).start().await.unwrap())];
    for program in ["ingest", "processor", "emitter"] {
        let (binary, file) = (format!("kms-{program}"), format!("/config/node-1/{program}.toml"));
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        let request = ours(&image, &[&binary, "--config", &file], WaitFor::healthcheck(), &[read]);
        let request = request.with_env_var("KMS_CONNECTOR_TELEMETRY__LISTEN", listen);
        running.push((program, request.start().await.unwrap()));
    }

    let loading = ["kms-stack", "load", "--directory", "/config", "--requests", "40", "--rate", "0"];
    let loaded = ours(&image, &loading, ended(), &[read]).start().await.unwrap();
    let table = said(&loaded).await;
    assert_eq!(loaded.exit_code().await.unwrap(), Some(0), "{table}");
    assert!(table.contains("40 of 40 accepted, 0 lost, 0 doubled"), "{table}");

    // SIGTERM ends each within the stop period, with 0; a kill would be 137.
    for (name, container) in &running {
        container.stop_with_timeout(Some(STOP_SECONDS)).await.unwrap();
        let code = container.exit_code().await.unwrap();
        assert_eq!(code, Some(0), "{name}: {}", said(container).await);
    }
    for (_, container) in running {
        container.rm().await.unwrap();
    }
    setup.rm().await.unwrap();
    loaded.rm().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_local_processes_over_a_containerised_kafka_serve_a_mixed_load() {
    let needed = async { kafka_image(&Engine::find()?).await };
    let image = match needed.await {
        Ok(image) => image,
        Err(why) => return skip("a containerised Kafka", &why),
    };
    let (_kafka, bootstrap) = kafka(&image).await;
    let workspace = new_workspace();
    let stack = Stack::builder().kafka(bootstrap).start(&workspace).await.unwrap();
    let report = job::run(&stack, &load(30), Instant::now()).await.unwrap();
    assert_whole(&report);
    stack.stop().await;
}
