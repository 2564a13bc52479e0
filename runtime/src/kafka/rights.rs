//! What the cluster denies, told apart from an outage: waiting does not help against it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The principal is known and may not.
pub(super) fn is_denied(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    )
}

/// The broker does not believe who asks.
pub(super) fn is_unauthenticated(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed)
    )
}

/// The right that a service lacks which consumes in a group and produces in transactions.
pub(super) fn missing_right(
    code: RDKafkaErrorCode,
    topic: &str,
    group: &str,
    transactional_id: &str,
) -> Option<String> {
    Some(match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => format!("Read and Write on topic {topic}"),
        RDKafkaErrorCode::GroupAuthorizationFailed => format!("Read on group {group}"),
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
            format!("Describe and Write on transactional id {transactional_id}")
        }
        RDKafkaErrorCode::ClusterAuthorizationFailed => "IdempotentWrite on the cluster".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_denial_names_its_right_and_an_outage_names_none() {
        for (code, resource) in [
            (RDKafkaErrorCode::TopicAuthorizationFailed, "topic t"),
            (RDKafkaErrorCode::GroupAuthorizationFailed, "group g"),
            (RDKafkaErrorCode::TransactionalIdAuthorizationFailed, "transactional id i"),
            (RDKafkaErrorCode::ClusterAuthorizationFailed, "cluster"),
        ] {
            assert!(is_denied(code));
            let right = missing_right(code, "t", "g", "i").unwrap_or_default();
            assert!(right.contains(resource), "{right}");
        }
        assert!(!is_denied(RDKafkaErrorCode::BrokerTransportFailure));
        assert_eq!(missing_right(RDKafkaErrorCode::BrokerTransportFailure, "t", "g", "i"), None);
    }
}
