// SPDX-License-Identifier: GPL-2.0-or-later
//! The command line: every key of the configuration file as an option, the original's letters included.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{ConfigError, Kind, Problem, Settings, KEYS};

/// The file that is read when none is named.
pub const DEFAULT_CONFIG: &str = "/etc/netdump.conf";

/// What the command line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The configuration file.
    pub config: PathBuf,
    /// It was named, so it must exist.
    pub config_named: bool,
    /// Print the settings and end.
    pub check_config: bool,
    /// Print the options in short form and end.
    pub usage: bool,
    /// Keys that override the file, in order.
    pub overrides: Vec<(&'static str, String)>,
}

impl Invocation {
    /// Reads the command line; the error prints itself (it may be the help text).
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
        let matches = command().try_get_matches_from(args)?;
        let named = matches.get_one::<PathBuf>("config");
        Ok(Invocation {
            config: named.cloned().unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG)),
            config_named: named.is_some(),
            check_config: matches.get_flag("check-config"),
            usage: matches.get_flag("usage"),
            overrides: overrides(&matches),
        })
    }

    /// The settings: defaults, then the file, then the options.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = Settings::load(&self.config, self.config_named)?;
        let mut problems = Vec::new();
        for key in KEYS {
            for (_, value) in self.overrides.iter().filter(|(name, _)| *name == key.name) {
                if let Err(reason) = key.set(&mut settings, value) {
                    problems.push(Problem { line: 0, reason: format!("--{}: {reason}", key.long) });
                }
            }
        }
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(ConfigError { file: Path::new("command line").to_owned(), problems })
        }
    }
}

fn command() -> Command {
    let mut command = Command::new("netdump-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Takes crash dumps and console logs over the network and stores them")
        .after_help("Each option is also a key of the configuration file, which it overrides.")
        .args_override_self(true)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help(format!("Configuration file [{DEFAULT_CONFIG}]")),
        )
        .arg(
            Arg::new("check-config")
                .long("check-config")
                .action(ArgAction::SetTrue)
                .help("Print the settings that would be used, and end"),
        )
        .arg(Arg::new("usage").long("usage").action(ArgAction::SetTrue).help("Print all options without explanation"));
    let defaults = Settings::default();
    for key in KEYS {
        let shown = key.show(&defaults);
        let help = match shown.as_str() {
            "" | "\"\"" => key.help.to_owned(),
            value => format!("{} [{value}]", key.help),
        };
        // The original wrote its options with underscores; hyphens are what people type today.
        let mut aliases: Vec<String> = key.aliases.iter().map(|alias| (*alias).to_owned()).collect();
        if key.long != key.name {
            aliases.push(key.name.to_owned());
        }
        aliases.retain(|alias| alias != key.long);
        aliases.dedup();
        aliases.extend(
            aliases
                .clone()
                .iter()
                .chain([&key.long.to_owned()])
                .filter(|name| name.contains('_'))
                .map(|name| name.replace('_', "-")),
        );
        let mut arg = Arg::new(key.name)
            .long(key.long)
            .aliases(aliases)
            .help(help)
            .action(ArgAction::Set)
            .value_parser(clap::value_parser!(String));
        if let Some(short) = key.short {
            arg = arg.short(short);
        }
        arg = match key.kind {
            Kind::Bool => arg.value_name("BOOL").num_args(0..=1).default_missing_value("true"),
            Kind::Level => arg.value_name("N").num_args(0..=1).default_missing_value("1"),
            Kind::Value(name) => arg.value_name(name),
        };
        command = command.arg(arg);
    }
    // An empty option value is a mistake of a script; the file says `key=` where it means nothing.
    command.mut_args(|arg| match arg.get_id().as_str() {
        "config" | "check-config" | "usage" => arg,
        _ => arg.value_parser(NonEmptyStringValueParser::new()),
    })
}

/// All options in one paragraph, as the original's option parser printed them.
pub fn usage() -> String {
    let mut text = String::from("Usage: netdump-server");
    for arg in command().get_arguments() {
        let Some(long) = arg.get_long() else { continue };
        let short = arg.get_short().map(|short| format!("-{short}|")).unwrap_or_default();
        let value = match arg.get_value_names() {
            Some([name]) if arg.get_action().takes_values() => format!("={name}"),
            _ => String::new(),
        };
        text += &format!(" [{short}--{long}{value}]");
    }
    text + "\n"
}

fn overrides(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let given = KEYS.iter().filter_map(|key| Some((key.name, matches.get_one::<String>(key.name)?.clone())));
    given.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, clap::Error> {
        Invocation::parse(["netdump-server"].into_iter().chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn the_table_makes_a_sound_command() {
        command().debug_assert();
    }

    #[test]
    fn original_options_and_letters() {
        let line =
            "--config /dev/null --port 6667 -a 127.0.0.1 -c 2 -d -P /run/x.pid -s 0 -S false -C /c -D --verbose 2 \
                    --skip_zero 0";
        let s = parse(line).unwrap().settings().unwrap();
        assert_eq!((s.port, s.max_concurrent_dumps, s.verbose), (6667, 2, 2));
        assert!(s.daemon && s.debug && !s.secure && !s.space_check && !s.skip_zero);
        assert_eq!(s.dumpdir, PathBuf::from("/c"));
        let s =
            parse("--config /dev/null --max_concurrent_dumps=9 --dumpdirprefix=/d --secure=0 --dumps-per-hour 5 -v");
        let s = s.unwrap().settings().unwrap();
        assert_eq!((s.max_concurrent_dumps, s.dumps_per_hour, s.verbose, s.secure), (9, 5, 1, false));
        assert_eq!(s.dumpdir, PathBuf::from("/d"));
    }

    #[test]
    fn options_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("netdump.conf");
        std::fs::write(&file, "port=1000\nsecure=1\nconcurrent=7\n").unwrap();
        let s = parse(&format!("--config {} --port 2000", file.display())).unwrap().settings().unwrap();
        assert_eq!((s.port, s.secure, s.max_concurrent_dumps), (2000, true, 7));
    }

    #[test]
    fn usage_names_every_option() {
        assert!(parse("--usage").unwrap().usage);
        let text = usage();
        for part in ["[-p|--port=PORT]", "[-d|--daemon=BOOL]", "[--config=FILE]", "[--usage]", "[--status_file=FILE]"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(parse("--prot 1").is_err());
        assert!(parse("stray").is_err());
        assert!(parse("--addr=").is_err());
        let bad = parse("--config /dev/null --port 0 --format x").unwrap().settings().unwrap_err();
        assert_eq!(bad.problems.len(), 2);
        assert!(bad.to_string().contains("--port: 0 is not from 1 to 65535"));
        assert!(parse("--config /does/not/exist").unwrap().settings().is_err());
    }
}
