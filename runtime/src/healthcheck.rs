//! `healthcheck`: asks a running service how it is, over the telemetry address of the same configuration.
//!
//! For supervisors that can run a program and look at its exit code, in images that hold nothing else: one truth about the port,
//! and no HTTP client to install.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use crate::config::TelemetryConfig;

const LIMIT: Duration = Duration::from_secs(3);
/// As much of an answer as is read; reports are short.
const ANSWER_BYTES: u64 = 64 * 1024;

/// Asks, and says the answer in one line: 0 and standard output if it is good, 1 and standard error if not.
pub(crate) fn run(config: &TelemetryConfig, ready: bool) -> ExitCode {
    let path = if ready { "/readyz" } else { "/healthz" };
    let asked = address(config).and_then(|address| get(address, path));
    tell(asked)
}

/// One line on the stream that fits, and the exit code.
pub fn tell(asked: Result<String, String>) -> ExitCode {
    // Whoever closed the stream looks at the exit code alone.
    match asked {
        Ok(answer) => {
            let _ = writeln!(io::stdout(), "{answer}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

/// Where the service listens, as seen from the same machine.
fn address(config: &TelemetryConfig) -> Result<SocketAddr, String> {
    match &config.address_file {
        Some(file) if config.listen.port() == 0 => {
            let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let address = text.trim().parse().map_err(|error| format!("{}: {error}", file.display()))?;
            Ok(reachable(address))
        }
        _ => Ok(reachable(config.listen)),
    }
}

/// An address that stands for all of the machine's own is asked as the loopback one.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (ip, address.port()).into()
}

/// The body of a 2xx answer to a GET, on one line.
///
/// # Errors
/// Nothing answers within three seconds, or something else than 2xx; in words.
pub fn get(address: SocketAddr, path: &str) -> Result<String, String> {
    let answer = exchange(address, path).map_err(|error| format!("{address}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or("no status");
    let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
    if status.starts_with('2') { Ok(body) } else { Err(format!("{address}{path} answers {status}: {body}")) }
}

fn exchange(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // HTTP/1.0: an answer without chunks that ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection with these bytes; where.
    fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn a_good_answer_is_told_and_any_other_is_an_error_with_its_reason() {
        let good = answering("HTTP/1.0 200 OK\r\ncontent-length: 11\r\n\r\n{\"ok\":true}");
        assert_eq!(get(good, "/readyz"), Ok("{\"ok\":true}".to_owned()));
        let bad = answering("HTTP/1.0 503 Service Unavailable\r\n\r\n{\"ok\":\n false}");
        assert_eq!(get(bad, "/readyz"), Err(format!("{bad}/readyz answers 503: {{\"ok\": false}}")));
        let mute = answering("");
        assert!(get(mute, "/readyz").is_err());
    }

    #[test]
    fn a_service_that_listens_everywhere_is_asked_on_this_machine() {
        let at = |listen: &str| TelemetryConfig { listen: listen.parse().unwrap(), ..TelemetryConfig::default() };
        assert_eq!(address(&at("0.0.0.0:9464")).unwrap().to_string(), "127.0.0.1:9464");
        assert_eq!(address(&at("[::]:9464")).unwrap().to_string(), "[::1]:9464");
        assert_eq!(address(&at("10.1.2.3:9464")).unwrap().to_string(), "10.1.2.3:9464");
        let file = std::env::temp_dir().join(format!("healthcheck-{}", std::process::id()));
        std::fs::write(&file, "0.0.0.0:4711\n").unwrap();
        let by_file = TelemetryConfig { address_file: Some(file.clone()), ..at("0.0.0.0:0") };
        assert_eq!(address(&by_file).unwrap().to_string(), "127.0.0.1:4711");
        std::fs::remove_file(&file).unwrap();
        assert!(address(&by_file).is_err());
    }
}
