//! The finished offsets above a committed one, as the text that a commit carries.
//!
//! ```text
//! base64url( version:1  form:1  base:8  crc32:4  body )        an empty set is the empty text
//!
//! form 0, bitmap: bit i (from the lowest) of the body is offset base + 1 + i
//! form 1, runs:   pairs of LEB128 numbers: unfinished, then finished offsets, from base on
//! ```
//!
//! The shorter form is written. The checksum covers everything but itself. Text that does not decode, or that belongs to
//! another base (somebody reset the offset by hand), is an error, on which the caller replays: it must never skip.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{ledger::NextOffset, runs::Runs};

/// Longest text that the stage writes: `offset.metadata.max.bytes` of a broker's default settings, minus one. What is too long
/// aborts the transaction, for ever if it is retried; where exactly the broker draws the line is not worth the one offset.
pub const DEFAULT_MAX_CHARACTERS: usize = 4095;
/// The shortest limit with which the stage works at all.
pub const MIN_CHARACTERS: usize = 64;

const VERSION: u8 = 1;
const BITMAP: u8 = 0;
const RUNS: u8 = 1;
const HEADER: usize = 1 + 1 + 8 + 4;
/// Longest LEB128 number that is read back: 63 bits.
const MAX_VARINT: usize = 9;
/// No ledger stretches as far; decoding stops there instead of believing a forged length.
const MAX_SPAN: u64 = 1 << 40;

/// Why a text does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not base64url without padding.
    #[error("not base64url")]
    Text,
    /// Shorter than the header.
    #[error("truncated")]
    Truncated,
    /// A version that this build does not know.
    #[error("unknown version {0}")]
    Version(u8),
    /// The checksum differs.
    #[error("checksum differs")]
    Checksum,
    /// The text belongs to another committed offset.
    #[error("made for offset {0}")]
    Base(i64),
    /// The body contradicts itself.
    #[error("malformed set")]
    Body,
}

/// The set does not fit. [`super::ledger::Limits`] keep a ledger from ever getting there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("set takes {needed} characters of {limit}")]
pub struct DoesNotFit {
    /// Characters that the shorter form takes.
    pub needed: usize,
    /// Characters allowed.
    pub limit: usize,
}

/// Offsets above the base that a bitmap of this many characters always holds.
#[must_use]
pub fn bitmap_capacity(max_characters: usize) -> u64 {
    8 * body_capacity(max_characters) as u64
}

/// Unfinished offsets (the base included) with which runs always fit, whatever is finished among them, as long as the span
/// stays within the window: each finished run lies behind an unfinished one.
#[must_use]
pub fn run_capacity(max_characters: usize, window: u64) -> u64 {
    (body_capacity(max_characters) / (2 * varint_length(window))) as u64
}

fn body_capacity(max_characters: usize) -> usize {
    (max_characters * 3 / 4).saturating_sub(HEADER)
}

/// Encodes the finished offsets above the base.
///
/// # Errors
/// If the shorter form does not fit.
pub fn encode(base: NextOffset, finished: &Runs, max_characters: usize) -> Result<String, DoesNotFit> {
    let Some(end) = finished.end().filter(|&end| end > base.0) else { return Ok(String::new()) };
    let runs = run_body(base, finished);
    let bitmap_length = usize::try_from((end.abs_diff(base.0) - 1).div_ceil(8)).unwrap_or(usize::MAX);
    let (form, body) =
        if runs.len() <= bitmap_length { (RUNS, runs) } else { (BITMAP, bitmap_body(base, finished, bitmap_length)) };
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.push(VERSION);
    bytes.push(form);
    bytes.extend_from_slice(&base.0.to_be_bytes());
    bytes.extend_from_slice(&checksum(&bytes, &body).to_be_bytes());
    bytes.extend_from_slice(&body);
    let text = URL_SAFE_NO_PAD.encode(bytes);
    if text.len() > max_characters {
        return Err(DoesNotFit { needed: text.len(), limit: max_characters });
    }
    Ok(text)
}

/// Decodes the finished offsets above the committed one.
///
/// # Errors
/// If the text was not written for this offset by a known version, unharmed. Replay then.
pub fn decode(committed: NextOffset, text: &str) -> Result<Runs, DecodeError> {
    if text.is_empty() {
        return Ok(Runs::default());
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| DecodeError::Text)?;
    let (head, rest) = bytes.split_at_checked(HEADER - 4).ok_or(DecodeError::Truncated)?;
    let (sum, body) = rest.split_at_checked(4).ok_or(DecodeError::Truncated)?;
    if head[0] != VERSION {
        return Err(DecodeError::Version(head[0]));
    }
    if sum != checksum(head, body).to_be_bytes() {
        return Err(DecodeError::Checksum);
    }
    let base = head[2..].iter().fold(0_i64, |value, &byte| (value << 8) | i64::from(byte));
    if base != committed.0 || base < 0 {
        return Err(DecodeError::Base(base));
    }
    match head[1] {
        BITMAP => decode_bitmap(base, body),
        RUNS => decode_runs(base, body),
        _ => Err(DecodeError::Body),
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

fn bitmap_body(base: NextOffset, finished: &Runs, length: usize) -> Vec<u8> {
    let mut body = vec![0_u8; length];
    for run in finished.iter() {
        for offset in run.start.max(base.0 + 1)..run.end {
            let bit = offset.abs_diff(base.0) - 1;
            if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|index| body.get_mut(index)) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    body
}

fn decode_bitmap(base: i64, body: &[u8]) -> Result<Runs, DecodeError> {
    let mut runs = Runs::default();
    let mut start = None;
    // One zero bit more than there are closes the last run.
    for bit in 0..=body.len() * 8 {
        let set = body.get(bit / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0);
        let offset =
            i64::try_from(bit).ok().and_then(|bit| base.checked_add(1)?.checked_add(bit)).ok_or(DecodeError::Body)?;
        match (set, start) {
            (true, None) => start = Some(offset),
            (false, Some(first)) => {
                runs.insert(first..offset);
                start = None;
            }
            _ => {}
        }
    }
    Ok(runs)
}

fn run_body(base: NextOffset, finished: &Runs) -> Vec<u8> {
    let mut body = Vec::new();
    let mut position = base.0;
    for run in finished.iter() {
        push_varint(&mut body, run.start.abs_diff(position));
        push_varint(&mut body, run.end.abs_diff(run.start));
        position = run.end;
    }
    body
}

fn decode_runs(base: i64, mut body: &[u8]) -> Result<Runs, DecodeError> {
    let mut runs = Runs::default();
    let mut position = base;
    while !body.is_empty() {
        let unfinished = take_varint(&mut body)?;
        let finished = take_varint(&mut body)?;
        if unfinished == 0 || finished == 0 {
            return Err(DecodeError::Body);
        }
        let start = step(position, unfinished)?;
        let end = step(start, finished)?;
        if end.abs_diff(base) > MAX_SPAN {
            return Err(DecodeError::Body);
        }
        runs.insert(start..end);
        position = end;
    }
    Ok(runs)
}

fn step(position: i64, by: u64) -> Result<i64, DecodeError> {
    i64::try_from(by).ok().and_then(|by| position.checked_add(by)).ok_or(DecodeError::Body)
}

fn varint_length(value: u64) -> usize {
    (64 - value.max(1).leading_zeros() as usize).div_ceil(7)
}

fn push_varint(body: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        body.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    body.push(value as u8);
}

fn take_varint(body: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0;
    for index in 0..MAX_VARINT {
        let (&byte, rest) = body.split_first().ok_or(DecodeError::Body)?;
        *body = rest;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: NextOffset = NextOffset(1_000_000_007);

    fn every_second(span: i64) -> Runs {
        (1..=span).filter(|offset| offset % 2 == 0).map(|offset| BASE.0 + offset).collect()
    }

    #[test]
    fn the_longest_set_takes_exactly_the_longest_text() {
        assert_eq!(bitmap_capacity(DEFAULT_MAX_CHARACTERS), 24_456);
        let text = encode(BASE, &every_second(24_456), DEFAULT_MAX_CHARACTERS).expect("it fits");
        assert_eq!(text.len(), DEFAULT_MAX_CHARACTERS);
        assert!(encode(BASE, &every_second(24_466), DEFAULT_MAX_CHARACTERS).is_err());
    }

    #[test]
    fn an_empty_set_is_the_empty_text() {
        assert_eq!(encode(BASE, &Runs::default(), DEFAULT_MAX_CHARACTERS), Ok(String::new()));
        assert_eq!(decode(BASE, ""), Ok(Runs::default()));
    }

    #[test]
    fn a_long_finished_run_takes_a_few_characters() {
        let mut finished = Runs::default();
        finished.insert(BASE.0 + 1..BASE.0 + 150_000);
        assert!(encode(BASE, &finished, DEFAULT_MAX_CHARACTERS).expect("it fits").len() < 32);
    }

    #[test]
    fn p2_text_for_another_offset_is_refused() {
        let text = encode(BASE, &every_second(10), DEFAULT_MAX_CHARACTERS).expect("it fits");
        assert_eq!(decode(NextOffset(BASE.0 + 1), &text), Err(DecodeError::Base(BASE.0)));
    }

    #[test]
    fn p2_a_version_of_the_future_is_refused() {
        let text = encode(BASE, &every_second(10), DEFAULT_MAX_CHARACTERS).expect("it fits");
        let mut bytes = URL_SAFE_NO_PAD.decode(text).expect("base64url");
        bytes[0] = 2;
        assert_eq!(decode(BASE, &URL_SAFE_NO_PAD.encode(bytes)), Err(DecodeError::Version(2)));
    }

    proptest! {
        #[test]
        fn p2_a_changed_character_is_refused(at in any::<prop::sample::Index>(), by in 1_u8..64) {
            let text = encode(BASE, &every_second(100), DEFAULT_MAX_CHARACTERS).expect("it fits");
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let mut changed = text.into_bytes();
            let at = at.index(changed.len());
            let old = alphabet.iter().position(|letter| *letter == changed[at]).expect("a letter of the alphabet");
            changed[at] = alphabet[(old + usize::from(by)) % 64];
            prop_assert!(decode(BASE, std::str::from_utf8(&changed).expect("ASCII")).is_err());
        }

        #[test]
        fn foreign_text_never_panics(text in "\\PC{0,200}") {
            let _ = decode(BASE, &text);
        }

        #[test]
        fn forged_bytes_behind_a_right_checksum_never_panic(form in 0_u8..4, body in prop::collection::vec(any::<u8>(), 0..200), base in any::<i64>()) {
            let mut bytes = vec![VERSION, form];
            bytes.extend_from_slice(&base.to_be_bytes());
            let sum = checksum(&bytes, &body);
            bytes.extend_from_slice(&sum.to_be_bytes());
            bytes.extend_from_slice(&body);
            if let Ok(runs) = decode(NextOffset(base), &URL_SAFE_NO_PAD.encode(bytes)) {
                prop_assert!(runs.start().is_none_or(|start| start > base));
            }
        }

        #[test]
        fn what_was_encoded_decodes(offsets in prop::collection::btree_set(1_i64..20_000, 0..400), long in 0_i64..50_000) {
            let mut finished: Runs = offsets.into_iter().map(|offset| BASE.0 + offset).collect();
            finished.insert(BASE.0 + 20_000..BASE.0 + 20_000 + long);
            let text = encode(BASE, &finished, DEFAULT_MAX_CHARACTERS).expect("it fits");
            prop_assert_eq!(decode(BASE, &text), Ok(finished));
        }
    }
}
