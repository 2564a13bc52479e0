//! Puts the parts together and runs one stage per lane and its deferred twin.

use std::sync::Arc;
use std::time::Duration;

use kms_chain::eip712::{Domain, Domains};
use kms_chain::event::ContractSet;
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use kms_chain::views::GatewayConfigViews;
use kms_runtime::config::{SchemaRegistryConfig, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use kms_runtime::service::{Context, Service};
use kms_runtime::shutdown::{Exit, Stopped};
use kms_runtime::stage::{self, StageConfig, StageIds};
use kms_schemas::identity::Lane;
use kms_schemas::topics::{MAX_DEAD_LETTER_BYTES, MAX_RECORD_BYTES};
use tokio::task::JoinSet;

use crate::answer::Verifier;
use crate::ciphertext::CiphertextStore;
use crate::config::{DomainConfig, LaneConfig, ProcessorConfig};
use crate::coprocessors::Coprocessors;
use crate::core::KmsCore;
use crate::handler::{Intake, RequestHandler, Shared};
use crate::{handler, metrics};

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
        let shared = Arc::new(shared(&config, &context)?);
        let mut stages = JoinSet::new();
        for lane in Lane::ALL {
            let limits = match lane {
                Lane::Decryption => &config.lanes.decryption,
                Lane::KeyManagement => &config.lanes.key_management,
            };
            for intake in [Intake::Fresh, Intake::Deferred] {
                let settings = stage_config(&context, lane, intake, limits);
                let handler = RequestHandler::new(shared.clone(), intake);
                let check = context.health.check(settings.name);
                let kafka = context.kafka.clone();
                // The first stage that ends takes the others with it.
                let shutdown = context.shutdown.clone();
                stages.spawn(async move {
                    let ended = stage::run(&kafka, settings, handler, check, shutdown.clone()).await;
                    shutdown.cancel();
                    ended.map_err(|error| error.stopped())
                });
            }
        }
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

fn shared(config: &ProcessorConfig, context: &Context) -> Result<Shared, Stopped> {
    let refuse = |text: String| Stopped::new(Exit::Configuration, &kms_runtime::codes::CONFIG_VALUE, text);
    let gateway = &config.gateway;
    let urls = gateway
        .rpc_urls
        .iter()
        .map(|url| EndpointUrl::parse(url.expose().as_str()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refuse(error.to_string()))?;
    let mut rpc_config = RpcConfig::new("gateway", urls);
    rpc_config.chain_id = Some(gateway.chain_id);
    let rpc = Rpc::new(rpc_config).map_err(|error| refuse(error.to_string()))?;
    let coprocessors = Coprocessors::new(
        GatewayConfigViews::new(rpc, gateway.gateway_config),
        Duration::from_millis(gateway.registry_refresh_ms),
    );
    let contracts = ContractSet { decryption: gateway.decryption, kms_generation: gateway.kms_generation };
    let domain = |name: &str, contract| DomainConfig {
        name: name.to_owned(),
        version: gateway.domain_version.clone(),
        contract,
    };
    let decryption = domain(&gateway.decryption_domain_name, gateway.decryption);
    let kms_generation = domain(&gateway.kms_generation_domain_name, gateway.kms_generation);
    let signed = |domain: &DomainConfig| {
        Domain::new(domain.name.clone(), domain.version.clone(), gateway.chain_id, domain.contract)
    };
    let verifier = Verifier {
        signer: config.signer.address,
        domains: Domains { decryption: signed(&decryption), kms_generation: signed(&kms_generation) },
    };
    Ok(Shared {
        codec: context.codec.clone(),
        topics: context.topics.clone(),
        source: format!("/{}/{}", context.topics.prefix(), handler::SERVICE),
        chain_id: gateway.chain_id,
        contracts,
        decryption,
        kms_generation,
        ciphertexts: CiphertextStore::new(config.ciphertexts.clone(), coprocessors)
            .map_err(|error| refuse(format!("the HTTP client for ciphertexts cannot be built: {error}")))?,
        core: KmsCore::new(&config.kms_core).map_err(|error| refuse(format!("kms_core.endpoints: {error}")))?,
        verifier,
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
        max_attempts: limits.max_attempts,
        time_limit,
        max_output_bytes: MAX_RECORD_BYTES,
        max_dead_letter_bytes: MAX_DEAD_LETTER_BYTES,
        session_timeout: Duration::from_millis(context.kafka.session_timeout_ms.into()),
        transaction_timeout: context.kafka.transaction_timeout(),
        ..StageConfig::new(name, vec![input], outcomes, ids)
    }
}
