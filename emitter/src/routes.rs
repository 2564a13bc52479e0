//! Which destination a result belongs to. Pure.
//!
//! Every destination reads the results topics with groups of its own and leaves alone what is another's, so that one that
//! waits for its chain holds up nobody. What is nobody's is told once, by the first of the configuration.

use alloy::primitives::Address;
use kms_schemas::identity::{Identity, Kind, Lane};

use crate::config::DestinationConfig;

/// Whose a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This destination's.
    Own,
    /// Another one of the configuration answers it.
    Another,
    /// None does.
    Nobody,
}

/// One destination among the others.
#[derive(Clone, Debug)]
pub struct Routes {
    destinations: Vec<DestinationConfig>,
    own: usize,
}

impl Routes {
    /// The view of the destination at `own`.
    #[must_use]
    pub fn new(destinations: &[DestinationConfig], own: usize) -> Self {
        Self { destinations: destinations.to_vec(), own }
    }

    /// Whose a result with this identity is: chain and contract decide.
    #[must_use]
    pub fn owner(&self, identity: &Identity) -> Owner {
        let answers = |destination: &DestinationConfig| {
            destination.chain_id == identity.chain_id
                && destination.contract_of(identity.kind) == Some(identity.contract)
        };
        match self.destinations.iter().position(answers) {
            Some(index) if index == self.own => Owner::Own,
            Some(_) => Owner::Another,
            None => Owner::Nobody,
        }
    }

    /// Whether this destination speaks for what is nobody's.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.own == 0
    }

    /// Whether this destination has to read a lane: the first one reads all.
    #[must_use]
    pub fn consumes(&self, lane: Lane) -> bool {
        self.is_first() || self.destinations[self.own].serves(lane)
    }

    /// The contract of this destination that emits requests of a kind.
    #[must_use]
    pub fn contract_of(&self, kind: Kind) -> Option<Address> {
        self.destinations[self.own].contract_of(kind)
    }

    /// Chain and contracts of all destinations, for a person.
    #[must_use]
    pub fn served(&self) -> String {
        let one = |destination: &DestinationConfig| {
            let contracts: Vec<String> =
                destination.named_contracts().map(|(key, contract)| format!("{key} {contract}")).collect();
            format!("chain {} ({})", destination.chain_id, contracts.join(", "))
        };
        self.destinations.iter().map(one).collect::<Vec<_>>().join(" and ")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alloy::primitives::B256;
    use kms_schemas::identity::RequestId;

    use super::*;

    /// A destination with contracts of these first bytes, 0 for none.
    pub(crate) fn destination(chain_id: u64, contracts: [u8; 3]) -> DestinationConfig {
        let address = |byte: u8| (byte != 0).then(|| Address::repeat_byte(byte).to_string());
        let [decryption, kms_generation, protocol_config] = contracts.map(address);
        let value = serde_json::json!({
            "id": format!("d{chain_id}"),
            "chain_id": chain_id,
            "rpc_urls": ["http://127.0.0.1:8545"],
            "decryption": decryption,
            "kms_generation": kms_generation,
            "protocol_config": protocol_config,
        });
        serde_json::from_value(value).unwrap()
    }

    fn identity(chain_id: u64, contract: u8, kind: Kind) -> Identity {
        Identity { chain_id, contract: Address::repeat_byte(contract), kind, id: RequestId(B256::ZERO) }
    }

    #[test]
    fn each_result_has_one_owner_and_what_is_nobodys_is_told_by_the_first() {
        let both = [destination(1, [0xd, 0, 0]), destination(2, [0, 0xe, 0xf])];
        let cases = [
            (identity(1, 0xd, Kind::UserDecryption), Some(0)),
            (identity(2, 0xe, Kind::Keygen), Some(1)),
            (identity(2, 0xe, Kind::AbortKeygen), Some(1)),
            (identity(2, 0xf, Kind::NewKmsContext), Some(1)),
            (identity(2, 0xf, Kind::KmsEpochDestroyed), Some(1)),
            // Another chain, another contract, a contract of another kind.
            (identity(2, 0xd, Kind::UserDecryption), None),
            (identity(1, 0xc, Kind::UserDecryption), None),
            (identity(2, 0xf, Kind::Keygen), None),
            (identity(1, 0xd, Kind::PrssInit), None),
        ];
        for own in 0..2 {
            let routes = Routes::new(&both, own);
            for (identity, owner) in &cases {
                let expected = match owner {
                    Some(owner) if *owner == own => Owner::Own,
                    Some(_) => Owner::Another,
                    None => Owner::Nobody,
                };
                assert_eq!(routes.owner(identity), expected, "{identity:?} seen from {own}");
            }
            assert_eq!(routes.is_first(), own == 0);
        }
    }

    #[test]
    fn a_lane_without_work_is_read_by_the_first_destination_only() {
        let both = [destination(1, [0xd, 0, 0]), destination(2, [0, 0xe, 0xf])];
        let reads = |own| Lane::ALL.map(|lane| Routes::new(&both, own).consumes(lane));
        assert_eq!(reads(0), [true, true]);
        assert_eq!(reads(1), [false, true]);
    }
}
