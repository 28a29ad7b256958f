//! Arguments, then one command: serve, validate, show, reload, token or sign. Exit codes: 0 for success,
//! 1 for an invalid configuration, a failed start or a failed reload, 2 for a wrong command line.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Error, Result, anyhow};
use clap::Parser;

use crate::cli::{Cli, Command, ConfigCommand, DEFAULT_CONFIG};
use crate::commands;
use crate::config::stages::Stages;
use crate::config::{self, Config, Source, Unloaded};
use crate::process::signals::{self, Caught};
use crate::reload::history_file::HistoryFile;
use crate::server::{self, Start};
use crate::telemetry::log;

pub fn run_program() -> ExitCode {
    // Before anything else: until it is caught, SIGHUP ends the process.
    let outcome = signals::catch_hangup().context("SIGHUP cannot be caught").and_then(|caught| {
        let cli = Cli::parse();
        match cli.command {
            None if cli.validate => validate(&cli.config.path),
            None => serve(cli.config.path, cli.resume.as_deref(), cli.upgrade, caught),
            Some(Command::Config(ConfigCommand::Validate { path })) => validate(&path),
            Some(Command::Config(ConfigCommand::Show(config))) => {
                print(load(&config.path)?.show_with_origin(&config.path).trim_end());
                Ok(())
            }
            Some(Command::Reload(reload)) => {
                let token = match (reload.token, reload.token_file) {
                    (None, Some(path)) => Some(
                        std::fs::read_to_string(&path).with_context(|| format!("`{}`", path.display()))?,
                    ),
                    (token, _) => token,
                };
                // With both at hand the file is the server's business alone, also when it is not valid here.
                let report = match (reload.url, token) {
                    (Some(url), Some(token)) => commands::reload(&url, &token),
                    (url, token) => {
                        let path = &reload.config.path;
                        commands::reload_configured(path, &load(path)?, url, token)
                    }
                };
                print(&report?);
                Ok(())
            }
            Some(Command::Sign(sign)) => {
                let config = load(&sign.config.path)?;
                print(&commands::sign(&config, &sign.url, sign.ttl, sign.network.as_deref())?);
                Ok(())
            }
            Some(Command::Token(token)) => {
                print(&commands::token(&load(&token.config.path)?, &token.claims, token.ttl)?);
                Ok(())
            }
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(path: PathBuf, resume: Option<&Path>, upgrade: bool, signals: Caught) -> Result<()> {
    // Requests need little memory and a reload needs much for a moment, where the kernel would clear
    // 2 MiB for each few KiB.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let mut loaded = config::load_from(Source::File(path.clone()), None, &mut Stages::default());
    let guard = log::init();
    let file_digest = loaded.digest.clone();
    // A start that ends here prints its problems instead, as `--validate` does.
    if loaded.outcome.is_ok() || resume.is_some() {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            config = %path.display(),
            digest = loaded.digest,
            "starting"
        );
    }
    if let Err(problems) = &loaded.outcome
        && let Some(history) = resume
    {
        tracing::error!(
            "{problems}; looking for the last configuration that took effect in {}",
            history.display()
        );
        let recorded = HistoryFile::new(history.to_owned())
            .read()
            .with_context(|| format!("{problems}\n`{}`", history.display()))?;
        let content = recorded
            .last_good
            .with_context(|| format!("{problems}\n`{}` holds no such one", history.display()))?;
        let source = Source::Recorded { path: path.clone(), content };
        loaded = config::load_from(source, None, &mut Stages::default());
        tracing::warn!(
            digest = loaded.digest,
            "serving the last configuration that took effect; the file is invalid"
        );
    }
    let config = loaded.outcome.map_err(|problems| with_hint(&path, problems))?;
    let start = Start { path, config, content: loaded.content, file_digest, upgrade };
    server::run(start, signals, guard)
}

fn validate(path: &Path) -> Result<()> {
    let config = load(path)?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    print(&format!("{}: valid, {}", path.display(), config.digest));
    Ok(())
}

fn load(path: &Path) -> Result<Config> {
    config::load(path).map_err(|problems| with_hint(path, problems))
}

/// Adds how to name another file where the default one is missing.
fn with_hint(path: &Path, problems: Unloaded) -> Error {
    if path == Path::new(DEFAULT_CONFIG) && !path.exists() {
        anyhow!("{problems}\nthis is the default; name another file with --config FILE")
    } else {
        problems.into()
    }
}

/// To standard output; a reader that has gone away is no error.
fn print(text: &(impl Display + ?Sized)) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
