//! `kms-stack bench emitter`: an emitter alone, fed with signed results, one answer per transaction against batches.
//!
//! ```text
//!  requests on a chain of four registered nodes ─▶ results, signed by node 1, into its results topic ─▶ its emitter ─▶ blocks
//! ```
//!
//! Gas is compared only among answers at the same place among the nodes' answers to their requests (`docs/protocol.md`, "Gas of
//! an answer"): `--order` chooses it, and so many other nodes answer each request before node 1's emitter gets its result. Each way
//! of sending runs on a stack of its own, one after the other.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use alloy::primitives::{B256, Bytes, keccak256};
use alloy::rpc::types::{Log, TransactionReceipt};
use alloy::sol_types::SolCall as _;
use clap::Args;
use kms_chain::contracts::Decryption;
use kms_chain::eip712::{self, Domain};
use kms_chain::event::{ResponseEvent, decode_request, decode_response};
use kms_schemas::codec::Codec;
use kms_schemas::headers::headers;
use kms_schemas::identity::{Coordinates, Identity, Kind, Lane, RequestId};
use kms_schemas::record::{Answer, RawLog, ResultRecord, Signed};
use kms_schemas::topics::Topics;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde::Serialize;
use serde_json::json;

use crate::contracts::{Account, Call, Made, Material, NewRequest, Pace, Requester, handle};
use crate::error::StackError;
use crate::job::Output;
use crate::stack::{ServiceKind, Stack};
use crate::workspace::Workspace;

const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(25);
/// FHE type of the one handle: 64 bits.
const UINT64: u8 = 5;

/// What is measured.
#[derive(Args, Clone, Debug)]
pub struct EmitterBench {
    /// Answers of each run.
    #[arg(long, default_value_t = 4_000, value_name = "N")]
    pub answers: usize,
    /// Answers in one batch; several sizes are measured one after the other.
    #[arg(long, default_values_t = [32], value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(2..=500))]
    pub batch: Vec<u32>,
    /// Place of the measured node among the nodes' answers to each request; 3 decides. Several are measured one after the other.
    #[arg(long, default_values_t = [1], value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4))]
    pub order: Vec<u32>,
    /// A setting of the emitter, as its `--set`; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Interval of the chain's blocks in milliseconds.
    #[arg(long, default_value_t = 250, value_name = "MS")]
    pub block_time: u64,
    /// How the comparison is written.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// One way of sending at one place among the nodes' answers, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Place among the nodes' answers.
    pub order: u32,
    /// Answers in a full batch; 1 where each has a transaction of its own.
    pub batch: u32,
    /// Answers that the chain recorded.
    pub answers: usize,
    /// Transactions that carried them.
    pub transactions: usize,
    /// Gas per answer.
    pub gas_per_answer: f64,
    /// From the first result in Kafka to the block of the last answer, in seconds.
    pub seconds: f64,
    /// Answers per second of that time.
    pub answers_per_second: f64,
    /// CPU of the emitter's process per answer, in milliseconds; absent where the system does not tell.
    pub cpu_ms_per_answer: Option<f64>,
    /// Gas per answer, of that of single transactions at the same place.
    pub gas_ratio: f64,
}

/// All ways, by place among the nodes' answers, single transactions first.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What was measured.
    pub runs: Vec<Run>,
}

impl Comparison {
    fn of(mut runs: Vec<Run>) -> Self {
        runs.sort_by_key(|run| (run.order, run.batch));
        let single = |order: u32, runs: &[Run]| {
            runs.iter().find(|run| run.order == order && run.batch == 1).map(|run| run.gas_per_answer)
        };
        let alone: Vec<Option<f64>> = runs.iter().map(|run| single(run.order, &runs)).collect();
        for (run, alone) in runs.iter_mut().zip(alone) {
            run.gas_ratio = alone.map_or(f64::NAN, |alone| run.gas_per_answer / alone);
        }
        Self { runs }
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from("public decryptions of one handle, four nodes, the third answer decides\n\n");
        let _ = writeln!(
            text,
            "{:<7}{:<15}{:>9}{:>14}{:>13}{:>8}{:>9}{:>11}{:>10}",
            "order", "", "answers", "transactions", "gas/answer", "ratio", "seconds", "answers/s", "CPU ms"
        );
        for run in &self.runs {
            let way = if run.batch == 1 { "single".to_owned() } else { format!("batches of {}", run.batch) };
            let cpu = run.cpu_ms_per_answer.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms:.2}"));
            let _ = writeln!(
                text,
                "{:<7}{way:<15}{:>9}{:>14}{:>13.0}{:>8.3}{:>9.2}{:>11.0}{cpu:>10}",
                run.order,
                run.answers,
                run.transactions,
                run.gas_per_answer,
                run.gas_ratio,
                run.seconds,
                run.answers_per_second
            );
        }
        text.push_str(
            "\nratio: gas per answer, of that of single transactions at the same order; CPU of the emitter per answer",
        );
        text
    }
}

/// Measures all ways, one after the other.
///
/// # Errors
/// A stack cannot be started or used, or not every answer is on the chain in time.
pub async fn emitter(workspace: &Workspace, args: &EmitterBench) -> Result<Comparison, StackError> {
    let mut runs = Vec::new();
    for batch in std::iter::once(1).chain(args.batch.iter().copied()) {
        runs.extend(one_way(workspace, args, batch).await?);
    }
    Ok(Comparison::of(runs))
}

async fn one_way(workspace: &Workspace, args: &EmitterBench, batch: u32) -> Result<Vec<Run>, StackError> {
    let mut builder = Stack::builder()
        .nodes(4)
        .prefix(format!("bench-{batch}"))
        .block_time(Some(Duration::from_millis(args.block_time.max(1))))
        .batches(batch > 1)
        .set(ServiceKind::Emitter, format!("submission.batch_answers={batch}"))
        .services(&[]);
    for setting in &args.set {
        builder = builder.set(ServiceKind::Emitter, setting.clone());
    }
    let stack = builder.start(workspace).await?;
    let bench = Bench::new(&stack).await?;
    let name = if batch > 1 { format!("batches of {batch}") } else { "one by one".to_owned() };
    let task = workspace.progress().begin(&name, "starting the emitter");
    stack.node().emitter().start().await?;
    // The gas of an answer is known from the first on.
    bench.measure(1, 1, batch).await?;
    let (mut runs, mut told) = (Vec::new(), Vec::new());
    for order in &args.order {
        task.now(format!("{} answers at order {order}", args.answers));
        let run = bench.measure(args.answers, *order, batch).await?;
        told.push(format!("{:.0} answers/s, {:.0} gas each", run.answers_per_second, run.gas_per_answer));
        runs.push(run);
    }
    task.done(&told.join("; "));
    stack.stop().await;
    Ok(runs)
}

/// A stack of which only node 1's emitter runs.
struct Bench<'a> {
    stack: &'a Stack,
    requester: Requester,
    topics: Topics,
    handle: B256,
}

impl<'a> Bench<'a> {
    async fn new(stack: &'a Stack) -> Result<Self, StackError> {
        let requester = stack.requester().await.map_err(chain_error)?;
        let handle = handle(keccak256("bench"), stack.contracts().host_chain_id, UINT64);
        let material = Material {
            handle,
            key_id: RequestId(B256::with_last_byte(4)),
            ciphertext_digest: keccak256("ciphertext"),
            sns_ciphertext_digest: keccak256("object"),
        };
        requester.register(&[material]).await.map_err(chain_error)?;
        requester.allow_public(&[handle]).await.map_err(chain_error)?;
        let topics = Topics::new(stack.node().prefix());
        Ok(Self { stack, requester, topics, handle })
    }

    async fn measure(&self, answers: usize, order: u32, batch: u32) -> Result<Run, StackError> {
        let request = NewRequest::PublicDecryption { handles: vec![self.handle], extra_data: Bytes::new() };
        let sent = self.requester.submit(&vec![request; answers], Pace::AtOnce).await.map_err(chain_error)?;
        let made = self.requester.made(&sent, PATIENCE).await.map_err(chain_error)?;
        let results = self.results(&made).await?;
        self.others_answer(&made, order).await?;
        let first_block = self.requester.gateway().block_number().await.map_err(chain_error)?;
        let cpu = self.cpu();
        let started = Instant::now();
        self.publish(results)?;
        let transactions = self.await_answers(&made, first_block).await?;
        let seconds = started.elapsed().as_secs_f64();
        let used = cpu.zip(self.cpu()).map(|(before, after)| after - before);
        let gas = self.gas_of(&transactions).await?;
        Ok(Run {
            order,
            batch,
            gas_ratio: 1.0,
            answers,
            transactions: transactions.len(),
            gas_per_answer: gas as f64 / answers as f64,
            seconds,
            answers_per_second: answers as f64 / seconds,
            cpu_ms_per_answer: used.map(|seconds| seconds * 1000.0 / answers as f64),
        })
    }

    /// All before this place answer, without an emitter.
    async fn others_answer(&self, made: &[Made], order: u32) -> Result<(), StackError> {
        // What fits a block, so that the node drops nothing.
        const TOGETHER: usize = 500;
        const GAS: u64 = 500_000;
        let contracts = self.stack.contracts();
        let domain = Domain::decryption(contracts.gateway_chain_id, contracts.decryption);
        let (handles, result) = (vec![self.handle], word());
        let digest = domain.public_decryption(&handles, &result, &Bytes::new());
        for node in self.stack.nodes().iter().take(order as usize).skip(1) {
            let signature = eip712::sign(&node.keys().signer, digest).map_err(job_error)?;
            let call = |made: &Made| Decryption::publicDecryptionResponseCall {
                decryptionId: made.id.as_u256(),
                decryptedResult: result.clone(),
                signature: signature.clone(),
                extraData: Bytes::new(),
            };
            let gateway = self.requester.gateway();
            let account = Account::open(gateway, node.keys().sender.clone()).await.map_err(chain_error)?;
            for chunk in made.chunks(TOGETHER) {
                let to = Some(contracts.decryption);
                let calls: Vec<Call> =
                    chunk.iter().map(|made| Call { to, data: call(made).abi_encode().into(), gas: GAS }).collect();
                let sent = account.send(&calls).await.map_err(chain_error)?;
                let receipts = gateway.receipts(&sent, PATIENCE).await.map_err(chain_error)?;
                if receipts.iter().any(|receipt| !receipt.status()) {
                    return Err(StackError::Job("an answer of another node reverted".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// The results that the processor would publish, encoded.
    async fn results(&self, made: &[Made]) -> Result<Vec<(Vec<u8>, Vec<u8>, OwnedHeaders)>, StackError> {
        let contracts = self.stack.contracts();
        let domain = Domain::decryption(contracts.gateway_chain_id, contracts.decryption);
        let codec = Codec::single_object();
        let topic = self.topics.results(Lane::Decryption);
        let wanted: HashSet<RequestId> = made.iter().map(|made| made.id).collect();
        let first = made.iter().map(|made| made.block).min().unwrap_or_default();
        let signer = &self.stack.node().keys().signer;
        let mut results = Vec::with_capacity(made.len());
        for log in self.logs(first).await? {
            let raw = raw(&log);
            let Ok(Some(request)) = decode_request(&contracts.followed(), &raw) else { continue };
            let (Some(block_number), Some(block_hash), Some(log_index)) =
                (log.block_number, log.block_hash, log.log_index)
            else {
                continue;
            };
            if !wanted.contains(&request.id) {
                continue;
            }
            let (handles, decrypted_result, extra_data) = (vec![self.handle], word(), Bytes::new());
            let digest = domain.public_decryption(&handles, &decrypted_result, &extra_data);
            let signature = eip712::sign(signer, digest).map_err(job_error)?;
            let signature = Signed { signature, digest, signer: signer.address() };
            let result = ResultRecord {
                source: Coordinates {
                    topic: self.topics.requests(Lane::Decryption).to_owned(),
                    partition: 0,
                    offset: 0,
                },
                deferred: None,
                identity: Identity {
                    chain_id: contracts.gateway_chain_id,
                    contract: raw.address,
                    kind: Kind::PublicDecryption,
                    id: request.id,
                },
                block_number,
                block_hash,
                log_index,
                attempts: 1,
                answer: Answer::PublicDecryption { handles, decrypted_result, extra_data, signature },
            };
            let value = codec.encode(topic, &result).map_err(job_error)?;
            let mut names = OwnedHeaders::new();
            for (key, value) in headers("/bench", SystemTime::now(), &result) {
                names = names.insert(Header { key: key.as_ref(), value: Some(&value) });
            }
            results.push((request.id.0.to_vec(), value, names));
        }
        if results.len() != made.len() {
            return Err(StackError::Job(format!(
                "{} of {} requests were found on the chain",
                results.len(),
                made.len()
            )));
        }
        Ok(results)
    }

    fn publish(&self, results: Vec<(Vec<u8>, Vec<u8>, OwnedHeaders)>) -> Result<(), StackError> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.stack.bootstrap_servers())
            .set("partitioner", "murmur2_random")
            .set("enable.idempotence", "true")
            .create()
            .map_err(job_error)?;
        let topic = self.topics.results(Lane::Decryption);
        for (key, value, names) in &results {
            let record = BaseRecord::to(topic).key(key).payload(value).headers(names.clone());
            producer.send(record).map_err(|(error, _)| job_error(error))?;
            producer.poll(Duration::ZERO);
        }
        producer.flush(PATIENCE).map_err(job_error)
    }

    /// Waits until the chain has recorded every answer; the transactions that carried them.
    async fn await_answers(&self, made: &[Made], first_block: u64) -> Result<HashSet<B256>, StackError> {
        let started = Instant::now();
        let mut open: HashSet<RequestId> = made.iter().map(|made| made.id).collect();
        let (mut transactions, mut next) = (HashSet::new(), first_block);
        loop {
            let head = self.requester.gateway().block_number().await.map_err(chain_error)?;
            if head >= next {
                for log in self.logs(next).await? {
                    let event = decode_response(&self.stack.contracts().followed(), &raw(&log));
                    let Ok(Some(ResponseEvent::PublicDecryptionResponseCall { id, tx_sender, .. })) = event else {
                        continue;
                    };
                    if tx_sender == self.stack.node().sender() && open.remove(&id) {
                        transactions.extend(log.transaction_hash);
                    }
                    next = next.max(log.block_number.unwrap_or_default());
                }
            }
            if open.is_empty() {
                return Ok(transactions);
            }
            if started.elapsed() > PATIENCE {
                let text = format!("{} of {} answers are not on the chain", open.len(), made.len());
                return Err(StackError::Job(text));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn gas_of(&self, transactions: &HashSet<B256>) -> Result<u64, StackError> {
        let hashes: Vec<B256> = transactions.iter().copied().collect();
        let receipts: Vec<TransactionReceipt> =
            self.requester.gateway().receipts(&hashes, PATIENCE).await.map_err(chain_error)?;
        Ok(receipts.iter().map(|receipt| receipt.gas_used).sum())
    }

    async fn logs(&self, from: u64) -> Result<Vec<Log>, StackError> {
        let address = self.stack.contracts().decryption;
        let filter = json!({"address": address, "fromBlock": format!("{from:#x}"), "toBlock": "latest"});
        self.requester.gateway().request("eth_getLogs", (filter,)).await.map_err(chain_error)
    }

    /// CPU seconds of the emitter's process so far.
    fn cpu(&self) -> Option<f64> {
        // A hundredth of a second on every Linux that there is.
        const TICK: f64 = 0.01;
        let pid = self.stack.node().emitter().process().pid()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold spaces; user and system time are the 12th and 13th field behind it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
        Some(ticks * TICK)
    }
}

/// The clear value.
fn word() -> Bytes {
    vec![7; 32].into()
}

fn raw(log: &Log) -> RawLog {
    RawLog { address: log.address(), topics: log.topics().to_vec(), data: log.data().data.clone() }
}

fn chain_error(error: crate::contracts::ContractsError) -> StackError {
    StackError::Contracts(error.to_string())
}

fn job_error(error: impl std::fmt::Display) -> StackError {
    StackError::Job(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_is_among_answers_of_the_same_order() {
        let run = |order, batch, gas_per_answer| Run {
            order,
            batch,
            answers: 64,
            transactions: 64 / batch as usize,
            gas_per_answer,
            seconds: 0.5,
            answers_per_second: 128.0,
            cpu_ms_per_answer: Some(0.4),
            gas_ratio: 1.0,
        };
        let runs = vec![run(3, 32, 240_000.0), run(1, 1, 250_000.0), run(1, 32, 200_000.0), run(3, 1, 300_000.0)];
        let comparison = Comparison::of(runs);
        let told: Vec<_> = comparison.runs.iter().map(|run| (run.order, run.batch, run.gas_ratio)).collect();
        assert_eq!(told, [(1, 1, 1.0), (1, 32, 0.8), (3, 1, 1.0), (3, 32, 0.8)]);
        let table = comparison.table();
        assert!(table.contains("batches of 32") && table.contains("240000") && table.contains("0.800"), "{table}");
    }
}
