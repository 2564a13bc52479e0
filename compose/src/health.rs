//! `kms-stack health`: the health of a container, for images that hold no other client.
//!
//! Without an address it asks what the container was started for: the command line of process 1 with `healthcheck` behind it, so that
//! one health check fits every service of one image, and the port is told in one place, the service's configuration.

use std::ffi::OsString;
use std::net::ToSocketAddrs as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Args;
use kms_runtime::healthcheck;
use url::Url;

/// Programs that know `healthcheck`.
const PROGRAMS: [&str; 4] = ["kms-ingest", "kms-processor", "kms-emitter", "kms-stack"];

/// Whose health.
#[derive(Args, Clone, Debug)]
pub(crate) struct HealthArgs {
    /// What to GET, e.g. `http://127.0.0.1:9464/readyz`: 0 on a 2xx answer. Absent: what runs as process 1 of this container is asked.
    url: Option<Url>,
    /// Without URL: whether it is ready for work, not only alive.
    #[arg(long, conflicts_with = "url")]
    ready: bool,
}

pub(crate) fn run(args: &HealthArgs) -> ExitCode {
    match &args.url {
        Some(url) => healthcheck::tell(get(url)),
        None => healthcheck::tell(Err(ask(Path::new("/proc/1/cmdline"), args.ready))),
    }
}

fn get(url: &Url) -> Result<String, String> {
    let (Some(host), Some(port), "http") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
        return Err(format!("{url}: not an http:// address"));
    };
    let host = host.trim_matches(['[', ']']);
    let addresses = (host, port).to_socket_addrs().map_err(|error| format!("{url}: {error}"))?;
    let mut last = Err(format!("{url}: no address"));
    for address in addresses {
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        last = healthcheck::get(address, &path);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Becomes the health check of the program in that command line; why it did not.
fn ask(command_line: &Path, ready: bool) -> String {
    let text = match std::fs::read(command_line) {
        Ok(text) => text,
        Err(error) => return format!("{}: {error}", command_line.display()),
    };
    match check_of(&text, ready) {
        Some((program, args)) => {
            let error = Command::new(&program).args(args).exec();
            format!("{}: {error}", Path::new(&program).display())
        }
        None => format!("process 1 is none of {}: give an address", PROGRAMS.join(", ")),
    }
}

/// The health check that belongs to a command line as `/proc` shows it: after an init program (`docker-init -- …`) as well.
fn check_of(command_line: &[u8], ready: bool) -> Option<(OsString, Vec<OsString>)> {
    let mut words = command_line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let is_ours = |word: &&[u8]| {
        let name = word.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        PROGRAMS.iter().any(|program| program.as_bytes() == name)
    };
    let program = words.find(is_ours)?;
    let args = words.filter(|word| *word != b"run").chain([b"healthcheck".as_slice()]);
    let args = args.chain(ready.then_some(b"--ready".as_slice()));
    let owned = |word: &[u8]| OsString::from_vec(word.to_vec());
    Some((owned(program), args.map(owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command_line: &str, ready: bool) -> Option<String> {
        let text = command_line.replace(' ', "\0") + "\0";
        let (program, args) = check_of(text.as_bytes(), ready)?;
        let words: Vec<String> = [program].into_iter().chain(args).map(|word| word.into_string().unwrap()).collect();
        Some(words.join(" "))
    }

    #[test]
    fn the_program_of_the_container_is_asked_with_its_own_arguments() {
        let asked = check("kms-ingest --config /config/ingest.toml", false);
        assert_eq!(asked.as_deref(), Some("kms-ingest --config /config/ingest.toml healthcheck"));
        let asked = check("/sbin/docker-init -- /usr/local/bin/kms-emitter --set kafka.instance=1 run", true);
        assert_eq!(asked.as_deref(), Some("/usr/local/bin/kms-emitter --set kafka.instance=1 healthcheck --ready"));
        assert_eq!(check("sleep 600", false), None);
    }

    #[test]
    fn an_address_that_is_none_is_refused_in_words() {
        assert!(get(&"https://127.0.0.1:1/".parse().unwrap()).unwrap_err().contains("not an http:// address"));
        assert!(get(&"http://127.0.0.1:1/".parse().unwrap()).unwrap_err().contains("127.0.0.1:1"));
    }
}
