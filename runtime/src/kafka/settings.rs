//! What a topic's settings may be. Pure: the cluster's answers come as values.

use std::fmt;

use kms_schemas::topics::TopicSpec;
use rdkafka::admin::ConfigResource;
use rdkafka::error::RDKafkaErrorCode;

/// A topic's settings, or the cluster's reason to keep them to itself.
pub(super) type Found = Result<ConfigResource, RDKafkaErrorCode>;

/// Something about a topic that is not as the catalogue says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRemark {
    /// Full name of the topic.
    pub topic: String,
    /// What differs, for a person.
    pub text: String,
}

impl fmt::Display for TopicRemark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.topic, self.text)
    }
}

/// The settings of topics, held against the catalogue.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// A promise rests on these.
    pub(super) breaking: Vec<TopicRemark>,
    /// The operator's choice.
    pub(super) tolerable: Vec<TopicRemark>,
    /// What could not be read.
    pub(super) unread: Vec<(String, RDKafkaErrorCode)>,
}

/// The compression that the client library is built without. A broker that is told to use it compresses anew what it is sent,
/// and nobody of us reads a record of the topic any more.
const UNREADABLE_COMPRESSION: &str = "zstd";

/// `found` is in the order of `specs`.
pub(super) fn hold(specs: &[TopicSpec], found: &[Found]) -> Held {
    let mut held = Held::default();
    for (spec, found) in specs.iter().zip(found) {
        let resource = match found {
            Ok(resource) => resource,
            Err(code) => {
                held.unread.push((spec.name.clone(), *code));
                continue;
            }
        };
        let setting = |key: &str| resource.get(key).and_then(|entry| entry.value.as_deref());
        let remark = |text| TopicRemark { topic: spec.name.clone(), text };
        if setting("compression.type") == Some(UNREADABLE_COMPRESSION) {
            held.breaking.push(remark(format!(
                "has compression.type = {UNREADABLE_COMPRESSION}, which this build cannot read; set producer, gzip, snappy, lz4 or uncompressed"
            )));
        }
        for (key, wanted) in &spec.config {
            let actual = setting(key);
            let Some(actual) = actual else {
                held.tolerable.push(remark(format!("{key} is not told by the cluster, expected {wanted}")));
                continue;
            };
            let text = || format!("has {key} = {actual}, expected {wanted}");
            match compare(spec, key, wanted, actual) {
                Difference::None => {}
                Difference::Tolerable => held.tolerable.push(remark(text())),
                Difference::Breaking => held.breaking.push(remark(text())),
            }
        }
    }
    held
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    None,
    /// The operator's choice.
    Tolerable,
    /// A promise rests on it.
    Breaking,
}

fn compare(spec: &TopicSpec, key: &str, wanted: &str, actual: &str) -> Difference {
    if wanted == actual {
        return Difference::None;
    }
    let numbers = (wanted.parse::<i64>(), actual.parse::<i64>());
    match (key, numbers) {
        ("cleanup.policy", _) => {
            let sorted = |text: &str| {
                let mut parts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
                parts.sort();
                parts
            };
            if sorted(wanted) == sorted(actual) { Difference::None } else { Difference::Breaking }
        }
        // Larger takes all that the catalogue's takes.
        ("max.message.bytes", (Ok(wanted), Ok(actual))) if actual > wanted => Difference::None,
        ("max.message.bytes", _) => Difference::Breaking,
        // -1 keeps for ever, which is longer than anything.
        ("retention.ms" | "retention.bytes", (Ok(wanted), Ok(actual)))
            if actual == -1 || (wanted != -1 && actual > wanted) =>
        {
            Difference::None
        }
        // Intents are read back after a crash, keys and their answers must be found again after years.
        ("retention.ms" | "retention.bytes", _) if keeps_for_ever(spec) => Difference::Breaking,
        _ => Difference::Tolerable,
    }
}

fn keeps_for_ever(spec: &TopicSpec) -> bool {
    spec.config.iter().any(|(key, value)| *key == "retention.ms" && value == "-1")
}

#[cfg(test)]
mod tests {
    use kms_schemas::identity::Lane;
    use kms_schemas::topics::Topics;

    use super::*;

    fn compared(topic: &str, key: &str, actual: &str) -> Difference {
        let spec =
            Topics::new("p").all().into_iter().find(|spec| spec.name == topic).expect("a topic of the catalogue");
        let (_, wanted) = spec.config.iter().find(|(have, _)| *have == key).expect("a setting of the catalogue");
        compare(&spec, key, wanted, actual)
    }

    #[test]
    fn the_order_of_cleanup_policies_does_not_matter_and_another_policy_breaks_a_promise() {
        let spec = TopicSpec { name: String::new(), partitions: 1, config: vec![], record: None };
        assert_eq!(compare(&spec, "cleanup.policy", "compact,delete", "delete,compact"), Difference::None);
        assert_eq!(compared("p.ingest.cursor", "cleanup.policy", "delete"), Difference::Breaking);
    }

    #[test]
    fn a_topic_may_take_larger_records_but_not_smaller_ones() {
        assert_eq!(compared("p.submissions", "max.message.bytes", "8388608"), Difference::None);
        assert_eq!(compared("p.submissions", "max.message.bytes", "1048588"), Difference::Breaking);
    }

    #[test]
    fn what_is_kept_for_ever_must_be_and_what_is_kept_long_is_the_operators_choice() {
        let topics = Topics::new("p");
        let for_ever =
            [topics.intents(), topics.commands(), topics.submissions(), topics.requests(Lane::KeyManagement)];
        for topic in for_ever {
            for key in ["retention.ms", "retention.bytes"] {
                assert_eq!(compared(topic, key, "604800000"), Difference::Breaking, "{topic} {key}");
                assert_eq!(compared(topic, key, "-1"), Difference::None, "{topic} {key}");
            }
        }
        let long = topics.requests(Lane::Decryption);
        assert_eq!(compared(long, "retention.ms", "1000"), Difference::Tolerable);
        assert_eq!(compared(long, "retention.ms", "-1"), Difference::None);
        assert_eq!(compared(long, "retention.bytes", "1000000"), Difference::Tolerable);
    }

    #[test]
    fn what_the_cluster_keeps_to_itself_is_told() {
        let specs = [Topics::new("p").all().remove(0)];
        let held = hold(&specs, &[Err(RDKafkaErrorCode::TopicAuthorizationFailed)]);
        assert_eq!(held.unread, [(specs[0].name.clone(), RDKafkaErrorCode::TopicAuthorizationFailed)]);
    }
}
