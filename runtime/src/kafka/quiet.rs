//! What the client library says over and over, said once in a while.
//!
//! While a broker is gone, every client of a process reports every failed connection, twice and several times a second. The
//! first line says all there is to know; the others are counted, and the count goes with the next line that is let
//! through.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the same is said.
const EVERY: Duration = Duration::from_secs(30);
/// Different texts remembered; with more at a time, what is not remembered is said each time.
const REMEMBERED: usize = 256;

/// Remembers what was said last, and when.
#[derive(Debug, Default)]
struct Quiet {
    said: HashMap<String, Said>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    held_back: u64,
}

impl Quiet {
    /// Whether to say it now: then how often it was held back since it was said last.
    fn admit(&mut self, text: &str, now: Instant) -> Option<u64> {
        let topic = topic(text);
        if let Some(said) = self.said.get_mut(topic) {
            if now.saturating_duration_since(said.at) < EVERY {
                said.held_back += 1;
                return None;
            }
            said.at = now;
            return Some(std::mem::take(&mut said.held_back));
        }
        if self.said.len() >= REMEMBERED {
            self.said.retain(|_, said| now.saturating_duration_since(said.at) < EVERY);
        }
        if self.said.len() < REMEMBERED {
            self.said.insert(topic.to_owned(), Said { at: now, held_back: 0 });
        }
        Some(0)
    }
}

/// A line without the thread that says it and without what differs from time to time, e.g. of `[thrd:b1:9092/1]: b1:9092/1:
/// Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 2ms in state CONNECT, 4 identical error(s)
/// suppressed)` all between the second `b1` and `refused`.
fn topic(text: &str) -> &str {
    let text = match text.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")) {
        Some((_, text)) => text,
        None => text,
    };
    match text.split_once(" (after ") {
        Some((text, _)) => text,
        None => text,
    }
}

/// [`Quiet::admit`] for all clients of this process.
pub(super) fn admit(text: &str) -> Option<u64> {
    static QUIET: Mutex<Option<Quiet>> = Mutex::new(None);
    let mut quiet = QUIET.lock().unwrap_or_else(PoisonError::into_inner);
    quiet.get_or_insert_default().admit(text, Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: &str = "b1:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused";

    #[test]
    fn the_same_line_is_said_once_in_a_while_with_the_number_of_those_held_back() {
        let mut quiet = Quiet::default();
        let start = Instant::now();
        assert_eq!(quiet.admit(&format!("[thrd:b1:9092/1]: {GONE} (after 0ms in state CONNECT)"), start), Some(0));
        // Another client, another time it took, the error callback instead of the log: the same.
        let again =
            format!("[thrd:b1:9092/bootstrap]: {GONE} (after 3ms in state CONNECT, 2 identical error(s) suppressed)");
        assert_eq!(quiet.admit(&again, start + Duration::from_secs(1)), None);
        assert_eq!(quiet.admit(GONE, start + Duration::from_secs(29)), None);
        assert_eq!(quiet.admit(GONE, start + EVERY), Some(2));
        assert_eq!(quiet.admit(GONE, start + EVERY), None);
        assert_eq!(quiet.admit("1/1 brokers are down", start + EVERY), Some(0));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_nothing_new_is_ever_held_back() {
        let mut quiet = Quiet::default();
        let start = Instant::now();
        for n in 0..2 * REMEMBERED {
            assert_eq!(quiet.admit(&format!("line {n}"), start), Some(0));
        }
        assert_eq!(quiet.said.len(), REMEMBERED);
        assert_eq!(quiet.admit("later", start + EVERY), Some(0));
        assert_eq!(quiet.said.len(), 1);
    }
}
