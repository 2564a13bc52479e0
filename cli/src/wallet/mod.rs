//! `kmsctl wallet`: how a transaction sender stands, and what a person wants of its emitter.
//!
//! A command is a record in `emitter.commands`; the active emitter of the account obeys it and writes what came of it there,
//! for which these verbs wait. So who did what is in the topic for as long as it is kept, and the rights to write there
//! are the rights to do it.

mod list;
mod waiting;

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant, SystemTime};

use alloy::primitives::{Address, B256, keccak256};
use kms_emitter::clock::unix_ms;
use kms_emitter::command::{command_record, shown};
use kms_runtime::kafka::{LogContext, TransactionalProducer};
use kms_schemas::record::{WalletBody, WalletEnd, WalletRecord};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::json;

use crate::Output;
use crate::cluster::{Cluster, SERVICE};
use crate::error::CtlError;
use crate::gwei::Gwei;

#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum Verb {
    /// Show how accounts stand: nonces, what is on its way, what waits, whether somebody paused them, the last commands.
    List(list::Args),
    /// Have nothing more signed or sent until `resume`, over restarts and takeovers. What was sent is still followed. A pause of
    /// what is paused is told who paused it, and changes nothing.
    Pause(Order),
    /// Have answers sent again.
    Resume(Order),
    /// Have transactions that are on their way replaced by the same ones at higher fees, now.
    Bump {
        #[command(flatten)]
        which: Which,
        /// Gwei per gas to offer, such as 30 or 0.5, within submission.max_fee_per_gas_wei; as much as a replacement takes
        /// without it.
        #[arg(long, value_name = "GWEI", allow_negative_numbers = true)]
        max_fee_gwei: Option<Gwei>,
        #[command(flatten)]
        order: Order,
    },
    /// Have a nonce used up by an empty transaction. The answers that it carried go again under other nonces.
    Cancel {
        /// The nonce.
        #[arg(long)]
        nonce: u64,
        /// Do it, instead of saying what would be done.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        order: Order,
    },
}

/// Which transactions.
#[derive(clap::Args, Clone, Copy, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// The one with this nonce.
    #[arg(long)]
    nonce: Option<u64>,
    /// Every one that is on its way.
    #[arg(long)]
    all: bool,
}

/// Whose account.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    /// Chain id of the account; not needed if the topics know one account only.
    #[arg(long, value_name = "ID")]
    chain_id: Option<u64>,
    /// The transaction sender; not needed if the topics know one account only.
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<Address>,
}

impl Account {
    fn is(&self, (chain_id, sender): (u64, Address)) -> bool {
        self.chain_id.is_none_or(|wanted| wanted == chain_id) && self.sender.is_none_or(|wanted| wanted == sender)
    }
}

/// A command, for whom, by whom, and why.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Order {
    #[command(flatten)]
    account: Account,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Who wants it, for the record; user and host without it.
    #[arg(long = "as", value_name = "NAME")]
    by: Option<String>,
    /// Seconds to wait for the emitter. What bump and cancel did not reach by then is never done; pause and resume are obeyed
    /// whenever an emitter of the account runs.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

pub(crate) fn run(cluster: &Cluster, verb: Verb, output: Output) -> Result<(), CtlError> {
    let (order, body) = match verb {
        Verb::List(args) => return list::run(cluster, &args, output),
        Verb::Pause(order) => (order, WalletBody::Pause),
        Verb::Resume(order) => (order, WalletBody::Resume),
        Verb::Bump { which, max_fee_gwei, order } => {
            let max_fee_per_gas = max_fee_gwei.map(|gwei| gwei.wei);
            let expires_ms = expiry(&order);
            (order, WalletBody::Bump { nonce: which.nonce, max_fee_per_gas, expires_ms })
        }
        Verb::Cancel { nonce, yes, order } => {
            if !yes {
                let (chain_id, sender) = account(cluster, order.account)?;
                eprintln!(
                    "nonce {nonce} of {sender} on chain {chain_id} can be cancelled, if it is on its way and carries answers; add \
                     --yes to do it"
                );
                return Ok(());
            }
            let expires_ms = expiry(&order);
            (order, WalletBody::Cancel { nonce, expires_ms })
        }
    };
    command(cluster, &order, body, output)
}

fn expiry(order: &Order) -> u64 {
    unix_ms(SystemTime::now()) + order.timeout * 1_000
}

/// The account that is meant: named, or the only one that the topics know.
fn account(cluster: &Cluster, wanted: Account) -> Result<(u64, Address), CtlError> {
    if let Account { chain_id: Some(chain_id), sender: Some(sender) } = wanted {
        return Ok((chain_id, sender));
    }
    let known: Vec<(u64, Address)> = list::accounts(cluster)?.into_iter().filter(|one| wanted.is(*one)).collect();
    match known[..] {
        [one] => Ok(one),
        [] => Err(CtlError::Argument("the topics know no such account; name it by --chain-id and --sender".to_owned())),
        _ => {
            let names: Vec<String> =
                known.iter().map(|(chain_id, sender)| format!("{sender} on chain {chain_id}")).collect();
            Err(CtlError::Argument(format!(
                "the topics know several accounts, choose by --chain-id and --sender: {}",
                names.join(", ")
            )))
        }
    }
}

/// Writes a command and waits for what comes of it.
fn command(cluster: &Cluster, order: &Order, body: WalletBody, output: Output) -> Result<(), CtlError> {
    let (chain_id, sender) = account(cluster, order.account)?;
    let by = order.by.clone().unwrap_or_else(whoami);
    let written_ms = unix_ms(SystemTime::now());
    let seed = format!("{by}/{written_ms}/{}/{:?}", std::process::id(), Instant::now());
    let record = WalletRecord {
        chain_id,
        sender,
        command_id: keccak256(seed),
        by,
        written_ms,
        text: order.reason.clone(),
        body,
    };
    let offset = write(cluster, &record)?;
    let waiting = Waiting { cluster, record: &record, offset, output };
    waiting.run(Duration::from_secs(order.timeout))
}

fn write(cluster: &Cluster, record: &WalletRecord) -> Result<i64, CtlError> {
    let (kafka, topic) = (&cluster.config.kafka, cluster.topics.commands());
    // A missing topic is said as such, and not by a time-out of the producer.
    let end = cluster.end(topic)?;
    let source = format!("/{}/{SERVICE}", cluster.topics.prefix());
    let output = command_record(&cluster.codec, topic, &source, record)
        .ok_or_else(|| CtlError::Argument("the command does not fit its schema".to_owned()))?;
    // One id for each, so that two persons do not fence each other.
    let id = kafka.transactional_id(SERVICE, &format!("wallet.{}", &hex::encode(record.command_id)[..8]));
    let producer = TransactionalProducer::new(kafka, SERVICE, &id, 1 << 20).map_err(CtlError::client)?;
    producer.init(|| false).map_err(CtlError::producer)?;
    let places = producer.write(&[output], Instant::now() + Duration::from_secs(30))?;
    Ok(places.first().map_or(end, |(_, offset)| *offset))
}

/// A command whose outcome is waited for.
struct Waiting<'a> {
    cluster: &'a Cluster,
    record: &'a WalletRecord,
    offset: i64,
    output: Output,
}

impl Waiting<'_> {
    fn run(&self, patience: Duration) -> Result<(), CtlError> {
        let (deadline, kafka, topic) =
            (Instant::now() + patience, &self.cluster.config.kafka, self.cluster.topics.commands());
        let WalletRecord { chain_id, sender, body, .. } = self.record;
        if std::io::stderr().is_terminal() {
            eprintln!("{} is recorded; waiting for the emitter of {sender} on chain {chain_id}", body.as_str());
        }
        let group = format!("{}.{SERVICE}.wallet", self.cluster.topics.prefix());
        let consumer: BaseConsumer<LogContext> =
            kafka.consumer(SERVICE, &group).create_with_context(LogContext).map_err(CtlError::client)?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, Offset::Offset(self.offset + 1)).map_err(CtlError::client)?;
        consumer.assign(&assignment).map_err(CtlError::client)?;
        let mut accepted = None;
        while Instant::now() < deadline {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) else { continue };
            let value = message.payload().unwrap_or_default();
            let Ok(found) = self.cluster.codec.decode::<WalletRecord>(topic, value) else { continue };
            let WalletBody::Outcome { command_offset, end, ref transactions } = found.body else { continue };
            if command_offset != self.offset || found.command_id != self.record.command_id {
                continue;
            }
            match end {
                WalletEnd::Accepted => {
                    if std::io::stderr().is_terminal() {
                        eprintln!("accepted: {}", shown(&found.text, 2_000));
                    }
                    accepted = Some((found.text, transactions.clone()));
                }
                WalletEnd::Done => return self.told(end, &found.text, transactions, &found.by),
                WalletEnd::Refused => {
                    self.told(end, &found.text, transactions, &found.by)?;
                    return Err(CtlError::NotObeyed(shown(&found.text, 2_000)));
                }
            }
        }
        match accepted {
            Some((text, transactions)) => self.told(WalletEnd::Accepted, &text, &transactions, ""),
            None => match self.held_by(patience)? {
                Some(text) => self.told(WalletEnd::Done, &text, &[], ""),
                None => Err(CtlError::Unanswered(self.unanswered(patience))),
            },
        }
    }

    /// Nobody answered, and nothing is lost by it: an emitter has obeyed an earlier pause, which every later one finds before it
    /// sends anything.
    fn held_by(&self, patience: Duration) -> Result<Option<String>, CtlError> {
        if self.record.body != WalletBody::Pause {
            return Ok(None);
        }
        let standing = list::standing(self.cluster, (self.record.chain_id, self.record.sender))?;
        let first = standing.paused().filter(|first| first.offset < self.offset && standing.unobeyed().is_none());
        Ok(first.map(|first| {
            let (already, waited) = (first.already(unix_ms(SystemTime::now())), patience.as_secs());
            format!("{already}; no emitter answered within {waited} s, and whichever starts finds it paused")
        }))
    }

    fn unanswered(&self, patience: Duration) -> String {
        let later = match self.record.body {
            WalletBody::Pause | WalletBody::Resume => "it is obeyed when one starts",
            _ => "it is not obeyed any more",
        };
        format!(
            "no emitter of {} on chain {} answered within {} s; the command is recorded at offset {}, and {later}",
            self.record.sender,
            self.record.chain_id,
            patience.as_secs(),
            self.offset
        )
    }

    fn told(&self, end: WalletEnd, text: &str, transactions: &[B256], by: &str) -> Result<(), CtlError> {
        let WalletRecord { chain_id, sender, body, .. } = self.record;
        let mut out = std::io::stdout().lock();
        match self.output {
            Output::Json => {
                let line = json!({
                    "chain_id": chain_id,
                    "sender": sender,
                    "action": body.as_str(),
                    "offset": self.offset,
                    "end": end.as_str(),
                    "text": text,
                    "transactions": transactions,
                    "by": by,
                });
                writeln!(out, "{line}")?;
            }
            Output::Text if end == WalletEnd::Refused => {}
            Output::Text => {
                writeln!(out, "{} {}: {}", body.as_str(), end.as_str(), shown(text, 4_000))?;
                for hash in transactions {
                    writeln!(out, "transaction {hash}")?;
                }
            }
        }
        Ok(())
    }
}

/// User and host, as the system says.
fn whoami() -> String {
    let env = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
    let user = env("USER").or_else(|| env("LOGNAME")).unwrap_or_else(nameless);
    let host = env("HOSTNAME")
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok().map(|text| text.trim().to_owned()))
        .filter(|host| !host.is_empty());
    match host {
        Some(host) => format!("{user}@{host}"),
        None => user,
    }
}

/// The user where the environment does not say, as in containers: its number, where the system shows processes as files.
fn nameless() -> String {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").map_or_else(|_| "unknown".to_owned(), |own| format!("uid-{}", own.uid()))
}
