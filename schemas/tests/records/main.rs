//! The records through the codec, as others use it.

mod golden;
mod hostile;
mod properties;
mod registry;
mod samples;
mod strategies;
