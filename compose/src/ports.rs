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
    free_ports::<1>().map(|[port]| port)
}

/// So many ports in a row, as [`free_port`] finds one.
///
/// # Errors
/// [`StackError::NoFreePort`] when no such row was found.
pub fn free_ports<const N: usize>() -> Result<[u16; N], StackError> {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let mut next = rand::random_range(RANGE);
        let row = std::array::from_fn(|_| {
            let port = next;
            next += 1;
            port
        });
        let is_free = |port: &u16| {
            RANGE.contains(port)
                && !handed_out.contains(port)
                && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
        };
        if row.iter().all(is_free) {
            handed_out.extend(row);
            return Ok(row);
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
    fn every_port_of_a_row_is_handed_out_once() {
        let rows: Vec<[u16; 2]> = (0..200).map(|_| free_ports().unwrap()).collect();
        assert!(rows.iter().all(|[first, second]| *second == first + 1), "{rows:?}");
        let ports: HashSet<u16> =
            rows.iter().flatten().copied().chain((0..200).map(|_| free_port().unwrap())).collect();
        assert_eq!(ports.len(), 600);
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
