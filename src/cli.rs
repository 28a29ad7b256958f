//! The command line as typed, nothing else.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

/// Serves private S3 buckets over HTTP, under a configuration that can change while it serves.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// Check the configuration and exit; needs no network
    #[arg(long)]
    pub(crate) validate: bool,

    /// Take the listeners over from the running process; then send it SIGQUIT
    #[arg(long, conflicts_with = "validate")]
    pub(crate) upgrade: bool,

    /// When the file is invalid, start with the last configuration that took effect, from
    /// `reload.history_file`
    #[arg(long, value_name = "HISTORY_FILE", conflicts_with = "validate")]
    pub(crate) resume: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Path of the configuration without `--config`.
pub(crate) const DEFAULT_CONFIG: &str = "/etc/yatagarasu/config.yaml";

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file
    #[arg(long = "config", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub(crate) path: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask the running server to reload, wait, and exit with its verdict
    Reload(Reload),
    /// Print a token that the configuration accepts (HS algorithms only)
    Token(Token),
    /// Print a link that opens one object for a while
    Sign(Sign),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a configuration file, as `--validate` does
    Validate {
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
    /// Print the effective configuration: defaults filled in, references as written, secrets redacted
    Show(ConfigFile),
}

#[derive(Debug, Args)]
pub(crate) struct Reload {
    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// Where the server is, as `http://127.0.0.1:9090`; without it the configuration file says
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,

    /// An operator's token; other users of this machine can see it, so prefer --token-file
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub(crate) token: Option<String>,

    /// An operator's token in a file; without a token one is made with `jwt.secret`
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// A claim; the value is JSON, or else a text; the name may be a dotted path
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    pub(crate) claims: Vec<(String, Value)>,

    /// How long the token is valid, as `90s`, `1h` or `7d`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Sign {
    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// The object, as `https://files.example/products/a.pdf` or `/products/a.pdf`, percent-encoded
    #[arg(value_name = "URL")]
    pub(crate) url: String,

    /// How long the link is valid, as `90s`, `1h` or `7d`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,

    /// The only network that the link is good from, as `192.0.2.0/24`
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: Option<String>,
}

fn claim(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            Ok((name.to_owned(), value))
        }
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}
