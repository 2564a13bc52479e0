//! Where the transaction sender's key may be: a file, an encrypted keystore, AWS KMS. The latter is a stand-in here, which
//! checks each request as AWS does.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::{Address, B256};
use alloy::signers::local::PrivateKeySigner;
use futures::future::join_all;
use kms_emitter::config::EmitterConfig;
use kms_emitter::wallet::aws_kms::{AwsKms, AwsKmsError, Credentials, Settings};
use kms_runtime::config::{Secret, Sources, load};
use kms_stack::ServiceKind;
use kms_tests::aws_kms::{
    ACCESS_KEY_ID, AwsKmsStandIn, CONTAINER_TOKEN, KEY_ID, Mood, REGION, SECRET_ACCESS_KEY, SESSION_TOKEN,
};
use kms_tests::{eventually, get, keystore};
use reqsign_core::StaticEnv;

use super::bench::{Bench, LIMIT};

const BLOCKS: Option<Duration> = Some(Duration::from_millis(100));
const PASSWORD: &str = "correct horse battery staple";

/// Everything that must never be shown, but for the key itself.
const SECRETS: [&str; 4] = [PASSWORD, SECRET_ACCESS_KEY, SESSION_TOKEN, CONTAINER_TOKEN];

fn key() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[0x21; 32]).unwrap()
}

fn settings(stand_in: &AwsKmsStandIn) -> Settings {
    Settings {
        key_id: KEY_ID.to_owned(),
        region: REGION.to_owned(),
        endpoint: Some(stand_in.url().parse().unwrap()),
        credentials: Some(Credentials {
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret_access_key: Secret::new(SECRET_ACCESS_KEY),
            session_token: None,
        }),
        timeout: Duration::from_secs(30),
        concurrency: 4,
    }
}

fn without_secrets(shown: &str) {
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_aws_kms_signs_for_its_key_many_at_once_and_every_signature_recovers() {
    let stand_in = AwsKmsStandIn::start(&key()).await;
    let kms = AwsKms::new(settings(&stand_in)).unwrap();
    assert_eq!(kms.address().await, Ok(key().address()));
    let digests: Vec<B256> = (0..40).map(B256::repeat_byte).collect();
    let signed = join_all(digests.iter().map(|digest| kms.sign(*digest, key().address()))).await;
    for (digest, signature) in digests.iter().zip(signed) {
        let signature = signature.unwrap();
        assert_eq!(signature.recover_address_from_prehash(digest).unwrap(), key().address());
        assert_eq!(signature.normalize_s(), None, "the higher value of s");
    }
    assert_eq!((stand_in.signed(), stand_in.forged()), (40, 0));
    let most = stand_in.most_at_once();
    assert!((2..=4).contains(&most), "{most} requests at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_aws_kms_is_told_apart_and_shows_nothing_secret() {
    let stand_in = AwsKmsStandIn::start(&key()).await;
    let patient = settings(&stand_in);
    let kms = AwsKms::new(patient.clone()).unwrap();
    let quick = AwsKms::new(Settings { timeout: Duration::from_millis(500), ..patient.clone() }).unwrap();
    let ask = async |kms: &AwsKms| kms.sign(B256::repeat_byte(5), key().address()).await.unwrap_err();
    for (mood, name, text) in [
        (Mood::Throttles, "refused", "ThrottlingException: You have exceeded the rate"),
        (Mood::Denies, "refused", "AccessDeniedException: User: arn:aws:iam::111122223333:user/node is not authorized"),
        (Mood::Fails, "refused", "status 500"),
        (Mood::Hangs, "timeout", "no answer within 500 ms"),
        (Mood::Garbles, "garbled", "no signature"),
        (Mood::OtherKey, "foreign", "signed with another key"),
        (Mood::OtherDigest, "foreign", "signed with another key"),
        (Mood::Echoes, "refused", "InvalidSignatureException"),
    ] {
        stand_in.set(mood);
        let error = ask(if matches!(mood, Mood::Hangs) { &quick } else { &kms }).await;
        assert!(error.as_str() == name && error.to_string().contains(text), "{mood:?}: {error}");
        without_secrets(&format!("{error} {error:?}"));
    }
    assert_eq!(stand_in.signed(), 0);
    stand_in.set(Mood::OtherKind);
    assert!(matches!(kms.address().await, Err(AwsKmsError::KeyKind(_))));
    stand_in.set(Mood::OtherKey);
    assert_ne!(kms.address().await.unwrap(), key().address());

    // Credentials that AWS does not know, or a secret that is not theirs.
    stand_in.set(Mood::Works);
    let fixed = patient.credentials.clone().unwrap();
    let wrong = [
        Credentials { access_key_id: "AKIAUNKNOWNUNKNOWN00".to_owned(), ..fixed.clone() },
        Credentials { secret_access_key: Secret::new("another-secret"), ..fixed.clone() },
    ];
    for (wrong, text) in wrong.into_iter().zip(["UnrecognizedClientException", "InvalidSignatureException"]) {
        let kms = AwsKms::new(Settings { credentials: Some(wrong), ..patient.clone() }).unwrap();
        let error = kms.address().await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        without_secrets(&error.to_string());
    }
    let elsewhere = Settings { region: "us-east-1".to_owned(), ..patient.clone() };
    assert!(matches!(AwsKms::new(elsewhere).unwrap().address().await, Err(AwsKmsError::Refused { .. })));
    let url = stand_in.url().to_owned();
    drop(stand_in);
    let sign = async || kms.sign(B256::repeat_byte(5), key().address()).await;
    // What it had accepted before is still answered.
    eventually("nobody there", LIMIT, async || matches!(sign().await, Err(AwsKmsError::Unreachable(_))).then_some(()))
        .await;
    assert!(!ask(&kms).await.to_string().contains(&url));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_found_where_aws_clients_find_them() {
    let lasting = AwsKmsStandIn::start(&key()).await;
    let temporary = AwsKmsStandIn::start_with(&key(), true).await;
    let ask = async |stand_in: &AwsKmsStandIn, variables: &[(&str, &str)]| {
        let envs: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let settings = Settings { credentials: None, ..settings(stand_in) };
        AwsKms::in_environment(settings, StaticEnv { home_dir: None, envs }).unwrap().address().await
    };
    let address = Ok(key().address());
    let fixed = [("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)];
    assert_eq!(ask(&lasting, &fixed).await, address);
    assert!(ask(&temporary, &fixed).await.is_err(), "the token was not asked for");
    let with_token = [&fixed[..], &[("AWS_SESSION_TOKEN", SESSION_TOKEN)]].concat();
    assert_eq!(ask(&temporary, &with_token).await, address);

    let host = format!("{}/credentials", temporary.url());
    let container = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", host.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    assert_eq!(ask(&temporary, &container).await, address);

    let profile = tempfile::NamedTempFile::new().unwrap();
    let text = format!("[node]\naws_access_key_id = {ACCESS_KEY_ID}\naws_secret_access_key = {SECRET_ACCESS_KEY}\n");
    std::fs::write(profile.path(), text).unwrap();
    let file = profile.path().to_str().unwrap();
    assert_eq!(ask(&lasting, &[("AWS_SHARED_CREDENTIALS_FILE", file), ("AWS_PROFILE", "node")]).await, address);

    let error = ask(&lasting, &[("AWS_EC2_METADATA_DISABLED", "true")]).await.unwrap_err();
    assert_eq!(error.as_str(), "credentials", "{error}");
}

/// An emitter that is not started and tells everything when it is.
async fn stopped(name: &str) -> Bench {
    Bench::start_with(name, BLOCKS, |stack| {
        stack
            .services(&[])
            .set(ServiceKind::Emitter, "telemetry.log_filter=trace")
            .set(ServiceKind::Emitter, "wallet.aws_timeout_ms=1000")
    })
    .await
}

/// Puts this in the place of the configuration's wallet.
fn set_wallet(bench: &Bench, wallet: &str) {
    let file = bench.stack.node().emitter().config().to_owned();
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, _) = text.split_once("[wallet]").unwrap();
    std::fs::write(&file, format!("{before}[wallet]\n{wallet}")).unwrap();
}

fn beside_config(bench: &Bench, name: &str, text: &str) -> PathBuf {
    let file = bench.stack.node().emitter().config().with_file_name(name);
    std::fs::write(&file, text).unwrap();
    file
}

/// The log of an emitter that told everything, and whatever else it shows.
async fn shows_no_secret(bench: &Bench) {
    let emitter = bench.stack.node().emitter();
    let mut shown = emitter.process().log();
    assert!(shown.contains("TRACE"), "the log is not at trace level");
    shown += &emitter.metrics().await.unwrap();
    let mut command = std::process::Command::new(kms_tests::program());
    command.args(["emitter", "--config"]).arg(emitter.config()).arg("print-config");
    let printed = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("<secret>"), "{printed}");
    shown += &printed;
    without_secrets(&shown);
    let key = bench.stack.node().keys().sender.to_bytes().to_string();
    assert!(!shown.contains(&key[2..]), "the private key is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_an_emitter_with_an_encrypted_keystore_has_its_answers_accepted_and_shows_no_secret() {
    let bench = stopped("signers-keystore").await;
    beside_config(&bench, "wallet.json", &keystore(&bench.stack.node().keys().sender, PASSWORD));
    beside_config(&bench, "wallet.password", &format!("{PASSWORD}\n"));
    set_wallet(&bench, "keystore_file = \"wallet.json\"\nkeystore_password_file = \"wallet.password\"\n");
    bench.stack.node().emitter().start().await.unwrap();
    let made = bench.requests(20).await;
    bench.publish(&bench.results(&made)).await;
    bench.await_all_accepted(&made).await;
    shows_no_secret(&bench).await;
}

/// A wallet in the stand-in.
fn in_aws_kms(bench: &Bench, stand_in: &AwsKmsStandIn, address: Address) -> String {
    beside_config(bench, "aws.secret", SECRET_ACCESS_KEY);
    beside_config(bench, "aws.token", SESSION_TOKEN);
    format!(
        "aws_kms_key_id = \"{KEY_ID}\"\naws_region = \"{REGION}\"\naws_endpoint_url = \"{}\"\naddress = \"{address}\"\n\
         aws_access_key_id = \"{ACCESS_KEY_ID}\"\naws_secret_access_key_file = \"aws.secret\"\n\
         aws_session_token_file = \"aws.token\"\n",
        stand_in.url()
    )
}

/// What `/readyz` says about the signer; empty while nobody answers.
async fn readiness(bench: &Bench) -> String {
    let url = format!("http://{}/readyz", bench.stack.node().emitter().listen());
    let Ok(response) = get(&url).await else { return String::new() };
    let body: serde_json::Value = response.json().await.unwrap_or_default();
    body["checks"]["gateway.signer"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_an_emitter_with_aws_kms_waits_through_every_outage_of_it_and_sends_no_foreign_signature() {
    let bench = stopped("signers-aws").await;
    let emitter = bench.stack.node().emitter();
    let stand_in = AwsKmsStandIn::start_with(&bench.stack.node().keys().sender, true).await;
    set_wallet(&bench, &in_aws_kms(&bench, &stand_in, bench.sender()));
    let unready = async |text: &str| {
        let what = format!("a signer that is not ready for {text}");
        eventually(&what, LIMIT, async || {
            let found = readiness(&bench).await;
            (found.contains("KC-0770") && found.contains(text)).then_some(())
        })
        .await;
    };

    // An outage at the start, then answers.
    stand_in.set(Mood::Throttles);
    emitter.process().start().unwrap();
    unready("ThrottlingException").await;
    stand_in.set(Mood::Works);
    emitter.wait_ready().await.unwrap();
    let mut made = bench.requests(5).await;
    bench.publish(&bench.results(&made)).await;
    bench.await_submissions(made.len()).await;

    for (mood, text) in [
        (Mood::Hangs, "no answer within 1000 ms"),
        (Mood::Denies, "AccessDeniedException"),
        (Mood::Garbles, "is no signature"),
        (Mood::OtherKey, "signed with another key"),
        (Mood::OtherDigest, "signed with another key"),
        (Mood::Echoes, "InvalidSignatureException"),
    ] {
        stand_in.set(mood);
        let before = bench.intents().await.len();
        let more = bench.requests(3).await;
        bench.publish(&bench.results(&more)).await;
        made.extend(more);
        unready(text).await;
        assert_eq!(bench.intents().await.len(), before, "{mood:?}: something was journalled");
        stand_in.set(Mood::Works);
        bench.await_submissions(made.len()).await;
        emitter.wait_ready().await.unwrap();
    }
    bench.await_all_accepted(&made).await;
    assert_eq!(bench.account_nonce().await, made.len() as u64, "a nonce was lost or used twice");
    assert_eq!(stand_in.forged(), 0);
    assert!(emitter.metric("kms_connector_signer_failures_total").await.unwrap() > 0.0);
    shows_no_secret(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emitter_killed_during_an_outage_of_aws_kms_goes_on_where_it_was() {
    let bench = stopped("signers-killed").await;
    let emitter = bench.stack.node().emitter();
    let stand_in = AwsKmsStandIn::start_with(&bench.stack.node().keys().sender, true).await;
    set_wallet(&bench, &in_aws_kms(&bench, &stand_in, bench.sender()));
    emitter.start().await.unwrap();
    let mut made = bench.requests(5).await;
    bench.publish(&bench.results(&made)).await;
    bench.await_submissions(made.len()).await;

    stand_in.set(Mood::OtherKey);
    let more = bench.requests(5).await;
    bench.publish(&bench.results(&more)).await;
    made.extend(more);
    eventually("an outage", LIMIT, async || readiness(&bench).await.contains("KC-0770").then_some(())).await;
    emitter.kill().await;
    stand_in.set(Mood::Works);
    emitter.start().await.unwrap();
    bench.await_all_accepted(&made).await;
    assert_eq!(bench.account_nonce().await, made.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_of_the_key_in_aws_kms_is_refused_at_the_start() {
    let bench = stopped("signers-wrong").await;
    let stand_in = AwsKmsStandIn::start_with(&key(), true).await;
    set_wallet(&bench, &in_aws_kms(&bench, &stand_in, bench.sender()));
    bench.stack.node().emitter().process().start().unwrap();
    eventually("a refusal", LIMIT, async || {
        let log = bench.stack.node().emitter().process().log();
        (log.contains("KC-0753") && log.contains(&key().address().to_string())).then_some(())
    })
    .await;
    assert_eq!(stand_in.signed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_signs_with_a_keystore_and_with_aws_kms_too_and_the_emitter_batches_from_there() {
    let bench = stopped("signers-by-hand").await;
    let sender = bench.stack.node().keys().sender.clone();
    let stand_in = AwsKmsStandIn::start(&sender).await;
    let file = |name: &str, text: &str| beside_config(&bench, name, text).to_str().unwrap().to_owned();
    let wallet = file("wallet.json", &keystore(&sender, PASSWORD));
    let (right, wrong) = (file("wallet.password", PASSWORD), file("wrong.password", "something else"));
    let verb = async |arguments: &[&str]| {
        let mut command = std::process::Command::new(kms_tests::program());
        command.arg("ctl").arg("--set").arg(format!("kafka.bootstrap_servers={}", bench.stack.bootstrap_servers()));
        command.arg("--set").arg(format!("kafka.topic_prefix={}", bench.stack.node().prefix()));
        command.args(["--output", "json", "executor"]).args(arguments);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        without_secrets(&format!("{out} {err}"));
        (output.status.code().unwrap(), serde_json::from_str::<serde_json::Value>(&out).unwrap_or_default(), err)
    };
    let in_keystore = ["--keystore-file", &wallet, "--keystore-password-file", &right];
    let in_kms = ["--aws-kms-key-id", KEY_ID, "--aws-region", REGION, "--aws-endpoint-url", stand_in.url()];
    for signer in [&in_keystore[..], &in_kms[..]] {
        let (code, said, error) = verb(&[&["address"], signer].concat()).await;
        assert_eq!((code, said["account"].as_str()), (0, Some(&*format!("{:#x}", sender.address()))), "{error}");
    }
    for (signer, text) in [
        (
            &["--keystore-file", &wallet, "--keystore-password-file", &wrong][..],
            "the password does not open the keystore",
        ),
        (
            &["--aws-kms-key-id", "alias/nobody", "--aws-region", REGION, "--aws-endpoint-url", stand_in.url()],
            "NotFound",
        ),
        (&["--aws-kms-key-id", KEY_ID, "--aws-region", "no region"], "is no name of a region"),
        (&[&in_keystore[..], &in_kms[..]].concat(), "cannot be used with"),
        (&[], "required"),
    ] {
        let (code, _, error) = verb(&[&["address"], signer].concat()).await;
        assert!(code != 0 && error.contains(text), "{error}");
    }

    let url = bench.stack.anvil().url();
    let (code, deployed, error) = verb(&[&["deploy", "--rpc-url", &url], &in_keystore[..]].concat()).await;
    assert_eq!(code, 0, "{error}");
    let executor = deployed["executor"].as_str().unwrap();
    let delegate = ["delegate", "--rpc-url", &url, "--executor", executor];
    let (code, _, error) = verb(&[&delegate, &in_kms[..]].concat()).await;
    assert_eq!(code, 0, "{error}");

    set_wallet(&bench, &in_aws_kms(&bench, &stand_in, bench.sender()));
    let emitter = bench.stack.node().emitter();
    emitter.start().await.unwrap();
    assert_eq!(emitter.metric("kms_connector_emitter_batches").await, Some(1.0));
    let made = bench.requests(40).await;
    bench.publish(&bench.results(&made)).await;
    bench.await_all_accepted(&made).await;
    emitter.stop().await;
    let (code, _, error) = verb(&[&["revoke", "--rpc-url", &url], &in_kms[..]].concat()).await;
    assert_eq!(code, 0, "{error}");
}

#[test]
fn no_mistake_about_a_wallet_repeats_what_it_is_about() {
    let private_key = key().to_bytes().to_string();
    let file = keystore(&key(), PASSWORD);
    let common = [
        "destination.0.chain_id=31337",
        "destination.0.rpc_urls=http://127.0.0.1:8545",
        "destination.0.decryption=0x00000000000000000000000000000000000dec01",
        "signer.address=0x0000000000000000000000000000000000000051",
    ];
    let wrong: [&[String]; 6] = [
        &[format!("wallet.private_key={private_key}0")],
        &[format!("wallet.private_key={private_key}"), format!("wallet.keystore={file}")],
        &[format!("wallet.keystore={private_key}"), format!("wallet.keystore_password={PASSWORD}")],
        &[format!("wallet.keystore={file}"), format!("wallet.keystore_password={PASSWORD}.")],
        &[format!("wallet.keystore={file}{{"), format!("wallet.keystore_password={PASSWORD}")],
        &[
            "wallet.aws_kms_key_id=alias/a".to_owned(),
            "wallet.aws_region=eu-west-3".to_owned(),
            format!("wallet.aws_secret_access_key={SECRET_ACCESS_KEY}"),
            format!("wallet.aws_session_token={SESSION_TOKEN}"),
        ],
    ];
    for wallet in wrong {
        let set = common.iter().map(|one| (*one).to_owned()).chain(wallet.iter().cloned()).collect();
        let errors = load::<EmitterConfig>(&Sources { set, ..Sources::default() }).unwrap_err();
        let shown = format!("{errors} {errors:?}");
        without_secrets(&shown);
        assert!(!shown.contains(&private_key[2..]), "{shown}");
    }
}
