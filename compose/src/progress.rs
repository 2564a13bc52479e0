//! What a person sees while parts are fetched and started: spinners on a terminal, plain lines in a pipe. Everything goes to
//! standard error; standard output belongs to results.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where progress is shown.
#[derive(Clone, Debug)]
pub struct Progress(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Silent,
    Lines,
    Terminal(MultiProgress),
}

impl Progress {
    /// Shows nothing; for tests.
    pub fn silent() -> Self {
        Self(Kind::Silent)
    }

    /// One plain line per happening.
    pub fn lines() -> Self {
        Self(Kind::Lines)
    }

    /// Spinners when standard error is a terminal, else lines.
    pub fn auto() -> Self {
        if std::io::stderr().is_terminal() { Self(Kind::Terminal(MultiProgress::new())) } else { Self::lines() }
    }

    /// The bars on the terminal, for a caller that adds its own; absent in a pipe.
    pub fn terminal(&self) -> Option<&MultiProgress> {
        match &self.0 {
            Kind::Terminal(bars) => Some(bars),
            _ => None,
        }
    }

    /// Begins a task that takes a while. `label` says of what (`Apache Kafka 4.3.0`), `doing` what happens (`fetching`).
    pub fn begin(&self, label: impl Into<String>, doing: impl Into<Cow<'static, str>>) -> Task {
        let (label, doing) = (label.into(), doing.into());
        let bar = match &self.0 {
            Kind::Silent => None,
            Kind::Lines => {
                remark(&format!("{label}: {doing}"));
                None
            }
            Kind::Terminal(bars) => Some(spinner(bars, &label, doing)),
        };
        Task { label, lines: matches!(self.0, Kind::Lines), bar, started: Instant::now() }
    }

    /// One line that stays.
    pub fn say(&self, line: &str) {
        match &self.0 {
            Kind::Silent => {}
            Kind::Lines => remark(line),
            Kind::Terminal(bars) => {
                // A terminal that went away must not end the run.
                let _ = bars.println(line);
            }
        }
    }
}

/// A line on standard error. Whoever read it may have gone away, which must not end the run.
fn remark(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn spinner(bars: &MultiProgress, label: &str, doing: Cow<'static, str>) -> ProgressBar {
    let bar = bars.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {prefix:<34} {msg}") {
        bar.set_style(style.tick_strings(&["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "✓"]));
    }
    bar.set_prefix(label.to_owned());
    bar.set_message(doing);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A task under way. Dropped without [`Task::done`], it disappears from a terminal.
#[derive(Debug)]
pub struct Task {
    label: String,
    lines: bool,
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Task {
    /// Changes what is shown as happening. A pipe shows only beginning and end.
    pub fn now(&self, doing: impl Into<Cow<'static, str>>) {
        if let Some(bar) = &self.bar {
            bar.set_message(doing);
        }
    }

    /// The task is done; `what` says with what result, the time taken is added.
    pub fn done(mut self, what: &str) {
        let line = format!("{what} in {:.1} s", self.started.elapsed().as_secs_f64());
        match self.bar.take() {
            Some(bar) => bar.finish_with_message(line),
            None if self.lines => remark(&format!("{}: {line}", self.label)),
            None => {}
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
