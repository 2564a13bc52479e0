//! A set of offsets, kept as runs of neighbours. Pure.

use std::{collections::BTreeMap, ops::Range};

/// A set of offsets. Memory and time follow the number of runs, not the number of offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Start of a run to its end (exclusive). Runs neither touch nor overlap.
    runs: BTreeMap<i64, i64>,
    count: u64,
}

impl Runs {
    /// Adds every offset of the range and returns how many of them are new.
    pub fn insert(&mut self, range: Range<i64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let Range { mut start, mut end } = range;
        let mut swallowed = 0;
        if let Some((&before_start, &before_end)) = self.runs.range(..=start).next_back()
            && before_end >= start
        {
            start = before_start;
            end = end.max(before_end);
            swallowed += length(before_start, before_end);
            self.runs.remove(&before_start);
        }
        while let Some((&next_start, &next_end)) = self.runs.range(start..).next() {
            if next_start > end {
                break;
            }
            end = end.max(next_end);
            swallowed += length(next_start, next_end);
            self.runs.remove(&next_start);
        }
        self.runs.insert(start, end);
        let new = length(start, end) - swallowed;
        self.count += new;
        new
    }

    /// Whether the offset is in the set.
    #[must_use]
    pub fn contains(&self, offset: i64) -> bool {
        self.runs.range(..=offset).next_back().is_some_and(|(_, &end)| offset < end)
    }

    /// Removes the run that starts exactly there and returns its end.
    pub fn take_run_at(&mut self, start: i64) -> Option<i64> {
        let end = self.runs.remove(&start)?;
        self.count -= length(start, end);
        Some(end)
    }

    /// End (exclusive) of the last run.
    #[must_use]
    pub fn end(&self) -> Option<i64> {
        self.runs.last_key_value().map(|(_, &end)| end)
    }

    /// Start of the first run.
    #[must_use]
    pub fn start(&self) -> Option<i64> {
        self.runs.first_key_value().map(|(&start, _)| start)
    }

    /// How many offsets are in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs in rising order.
    pub fn iter(&self) -> impl Iterator<Item = Range<i64>> + '_ {
        self.runs.iter().map(|(&start, &end)| start..end)
    }
}

fn length(start: i64, end: i64) -> u64 {
    end.abs_diff(start)
}

impl FromIterator<i64> for Runs {
    fn from_iter<T: IntoIterator<Item = i64>>(offsets: T) -> Self {
        let mut runs = Self::default();
        for offset in offsets {
            runs.insert(offset..offset.saturating_add(1));
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_agree_with_a_set_of_offsets(ranges in prop::collection::vec((0_i64..200, 0_i64..20), 0..60), take in 0_i64..200) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (start, length) in ranges {
                let before = model.len();
                model.extend(start..start + length);
                prop_assert_eq!(runs.insert(start..start + length), (model.len() - before) as u64);
            }
            if let Some(end) = runs.take_run_at(take) {
                (take..end).for_each(|offset| assert!(model.remove(&offset)));
                prop_assert!(!model.contains(&end));
            }
            prop_assert_eq!(runs.count(), model.len() as u64);
            prop_assert_eq!(runs.iter().flatten().collect::<BTreeSet<_>>(), model.clone());
            prop_assert_eq!(runs.start(), model.first().copied());
            prop_assert_eq!(runs.end(), model.last().map(|last| last + 1));
            (0..220).for_each(|offset| assert_eq!(runs.contains(offset), model.contains(&offset)));
            let ends: Vec<_> = runs.iter().collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].end < pair[1].start), "runs neither touch nor overlap");
        }
    }
}
