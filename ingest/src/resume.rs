//! Where a source goes on: what the records of the cursor topic mean for it. Pure.

use kms_runtime::kafka::StoredRecord;
use kms_schemas::codec::CodecError;
use kms_schemas::record::{BlockRef, Cursor, Sequence};

/// Where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resume {
    /// The last block that is in the topics; none at the first start.
    pub(crate) last: Option<BlockRef>,
    /// Blocks before it, newest first.
    pub(crate) recent: Vec<BlockRef>,
    /// State of the numbering.
    pub(crate) sequences: Vec<Sequence>,
}

/// Reads the cursor topic from its beginning.
#[derive(Debug)]
pub(crate) struct CursorScan<'a> {
    source: &'a str,
    chain_id: u64,
    cursor: Option<Cursor>,
    foreign: Vec<(StoredRecord, CodecError)>,
    unusable: Option<String>,
}

impl<'a> CursorScan<'a> {
    pub(crate) fn new(source: &'a str, chain_id: u64) -> Self {
        Self { source, chain_id, cursor: None, foreign: Vec::new(), unusable: None }
    }

    /// The next record of the topic.
    pub(crate) fn see(&mut self, record: StoredRecord, decode: impl FnOnce(&[u8]) -> Result<Cursor, CodecError>) {
        if record.key.as_deref() != Some(self.source.as_bytes()) {
            return;
        }
        let Some(value) = &record.value else {
            // A tombstone: an operator has reset the source.
            self.cursor = None;
            self.foreign.clear();
            self.unusable = None;
            return;
        };
        match decode(value) {
            Ok(cursor) => {
                self.unusable = None;
                // What lies before a cursor of ours was dealt with when that cursor was written.
                self.foreign.clear();
                self.cursor = Some(cursor);
            }
            // A newer release wrote it: an older cursor in its place would ingest again what is there already.
            Err(
                error @ (CodecError::UnknownFingerprint { .. }
                | CodecError::UnknownSchemaId { .. }
                | CodecError::NoRegistry { .. }),
            ) => self.unusable = Some(format!("the cursor at offset {} cannot be read: {error}", record.offset)),
            Err(error) => self.foreign.push((record, error)),
        }
    }

    /// Where to go on, and the records with this source's key that are no cursors and were not dealt with yet.
    pub(crate) fn finish(self) -> Result<(Resume, Vec<(StoredRecord, CodecError)>), String> {
        if let Some(why) = self.unusable {
            return Err(why);
        }
        let Some(cursor) = self.cursor else { return Ok((Resume::default(), self.foreign)) };
        if cursor.chain_id != self.chain_id {
            return Err(format!(
                "its cursor is for chain {}, the configuration for {}",
                cursor.chain_id, self.chain_id
            ));
        }
        let last = BlockRef { number: cursor.block_number, hash: cursor.block_hash };
        let resume = Resume { last: Some(last), recent: cursor.recent, sequences: cursor.sequences };
        Ok((resume, self.foreign))
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use kms_schemas::codec::Codec;
    use kms_schemas::record::Proof;

    use super::*;

    const TOPIC: &str = "p.ingest.cursor";

    fn cursor(block_number: u64) -> Cursor {
        Cursor {
            source: "gateway".to_owned(),
            chain_id: 5,
            block_number,
            block_hash: B256::with_last_byte(block_number as u8),
            recent: Vec::new(),
            proof: Proof::Believed,
            sequences: vec![Sequence { topic: "p.requests.decryption".to_owned(), next: 3, last_hash: B256::ZERO }],
            written_ms: 0,
        }
    }

    fn stored(offset: i64, key: &str, value: Option<Vec<u8>>) -> StoredRecord {
        StoredRecord { offset, timestamp_ms: None, key: Some(key.as_bytes().to_vec()), value }
    }

    fn scan(chain_id: u64, records: Vec<StoredRecord>) -> Result<(Resume, Vec<i64>), String> {
        let codec = Codec::single_object();
        let mut scan = CursorScan::new("gateway", chain_id);
        for record in records {
            scan.see(record, |bytes| codec.decode(TOPIC, bytes));
        }
        let (resume, foreign) = scan.finish()?;
        Ok((resume, foreign.into_iter().map(|(record, _)| record.offset).collect()))
    }

    fn encoded(block: u64) -> Option<Vec<u8>> {
        Some(Codec::single_object().encode(TOPIC, &cursor(block)).expect("encodes"))
    }

    #[test]
    fn p2_a_source_resumes_after_the_newest_cursor_of_its_own() {
        let records =
            vec![stored(0, "gateway", encoded(7)), stored(1, "gateway", encoded(9)), stored(2, "other", encoded(99))];
        let (resume, _) = scan(5, records).expect("resumes");
        assert_eq!(resume.last, Some(BlockRef { number: 9, hash: B256::with_last_byte(9) }));
        assert_eq!(resume.sequences, cursor(9).sequences);
    }

    #[test]
    fn a_source_without_cursor_starts_for_the_first_time() {
        assert_eq!(scan(5, vec![stored(0, "other", encoded(9))]), Ok((Resume::default(), Vec::new())));
    }

    #[test]
    fn p2_foreign_bytes_behind_the_cursor_do_not_hide_it_and_are_told_once() {
        let records = vec![
            stored(0, "gateway", Some(b"garbage".to_vec())),
            stored(1, "gateway", encoded(9)),
            stored(2, "gateway", Some(Vec::new())),
        ];
        let (resume, foreign) = scan(5, records).expect("resumes");
        assert_eq!(resume.last.map(|block| block.number), Some(9));
        assert_eq!(foreign, [2]);
    }

    #[test]
    fn p2_a_cursor_of_a_newer_release_is_never_replaced_by_an_older_one() {
        let mut newer = encoded(12).expect("bytes");
        newer[2] ^= 0xff;
        let records = vec![stored(0, "gateway", encoded(9)), stored(1, "gateway", Some(newer))];
        assert!(scan(5, records).is_err());
    }

    #[test]
    fn a_cursor_for_another_chain_is_refused() {
        let why = scan(6, vec![stored(0, "gateway", encoded(9))]).expect_err("refused");
        assert!(why.contains("chain 5"), "{why}");
    }

    #[test]
    fn a_tombstone_resets_the_source() {
        let records = vec![stored(0, "gateway", encoded(9)), stored(1, "gateway", None)];
        assert_eq!(scan(5, records), Ok((Resume::default(), Vec::new())));
    }
}
