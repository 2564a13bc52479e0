//! `kmsctl executor`: the code for batches on a chain, and the accounts that delegate to it (EIP-7702).
//!
//! A delegation is a barrier: nothing of the account may be on its way. So `delegate` and `revoke` are refused while an emitter
//! of the account runs, which its group in Kafka shows, and while the pool holds a transaction of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use kms_emitter::delegation::Standing;
use kms_emitter::fees::FeePolicy;
use kms_emitter::leader;
use kms_emitter::provision::{self, Done, Payer};
use kms_emitter::wallet::Wallet;
use kms_emitter::wallet::aws_kms::{self, AwsKms, Settings};
use kms_runtime::config::{Endpoint, Secret};
use kms_runtime::kafka::LogContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::json;

use crate::Output;
use crate::cluster::SERVICE;
use crate::config::CtlConfig;
use crate::error::CtlError;
use crate::gwei::Gwei;

#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum Verb {
    /// Put an executor on the chain. Any account may pay: the executor knows nobody.
    Deploy(Paid),
    /// Have a transaction sender delegate to an executor, so that its answers leave in batches. Its emitter must not run.
    Delegate {
        /// The executor, as `deploy` printed it.
        #[arg(long, value_name = "ADDRESS")]
        executor: Address,
        #[command(flatten)]
        paid: Paid,
        #[command(flatten)]
        guard: Guard,
    },
    /// Say what an account delegates to, and whether that is an executor of this release.
    Status {
        /// The transaction sender.
        #[arg(long, value_name = "ADDRESS")]
        account: Address,
        #[command(flatten)]
        chain: Chain,
    },
    /// Say whose account a key is, wherever it is kept. Asks no chain.
    Address {
        #[command(flatten)]
        signer: Signer,
    },
    /// Take a delegation back. Its emitter must not run.
    Revoke {
        #[command(flatten)]
        paid: Paid,
        #[command(flatten)]
        guard: Guard,
    },
}

/// Where the chain is.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Chain {
    /// JSON-RPC endpoint; several take over from each other in order.
    #[arg(long = "rpc-url", value_name = "URL", required = true)]
    rpc_urls: Vec<String>,
}

/// A transaction and who pays for it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Paid {
    #[command(flatten)]
    chain: Chain,
    #[command(flatten)]
    signer: Signer,
    /// Gas limit of the transaction.
    #[arg(long, default_value_t = 1_000_000, value_name = "GAS")]
    gas_limit: u64,
    /// Most gwei per gas that is offered; decimals are taken.
    #[arg(long, default_value = "1000", value_name = "GWEI")]
    max_fee_gwei: Gwei,
    /// Priority fee in wei per gas.
    #[arg(long, default_value_t = 1, value_name = "WEI")]
    priority_fee_wei: u64,
    /// Seconds to wait for the transaction's block.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    wait: u64,
}

/// Where the account's key is: in exactly one place.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("key").required(true).multiple(false))]
pub(crate) struct Signer {
    /// File with the account's private key, 32 bytes in hex.
    #[arg(long, group = "key", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// File with the account's key, encrypted: a keystore (Web3 Secret Storage, version 3).
    #[arg(long, group = "key", requires = "keystore_password_file", value_name = "FILE")]
    keystore_file: Option<PathBuf>,
    /// File with the keystore's password.
    #[arg(long, requires = "keystore_file", value_name = "FILE")]
    keystore_password_file: Option<PathBuf>,
    /// Id, ARN or alias of the account's key in AWS KMS. Credentials are looked for where AWS clients do.
    #[arg(long, group = "key", value_name = "ID")]
    aws_kms_key_id: Option<String>,
    /// Region of that key, unless its ARN or AWS_REGION says it.
    #[arg(long, requires = "aws_kms_key_id", value_name = "REGION")]
    aws_region: Option<String>,
    /// Endpoint of AWS KMS in place of the region's own.
    #[arg(long, requires = "aws_kms_key_id", value_name = "URL")]
    aws_endpoint_url: Option<Endpoint>,
}

/// Whether the emitter is looked for.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Guard {
    /// Do not ask Kafka whether an emitter of the account runs; for an account that never had one.
    #[arg(long)]
    no_emitter: bool,
}

pub(crate) fn run(config: &CtlConfig, verb: Verb, output: Output) -> Result<(), CtlError> {
    kms_runtime::telemetry::install_tls_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(carry_out(config, verb, output))?;
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

async fn carry_out(config: &CtlConfig, verb: Verb, output: Output) -> Result<String, CtlError> {
    match verb {
        Verb::Deploy(paid) => {
            let payer = payer(&paid).await?;
            let done = payer.deploy().await.map_err(failed)?;
            Ok(told(output, done, None, "an executor is at"))
        }
        Verb::Delegate { executor, paid, guard } => {
            let payer = payer(&paid).await?;
            no_emitter_runs(config, &payer, guard)?;
            let done = payer.delegate(executor).await.map_err(failed)?;
            Ok(told(output, done, Some(payer.wallet.address()), "delegates to"))
        }
        Verb::Revoke { paid, guard } => {
            let payer = payer(&paid).await?;
            no_emitter_runs(config, &payer, guard)?;
            let done = payer.delegate(Address::ZERO).await.map_err(failed)?;
            Ok(told(output, done, Some(payer.wallet.address()), "delegates no more;"))
        }
        Verb::Address { signer } => {
            let address = wallet(&signer).await?.address();
            Ok(match output {
                Output::Json => json!({"account": address}).to_string(),
                Output::Text => address.to_string(),
            })
        }
        Verb::Status { account, chain } => status(&client(&chain)?, account, output).await,
    }
}

async fn status(rpc: &Rpc, account: Address, output: Output) -> Result<String, CtlError> {
    let status = provision::status(rpc, account).await.map_err(failed)?;
    let (nonce, pending) = (status.account.nonce.0, status.account.pending.0);
    let delegate = match status.account.standing() {
        Standing::Delegated(to) => Some(to),
        Standing::Plain | Standing::Contract => None,
    };
    Ok(match output {
        Output::Json => json!({
            "account": account,
            "delegate": delegate,
            "is_executor_of_this_release": status.batches,
            "is_contract": status.account.standing() == Standing::Contract,
            "nonce": nonce,
            "pending_nonce": pending,
        })
        .to_string(),
        Output::Text => {
            let says = match (delegate, status.batches) {
                (Some(to), true) => format!("delegates to {to}, an executor of this release: answers leave in batches"),
                (Some(to), false) => format!("delegates to {to}, which is no executor of this release"),
                (None, _) if status.account.standing() == Standing::Contract => "is a contract".to_owned(),
                (None, _) => "does not delegate: answers leave one by one".to_owned(),
            };
            format!("{account} {says}\nnonce {nonce}, with the pool {pending}")
        }
    })
}

fn told(output: Output, done: Done, account: Option<Address>, what: &str) -> String {
    let Done { executor, hash, gas_used } = done;
    let place = (!executor.is_zero()).then_some(executor);
    match output {
        Output::Json => {
            json!({"account": account, "executor": place, "transaction": hash, "gas_used": gas_used}).to_string()
        }
        Output::Text => {
            let words =
                [account.map(|account| account.to_string()), Some(what.to_owned()), place.map(|at| at.to_string())];
            let words: Vec<String> = words.into_iter().flatten().collect();
            format!("{}\ntransaction {hash}, {gas_used} gas", words.join(" "))
        }
    }
}

fn client(chain: &Chain) -> Result<Rpc, CtlError> {
    let urls = chain.rpc_urls.iter().map(|url| EndpointUrl::parse(url));
    let urls = urls.collect::<Result<Vec<_>, _>>().map_err(|error| CtlError::Argument(error.to_string()))?;
    Rpc::new(RpcConfig::new("chain", urls)).map_err(|error| CtlError::Argument(error.to_string()))
}

/// The account; one in AWS KMS is asked for, so that whatever is signed afterwards is held against it.
async fn wallet(signer: &Signer) -> Result<Wallet, CtlError> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let argument = |error: &dyn std::fmt::Display| CtlError::Argument(error.to_string());
    if let Some(file) = &signer.key_file {
        let named = |error: &dyn std::fmt::Display| argument(&format!("{}: {error}", file.display()));
        return Wallet::new(&secret(file)?).map_err(|error| named(&error));
    }
    if let (Some(file), Some(password)) = (&signer.keystore_file, &signer.keystore_password_file) {
        let named = |error: &dyn std::fmt::Display| argument(&format!("{}: {error}", file.display()));
        return Wallet::from_keystore(&secret(file)?, &secret(password)?).map_err(|error| named(&error));
    }
    let Some(key_id) = &signer.aws_kms_key_id else { return Err(argument(&"no key is given")) };
    let region = aws_kms::region(signer.aws_region.as_deref(), key_id).map_err(|error| argument(&error))?;
    let settings = Settings {
        key_id: key_id.clone(),
        region,
        endpoint: signer.aws_endpoint_url.clone(),
        credentials: None,
        timeout: TIMEOUT,
        concurrency: 1,
    };
    let kms = AwsKms::new(settings).map_err(|error| argument(&error))?;
    let address = kms.address().await.map_err(|error| CtlError::Executor(format!("AWS KMS {error}")))?;
    Ok(Wallet::in_aws_kms(kms, address))
}

/// What is in a file, without the white space around it.
fn secret(file: &Path) -> Result<Secret, CtlError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| CtlError::Argument(format!("the file {} cannot be read: {error}", file.display())))?;
    Ok(Secret::new(text.trim()))
}

async fn payer(paid: &Paid) -> Result<Payer, CtlError> {
    let rpc = client(&paid.chain)?;
    let wallet = wallet(&paid.signer).await?;
    let chain_id = rpc.chain_id().await.map_err(failed)?;
    Ok(Payer {
        rpc,
        chain_id,
        wallet,
        fees: FeePolicy {
            base_fee_percent: 200,
            priority: paid.priority_fee_wei.into(),
            cap: paid.max_fee_gwei.wei,
            bump_percent: 10,
        },
        gas_limit: paid.gas_limit,
        patience: Duration::from_secs(paid.wait),
    })
}

/// An emitter that runs gives out nonces that the delegation would take. One that has just ended is a member of its group for
/// as long as a session lasts.
fn no_emitter_runs(config: &CtlConfig, payer: &Payer, guard: Guard) -> Result<(), CtlError> {
    const POLL: Duration = Duration::from_millis(500);
    if guard.no_emitter {
        return Ok(());
    }
    let kafka = &config.kafka;
    let sender = payer.wallet.address();
    let group = leader::group(&kafka.topic_prefix, payer.chain_id, sender);
    let client = kafka.consumer(SERVICE, &group);
    let consumer: BaseConsumer<LogContext> = client.create_with_context(LogContext).map_err(CtlError::client)?;
    let until = Instant::now() + Duration::from_millis(kafka.session_timeout_ms.into()) + Duration::from_secs(2);
    loop {
        let groups = consumer.fetch_group_list(Some(&group), kafka.request_timeout()).map_err(CtlError::client)?;
        let found = groups.groups().iter().filter(|found| found.name() == group);
        let running: usize = found.map(|found| found.members().len()).sum();
        if running == 0 {
            return Ok(());
        }
        if Instant::now() > until {
            let text = format!(
                "{running} emitter(s) of {sender} on chain {} are running, as group {group} shows: stop them first",
                payer.chain_id
            );
            return Err(CtlError::Executor(text));
        }
        std::thread::sleep(POLL);
    }
}

fn failed(error: impl std::error::Error) -> CtlError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    CtlError::Executor(text)
}
