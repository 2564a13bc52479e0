//! What can never be an address, told before anything is waited for; and names that nobody answers to.

use std::time::Duration;

use kms_schemas::topics::Topics;
use url::Url;

use super::SetupArgs;
use crate::error::StackError;

const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// What librdkafka takes before an address.
const KAFKA_PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// Refuses every address that cannot be one, whatever comes up later, and a prefix that cannot begin a topic's name.
///
/// # Errors
/// [`StackError::Usage`], a line for each.
pub(super) fn check(args: &SetupArgs) -> Result<(), StackError> {
    let filled = |template: &str| template.replace("{node}", "1").replace("{service}", "ingest");
    let urls = [
        ("--gateway", args.gateway.clone()),
        ("--ethereum", args.ethereum.clone()),
        ("--registry", args.registry.clone()),
        ("--core", filled(&args.core)),
        ("--core-control", filled(&args.core_control)),
        ("--service", filled(&args.service)),
    ];
    // Compose cannot leave a flag out: an empty one is none.
    let given = urls.iter().filter(|(flag, text)| !text.is_empty() || *flag == "--gateway");
    let urls = given.filter_map(|(flag, text)| Some(format!("{flag} `{text}`: {}", wrong_url(text)?)));
    let buckets = args.bucket.iter().filter_map(|text| Some(format!("--bucket `{text}`: {}", wrong_url(text)?)));
    let prefix = Topics::check_prefix(&args.prefix).err().map(|error| format!("--prefix `{}`: {error}", args.prefix));
    let wrong: Vec<String> = urls.chain(buckets).chain(wrong_brokers(&args.kafka)).chain(prefix).collect();
    refuse(&wrong)
}

/// The same for brokers alone.
pub(super) fn check_brokers(kafka: &str) -> Result<(), StackError> {
    refuse(&wrong_brokers(kafka))
}

fn refuse(wrong: &[String]) -> Result<(), StackError> {
    if wrong.is_empty() { Ok(()) } else { Err(StackError::Usage(wrong.join("\n"))) }
}

fn wrong_brokers(kafka: &str) -> Vec<String> {
    let brokers = kafka.split(',').map(str::trim);
    brokers.filter_map(|text| Some(format!("--kafka `{text}`: {}", wrong_broker(text)?))).collect()
}

fn wrong_url(text: &str) -> Option<String> {
    let url = match text.parse::<Url>() {
        Ok(url) => url,
        Err(error) => return Some(format!("no URL ({error}); give http://HOST:PORT")),
    };
    match url.scheme() {
        "http" | "https" if url.port() == Some(0) => Some("nothing listens on port 0".to_owned()),
        "http" | "https" => None,
        // `localhost:8545` is a URL with the scheme `localhost`.
        _ if !text.contains("://") => Some(format!("no http:// before it; give http://{text}")),
        other => Some(format!("{other}:// is not spoken here; give http:// or https://")),
    }
}

fn wrong_broker(text: &str) -> Option<String> {
    let (protocol, place) = text.split_once("://").map_or((None, text), |(protocol, place)| (Some(protocol), place));
    if let Some(other) = protocol.filter(|name| !KAFKA_PROTOCOLS.contains(&name.to_ascii_lowercase().as_str())) {
        return Some(format!("{other}:// is not Kafka's; give HOST:PORT"));
    }
    match host_and_port(place) {
        Some(_) => None,
        None => Some("not HOST:PORT; give HOST:PORT,HOST:PORT,…".to_owned()),
    }
}

/// `host:port`, `[address]:port`.
fn host_and_port(place: &str) -> Option<(&str, u16)> {
    let (host, port) = place.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_host = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    is_host.then_some((bare.unwrap_or(host), port))
}

/// The hosts of a URL, or of brokers, with their ports.
pub(super) fn hosts(address: &str) -> Vec<(String, u16)> {
    let of_url = address.parse::<Url>().ok().and_then(|url| {
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        Some((host, url.port_or_known_default()?))
    });
    let place = |broker: &str| {
        let place = broker.split_once("://").map_or(broker, |(_, place)| place);
        host_and_port(place.trim()).map(|(host, port)| (host.to_owned(), port))
    };
    of_url.map_or_else(|| address.split(',').filter_map(place).collect(), |one| vec![one])
}

/// Why none of these names leads to an address; `None` as soon as one does.
pub(super) async fn unknown(hosts: &[(String, u16)]) -> Option<String> {
    let mut said = Vec::new();
    for (host, port) in hosts {
        let looked = tokio::time::timeout(LOOKUP_LIMIT, tokio::net::lookup_host((host.as_str(), *port))).await;
        match looked {
            Ok(Ok(_)) => return None,
            Ok(Err(error)) => said.push(format!("`{host}` is the name of no host that is known here ({error})")),
            Err(_) => said.push(format!(
                "`{host}` is the name of no host that is known here within {} s",
                LOOKUP_LIMIT.as_secs()
            )),
        }
    }
    (!said.is_empty()).then(|| said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_an_address_is_told_from_what_may_come_up() {
        for text in ["http://chain:8545", "https://example.org/key", "http://[::1]:80/b", "http://no_such_host:1"] {
            assert_eq!(wrong_url(text), None, "{text}");
        }
        for (text, why) in [
            ("localhost:8545", "give http://localhost:8545"),
            ("chain", "no URL"),
            ("http://", "no URL"),
            ("http://a b:1", "no URL"),
            ("http://chain:99999", "no URL"),
            ("ws://chain:8545", "ws:// is not spoken"),
            ("http://chain:0", "port 0"),
        ] {
            let said = wrong_url(text).unwrap_or_else(|| panic!("{text} passed"));
            assert!(said.contains(why), "{text}: {said}");
        }
        for text in ["kafka:9092", "[::1]:9092", "10.0.0.1:9092", "PLAINTEXT://kafka:9092"] {
            assert_eq!(wrong_broker(text), None, "{text}");
        }
        for text in ["kafka", "", ":9092", "kafka:0", "kafka:port", "http://kafka:9092", "ka fka:9092", "[::g]:1"] {
            assert!(wrong_broker(text).is_some(), "{text} passed");
        }
    }

    #[test]
    fn the_hosts_of_an_address_are_found() {
        let found = |address: &str| hosts(address).into_iter().map(|(host, port)| format!("{host} {port}")).collect();
        let all: Vec<Vec<String>> =
            ["http://chain/x", "http://[::1]:5/", "a:1, PLAINTEXT://b:2,[::2]:3"].map(found).to_vec();
        assert_eq!(all, [vec!["chain 80"], vec!["::1 5"], vec!["a 1", "b 2", "::2 3"]]);
    }
}
