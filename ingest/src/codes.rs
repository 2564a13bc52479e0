//! Stable codes of what an operator can meet in ingest (`KC-032x`).

use kms_schemas::codes::Code;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $short:literal, $meaning:literal, $action:literal;)*) => {
        $($(#[$doc])* pub(crate) static $name: Code =
            Code { code: $code, name: $short, meaning: $meaning, action: $action };)*
        /// All codes of this crate.
        pub static CODES: &[Code] = &[$(Code { code: $code, name: $short, meaning: $meaning, action: $action }),*];
    };
}

codes! {
    /// The chain no longer has the ingested block.
    CHAIN_DIVERGED = "KC-0320", "chain_diverged",
        "the chain has another block where the last ingested one was",
        "if the chain was reorganised, decide about the requests of the abandoned blocks (the message names the last common block known); follow `safe`, `finalized` or a depth from then on; if the chain was started afresh, use another kafka.topic_prefix";
    /// The cursor cannot be used.
    CURSOR_UNUSABLE = "KC-0321", "cursor_unusable",
        "the source's cursor was written by a newer release, or for another chain",
        "run the release that wrote it or correct chain_id; starting without the cursor would ingest everything twice";
    /// The source id is taken over.
    SOURCE_FENCED = "KC-0322", "source_fenced",
        "another process follows the same source under the same topic prefix",
        "run one process per source; after a failover this is expected and the old process just ends";
    /// A record that no topic takes.
    RECORD_TOO_LARGE = "KC-0323", "request_too_large",
        "a request's record is larger than its topic takes",
        "see the dead letter, which holds the log; the limit is part of the topics' format and no setting raises it, so this request is not served";
    /// A cursor that no topic takes, or a dead letter without value that is refused.
    CURSOR_REFUSED = "KC-0324", "cursor_refused",
        "the broker refuses the cursor or the smallest form of a dead letter",
        "compare the settings of the topics with the catalogue";
    /// A foreign record among the cursors.
    FOREIGN_CURSOR = "KC-0325", "foreign_cursor",
        "a record with this source's key in the cursor topic is no cursor",
        "somebody else writes to the topic; it is passed over and kept as a dead letter";
    /// No cursor, and requests of the source.
    CURSOR_LOST = "KC-0326", "cursor_lost",
        "the source has no cursor, but the requests topics hold requests of it",
        "starting over would write every request again: restore the cursor topic, use another kafka.topic_prefix, or, if a second copy is meant, set start_without_cursor for one start";
    /// The cursor stands where it cannot.
    CURSOR_NOT_BELIEVED = "KC-0327", "cursor_not_believed",
        "the source's cursor stands behind requests that are not in the topics, or before the newest one that is",
        "nothing is lost: the source goes on from the newest request in the topics; such a cursor is forged, so check who can write to the topics";
    /// Cursor and topics exclude each other.
    CURSOR_CONTRADICTED = "KC-0328", "cursor_contradicted",
        "the last record that the source's cursor claims is not in its requests topic",
        "find out which of the two is forged or lost: restore it, or, if the cursor is right, set verify_cursor_blocks = 0 for one start; a wrong cursor doubles or loses requests";
    /// The release of a block cannot be learned.
    RELEASE_UNKNOWN = "KC-0329", "release_unknown",
        "no RPC endpoint answers calls at the block after which a source goes on, whose state is probably pruned, and a contract was upgraded since",
        "nothing is lost: the source waits; put a node with the state of that block first in rpc_urls, or set release, which is then taken for all blocks";
}
