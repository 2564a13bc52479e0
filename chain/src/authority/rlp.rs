//! RLP lists, field by field.

use alloy::primitives::{Address, B256};
use alloy::rlp::{EMPTY_STRING_CODE, Encodable, Header};

/// A list under construction.
#[derive(Default)]
pub(super) struct List(Vec<u8>);

impl List {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn put(&mut self, field: impl Encodable) -> &mut Self {
        field.encode(&mut self.0);
        self
    }

    /// An address, or the empty string for none.
    pub(super) fn put_to(&mut self, to: Option<Address>) -> &mut Self {
        match to {
            Some(to) => self.put(to),
            None => {
                self.0.push(EMPTY_STRING_CODE);
                self
            }
        }
    }

    pub(super) fn put_hashes(&mut self, hashes: &[B256]) -> &mut Self {
        Header { list: true, payload_length: hashes.len() * 33 }.encode(&mut self.0);
        for hash in hashes {
            hash.encode(&mut self.0);
        }
        self
    }

    pub(super) fn put_list(&mut self, list: &Self) -> &mut Self {
        list.write(&mut self.0);
        self
    }

    /// Appends the list to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        Header { list: true, payload_length: self.0.len() }.encode(out);
        out.extend_from_slice(&self.0);
    }
}
