//! What must be on the machine before anything is fetched or started.

use std::path::PathBuf;
use std::process::Command;

/// A program that the stack calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Java,
    Maven,
    Node,
    Npm,
    Tar,
}

impl Tool {
    /// The program to call. `JAVA_HOME` goes first, as it does for Maven.
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Self::Java => {
                let java = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
                java.filter(|java| java.exists()).unwrap_or_else(|| "java".into())
            }
            Self::Maven => "mvn".into(),
            Self::Node => "node".into(),
            Self::Npm => "npm".into(),
            Self::Tar => "tar".into(),
        }
    }

    /// Arguments that print its version and the lowest major version that will do.
    fn probe(self) -> (&'static [&'static str], Option<u32>) {
        match self {
            Self::Java => (&["-version"], Some(17)),
            Self::Maven => (&["-v"], Some(3)),
            // What anvil's package and npm's lock file version 3 were tried with.
            Self::Node => (&["--version"], Some(18)),
            Self::Npm => (&["--version"], Some(9)),
            Self::Tar => (&["--version"], None),
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            Self::Java => "Apache Kafka runs on it",
            Self::Maven => "it fetches Apache Kafka",
            Self::Node => "the S3-compatible bucket runs on it",
            Self::Npm => "it fetches anvil and the bucket",
            Self::Tar => "it unpacks the schema registry",
        }
    }

    fn install(self) -> &'static str {
        match self {
            Self::Java => "Debian, Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17",
            Self::Maven => "Debian, Ubuntu: apt-get install maven; macOS: brew install maven",
            Self::Node | Self::Npm => "Debian, Ubuntu: apt-get install nodejs npm; macOS: brew install node",
            Self::Tar => "Debian, Ubuntu: apt-get install tar",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Java => "java",
            Self::Maven => "mvn",
            Self::Node => "node",
            Self::Npm => "npm",
            Self::Tar => "tar",
        }
    }

    /// One line that names what is wrong and how to put it right.
    fn complaint(self, wrong: &str) -> String {
        format!("{}: {wrong}; {} ({})", self.name(), self.purpose(), self.install())
    }

    /// Looks whether it is there and new enough. Starts it once; blocks.
    pub(crate) fn check(self) -> Result<(), String> {
        let (args, lowest) = self.probe();
        let output = match Command::new(self.program()).args(args).stdin(std::process::Stdio::null()).output() {
            Ok(output) if output.status.success() => output,
            // macOS has a `java` that only says where to get one.
            Ok(_) => return Err(self.complaint("cannot be run")),
            Err(_) => return Err(self.complaint("not found")),
        };
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        match (lowest, major_version(&said)) {
            (Some(lowest), Some(found)) if found < lowest => {
                Err(self.complaint(&format!("version {found} found, {lowest} or later needed")))
            }
            _ => Ok(()),
        }
    }
}

/// The major version in what a program prints about itself: the first number that a dot follows, or stands alone. Java before 9
/// counted `1.8` for 8.
fn major_version(said: &str) -> Option<u32> {
    let plain = without_colours(said);
    let line =
        plain.lines().find(|line| !line.starts_with("Picked up") && line.contains(|c: char| c.is_ascii_digit()))?;
    let start = line.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = line[start..].split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next()?.ok()?, numbers.next()) {
        (1, Some(Ok(minor))) => Some(minor),
        (major, _) => Some(major),
    }
}

/// Maven colours its version even in a pipe.
fn without_colours(said: &str) -> String {
    let mut pieces = said.split('\u{1b}');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.split_once('m').map_or(piece, |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_programs_print() {
        for (said, version) in [
            ("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime Environment", Some(17)),
            ("java version \"1.8.0_402\"", Some(8)),
            ("Picked up JAVA_TOOL_OPTIONS: -Dx=y\nopenjdk version \"21\" 2023-09-19", Some(21)),
            ("\u{1b}[1mApache Maven 3.8.7\u{1b}[m", Some(3)),
            ("v22.11.0", Some(22)),
            ("11.19.1", Some(11)),
            ("no digits", None),
        ] {
            assert_eq!(major_version(said), version, "{said}");
        }
    }

    #[test]
    fn a_missing_program_gets_one_line_that_says_how_to_install_it() {
        let line = Tool::Maven.complaint("not found");
        assert_eq!(line.lines().count(), 1);
        assert!(line.starts_with("mvn: not found;") && line.contains("apt-get install maven"), "{line}");
    }
}
