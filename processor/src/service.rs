//! Puts the parts together and runs one stage per lane and its deferred twin.

use std::sync::Arc;
use std::time::Duration;

use kms_chain::release::Family;
use kms_chain::views::GatewayConfigViews;
use kms_runtime::config::{SchemaRegistryConfig, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use kms_runtime::retry::Backoff;
use kms_runtime::service::{Context, Service};
use kms_runtime::shutdown::{Exit, Stopped};
use kms_runtime::stage::{self, StageConfig, StageIds};
use kms_schemas::identity::Lane;
use kms_schemas::topics::{MAX_DEAD_LETTER_BYTES, MAX_RECORD_BYTES};
use tokio::task::JoinSet;
use tokio_util::sync::DropGuard;

use crate::access::{HostChain, HostChains};
use crate::answer::Verifier;
use crate::chains::{self, Clients, Deployment, GatewayAccess, ServedChain};
use crate::ciphertext::CiphertextStore;
use crate::config::{CoreVersion, LaneConfig, ProcessorConfig};
use crate::context::Contexts;
use crate::coprocessors::Coprocessors;
use crate::core::KmsCore;
use crate::gate::{Access, Gate};
use crate::handler::{Intake, RequestHandler, Shared};
use crate::identity::Quarantine;
use crate::patience::Patience;
use crate::{codes, handler, metrics};

/// The processor.
#[derive(Clone, Copy, Debug)]
pub struct Processor;

impl Service for Processor {
    type Config = ProcessorConfig;
    const NAME: &'static str = handler::SERVICE;
    const PROGRAM: &'static str = "kms-processor";
    const ABOUT: &'static str = "Turns the contracts' requests into signed results by way of KMS Core";

    fn kafka(config: &ProcessorConfig) -> &KafkaConfig {
        &config.kafka
    }

    fn schema_registry(config: &ProcessorConfig) -> &SchemaRegistryConfig {
        &config.schema_registry
    }

    fn telemetry(config: &ProcessorConfig) -> &TelemetryConfig {
        &config.telemetry
    }

    async fn run(config: ProcessorConfig, context: Context) -> Result<(), Stopped> {
        metrics::describe();
        kms_chain::metrics::describe();
        kms_runtime::stage::metrics::describe();
        let refuse = |text: String| Stopped::new(Exit::Configuration, &kms_runtime::codes::CONFIG_VALUE, text);
        let clients = Clients::new(&config).map_err(refuse)?;
        let Some(deployment) = deployment(&config, &clients, &context).await? else { return Ok(()) };
        let version = deployment.version.clone();
        let shared = Arc::new(shared(&config, &context, clients, deployment)?);
        let mut stages = JoinSet::new();
        for lane in Lane::ALL {
            let limits = match lane {
                Lane::Decryption => &config.lanes.decryption,
                Lane::KeyManagement => &config.lanes.key_management,
            };
            for intake in [Intake::Fresh, Intake::Deferred] {
                let settings = stage_config(&context, lane, intake, limits);
                let handler = RequestHandler::new(shared.clone(), lane, intake);
                let check = context.health.check(settings.name);
                let kafka = context.kafka.clone();
                let shutdown = context.shutdown.clone();
                let stage = async move { stage::run(&kafka, settings, handler, check, shutdown).await };
                let ended = async move { stage.await.map_err(|error| error.stopped()) };
                stages.spawn(taking_the_others_along(context.shutdown.clone().drop_guard(), ended));
            }
        }
        // An upgrade changes what has to be checked: start again, and find out.
        let (rpc, release, shutdown) = (shared.gateway.rpc.clone(), shared.release, context.shutdown.clone());
        stages.spawn(taking_the_others_along(context.shutdown.clone().drop_guard(), async move {
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                text = chains::upgraded(&config, &rpc, release, version.as_deref()) => {
                    Err(Stopped { exit: Exit::Refused, code: codes::RELEASE_CHANGED, text })
                }
            }
        }));
        let mut outcome = Ok(());
        while let Some(ended) = stages.join_next().await {
            let ended = ended.unwrap_or_else(|error| {
                Err(Stopped::new(Exit::Internal, &kms_runtime::codes::INTERNAL, error.to_string()))
            });
            if outcome.is_ok() {
                outcome = ended;
            }
        }
        outcome
    }
}

/// A part of the service whose end, in whatever way, is everybody's: a lane that is gone while the process lives would be
/// noticed by nobody.
async fn taking_the_others_along<T>(others: DropGuard, part: impl Future<Output = T>) -> T {
    let _others = others;
    part.await
}

/// What the contracts say of themselves. An outage is waited for, and so is a contract that is not deployed yet; none when the service is
/// asked to end meanwhile.
async fn deployment(
    config: &ProcessorConfig,
    clients: &Clients,
    context: &Context,
) -> Result<Option<Deployment>, Stopped> {
    const RETRY: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 2.0 };
    let check = context.health.check("contracts");
    let mut failures = 0;
    loop {
        let error = match Deployment::detect(config, clients).await {
            Ok(deployment) => {
                tracing::info!(
                    release = %deployment.release,
                    checks_acl = deployment.checks_acl,
                    ethereum = deployment.ethereum.is_some(),
                    "contracts found"
                );
                check.ready();
                return Ok(Some(deployment));
            }
            Err(error) if error.is_outage() => error,
            Err(error) => return Err(error.stopped()),
        };
        failures += 1;
        let code = error.code();
        if failures == 1 {
            tracing::info!(code, %error, "the contracts cannot be asked yet, trying again");
        }
        check.not_ready(format!("{code}: {error}"));
        tokio::select! {
            () = context.shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY.delay(failures, rand::random())) => {}
        }
    }
}

fn shared(
    config: &ProcessorConfig,
    context: &Context,
    clients: Clients,
    deployment: Deployment,
) -> Result<Shared, Stopped> {
    let refuse = |text: String| Stopped::new(Exit::Configuration, &kms_runtime::codes::CONFIG_VALUE, text);
    let Deployment { release, version: _, gateway: contracts, ethereum, domains, checks_acl } = deployment;
    let Some(decryption) = domains.decryption.clone() else {
        return Err(refuse("gateway.decryption is missing".to_owned()));
    };
    let access = &config.access;
    let coprocessors = Coprocessors::new(
        GatewayConfigViews::new(clients.gateway.clone(), config.gateway.gateway_config),
        Duration::from_millis(config.gateway.registry_refresh_ms),
    );
    if release.decryption_family() == Family::Handles {
        let coprocessors = coprocessors.clone();
        tokio::spawn(async move { coprocessors.check_threshold().await });
    }
    let gateway = ServedChain::new(
        chains::GATEWAY,
        config.gateway.chain_id,
        clients.gateway,
        contracts,
        config.gateway.finality,
        config.gateway.key_management_finality,
        access.cached_blocks,
    );
    let ethereum = match (ethereum, &config.ethereum, clients.ethereum) {
        (Some(contracts), Some(section), Some(rpc)) => Some(ServedChain::new(
            chains::ETHEREUM,
            section.chain_id,
            rpc,
            contracts,
            section.finality,
            section.finality,
            access.cached_blocks,
        )),
        _ => None,
    };
    let contexts = ethereum.as_ref().zip(config.ethereum.as_ref()).map(|(chain, section)| {
        let refresh = Duration::from_millis(access.context_refresh_ms);
        Contexts::new(chain.rpc.clone(), section.protocol_config, section.finality, release, refresh)
    });
    let rights = if checks_acl {
        let chains = config.host_chain.iter().zip(clients.host_chains);
        let chains = chains.map(|(section, rpc)| (section.chain_id, HostChain { rpc, acl: section.acl }));
        Access::HostChains(HostChains::new(chains.collect(), access.erc1271_gas))
    } else {
        let (rpc, section) = (gateway.rpc.clone(), &config.gateway);
        Access::Gateway(GatewayAccess::new(rpc, section.decryption))
    };
    let gate =
        Gate { release, gateway: gateway.clone(), ethereum: ethereum.clone(), decryption, access: rights, contexts };
    let core_version = config.kms_core.version.unwrap_or_else(|| CoreVersion::of(release));
    Ok(Shared {
        codec: context.codec.clone(),
        topics: context.topics.clone(),
        source: format!("/{}/{}", context.topics.prefix(), handler::SERVICE),
        release,
        gateway,
        ethereum,
        gate,
        quarantine: Arc::new(Quarantine::new(
            (*context.kafka).clone(),
            context.codec.clone(),
            context.topics.clone(),
            access.identity_memory,
        )),
        patience: Patience::new(access),
        ciphertexts: CiphertextStore::new(config.ciphertexts.clone(), coprocessors)
            .map_err(|error| refuse(format!("the HTTP client for ciphertexts cannot be built: {error}")))?,
        core: KmsCore::new(&config.kms_core, core_version)
            .map_err(|error| refuse(format!("kms_core.endpoints: {error}")))?,
        core_version,
        verifier: Verifier { signer: config.signer.address, domains },
    })
}

fn stage_config(context: &Context, lane: Lane, intake: Intake, limits: &LaneConfig) -> StageConfig {
    let topics = &context.topics;
    let deferred = topics.deferred(lane).to_owned();
    let (name, lane_name, input, slots) = match (lane, intake) {
        (Lane::Decryption, Intake::Fresh) => {
            ("processor.decryption", "decryption", topics.requests(lane).to_owned(), limits.slots)
        }
        (Lane::Decryption, Intake::Deferred) => {
            ("processor.decryption.deferred", "decryption.deferred", deferred.clone(), limits.deferred_slots)
        }
        (Lane::KeyManagement, Intake::Fresh) => {
            ("processor.key-management", "key-management", topics.requests(lane).to_owned(), limits.slots)
        }
        (Lane::KeyManagement, Intake::Deferred) => {
            ("processor.key-management.deferred", "key-management.deferred", deferred.clone(), limits.deferred_slots)
        }
    };
    let mut outcomes = vec![topics.results(lane).to_owned(), topics.dead_letters().to_owned()];
    if intake == Intake::Fresh {
        outcomes.push(deferred);
    }
    let ids = StageIds::new(topics.prefix(), handler::SERVICE, lane_name, &context.kafka.instance);
    let time_limit =
        (intake == Intake::Deferred && limits.time_limit_ms > 0).then(|| Duration::from_millis(limits.time_limit_ms));
    StageConfig {
        slots,
        bytes_in_flight: limits.bytes_in_flight,
        window: limits.window,
        defer_after: Duration::from_millis(limits.defer_after_ms),
        max_attempts: limits.attempts(lane),
        time_limit,
        max_output_bytes: MAX_RECORD_BYTES,
        max_dead_letter_bytes: MAX_DEAD_LETTER_BYTES,
        session_timeout: Duration::from_millis(context.kafka.session_timeout_ms.into()),
        transaction_timeout: context.kafka.transaction_timeout(),
        ..StageConfig::new(name, vec![input], outcomes, ids)
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn the_end_of_one_part_is_the_end_of_all_also_in_a_panic() {
        let shutdown = CancellationToken::new();
        let mut parts = JoinSet::new();
        let forever = shutdown.clone();
        parts.spawn(taking_the_others_along(shutdown.clone().drop_guard(), async move { forever.cancelled().await }));
        parts.spawn(taking_the_others_along(shutdown.clone().drop_guard(), async { panic!("a part that breaks") }));
        let all = async { while parts.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(120), all).await.expect("nobody is left behind");
        assert!(shutdown.is_cancelled());
    }
}
