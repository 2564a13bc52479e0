//! How accounts stand, from the topics alone: intents, submissions, commands; with `--rpc-url` also from the chain.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::io::Write as _;
use std::time::SystemTime;

use alloy::primitives::{Address, B256};
use kms_chain::rpc::{BlockId, EndpointUrl, Rpc, RpcConfig};
use kms_emitter::clock::unix_ms;
use kms_emitter::command::{Command, Standing, shown};
use kms_emitter::fees::Fees;
use kms_emitter::provision;
use kms_emitter::wallet::read_back;
use kms_schemas::identity::{Coordinates, Identity};
use kms_schemas::record::{Intent, IntentItem, Submission, Verdict, WalletBody, WalletRecord};
use serde_json::{Value, json};

use super::Account;
use super::waiting::{self, Waiting};
use crate::Output;
use crate::cluster::Cluster;
use crate::error::CtlError;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    account: Account,
    /// JSON-RPC endpoint of an account's chain, for what the chain itself says; repeat it for several chains.
    #[arg(long = "rpc-url", value_name = "URL")]
    rpc_urls: Vec<String>,
    /// Commands to show of each account, the last ones.
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    commands: usize,
}

/// Chain id and transaction sender.
pub(super) type Id = (u64, Address);

/// The intents in which accounts are looked for: many days of a quiet node, minutes of a loaded one.
const TAIL: i64 = 5_000;
/// How far two hosts' clocks may be apart, in milliseconds.
const CLOCKS_DIFFER_MS: i64 = 60_000;

/// Bytes of a nonce as the journal has them.
struct Variant {
    attempt: u32,
    hash: B256,
    fees: Fees,
    written_ms: u64,
    answers: Vec<IntentItem>,
}

/// What the topics say of one account.
#[derive(Default)]
struct Found {
    variants: BTreeMap<u64, Vec<Variant>>,
    settled_below: i64,
    /// Nonces below are used, as submissions show.
    used: u64,
    standing: Standing,
    /// An emitter has said something to a command.
    answered: bool,
    /// The last commands, each with what came of it.
    commands: VecDeque<(Command, Vec<WalletRecord>)>,
}

impl Found {
    /// Nonces that are not known to be used.
    fn open(&self, chain: Option<&OnChain>) -> impl Iterator<Item = (&u64, &Vec<Variant>)> {
        self.variants.range(self.used.max(chain.map_or(0, |chain| chain.latest))..)
    }

    /// Results that transactions on their way carry.
    fn carried(&self, chain: Option<&OnChain>) -> HashSet<Coordinates> {
        let variants = self.open(chain).flat_map(|(_, variants)| variants);
        variants.flat_map(|variant| &variant.answers).map(|item| item.result.clone()).collect()
    }
}

/// What a chain says of one account.
struct OnChain {
    latest: u64,
    pending: u64,
    balance: Option<String>,
}

/// Accounts that the end of the journal or an emitter's word on a command name. One that only a command names, which may be a slip
/// of the pen, counts where there is no other.
pub(super) fn accounts(cluster: &Cluster) -> Result<Vec<Id>, CtlError> {
    let found = found(cluster, Account::default(), 0)?;
    let has_emitter = |account: &Found| account.answered || !account.variants.is_empty();
    let known: Vec<Id> = found.iter().filter(|(_, account)| has_emitter(account)).map(|(id, _)| *id).collect();
    Ok(if known.is_empty() { found.into_keys().collect() } else { known })
}

pub(super) fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<(), CtlError> {
    let mut found = found(cluster, args.account, args.commands)?;
    if let Account { chain_id: Some(chain_id), sender: Some(sender) } = args.account {
        found.entry((chain_id, sender)).or_default();
    }
    settled(cluster, &mut found)?;
    let chains = chains(&args.rpc_urls, found.keys().copied())?;
    let now_ms = unix_ms(SystemTime::now());
    let mut out = std::io::stdout().lock();
    for (id, account) in &found {
        let chain = chains.get(id);
        // A person who may not look at groups still sees the rest.
        let waiting = waiting::of(cluster, *id, &account.carried(chain)).unwrap_or_else(|error| {
            eprintln!("warning: it is not known how many answers of {} on chain {} wait: {error}", id.1, id.0);
            None
        });
        let line = as_json(*id, account, chain, waiting, now_ms);
        match output {
            Output::Json => writeln!(out, "{line}")?,
            Output::Text => write_text(&mut out, &line)?,
        }
    }
    if found.is_empty() {
        eprintln!("the topics under {} know no such account", cluster.topics.prefix());
    }
    Ok(())
}

/// What the commands say of one account.
pub(super) fn standing(cluster: &Cluster, (chain_id, sender): Id) -> Result<Standing, CtlError> {
    let mut found = BTreeMap::new();
    let wanted = Account { chain_id: Some(chain_id), sender: Some(sender) };
    read_commands(cluster, wanted, 0, &mut found)?;
    Ok(found.remove(&(chain_id, sender)).unwrap_or_default().standing)
}

fn found(cluster: &Cluster, wanted: Account, commands: usize) -> Result<BTreeMap<Id, Found>, CtlError> {
    let mut found = BTreeMap::new();
    read_intents(cluster, wanted, &mut found)?;
    read_commands(cluster, wanted, commands, &mut found)?;
    Ok(found)
}

/// The end of the journal, and of each account in it whatever may still be open.
fn read_intents(cluster: &Cluster, wanted: Account, found: &mut BTreeMap<Id, Found>) -> Result<(), CtlError> {
    let topic = cluster.topics.intents();
    let end = cluster.end(topic)?;
    let is_named = wanted.chain_id.is_some() && wanted.sender.is_some();
    let mut from = (end - TAIL).max(0);
    loop {
        found.clear();
        cluster.read(topic, 0, Some(from), |record| {
            let intent = cluster.codec.decode::<Intent>(topic, record.value.as_deref().unwrap_or_default());
            if let Some(intent) = intent.ok().filter(|one| wanted.is((one.chain_id, one.sender))) {
                take_intent(found, intent);
            }
        })?;
        let bound = found.values().map(|account| account.settled_below.max(0)).min();
        match bound {
            Some(bound) if bound < from => from = bound,
            None if is_named && from > 0 => from = (end - (end - from).saturating_mul(8)).max(0),
            _ => return Ok(()),
        }
    }
}

fn take_intent(found: &mut BTreeMap<Id, Found>, intent: Intent) {
    // What its sender's key did not sign is nobody's.
    let Some(signed) = read_back(&intent.raw) else { return };
    let is_own = signed.sender == Some(intent.sender) && signed.chain_id == Some(intent.chain_id);
    if !is_own || signed.nonce.0 != intent.nonce || signed.hash != intent.hash {
        return;
    }
    let account = found.entry((intent.chain_id, intent.sender)).or_default();
    account.settled_below = intent.settled_below;
    let variants = account.variants.entry(intent.nonce).or_default();
    if variants.iter().all(|known| known.hash != intent.hash) {
        variants.push(Variant {
            attempt: intent.attempt,
            hash: intent.hash,
            fees: signed.fees,
            written_ms: intent.written_ms,
            answers: intent.items,
        });
    }
}

fn read_commands(
    cluster: &Cluster,
    wanted: Account,
    most: usize,
    found: &mut BTreeMap<Id, Found>,
) -> Result<(), CtlError> {
    let topic = cluster.topics.commands();
    let read = cluster.read(topic, 0, None, |record| {
        let decoded = cluster.codec.decode::<WalletRecord>(topic, record.value.as_deref().unwrap_or_default());
        let Some(decoded) = decoded.ok().filter(|one| wanted.is((one.chain_id, one.sender))) else { return };
        let account = found.entry((decoded.chain_id, decoded.sender)).or_default();
        account.standing.take(record.offset, decoded.clone());
        if let WalletBody::Outcome { command_offset, .. } = decoded.body {
            account.answered = true;
            let of = account.commands.iter_mut().find(|(command, _)| command.offset == command_offset);
            if let Some((_, outcomes)) = of.filter(|(of, _)| of.record.command_id == decoded.command_id) {
                outcomes.push(decoded);
            }
            return;
        }
        account.commands.push_back((Command { offset: record.offset, record: decoded }, Vec::new()));
        if account.commands.len() > most {
            account.commands.pop_front();
        }
    });
    match read {
        Err(error) if error.code() == Some(kms_runtime::codes::TOPIC_MISSING.code) => {
            eprintln!("there is no topic {topic}: nobody could command anything; `kmsctl topics create` makes it");
            Ok(())
        }
        other => other,
    }
}

/// Which nonces submissions show as used.
fn settled(cluster: &Cluster, found: &mut BTreeMap<Id, Found>) -> Result<(), CtlError> {
    let oldest = found.values().flat_map(|account| account.variants.values().flatten());
    let Some(oldest) = oldest.map(|variant| variant.written_ms).min() else { return Ok(()) };
    let since = i64::try_from(oldest).unwrap_or(i64::MAX).saturating_sub(CLOCKS_DIFFER_MS);
    let topic = cluster.topics.submissions();
    cluster.read_since(topic, since, |_, record| {
        let decoded = cluster.codec.decode::<Submission>(topic, record.value.as_deref().unwrap_or_default());
        let Ok(Submission { identity, verdict: Verdict::Accepted(inclusion), .. }) = decoded else { return };
        if let Some(account) = found.get_mut(&(identity.chain_id, inclusion.sender)) {
            account.used = account.used.max(inclusion.nonce + 1);
        }
    })
}

/// What the chains behind the endpoints say of the accounts on them.
fn chains(urls: &[String], accounts: impl Iterator<Item = Id>) -> Result<BTreeMap<Id, OnChain>, CtlError> {
    let mut told = BTreeMap::new();
    if urls.is_empty() {
        return Ok(told);
    }
    kms_runtime::telemetry::install_tls_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let accounts: Vec<Id> = accounts.collect();
    for url in urls {
        let parsed = EndpointUrl::parse(url).map_err(|error| CtlError::Argument(error.to_string()))?;
        let shown = parsed.to_string();
        let rpc = Rpc::new(RpcConfig::new("chain", vec![parsed])).map_err(|e| CtlError::Argument(e.to_string()))?;
        let asked = runtime.block_on(async {
            let chain_id = rpc.chain_id().await.map_err(|error| error.to_string())?;
            for id in accounts.iter().filter(|(of, _)| *of == chain_id) {
                let status = provision::status(&rpc, id.1).await.map_err(|error| error.to_string())?;
                let balance = rpc.balance(id.1, BlockId::latest()).await.ok().map(|wei| wei.to_string());
                let (latest, pending) = (status.account.nonce.0, status.account.pending.0);
                told.insert(*id, OnChain { latest, pending, balance });
            }
            Ok::<(), String>(())
        });
        // What the topics say is wanted most when a node is silent. The rest of its URL may be a secret.
        if let Err(error) = asked {
            eprintln!("warning: {shown} does not say how the accounts stand on its chain: {error}");
        }
    }
    Ok(told)
}

fn as_json(
    (chain_id, sender): Id,
    account: &Found,
    chain: Option<&OnChain>,
    waiting: Option<Waiting>,
    now_ms: u64,
) -> Value {
    let age = |then: u64| now_ms.saturating_sub(then) / 1_000;
    let floor = account.used.max(chain.map_or(0, |chain| chain.latest));
    let mut open = Vec::new();
    for (nonce, variants) in account.open(chain) {
        let mut answers: Vec<&Identity> = Vec::new();
        let mut seen = BTreeSet::new();
        for IntentItem { identity, .. } in variants.iter().flat_map(|variant| &variant.answers) {
            if seen.insert((identity.kind.as_str(), identity.id.0, identity.contract)) {
                answers.push(identity);
            }
        }
        let answers: Vec<Value> = answers
            .iter()
            .map(|one| json!({"kind": one.kind.as_str(), "id": one.id.to_string(), "contract": one.contract}))
            .collect();
        let shown: Vec<Value> = variants
            .iter()
            .map(|one| {
                json!({
                    "attempt": one.attempt,
                    "hash": one.hash,
                    "max_fee_per_gas_wei": one.fees.max_fee.to_string(),
                    "priority_fee_wei": one.fees.priority.to_string(),
                    "age_s": age(one.written_ms),
                    "answers": one.answers.len(),
                })
            })
            .collect();
        let oldest = variants.iter().map(|one| one.written_ms).min().unwrap_or(now_ms);
        open.push(json!({"nonce": nonce, "age_s": age(oldest), "answers": answers, "variants": shown}));
    }
    let switched = |command: &Command| {
        json!({"by": command.record.by, "since_ms": command.record.written_ms, "since_s": age(command.record.written_ms),
               "reason": command.record.text, "obeyed": account.standing.unobeyed().is_none()})
    };
    let paused = account.standing.paused().map(switched);
    let resume_asked = account.standing.unobeyed().filter(|_| paused.is_none()).map(switched);
    let commands: Vec<Value> =
        account.commands.iter().map(|(command, outcomes)| told(command, outcomes, &age)).collect();
    let next = account.variants.last_key_value().map(|(nonce, _)| nonce + 1);
    json!({
        "chain_id": chain_id,
        "sender": sender,
        "paused": paused,
        "resume_asked": resume_asked,
        "waiting_answers": waiting.map(|waiting| waiting.answers),
        "waiting_at_least": waiting.map(|waiting| waiting.at_least),
        "next_nonce": next.map(|next| next.max(floor)),
        "latest_nonce": chain.map(|chain| chain.latest),
        "pending_nonce": chain.map(|chain| chain.pending),
        "balance_wei": chain.and_then(|chain| chain.balance.clone()),
        "open": open,
        "commands": commands,
    })
}

fn told(command: &Command, outcomes: &[WalletRecord], age: &impl Fn(u64) -> u64) -> Value {
    let outcomes: Vec<Value> = outcomes
        .iter()
        .filter_map(|outcome| match &outcome.body {
            WalletBody::Outcome { end, transactions, .. } => Some(json!({
                "end": end.as_str(), "text": outcome.text, "by": outcome.by, "age_s": age(outcome.written_ms),
                "transactions": transactions,
            })),
            _ => None,
        })
        .collect();
    let nonce = match command.record.body {
        WalletBody::Bump { nonce, .. } => nonce,
        WalletBody::Cancel { nonce, .. } => Some(nonce),
        _ => None,
    };
    json!({
        "offset": command.offset,
        "action": command.record.body.as_str(),
        "nonce": nonce,
        "by": command.record.by,
        "reason": command.record.text,
        "written_ms": command.record.written_ms,
        "age_s": age(command.record.written_ms),
        "outcomes": outcomes,
    })
}

/// Whether an account is paused, in a line for people.
fn pause(paused: &Value, resume_asked: &Value) -> String {
    let who = |switch: &Value| {
        let text = |value: &Value| shown(value.as_str().unwrap_or_default(), 300);
        match text(&switch["reason"]) {
            reason if reason.is_empty() => text(&switch["by"]),
            reason => format!("{}: {reason}", text(&switch["by"])),
        }
    };
    if !resume_asked.is_null() {
        let since = &resume_asked["since_s"];
        return format!("RESUME ASKED FOR, and not obeyed by any emitter yet, {since} s ago by {}", who(resume_asked));
    }
    match (paused.is_null(), paused["obeyed"].as_bool()) {
        (true, _) => "not paused".to_owned(),
        (false, Some(true)) => format!("PAUSED for {} s by {}", paused["since_s"], who(paused)),
        (false, _) => {
            format!(
                "PAUSE ASKED FOR, and not obeyed by any emitter yet, {} s ago by {}",
                paused["since_s"],
                who(paused)
            )
        }
    }
}

fn write_text(out: &mut impl std::io::Write, line: &Value) -> std::io::Result<()> {
    let text = |value: &Value| shown(value.as_str().unwrap_or_default(), 300);
    let number = |value: &Value| value.as_u64().map_or("?".to_owned(), |number| number.to_string());
    writeln!(out, "{} on chain {}", text(&line["sender"]), line["chain_id"])?;
    writeln!(out, "  {}", pause(&line["paused"], &line["resume_asked"]))?;
    match (line["waiting_answers"].as_u64(), line["waiting_at_least"].as_bool()) {
        (Some(waiting), Some(false)) => writeln!(out, "  {waiting} answers wait")?,
        (Some(waiting), _) => writeln!(out, "  at least {waiting} answers wait, no more were counted")?,
        (None, _) => {
            writeln!(out, "  how many answers wait is not known: an emitter's place in the results was not found")?;
        }
    }
    writeln!(
        out,
        "  nonces: next {}, on chain {}, with the pool {}; balance {} wei",
        number(&line["next_nonce"]),
        number(&line["latest_nonce"]),
        number(&line["pending_nonce"]),
        line["balance_wei"].as_str().unwrap_or("?"),
    )?;
    for open in line["open"].as_array().into_iter().flatten() {
        let answers = open["answers"].as_array().map_or(0, Vec::len);
        writeln!(out, "  nonce {}: {answers} answers, {} s", open["nonce"], open["age_s"])?;
        for variant in open["variants"].as_array().into_iter().flatten() {
            writeln!(
                out,
                "    {} offers {} wei per gas ({} priority), {} answers, {} s",
                text(&variant["hash"]),
                text(&variant["max_fee_per_gas_wei"]),
                text(&variant["priority_fee_wei"]),
                variant["answers"],
                variant["age_s"]
            )?;
        }
        for answer in open["answers"].as_array().into_iter().flatten() {
            writeln!(out, "    {} {}", text(&answer["kind"]), text(&answer["id"]))?;
        }
    }
    for command in line["commands"].as_array().into_iter().flatten() {
        let nonce = command["nonce"].as_u64().map_or(String::new(), |nonce| format!(" of nonce {nonce}"));
        writeln!(
            out,
            "  {}{nonce} by {}, {} s ago {}",
            text(&command["action"]),
            text(&command["by"]),
            command["age_s"],
            text(&command["reason"])
        )?;
        let outcomes = command["outcomes"].as_array();
        for outcome in outcomes.into_iter().flatten() {
            writeln!(out, "    {}: {}", text(&outcome["end"]), text(&outcome["text"]))?;
        }
        if outcomes.is_none_or(Vec::is_empty) {
            writeln!(out, "    no emitter has said anything to it yet")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::config::CtlConfig;

    /// The line for people of an account with these records.
    fn line(records: &[(i64, &WalletBody, &str)]) -> String {
        let mut account = Found::default();
        for (offset, body, by) in records {
            let record = WalletRecord {
                chain_id: 1,
                sender: Address::ZERO,
                command_id: B256::ZERO,
                by: (*by).to_owned(),
                written_ms: 1_000,
                text: if *by == "ann" { "the node is moved".to_owned() } else { String::new() },
                body: (*body).clone(),
            };
            account.standing.take(*offset, record);
        }
        let line = as_json((1, Address::ZERO), &account, None, None, 61_000);
        pause(&line["paused"], &line["resume_asked"])
    }

    #[test]
    fn a_pause_that_no_emitter_obeyed_is_not_shown_as_one() {
        let done = |command_offset| WalletBody::Outcome {
            command_offset,
            end: kms_schemas::record::WalletEnd::Done,
            transactions: vec![],
        };
        let (pause, resume) = (&WalletBody::Pause, &WalletBody::Resume);
        let asked = line(&[(0, pause, "ann")]);
        assert_eq!(asked, "PAUSE ASKED FOR, and not obeyed by any emitter yet, 60 s ago by ann: the node is moved");
        let obeyed = line(&[(0, pause, "ann"), (1, &done(0), "emitter"), (2, pause, "bob"), (3, &done(2), "emitter")]);
        assert_eq!(obeyed, "PAUSED for 60 s by ann: the node is moved");
        let resume_asked = line(&[(0, pause, "ann"), (1, &done(0), "emitter"), (2, resume, "bob")]);
        assert_eq!(resume_asked, "RESUME ASKED FOR, and not obeyed by any emitter yet, 60 s ago by bob");
        let resumed = line(&[(0, pause, "ann"), (1, resume, "bob"), (2, &done(1), "emitter")]);
        assert_eq!((resumed.as_str(), line(&[]).as_str()), ("not paused", "not paused"));
    }

    #[test]
    fn p4_commands_that_cannot_be_read_for_want_of_a_leader_are_not_shown_as_none() {
        let mock = MockCluster::new(1).unwrap();
        let mut config = CtlConfig::default();
        config.kafka.bootstrap_servers = mock.bootstrap_servers();
        config.kafka.request_timeout_ms = 2_000;
        let cluster = Cluster::connect(config, crate::cluster::Records::Read).unwrap();
        let read = || standing(&cluster, (1, Address::ZERO)).map(|standing| standing.paused().is_some());
        assert!(read().is_ok_and(|paused| !paused), "a deployment from before the topic has no commands");
        mock.create_topic(cluster.topics.commands(), 1, 1).unwrap();
        mock.partition_leader(cluster.topics.commands(), 0, None).unwrap();
        let error = read().unwrap_err();
        assert_eq!(error.code(), Some(crate::codes::TOPIC_UNREADABLE.code), "{error}");
    }
}
