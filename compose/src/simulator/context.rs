//! The checks of a new context, as strict as KMS Core's, and this node's part in it.

use std::collections::BTreeSet;

use alloy::primitives::Address;
use kms_proto::kms::v1::{MpcContext, MpcNode};
use url::Url;

use super::version::CoreVersion;

/// This node's part in a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) party_id: u32,
    pub(super) degree: u32,
}

/// The first thing that is wrong with a context, apart from its id.
pub(super) fn mistake(version: CoreVersion, check_node_count: bool, context: &MpcContext) -> Option<String> {
    let nodes = &context.mpc_nodes;
    let count = i32::try_from(nodes.len()).unwrap_or(i32::MAX);
    let parties: BTreeSet<_> = nodes.iter().map(|node| node.party_id).collect();
    let names: BTreeSet<_> = nodes.iter().map(|node| &node.mpc_identity).collect();
    if nodes.is_empty() {
        return Some("there are no nodes".to_owned());
    }
    if parties.len() < nodes.len() || !parties.iter().all(|party| (1..=count).contains(party)) {
        return Some(format!("the party ids are not 1 to {count}, each once"));
    }
    if names.len() < nodes.len() {
        return Some("two nodes have one name".to_owned());
    }
    let threshold = context.threshold;
    // Contracts know no context of one node with the threshold 0, so an unchecked one may be as great as n.
    let fits = threshold.checked_mul(3) == Some(count - 1);
    if !(0..=count).contains(&threshold) || (check_node_count && !fits) {
        return Some(format!("{count} nodes are not three times the threshold {threshold} and one"));
    }
    // Up to 0.13.3 the field holds other bytes.
    if version >= CoreVersion::V0_13_10 && !is_semantic_version(&context.software_version) {
        return Some(format!("software version {:?} is no semantic version", context.software_version));
    }
    nodes.iter().find_map(|node| mistake_of_node(version, node))
}

fn mistake_of_node(version: CoreVersion, node: &MpcNode) -> Option<String> {
    let name = &node.mpc_identity;
    let reachable = Url::parse(&node.external_url)
        .is_ok_and(|url| url.host_str().is_some_and(|host| !host.is_empty()) && url.port_or_known_default().is_some());
    if !reachable {
        return Some(format!("node {name}: {:?} is no URL with host and port", node.external_url));
    }
    // What is empty is not set.
    if node.ca_cert.as_ref().is_some_and(|pem| !pem.is_empty() && !is_pem(pem)) {
        return Some(format!("node {name}: its certificate is not PEM"));
    }
    let addresses = node.signer_address.iter().chain(&node.extra_signer_addresses);
    if version.contexts_name_signers() && !addresses.into_iter().all(|address| address.len() == Address::len_bytes()) {
        return Some(format!("node {name}: a signer address is not 20 bytes"));
    }
    None
}

/// The part of the node with this signer or, where the context names none, with this party number.
pub(super) fn role(version: CoreVersion, context: &MpcContext, signer: Address, party_id: u32) -> Option<Role> {
    let is_this = |node: &&MpcNode| match &node.signer_address {
        Some(address) if version.contexts_name_signers() => address.as_slice() == signer.as_slice(),
        _ => u32::try_from(node.party_id) == Ok(party_id),
    };
    let node = context.mpc_nodes.iter().find(is_this)?;
    Some(Role { party_id: node.party_id.try_into().ok()?, degree: context.threshold.try_into().ok()? })
}

/// Whether the bytes have the form of PEM. What is inside is not looked at.
fn is_pem(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let text = text.trim();
    text.starts_with("-----BEGIN ") && text.ends_with("-----") && text.contains("-----END ")
}

/// Three numbers without leading zeros, then perhaps a pre-release and a build.
fn is_semantic_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (numbers, pre_release) = text.split_once('-').map_or((text, None), |(text, pre)| (text, Some(pre)));
    let is_number = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let is_word =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_pre_release =
        |part: &str| is_word(part) && (is_number(part) || part.bytes().any(|byte| !byte.is_ascii_digit()));
    numbers.split('.').count() == 3
        && numbers.split('.').all(is_number)
        && pre_release.is_none_or(|pre| pre.split('.').all(is_pre_release))
        && build.is_none_or(|build| build.split('.').all(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semantic_versions_are_told_from_others() {
        for right in ["0.15.0", "1.0.0-rc.1", "0.14.0-1", "1.2.3+build.7", "1.2.3-a-b+c"] {
            assert!(is_semantic_version(right), "{right}");
        }
        for wrong in ["", "1", "1.2", "1.2.3.4", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.x", "1.2.3+"] {
            assert!(!is_semantic_version(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_node_finds_itself_by_its_signer_or_where_none_is_named_by_its_number() {
        let signer = Address::repeat_byte(5);
        let node = |party_id, signer_address: Option<Address>| MpcNode {
            party_id,
            signer_address: signer_address.map(|address| address.to_vec()),
            ..MpcNode::default()
        };
        let of = |nodes: Vec<MpcNode>| MpcContext { mpc_nodes: nodes, threshold: 1, ..MpcContext::default() };
        let named = of(vec![node(1, Some(Address::repeat_byte(6))), node(2, Some(signer))]);
        let find = |version, context: &MpcContext| role(version, context, signer, 1).map(|role| role.party_id);
        assert_eq!(find(CoreVersion::V0_15, &named), Some(2));
        assert_eq!(find(CoreVersion::V0_13_20, &named), Some(1), "there the field holds something else");
        assert_eq!(find(CoreVersion::V0_15, &of(vec![node(1, None)])), Some(1));
        assert_eq!(find(CoreVersion::V0_15, &of(vec![node(1, Some(Address::ZERO))])), None);
    }
}
