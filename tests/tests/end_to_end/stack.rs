//! The stack as a whole.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alloy::primitives::{Address, B256, U256};
use kms_chain::contracts::b;
use kms_stack::contracts::{Material, attested_object, first_context, handle};
use kms_stack::{Generation, ServiceKind, Stack};
use kms_tests::{eventually, kafka, new_workspace, prefix, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(180);

/// Without services: what they stand on.
#[tokio::test]
async fn four_nodes_are_registered_with_the_keys_of_their_simulators() {
    let workspace = new_workspace();
    let stack = Stack::builder()
        .nodes(4)
        .coprocessors(3)
        .block_time(Some(Duration::from_millis(50)))
        .kafka(kafka().await.bootstrap_servers())
        .prefix(prefix("stack"))
        .services(&[])
        .start(&workspace)
        .await
        .unwrap();
    assert_eq!(stack.nodes().len(), 4);
    assert_eq!(stack.deployment().thresholds.public_decryption, 3);
    for node in stack.nodes() {
        // The simulator says its signer on its first line.
        let said = node.core().process().log();
        assert!(said.to_lowercase().contains(&node.signer().to_string().to_lowercase()), "{said}");
        assert!(node.prefix().ends_with(&format!("-node-{}", node.number())));
        for kind in ServiceKind::ALL {
            assert!(node.service(kind).config().is_file());
            assert!(!node.service(kind).process().is_running());
        }
    }
    stack.requester().await.unwrap();
    stack.stop().await;
}

/// Without services: what is another in generation (b).
#[tokio::test]
async fn generation_b_has_an_ethereum_host_with_the_first_context_and_attested_ciphertexts() {
    let workspace = new_workspace();
    let stack = Stack::builder()
        .generation(Generation::B)
        .nodes(4)
        .coprocessors(2)
        .block_time(Some(Duration::from_millis(50)))
        .kafka(kafka().await.bootstrap_servers())
        .prefix(prefix("generation-b"))
        .services(&[])
        .start(&workspace)
        .await
        .unwrap();

    let chains = stack.chains();
    assert_eq!(
        chains.iter().map(|chain| (chain.name, chain.chain_id)).collect::<Vec<_>>(),
        [("gateway", 31_337), ("ethereum", 12_345)]
    );
    let (gateway, ethereum) = (&chains[0].contracts, &chains[1].contracts);
    assert!(gateway.addresses().iter().all(|address| !ethereum.addresses().contains(address)), "no address twice");
    let requester = stack.requester().await.unwrap();
    let current = b::ProtocolConfig::getCurrentKmsContextIdCall {};
    let current = requester.host().view(ethereum.protocol_config.unwrap(), &current).await.unwrap();
    assert_eq!(current, first_context().as_u256());
    let anchor = b::ProtocolConfig::getKmsContextAnchorCall { contextId: current };
    let anchor = requester.host().view(ethereum.protocol_config.unwrap(), &anchor).await.unwrap();
    assert!(anchor.emissionBlockNumber >= U256::from(chains[1].first_block), "the first context is not before it");

    let material = Material {
        handle: handle(B256::repeat_byte(7), 12_345, 5),
        key_id: first_context(),
        ciphertext_digest: B256::repeat_byte(1),
        sns_ciphertext_digest: B256::repeat_byte(2),
    };
    let mut signers = Vec::new();
    for (index, bucket) in stack.buckets().iter().enumerate() {
        stack.put_ciphertext(index, &material, vec![3; 500]).await.unwrap();
        let url = format!("{}/{}", bucket.url(), attested_object(material.handle));
        let response = kms_tests::get(&url).await.unwrap();
        let attested = response.headers()["x-amz-meta-ct-attestation"].to_str().unwrap().to_owned();
        let attested: serde_json::Value = serde_json::from_str(&attested).unwrap();
        assert_eq!(attested["sns_ciphertext_digest"], material.sns_ciphertext_digest.to_string());
        signers.push(attested["signer"].as_str().unwrap().parse::<Address>().unwrap());
        assert_eq!(response.bytes().await.unwrap(), vec![3; 500]);
    }
    let registered = b::GatewayConfig::getCoprocessorSignersCall {};
    assert_eq!(requester.gateway().view(stack.contracts().gateway_config, &registered).await.unwrap(), signers);
    stack.stop().await;
}

#[tokio::test]
async fn the_services_find_nothing_wrong_with_the_files_that_the_stack_writes() {
    for generation in [Generation::A, Generation::B] {
        let workspace = new_workspace();
        let stack = Stack::builder()
            .generation(generation)
            .block_time(None)
            .kafka(kafka().await.bootstrap_servers())
            .prefix(prefix("files"))
            .services(&[])
            .start(&workspace)
            .await
            .unwrap();
        for service in stack.node().services() {
            let checked = Command::new(program())
                .args([service.kind().name(), "check-config", "--config"])
                .arg(service.config())
                .output()
                .unwrap();
            assert!(checked.status.success(), "{}: {}", service.kind(), String::from_utf8_lossy(&checked.stderr));
        }
        stack.stop().await;
    }
}

/// `kms-stack up`, ready.
struct Up {
    child: Child,
    run_dir: TempDir,
    /// Every address that it printed.
    addresses: Vec<String>,
    /// The command line for a load that it printed.
    load: String,
}

fn up() -> Up {
    let run_dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(program())
        .args(["up", "--block-time", "50", "--run-dir"])
        .arg(run_dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (mut addresses, mut load) = (Vec::new(), String::new());
    for line in output.lines() {
        let line = line.unwrap();
        let words = line.split([' ', '/', ',']).filter(|word| word.starts_with("127.0.0.1:"));
        addresses.extend(words.map(str::to_owned));
        if let Some(command) = line.strip_prefix("load ") {
            command.trim().clone_into(&mut load);
        }
        if line.starts_with("config ") {
            break;
        }
    }
    Up { child, run_dir, addresses, load }
}

impl Up {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits until nothing listens on any of the addresses.
    async fn all_closed(&self) {
        eventually("every port is closed", LIMIT, async || {
            self.addresses.iter().all(|address| TcpStream::connect(address).is_err()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_the_load_that_up_names_is_accepted_and_said_to_be_gone_with_it() {
    let mut up = up();
    let command = up.load.replace("--requests 100", "--requests 10 --rate 0 --output json");
    let load = || Command::new("sh").args(["-c", &command]).output().unwrap();
    let done = load();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command}\n{said}");
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&report["requested"], &report["accepted"]), (&10.into(), &10.into()));

    up.signal(Signal::SIGTERM);
    up.child.wait().unwrap();
    std::fs::remove_dir_all(up.run_dir.path()).unwrap();
    let gone = load();
    let said = String::from_utf8_lossy(&gone.stderr);
    assert!(gone.status.code() == Some(2) && said.contains("there is no stack.json"), "{said}");
}

#[tokio::test]
async fn a_signal_stops_services_before_what_they_stand_on() {
    let mut up = up();
    assert!(up.addresses.len() >= 7, "{:?}", up.addresses);
    up.signal(Signal::SIGTERM);
    let status = up.child.wait().unwrap();
    assert!(status.success(), "{status}");
    up.all_closed().await;
    for service in ServiceKind::ALL {
        let log = std::fs::read_to_string(up.run_dir.path().join(format!("logs/{service}-1.log"))).unwrap();
        assert!(log.contains("ended as asked"), "{service}:\n{log}");
        assert!(!log.contains("\"level\":\"ERROR\""), "{service}:\n{log}");
    }
}

#[tokio::test]
async fn a_stack_program_that_is_killed_leaves_nothing_listening() {
    let mut up = up();
    assert!(up.addresses.iter().all(|address| TcpStream::connect(address).is_ok()), "{:?}", up.addresses);
    up.signal(Signal::SIGKILL);
    up.child.wait().unwrap();
    up.all_closed().await;
}
