//! The whole stack on one machine, as local processes.
