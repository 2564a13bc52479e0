//! What of one assigned partition is finished above the lowest unfinished offset. Pure: no I/O, no clock, no async.
//!
//! ```text
//!        next                                read
//!         │  ┌────────── finished ─────────┐  │
//!  done   ▼  ▼            ▼                ▼  ▼    not read yet
//! ───────┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──
//!  ██ ██ │░░│██│░░│░░│██│██│··│██│░░│██│██│██│  │  │
//! ───────┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──
//!         ░░ unfinished      ·· gap: counts as finished
//! ```
//!
//! The committed offset is `next`; the finished ones above it travel in the commit's metadata. Intake stops while another
//! offset could make that set too long to encode, whatever is finished in which order ([`Limits`]).

use super::{commit_metadata, runs::Runs};

/// Offset of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub i64);

impl Offset {
    /// The position behind this record.
    #[must_use]
    pub fn next(self) -> NextOffset {
        NextOffset(self.0.saturating_add(1))
    }
}

/// Offset of the next record to handle: what Kafka commits. One more than the record before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextOffset(pub i64);

/// How far a ledger may stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most offsets from the lowest unfinished one to the newest one read.
    pub window: u64,
    /// Longest stretch above the lowest unfinished offset that a bitmap always holds.
    pub bitmap: u64,
    /// Most unfinished offsets with which run lengths always fit, within the window.
    pub unfinished: u64,
}

impl Limits {
    /// Limits for a window and the longest metadata in characters.
    #[must_use]
    pub fn new(window: u64, max_metadata: usize) -> Self {
        Self {
            window,
            bitmap: commit_metadata::bitmap_capacity(max_metadata),
            unfinished: commit_metadata::run_capacity(max_metadata, window),
        }
    }

    fn allow(&self, span: u64, unfinished: u64) -> bool {
        span <= self.window && (span <= self.bitmap + 1 || unfinished <= self.unfinished)
    }
}

/// What to do with a record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Handle it.
    Work,
    /// A predecessor finished it: nothing to do.
    Finished,
    /// It was read before: nothing to do.
    Seen,
    /// The ledger is full: offer it again later.
    Full,
}

/// The ledger of one assignment of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    limits: Limits,
    /// Lowest offset that is not finished.
    next: NextOffset,
    /// First offset that was not read.
    read: NextOffset,
    /// Finished offsets above `next`, read or not.
    finished: Runs,
    /// Admitted and not finished.
    open: u64,
}

impl Ledger {
    /// A ledger that goes on from a committed offset and the offsets finished above it.
    #[must_use]
    pub fn restore(limits: Limits, committed: NextOffset, finished: Runs) -> Self {
        let mut ledger = Self { limits, next: committed, read: committed, finished: Runs::default(), open: 0 };
        for run in finished.iter() {
            ledger.finished.insert(run.start.max(committed.0)..run.end);
        }
        ledger.advance();
        ledger
    }

    /// Offers a record that was read. Offsets left out since the last one are gaps and count as finished.
    pub fn admit(&mut self, offset: Offset) -> Admission {
        if offset.0 < self.read.0 {
            return Admission::Seen;
        }
        if self.finished.contains(offset.0) {
            self.skip_to(offset.next());
            return Admission::Finished;
        }
        if !self.has_room(offset) {
            return Admission::Full;
        }
        self.skip_to(NextOffset(offset.0));
        self.read = offset.next();
        self.open += 1;
        Admission::Work
    }

    /// Marks an admitted record as finished. False (and nothing changed) if it is not open.
    pub fn finish(&mut self, offset: Offset) -> bool {
        if !self.is_open(offset) {
            return false;
        }
        self.finished.insert(offset.0..offset.next().0);
        self.open -= 1;
        self.advance();
        true
    }

    /// Whether the record was admitted and is not finished.
    #[must_use]
    pub fn is_open(&self, offset: Offset) -> bool {
        offset.0 >= self.next.0 && offset.0 < self.read.0 && !self.finished.contains(offset.0)
    }

    /// The offset to commit: the lowest unfinished one.
    #[must_use]
    pub fn next(&self) -> NextOffset {
        self.next
    }

    /// The first offset that was not read: where reading goes on.
    #[must_use]
    pub fn read(&self) -> NextOffset {
        self.read
    }

    /// The finished offsets above the one to commit.
    #[must_use]
    pub fn finished(&self) -> &Runs {
        &self.finished
    }

    /// Admitted and unfinished records.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open
    }

    /// Offsets from the lowest unfinished one to the newest one known.
    #[must_use]
    pub fn span(&self) -> u64 {
        self.end().abs_diff(self.next.0)
    }

    /// Whether what is finished above the lowest unfinished record fills half of what the ledger can hold: that one record
    /// is about to hold up the partition.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        let limit = self.limits.window.min(self.limits.bitmap) / 2;
        self.open > 0 && self.finished.end().is_some_and(|end| end.abs_diff(self.next.0) >= limit.max(1))
    }

    /// Whether intake may go on after a pause: a quarter of the window is free. Anything less would pause again at once,
    /// and each pause throws away what was fetched ahead.
    #[must_use]
    pub fn is_relaxed(&self) -> bool {
        let span = self.span().saturating_add(self.limits.window / 4);
        span <= self.limits.window.min(self.limits.bitmap) || {
            span <= self.limits.window && self.unfinished() <= self.limits.unfinished / 2
        }
    }

    /// Whether every future state of the set can be encoded. Holds for every state that `admit` allowed; may fail for one
    /// restored from a predecessor with wider limits.
    #[must_use]
    pub fn always_fits(&self) -> bool {
        self.finished.is_empty() || self.limits.allow(self.span(), self.unfinished())
    }

    fn end(&self) -> i64 {
        self.finished.end().unwrap_or(self.next.0).max(self.read.0)
    }

    /// Offsets in the span that are not finished, read or not.
    fn unfinished(&self) -> u64 {
        self.span() - self.finished.count()
    }

    fn has_room(&self, offset: Offset) -> bool {
        let end = self.end().max(offset.next().0);
        // With nothing open, the gap before the record closes and the ledger starts at the record itself.
        let next = if self.open == 0 { offset.0 } else { self.next.0 };
        let gap = self.gap(offset);
        let span = end.abs_diff(next);
        let unfinished = if self.open == 0 {
            // Finished runs below the record close with the gap; what remains unknown lies above it.
            span - self
                .finished
                .iter()
                .map(|run| run.end.saturating_sub(run.start.max(next)).max(0).unsigned_abs())
                .sum::<u64>()
        } else {
            span - self.finished.count() - gap
        };
        // A span of one is one record in flight, which needs no set at all: so the ledger always moves.
        span <= 1 || self.limits.allow(span, unfinished)
    }

    /// Unread offsets before the record that are not finished yet.
    fn gap(&self, offset: Offset) -> u64 {
        let finished: u64 = self
            .finished
            .iter()
            .map(|run| run.end.min(offset.0).saturating_sub(run.start.max(self.read.0)).max(0).unsigned_abs())
            .sum();
        offset.0.abs_diff(self.read.0) - finished
    }

    fn skip_to(&mut self, position: NextOffset) {
        self.finished.insert(self.read.0.max(self.next.0)..position.0);
        self.read = self.read.max(position);
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(end) = self.finished.take_run_at(self.next.0) {
            self.next = NextOffset(end);
        }
        // Finished offsets that were committed by a predecessor need no reading.
        self.read = self.read.max(self.next);
    }
}
