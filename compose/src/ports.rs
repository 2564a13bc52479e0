//! Free ports on 127.0.0.1.
//!
//! Ports are drawn below the range that systems use for outgoing connections, so that a process that was killed finds its port
//! still free when it is started again: a port the kernel handed out would, under load, soon be the local end of somebody's
//! connection. A drawn port is tested by binding it. Between that test and its use another program may take it, which the parts
//! answer by starting again on other ports.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::error::StackError;

const RANGE: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 2_000;

static HANDED_OUT: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that was free a moment ago and that this process has not handed out before.
///
/// # Errors
/// [`StackError::NoFreePort`] when none was found.
pub fn free_port() -> Result<u16, StackError> {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let port = rand::random_range(RANGE);
        if !handed_out.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            handed_out.insert(port);
            return Ok(port);
        }
    }
    Err(StackError::NoFreePort { tried: TRIES })
}

/// Whether the end of a log says that a port was already taken.
pub(crate) fn says_port_taken(log: &str) -> bool {
    let log = log.to_ascii_lowercase();
    ["address already in use", "address in use", "eaddrinuse", "already bound"].iter().any(|words| log.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_handed_out_once() {
        let ports: Vec<u16> = (0..200).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
    }

    #[test]
    fn the_words_of_every_part_for_a_taken_port_are_known() {
        for words in [
            "org.apache.kafka.common.KafkaException: Socket server failed to bind to 127.0.0.1:9092: Address already in use.",
            "Error: Address already in use (os error 98)",
            "Error: listen EADDRINUSE: address already in use 127.0.0.1:4568",
            "java.net.BindException: Port already bound: 8080: Address already in use",
        ] {
            assert!(says_port_taken(words), "{words}");
        }
        assert!(!says_port_taken("no space left on device"));
    }
}
