//! The command line that every service has.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::codes;
use crate::config::{ConfigErrors, Configuration, Loaded, Sources, config_reference, load, load_without_rules};
use crate::shutdown::Exit;

/// Where the configuration comes from; environment variables are the third source.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "KMS_CONNECTOR_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Set one value, e.g. `kafka.bootstrap_servers=10.0.0.1:9092` or `source.0.finality=safe`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// Loads the configuration from file, environment and flags.
    ///
    /// # Errors
    /// Every mistake.
    pub fn load<T: Configuration>(&self) -> Result<Loaded<T>, ConfigErrors> {
        load(&self.sources())
    }

    fn sources(&self) -> Sources {
        Sources::of_process(self.config.clone(), self.set.clone())
    }
}

/// What a service is asked to do.
#[derive(Subcommand, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the service (the default).
    Run,
    /// Check the configuration and end: 0 if it is right, 2 with every mistake if not.
    CheckConfig,
    /// Print the effective configuration with the origin of every value, secrets masked.
    PrintConfig,
    /// Ask the running service of this configuration whether it lives, over its telemetry address: 0 if so, 1 with the reason if not.
    Healthcheck {
        /// Ask whether it is ready for work, or to take over from another.
        #[arg(long)]
        ready: bool,
    },
    /// Print the reference of all configuration keys as Markdown.
    ConfigReference,
}

#[derive(Parser, Debug)]
#[command(version, disable_help_subcommand = true)]
struct CommandLine {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

/// What is left to do after the command line was read.
pub enum Invocation<T> {
    /// Run the service with this configuration.
    Run(Box<Loaded<T>>),
    /// Ask the running service of this configuration how it is; `true`: whether it is ready.
    Healthcheck(Box<Loaded<T>>, bool),
    /// Everything is done; end with this code.
    Done(ExitCode),
}

/// Reads the command line (the first argument is the program's name) and the configuration. Mistakes are printed to
/// standard error and end with exit code 2.
pub fn read<T: Configuration>(
    name: &'static str,
    about: &'static str,
    args: impl IntoIterator<Item = OsString>,
) -> Invocation<T> {
    let command = CommandLine::command().name(name).bin_name(name).about(about);
    let parsed = command.try_get_matches_from(args).and_then(|matches| CommandLine::from_arg_matches(&matches));
    let line = match parsed {
        Ok(line) => line,
        Err(error) => {
            // Help and version come as errors too, and have their own exit code.
            let _ = error.print();
            let code = if error.use_stderr() { Exit::Configuration } else { Exit::Ok };
            return Invocation::Done(code.into());
        }
    };
    let action = line.action.unwrap_or(Action::Run);
    if action == Action::ConfigReference {
        return Invocation::Done(print(name, &config_reference::<T>()).into());
    }
    let loaded = match action {
        Action::Healthcheck { .. } => load_without_rules::<T>(&line.config.sources()),
        _ => line.config.load::<T>(),
    };
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            let _ = writeln!(io::stderr(), "{name}: {errors}");
            return Invocation::Done(Exit::Configuration.into());
        }
    };
    match action {
        Action::Run => Invocation::Run(Box::new(loaded)),
        Action::Healthcheck { ready } => Invocation::Healthcheck(Box::new(loaded), ready),
        Action::CheckConfig => Invocation::Done(print(name, &format!("{name}: the configuration is valid\n")).into()),
        _ => Invocation::Done(print(name, &loaded.to_toml()).into()),
    }
}

/// Writes a result to standard output.
fn print(name: &str, text: &str) -> Exit {
    match write(io::stdout().lock(), text) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let code = codes::OUTPUT.code;
            // A closed standard error keeps nobody from ending.
            let _ = writeln!(io::stderr(), "{name}: error[{code}]: cannot write to standard output: {error}");
            Exit::Output
        }
    }
}

/// Writes a text to its end. A reader that has seen enough is no error.
fn write(mut out: impl io::Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and fails then.
    struct Fails(usize, io::ErrorKind);

    impl io::Write for Fails {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(self.1.into());
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_that_is_lost_is_an_error_and_a_reader_that_has_seen_enough_is_none() {
        assert!(write(Fails(3, io::ErrorKind::StorageFull), "four").is_err());
        assert!(write(Fails(4, io::ErrorKind::StorageFull), "four").is_ok());
        assert!(write(Fails(3, io::ErrorKind::BrokenPipe), "four").is_ok());
    }
}
