//! Submits signed results to the contracts and settles each.
