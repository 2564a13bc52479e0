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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::stage::commit_metadata::{DEFAULT_MAX_CHARACTERS, decode, encode};

    fn ledger(window: u64) -> Ledger {
        Ledger::restore(Limits::new(window, DEFAULT_MAX_CHARACTERS), NextOffset(0), Runs::default())
    }

    #[test]
    fn p2_the_committed_offset_never_passes_an_unfinished_one() {
        let mut ledger = ledger(1000);
        for offset in 0..10 {
            assert_eq!(ledger.admit(Offset(offset)), Admission::Work);
        }
        for offset in [9, 1, 2, 5] {
            assert!(ledger.finish(Offset(offset)));
            assert_eq!(ledger.next(), NextOffset(0));
        }
        assert!(ledger.finish(Offset(0)));
        assert_eq!(ledger.next(), NextOffset(3));
    }

    #[test]
    fn gaps_in_offsets_are_not_work() {
        let mut ledger = ledger(1000);
        assert_eq!(ledger.admit(Offset(0)), Admission::Work);
        assert_eq!(ledger.admit(Offset(50)), Admission::Work);
        ledger.finish(Offset(0));
        assert_eq!(ledger.next(), NextOffset(50));
        ledger.finish(Offset(50));
        assert_eq!((ledger.next(), ledger.span()), (NextOffset(51), 0));
    }

    #[test]
    fn a_record_is_finished_once() {
        let mut ledger = ledger(10);
        ledger.admit(Offset(0));
        assert!(!ledger.finish(Offset(1)), "never admitted");
        assert!(ledger.finish(Offset(0)));
        assert!(!ledger.finish(Offset(0)), "finished already");
        assert_eq!(ledger.admit(Offset(0)), Admission::Seen);
    }

    #[test]
    fn p6_intake_stops_at_the_window_and_goes_on_behind_it() {
        let mut ledger = ledger(4);
        for offset in 0..4 {
            assert_eq!(ledger.admit(Offset(offset)), Admission::Work);
        }
        assert_eq!(ledger.admit(Offset(4)), Admission::Full);
        assert!(!ledger.is_relaxed());
        ledger.finish(Offset(0));
        assert_eq!(ledger.admit(Offset(4)), Admission::Work);
    }

    #[test]
    fn a_gap_wider_than_the_window_never_stops_an_idle_ledger() {
        let mut ledger = ledger(4);
        assert_eq!(ledger.admit(Offset(1_000_000)), Admission::Work);
        ledger.finish(Offset(1_000_000));
        assert_eq!(ledger.next(), NextOffset(1_000_001));
    }

    #[test]
    fn p5_a_lone_unfinished_record_below_half_the_window_holds_it_up() {
        let mut ledger = ledger(100);
        for offset in 0..51 {
            ledger.admit(Offset(offset));
            if offset > 0 {
                ledger.finish(Offset(offset));
                assert_eq!(ledger.is_held_up(), offset >= 49, "{offset}");
            }
        }
    }

    #[test]
    fn p5_a_backlog_alone_holds_nothing_up() {
        let mut ledger = ledger(100);
        (0..100).for_each(|offset| assert_eq!(ledger.admit(Offset(offset)), Admission::Work));
        assert!(!ledger.is_held_up());
    }

    #[test]
    fn a_set_from_wider_limits_is_told() {
        let finished: Runs = [90].into_iter().collect();
        let limits = Limits::new(50, DEFAULT_MAX_CHARACTERS);
        assert!(!Ledger::restore(limits, NextOffset(0), finished).always_fits());
    }

    /// The rule, with no thought for speed: every offset below `read` that is no open record is finished.
    #[derive(Default)]
    struct Model {
        base: i64,
        read: i64,
        open: BTreeSet<i64>,
        above: BTreeSet<i64>,
    }

    impl Model {
        fn next(&self) -> i64 {
            let mut next = self.open.first().copied().unwrap_or(self.read).min(self.read).max(self.base);
            while self.open.is_empty() && next >= self.read && self.above.contains(&next) {
                next += 1;
            }
            next
        }

        fn finished(&self) -> Vec<i64> {
            let next = self.next();
            let mut finished: BTreeSet<i64> = (next..self.read).filter(|offset| !self.open.contains(offset)).collect();
            finished.extend(self.above.iter().filter(|offset| **offset > next));
            finished.into_iter().collect()
        }
    }

    fn offsets(runs: &Runs) -> Vec<i64> {
        runs.iter().flatten().collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Reads the record that many offsets on.
        Read(i64),
        /// Finishes one of the open records, by its rank.
        Finish(usize),
        /// Crashes: what is committed is all that is left.
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..4_i64).prop_map(Step::Read),
            2 => (0..60_i64).prop_map(Step::Read),
            6 => any::<prop::sample::Index>().prop_map(|index| Step::Finish(index.index(64))),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn p2_ledger_agrees_with_the_naive_model(steps in prop::collection::vec(step(), 1..300), window in 2_u64..2000) {
            // Metadata so short that bitmap and runs reach their limits within a test, before the window or behind it.
            let limits = Limits::new(window, 64);
            let mut ledger = Ledger::restore(limits, NextOffset(0), Runs::default());
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Read(skip) => {
                        let offset = model.read + skip;
                        match ledger.admit(Offset(offset)) {
                            Admission::Work => {
                                prop_assert!(!model.above.contains(&offset));
                                model.open.insert(offset);
                                model.read = offset + 1;
                            }
                            Admission::Finished => {
                                prop_assert!(model.above.contains(&offset));
                                model.read = offset + 1;
                            }
                            Admission::Full => prop_assert!(!model.open.is_empty(), "an idle ledger takes a record"),
                            Admission::Seen => prop_assert!(offset < ledger.read().0),
                        }
                        model.read = model.read.max(ledger.read().0);
                    }
                    Step::Finish(rank) => {
                        if let Some(offset) = model.open.iter().nth(rank % model.open.len().max(1)).copied() {
                            model.open.remove(&offset);
                            prop_assert!(ledger.finish(Offset(offset)));
                        }
                    }
                    Step::Restart => {
                        let text = encode(ledger.next(), ledger.finished(), 64).expect("the set always fits");
                        let finished = decode(ledger.next(), &text).expect("what was encoded decodes");
                        prop_assert_eq!(&finished, ledger.finished());
                        let next = ledger.next();
                        ledger = Ledger::restore(limits, next, finished);
                        prop_assert!(ledger.always_fits());
                        model = Model {
                            base: next.0,
                            read: next.0,
                            open: BTreeSet::new(),
                            above: offsets(ledger.finished()).into_iter().collect(),
                        };
                    }
                }
                prop_assert_eq!(ledger.next().0, model.next());
                prop_assert_eq!(offsets(ledger.finished()), model.finished());
                prop_assert_eq!(ledger.open(), model.open.len() as u64);
                prop_assert!(ledger.span() <= window.max(1));
                prop_assert!(ledger.open() > 0 || ledger.span() > 0 || ledger.is_relaxed(), "an empty ledger lets intake go on");
                prop_assert!(encode(ledger.next(), ledger.finished(), 64).is_ok(), "the set always fits");
            }
        }
    }
}
