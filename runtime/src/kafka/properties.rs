//! Settings of the client library in `[kafka.properties]`. Some are secrets by their names, and those are never printed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};

/// Settings of the client library (librdkafka) by its names.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ClientProperties(BTreeMap<String, String>);

/// What stands in place of a secret.
const MASK: &str = "<secret>";

impl ClientProperties {
    /// Names and values, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// What may be shown.
    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().map(|(key, value)| (key, if is_secret(key) { MASK } else { value }))
    }

    /// What the client library says to names and values.
    pub(super) fn refusal(&self) -> Option<String> {
        let mut probe = ClientConfig::new();
        for (key, value) in self.iter() {
            probe.set(key, value);
        }
        let error = probe.create_native_config().err()?;
        Some(match &error {
            KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, key, _) => {
                format!("`{key}` is no setting of the client library")
            }
            // The library's text repeats the value.
            KafkaError::ClientConfig(_, _, key, _) if is_secret(key) => {
                format!("the client library refuses `{key}`: its value is wrong, or this binary was built without TLS")
            }
            _ => error.to_string(),
        })
    }
}

/// By its name; rather too many than one too few.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let signs = ["credential", "jaas", "key", "oauthbearer", "passphrase", "password", "pem", "secret", "token"];
    signs.iter().any(|sign| key.contains(sign))
}

impl fmt::Debug for ClientProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for ClientProperties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.shown())
    }
}

impl JsonSchema for ClientProperties {
    fn schema_name() -> Cow<'static, str> {
        "ClientProperties".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, String>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(key: &str, value: &str) -> ClientProperties {
        ClientProperties(BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn a_secret_among_the_properties_is_shown_nowhere() {
        for key in ["ssl.key.pem", "ssl.keystore.password", "sasl.oauthbearer.client.secret", "sasl.jaas.config"] {
            let properties = properties(key, "hunter2");
            let texts = [
                format!("{properties:?}"),
                serde_json::to_string(&properties).expect("serializes"),
                properties.refusal().unwrap_or_default(),
            ];
            assert!(texts.iter().all(|text| !text.contains("hunter2")), "{key}: {texts:?}");
        }
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        let properties = properties("socket.timeout.ms", "7000");
        assert_eq!(serde_json::to_string(&properties).expect("serializes"), r#"{"socket.timeout.ms":"7000"}"#);
    }
}
