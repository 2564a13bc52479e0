//! Processes that never outlive the stack.
//!
//! Every child has a process group and a log file of its own. A stack that ends in order stops its children in order; for one that is
//! killed, a small process, the *reaper*, holds the reading end of a pipe whose other end only the stack has. It is told each
//! group that starts or ends, and when the pipe closes, for whatever reason, it kills what is left.
//!
//! A child must not slip through between its start and the reaper's hearing of it. So it starts behind a gate: a shell that waits
//! for one line on its standard input and then becomes the program (same process id). The line is written after the reaper
//! was told; if the stack dies before, the shell reads the end of the pipe and ends.

mod child;
mod reaper;
mod supervised;

pub use child::{Launch, Process};
pub use nix::sys::signal::Signal;
pub(crate) use reaper::Reaper;
pub use reaper::run_reaper;
pub use supervised::Supervised;
