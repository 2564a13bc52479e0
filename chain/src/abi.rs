//! A decoder for ABI-encoded event arguments that accepts the canonical encoding and nothing else.
//!
//! The general decoders of the ecosystem follow whatever offsets the data names. For bytes that anybody may have put
//! into a topic that is a hazard: a megabyte of array heads which all point at one long array decodes to gigabytes. The
//! canonical encoding (what Solidity's `abi.encode` writes) has exactly one place for everything, so this decoder
//! never follows an offset that does not point there, reads each byte once, and can say what is wrong where.

use alloy::primitives::{Address, B256, Bytes, U256};

/// Why a log of a followed event is not what the contract writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event}: {field} at byte {at}: {problem}")]
pub struct DecodeError {
    /// Name of the event.
    pub event: &'static str,
    /// Path of the field, e.g. `snsCtMaterials[2].keyId`.
    pub field: String,
    /// Position in the log's data.
    pub at: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with an encoded value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The log has another number of topics than the event.
    #[error("expected {expected} topics, found {found}")]
    Topics {
        /// Topics of the event.
        expected: usize,
        /// Topics of the log.
        found: usize,
    },
    /// The data ends inside the field.
    #[error("the data ends {missing} bytes early")]
    Short {
        /// Bytes that are missing at least.
        missing: u64,
    },
    /// There is data after the last argument.
    #[error("{extra} bytes of trailing data")]
    Trailing {
        /// Number of bytes.
        extra: usize,
    },
    /// An offset does not point at the canonical place.
    #[error("offset {found:#x} where only {expected:#x} is canonical")]
    Offset {
        /// The offset in the data.
        found: U256,
        /// The offset that the canonical encoding has.
        expected: u64,
    },
    /// A value exceeds its type.
    #[error("value {found:#x} exceeds {limit}")]
    Range {
        /// The word in the data.
        found: U256,
        /// Largest value, or name of the type.
        limit: &'static str,
    },
    /// The bytes that fill up a word are not zero.
    #[error("non-zero padding")]
    Padding,
    /// A string is not UTF-8.
    #[error("not valid UTF-8")]
    Utf8,
}

/// An error without the event's name.
#[derive(Debug)]
pub(crate) struct FieldError {
    field: String,
    at: usize,
    problem: Problem,
}

impl FieldError {
    fn new(field: &str, at: usize, problem: Problem) -> Self {
        Self { field: field.to_owned(), at, problem }
    }

    fn inside(mut self, parent: &str, index: usize) -> Self {
        self.field = if self.field.is_empty() {
            format!("{parent}[{index}]")
        } else {
            format!("{parent}[{index}].{}", self.field)
        };
        self
    }

    fn under(mut self, parent: &str) -> Self {
        self.field = if self.field.is_empty() { parent.to_owned() } else { format!("{parent}.{}", self.field) };
        self
    }

    pub(crate) fn of(self, event: &'static str) -> DecodeError {
        DecodeError { event, field: self.field, at: self.at, problem: self.problem }
    }
}

const WORD: usize = 32;

/// One tuple: its head words are read in order, and its dynamic parts must follow one another after the head.
pub(crate) struct Tuple<'a> {
    data: &'a Bytes,
    base: usize,
    next: usize,
    tail: usize,
}

/// Decodes the whole of `data` as one tuple with `head_words` head words.
pub(crate) fn decode<T>(
    data: &Bytes,
    head_words: usize,
    read: impl FnOnce(&mut Tuple<'_>) -> Result<T, FieldError>,
) -> Result<T, FieldError> {
    let mut tuple = Tuple { data, base: 0, next: 0, tail: head_words * WORD };
    let value = read(&mut tuple)?;
    debug_assert_eq!(tuple.next, head_words * WORD, "every head word is read");
    match data.len() - tuple.tail {
        0 => Ok(value),
        extra => Err(FieldError::new("data", tuple.tail, Problem::Trailing { extra })),
    }
}

impl Tuple<'_> {
    pub(crate) fn word(&mut self, field: &str) -> Result<B256, FieldError> {
        let word = word_at(self.data, self.next, field)?;
        self.next += WORD;
        Ok(word)
    }

    pub(crate) fn uint256(&mut self, field: &str) -> Result<U256, FieldError> {
        self.word(field).map(|word| U256::from_be_bytes(word.0))
    }

    /// A `uint8` that is an enum with the values `0..=last`.
    pub(crate) fn enumeration(&mut self, field: &str, last: u8, limit: &'static str) -> Result<u8, FieldError> {
        let at = self.next;
        let found = self.uint256(field)?;
        match u8::try_from(found) {
            Ok(value) if value <= last => Ok(value),
            _ => Err(FieldError::new(field, at, Problem::Range { found, limit })),
        }
    }

    pub(crate) fn uint8(&mut self, field: &str) -> Result<u8, FieldError> {
        self.enumeration(field, u8::MAX, "uint8")
    }

    pub(crate) fn address(&mut self, field: &str) -> Result<Address, FieldError> {
        let at = self.next;
        address_of(self.word(field)?, at, field)
    }

    pub(crate) fn boolean(&mut self, field: &str) -> Result<bool, FieldError> {
        self.enumeration(field, 1, "bool").map(|value| value == 1)
    }

    /// An `int32`, whose sign fills the word.
    pub(crate) fn int32(&mut self, field: &str) -> Result<i32, FieldError> {
        let at = self.next;
        let word = self.word(field)?;
        let low = [word[28], word[29], word[30], word[31]];
        let value = i32::from_be_bytes(low);
        let fill = if value < 0 { 0xff } else { 0 };
        if word[..28].iter().all(|byte| *byte == fill) {
            Ok(value)
        } else {
            Err(FieldError::new(field, at, Problem::Range { found: U256::from_be_bytes(word.0), limit: "int32" }))
        }
    }

    pub(crate) fn bytes(&mut self, field: &str) -> Result<Bytes, FieldError> {
        let start = self.enter(field)?;
        let (bytes, end) = bytes_at(self.data, start, field)?;
        self.tail = end;
        Ok(bytes)
    }

    pub(crate) fn string(&mut self, field: &str) -> Result<String, FieldError> {
        let start = self.enter(field)?;
        let (text, end) = string_at(self.data, start, field)?;
        self.tail = end;
        Ok(text)
    }

    pub(crate) fn addresses(&mut self, field: &str) -> Result<Vec<Address>, FieldError> {
        self.static_array(field, 1, |element| element.address(""))
    }

    /// An array of `bytes32`.
    pub(crate) fn words(&mut self, field: &str) -> Result<Vec<B256>, FieldError> {
        self.static_array(field, 1, |element| element.word(""))
    }

    /// An array of elements of `words` words each, which lie side by side.
    pub(crate) fn static_array<T>(
        &mut self,
        field: &str,
        words: usize,
        read: impl Fn(&mut Tuple<'_>) -> Result<T, FieldError>,
    ) -> Result<Vec<T>, FieldError> {
        let start = self.enter(field)?;
        let (length, elements) = length_at(self.data, start, field, words * WORD)?;
        let mut values = Vec::with_capacity(length);
        for index in 0..length {
            let at = elements + index * words * WORD;
            let end = at + words * WORD;
            let mut element = Tuple { data: self.data, base: at, next: at, tail: end };
            values.push(read(&mut element).map_err(|e| e.inside(field, index))?);
            debug_assert_eq!((element.next, element.tail), (end, end), "every word of the element is read");
        }
        self.tail = elements + length * words * WORD;
        Ok(values)
    }

    /// One dynamic struct with `head_words` head words.
    pub(crate) fn structure<T>(
        &mut self,
        field: &str,
        head_words: usize,
        read: impl FnOnce(&mut Tuple<'_>) -> Result<T, FieldError>,
    ) -> Result<T, FieldError> {
        let start = self.enter(field)?;
        let mut tuple = Tuple { data: self.data, base: start, next: start, tail: start + head_words * WORD };
        let value = read(&mut tuple).map_err(|e| e.under(field))?;
        debug_assert_eq!(tuple.next, start + head_words * WORD, "every head word is read");
        self.tail = tuple.tail;
        Ok(value)
    }

    /// A static struct, whose words stand in the head itself.
    pub(crate) fn inline<T>(
        &mut self,
        field: &str,
        read: impl FnOnce(&mut Self) -> Result<T, FieldError>,
    ) -> Result<T, FieldError> {
        read(self).map_err(|e| e.under(field))
    }

    /// An array of `bytes`.
    pub(crate) fn byte_strings(&mut self, field: &str) -> Result<Vec<Bytes>, FieldError> {
        self.dynamic_array(field, 2 * WORD, |data, start| bytes_at(data, start, ""))
    }

    /// An array of `string`.
    pub(crate) fn strings(&mut self, field: &str) -> Result<Vec<String>, FieldError> {
        self.dynamic_array(field, 2 * WORD, |data, start| string_at(data, start, ""))
    }

    /// An array of dynamic structs with `head_words` head words each.
    pub(crate) fn structs<T>(
        &mut self,
        field: &str,
        head_words: usize,
        read: impl Fn(&mut Tuple<'_>) -> Result<T, FieldError>,
    ) -> Result<Vec<T>, FieldError> {
        self.dynamic_array(field, (head_words + 1) * WORD, |data, start| {
            let mut tuple = Tuple { data, base: start, next: start, tail: start + head_words * WORD };
            let value = read(&mut tuple)?;
            debug_assert_eq!(tuple.next, start + head_words * WORD, "every head word is read");
            Ok((value, tuple.tail))
        })
    }

    /// An array of elements of dynamic size; `least` is what one takes at least, offset included.
    fn dynamic_array<T>(
        &mut self,
        field: &str,
        least: usize,
        read: impl Fn(&Bytes, usize) -> Result<(T, usize), FieldError>,
    ) -> Result<Vec<T>, FieldError> {
        let start = self.enter(field)?;
        let (length, elements) = length_at(self.data, start, field, least)?;
        let mut heads = Tuple { data: self.data, base: elements, next: elements, tail: elements + length * WORD };
        let mut values = Vec::with_capacity(length);
        for index in 0..length {
            let element = heads.enter("").map_err(|e| e.inside(field, index))?;
            let (value, end) = read(self.data, element).map_err(|e| e.inside(field, index))?;
            heads.tail = end;
            values.push(value);
        }
        self.tail = heads.tail;
        Ok(values)
    }

    /// Reads the offset of a dynamic part and returns the place that it names, which can only be the tail.
    fn enter(&mut self, field: &str) -> Result<usize, FieldError> {
        let at = self.next;
        let found = self.uint256(field)?;
        let expected = (self.tail - self.base) as u64;
        if found == U256::from(expected) {
            Ok(self.tail)
        } else {
            Err(FieldError::new(field, at, Problem::Offset { found, expected }))
        }
    }
}

fn word_at(data: &Bytes, at: usize, field: &str) -> Result<B256, FieldError> {
    match data.get(at..at + WORD) {
        Some(word) => Ok(B256::from_slice(word)),
        None => {
            let missing = (at + WORD - data.len()) as u64;
            Err(FieldError::new(field, at, Problem::Short { missing }))
        }
    }
}

fn address_of(word: B256, at: usize, field: &str) -> Result<Address, FieldError> {
    if word[..12].iter().all(|byte| *byte == 0) {
        Ok(Address::from_word(word))
    } else {
        Err(FieldError::new(field, at, Problem::Range { found: U256::from_be_bytes(word.0), limit: "address" }))
    }
}

/// Length of an array or byte string, and the place of its first element. A length that the rest of the data cannot
/// hold is refused before anything is allocated for it.
fn length_at(data: &Bytes, start: usize, field: &str, least: usize) -> Result<(usize, usize), FieldError> {
    let length = U256::from_be_bytes(word_at(data, start, field)?.0);
    let elements = start + WORD;
    let left = data.len() - elements;
    let needed = length.checked_mul(U256::from(least)).unwrap_or(U256::MAX);
    if needed > U256::from(left) {
        let missing = u64::try_from(needed - U256::from(left)).unwrap_or(u64::MAX);
        return Err(FieldError::new(field, start, Problem::Short { missing }));
    }
    // It fits: `needed` is at most the length of the data.
    Ok((length.to::<usize>(), elements))
}

fn string_at(data: &Bytes, start: usize, field: &str) -> Result<(String, usize), FieldError> {
    let (bytes, end) = bytes_at(data, start, field)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| FieldError::new(field, start + WORD, Problem::Utf8))?;
    Ok((text.to_owned(), end))
}

/// An indexed `address`: a topic that is filled up with zeros.
pub(crate) fn address_topic(topic: B256, field: &str) -> Result<Address, FieldError> {
    address_of(topic, 0, field)
}

fn bytes_at(data: &Bytes, start: usize, field: &str) -> Result<(Bytes, usize), FieldError> {
    let (length, begin) = length_at(data, start, field, 1)?;
    let end = begin + length;
    let padded = begin + length.div_ceil(WORD) * WORD;
    match data.get(end..padded) {
        None => {
            let missing = (padded - data.len()) as u64;
            Err(FieldError::new(field, end, Problem::Short { missing }))
        }
        Some(padding) if padding.iter().any(|byte| *byte != 0) => Err(FieldError::new(field, end, Problem::Padding)),
        Some(_) => Ok((data.slice(begin..end), padded)),
    }
}
