//! What the node has and how it is.

use kms_proto::kms::v1 as kms;

use super::config::Mode;
use super::engine::{Engine, lock};
use super::refusal::{OperationId, Refusal};
use super::store::State;
use super::validation;
use super::vault::Shelf;

impl Engine {
    /// Keys of all epochs, CRSs and finished preprocessings.
    pub(super) fn material(&self) -> kms::KeyMaterialAvailabilityResponse {
        let texts = |ids: Vec<OperationId>| ids.iter().map(ToString::to_string).collect();
        let mut keys = self.vault.ids(Shelf::Keys);
        if self.has_first_epoch() {
            keys.extend(&self.config.keys);
        }
        keys.sort_unstable();
        keys.dedup();
        let preprocessings = lock(&self.life().preprocessings).list();
        let finished = preprocessings.into_iter().filter(|(_, state)| matches!(state, State::Done(_)));
        kms::KeyMaterialAvailabilityResponse {
            fhe_key_ids: texts(keys),
            crs_ids: texts(self.vault.ids(Shelf::Crs)),
            preprocessing_ids: texts(finished.map(|(id, _)| id).collect()),
            storage_info: self.storage_info(),
        }
    }

    /// Whether any of the epochs is left that hold the keys which were there from the start.
    fn has_first_epoch(&self) -> bool {
        let holds = |(epoch, _): &(OperationId, OperationId)| self.vault.holds(Shelf::Epochs, *epoch);
        let has_epochs = self.config.version.has_epochs() && self.config.mode == Mode::Threshold;
        !has_epochs || self.config.epochs.iter().any(holds)
    }

    pub(super) fn health_status(&self) -> kms::HealthStatusResponse {
        let material = self.material();
        let (node_type, peers) = match self.config.mode {
            Mode::Centralized => (kms::NodeType::Centralized, vec![]),
            Mode::Threshold => {
                let contexts = self.vault.items_on::<kms::MpcContext>(Shelf::Contexts).into_iter();
                (kms::NodeType::Threshold, contexts.map(|(id, context)| self.peers(id, &context)).collect())
            }
        };
        kms::HealthStatusResponse {
            peers_from_all_contexts: peers,
            my_fhe_key_ids: material.fhe_key_ids,
            my_crs_ids: material.crs_ids,
            my_preprocessing_key_ids: material.preprocessing_ids,
            my_storage_info: material.storage_info,
            node_type: node_type.into(),
        }
    }

    fn peers(&self, id: OperationId, context: &kms::MpcContext) -> kms::PeersFromContext {
        let role = self.role(context);
        let (party_id, degree) = role.map_or((0, 0), |role| (role.party_id, role.degree));
        let nodes = if context.mpc_nodes.is_empty() {
            (1..=self.config.nodes).map(|party| (party, format!("simulated-node-{party}"))).collect()
        } else {
            let node = |node: &kms::MpcNode| (node.party_id.unsigned_abs(), node.external_url.clone());
            context.mpc_nodes.iter().map(node).collect::<Vec<_>>()
        };
        let reachable = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let others = nodes.into_iter().filter(|&(party, _)| party != party_id);
        let peer = |(party, endpoint)| kms::PeerHealth {
            peer_id: party,
            endpoint,
            reachable: true,
            latency_ms: 0,
            error: String::new(),
        };
        kms::PeersFromContext {
            context_id: Some(id.message()),
            my_party_id: party_id,
            threshold_required: 2 * degree + 1,
            nodes_reachable: reachable,
            status: kms::HealthStatus::Optimal.into(),
            peers: others.map(peer).collect(),
        }
    }

    /// Bandwidth to the peers of a context, of which nothing is measured.
    pub(super) fn bandwidth(
        &self,
        request: &kms::BandwidthBenchmarkRequest,
    ) -> Result<kms::BandwidthBenchmarkResponse, Refusal> {
        use tonic::Code;
        if self.config.mode == Mode::Centralized {
            return Err(Refusal::new(Code::Unimplemented, "there are no other nodes"));
        }
        let default = self.config.version.default_context();
        let id = validation::optional_id("context_id", request.context_id.as_ref())?.unwrap_or(default);
        let Some(context) = self.vault.item::<kms::MpcContext>(Shelf::Contexts, id) else {
            return Err(Refusal::new(Code::NotFound, format!("context {id} is not known")));
        };
        let peer = |peer: kms::PeerHealth| kms::PeerBandwidthInfo {
            peer_id: peer.peer_id,
            endpoint: peer.endpoint,
            bytes_sent: u64::from(request.payload_size_per_session) * u64::from(request.number_sessions),
            duration: request.duration,
            latency: Some(kms::LatencyInfo::default()),
        };
        Ok(kms::BandwidthBenchmarkResponse {
            peers_info: self.peers(id, &context).peers.into_iter().map(peer).collect(),
        })
    }

    fn storage_info(&self) -> String {
        let kind = match self.config.mode {
            Mode::Centralized => "Centralized",
            Mode::Threshold => "Threshold",
        };
        format!("{kind} KMS - {}", if self.config.state_dir.is_some() { "file storage" } else { "memory" })
    }
}
